"""Sub-networks as views: a model's first layers, or the rest of it, sharing weights and cache.

A view is a shallow copy of transformers' own module with another list of layers. Layers keep their `layer_idx`,
so one slot cache serves the whole model and all its views, and the segments one after the other are the whole
model bit for bit. Kangaroo, S2D's depths and Mirror-SD's early exit stand on this.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import nn


def segment(module: nn.Module, start: int, stop: int | None) -> nn.Module:
    """The layers from `start` up to `stop`, without the final norm; to the end with norm and head if None.

    A segment takes `input_ids` `[n, q]` when it starts at 0, else `inputs_embeds` `[n, q, H]`. It returns
    transformers' own output: `last_hidden_state`, or `logits` for the last one.
    """
    base: Any = shallow_copy(_base(module))
    _set_layers(base, slice(start, stop))
    if start and hasattr(base, "embedding_multiplier"):
        base.embedding_multiplier = 1.0  # Granite scales whatever comes in, and states are scaled already
    if stop is not None:
        base._modules["norm"] = nn.Identity()
        view: nn.Module = base
        return view
    whole = shallow_copy(module)
    whole._modules[str(module.base_model_prefix)] = base
    return whole


def _base(module: nn.Module) -> nn.Module:
    base = getattr(module, str(module.base_model_prefix))
    assert isinstance(base, nn.Module)
    return base


def shallow_copy(module: nn.Module) -> nn.Module:
    """A module with dictionaries of its own over the same submodules and parameters."""
    view = copy.copy(module)
    view._modules = dict(module._modules)
    return view


def _set_layers(base: nn.Module, which: slice) -> None:
    layers = base._modules["layers"]
    assert isinstance(layers, nn.ModuleList)
    chosen = layers[which]
    base._modules["layers"] = chosen
    # Models that mix kinds of attention look the kind up by the layer's place in the list.
    config: Any = copy.copy(base.config)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        config.layer_types = kinds[which]
    config.num_hidden_layers = len(chosen)
    base.config = config

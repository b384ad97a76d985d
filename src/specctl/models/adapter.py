"""Early-exit adapters: what turns a target's hidden state after a few layers into a draft (Kangaroo).

A trained block, a norm and the target's own frozen head, whole or trimmed. Source: Liu et al., "Kangaroo",
arXiv:2404.18911, section 3. The block is a copy of a layer of the target, so head shape and RoPE are the target's.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor, nn

from specctl.errors import ModelFileError, RequestError
from specctl.models import trained, trimmed
from specctl.models.lm import LM
from specctl.models.views import shallow_copy

KIND = trained.Kind("kangaroo", "Kangaroo adapter", "drafter.adapter")

Block = Literal["attention", "layer", "two-layers"]


@dataclass(frozen=True, slots=True)
class Shape:
    """`depth`: layers of the target below the adapter; `block`: the paper's attention alone, or whole layers."""

    depth: int
    block: Block


class Attention(nn.Module):
    """The paper's adapter: pre-norm self-attention with a residual, no MLP."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.input_layernorm = layer.input_layernorm
        self.self_attn = layer.self_attn

    def forward(self, hidden_states: Tensor, **passed: Any) -> Tensor:
        mixed, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **passed)
        return hidden_states + cast(Tensor, mixed)


class Adapter(nn.Module):
    """The trained part. It starts as a copy of the target's last layer, or two, and final norm."""

    def __init__(self, lm: LM, shape: Shape) -> None:
        super().__init__()
        if not 0 < shape.depth < lm.n_layers:
            raise RequestError(
                f"exit layer {shape.depth} is not inside `{lm.name}`",
                hint=f"it has {lm.n_layers} layers: choose 1 to {lm.n_layers - 1}",
            )
        base = _base(lm)
        *below, layer = copy.deepcopy(base.layers[-2:] if shape.block == "two-layers" else base.layers[-1:])
        if shape.block == "attention" and not (
            hasattr(layer, "input_layernorm") and hasattr(layer, "self_attn")
        ):
            raise RequestError(
                f"the layers of `{lm.name}` have no norm before attention to build an adapter of",
                hint="use `block: layer`",
            )
        self.shape = shape
        self.below = below[0] if below else None
        self.block = Attention(layer) if shape.block == "attention" else layer
        self.norm = copy.deepcopy(base.norm)
        for number, one in enumerate(self.layers(), start=shape.depth):
            one.self_attn.layer_idx = number

    def layers(self) -> list[Any]:
        """What stands for the target's layers above the exit, lowest first."""
        return [self.block] if self.below is None else [self.below, self.block]


def readout(lm: LM, adapter: Adapter, kept: Tensor | None = None) -> LM:
    """The target's first layers and the adapter as a small model, with the target's head or its rows `kept` `[k]`.

    The adapter alone, over states, is `segment(cache, states, rows, reads, None)`.
    """
    depth, layers = adapter.shape.depth, adapter.layers()
    base = shallow_copy(_base(lm))
    base._modules["layers"] = nn.ModuleList([*_base(lm).layers[:depth], *layers])
    base._modules["norm"] = adapter.norm
    config: Any = copy.copy(base.config)
    config.num_hidden_layers = depth + len(layers)
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = [*config.layer_types[:depth], *config.layer_types[-len(layers) :]]
    base.config = config
    module = shallow_copy(lm.module)
    module._modules[str(lm.module.base_model_prefix)] = base
    module.config = config
    whole = LM(module, f"adapter of {lm.name}", lm.row_floor)
    view = whole if kept is None else trimmed.trimmed(whole, trimmed.cut(lm, kept))
    view.reads = depth
    return view


def write(
    folder: Path,
    lm: LM,
    tensors: Mapping[str, Tensor],
    shape: Shape,
    kept: Tensor | None,
    card: Mapping[str, Any],
) -> None:
    """An adapter's state dict and its card, in the target's dtype."""
    trained.write(KIND, folder, lm, tensors, asdict(shape), kept, card)


def read(folder: Path, lm: LM) -> tuple[Adapter, Tensor | None]:
    """The adapter in `folder` for `lm`, and the ids its head is trimmed to. Raises ModelFileError."""
    stored = trained.read(KIND, folder, lm)
    try:
        adapter = Adapter(lm, Shape(**stored.shape))
        adapter.load_state_dict(stored.tensors)
    except (RuntimeError, TypeError, ValueError, RequestError) as error:
        raise ModelFileError(f"the adapter `{folder}` does not fit `{lm.name}`: {error}") from error
    return adapter.to(lm.device, lm.dtype).eval(), stored.kept


def shipped(lm: LM, *, copied: bool) -> Path:
    """The folder of the adapter that comes with specctl for these weights. Raises MissingError.

    Behind few layers to share them with the target; behind more for a copy in few bits, whose layers take next to
    no time.
    """
    folders = trained.shipped(KIND, lm)
    return (max if copied else min)(folders, key=lambda folder: int(trained.read_card(folder)["depth"]))


def _base(lm: LM) -> Any:
    return getattr(lm.module, str(lm.module.base_model_prefix))

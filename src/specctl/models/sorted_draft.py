"""Sorted drafts: a model's first layers, trained so that each of several depths is a language model of its own.

All depths share layers, norm and head; embedding and head are the base model's own and are never stored. Full or
low-rank: W + up @ down in every projection of the cut layers. Source: S2D, "Sorted Speculative Decoding"
(arXiv:2407.01955), sections 3.1 and 3.2; low rank: Hu et al., arXiv:2106.09685.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from specctl.errors import ModelFileError, RequestError
from specctl.models import trained, trimmed
from specctl.models.lm import LM
from specctl.models.views import shallow_copy

KIND = trained.Kind("s2d", "sorted draft", "drafter.weights")
CLIMB = 0.5
"""Climb on from a depth whose best token is no likelier than this, until thresholds are fitted (the paper's)."""


@dataclass(frozen=True, slots=True)
class Shape:
    """`depths`: where the draft may answer, ascending; `rank`: of the trained change, None for whole layers."""

    depths: tuple[int, ...]
    rank: int | None = None


class LowRank(nn.Module):
    """A frozen linear layer `[..., K] -> [..., N]` plus a trained change of rank r; it starts with none."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        # Buffers that are not stored: the weights are the base model's.
        self.register_buffer("weight", linear.weight.detach(), persistent=False)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach(), persistent=False)
        wide = torch.promote_types(linear.weight.dtype, torch.float32)
        n, k = linear.weight.shape
        start = torch.randn(rank, k, dtype=wide) / k**0.5
        self.down = nn.Parameter(start.to(linear.weight.device))
        self.up = nn.Parameter(linear.weight.new_zeros(n, rank, dtype=wide))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) + F.linear(F.linear(x, self.down), self.up)

    def merged(self) -> nn.Module:
        weight = self.weight.to(self.up.dtype) + self.up.detach() @ self.down.detach()
        return trimmed.plain_linear(weight.to(self.weight.dtype), self.bias)


class SortedDraft(nn.Module):
    """The trained part. Its parameters are what is learnt and stored, no others; it starts as the base's layers."""

    def __init__(self, base: LM, shape: Shape, *, seed: int = 0) -> None:
        """`seed` draws the low-rank start. Raises RequestError for depths the base does not have."""
        super().__init__()
        depths = shape.depths
        if (
            list(depths) != sorted(set(depths))
            or not depths
            or not 0 < depths[0] <= depths[-1] <= base.n_layers
        ):
            raise RequestError(
                f"depths {', '.join(map(str, depths))} cannot be cut from `{base.name}`",
                hint=f"give ascending numbers up to {base.n_layers}, such as 2,4,6",
            )
        inner = _inner(base)
        wide = torch.promote_types(base.dtype, torch.float32)
        self.shape = shape
        self.layers = copy.deepcopy(inner.layers[: depths[-1]])
        self.norm = copy.deepcopy(inner.norm)
        self.requires_grad_(True)
        if shape.rank is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                for layer in self.layers:
                    _lower(layer, shape.rank)
        for parameter in self.parameters():
            parameter.data = parameter.data.to(wide)

    def as_lm(self, base: LM, kept: Tensor | None = None) -> LM:
        """Over the base's embedding and head, or its head's rows `kept` `[k]`; shares the trained parameters."""
        return _on(base, self.layers, self.norm, kept)

    def merged(self, base: LM, kept: Tensor | None = None) -> LM:
        """The same as ordinary layers in the base's dtype, to draft with."""
        memo: dict[int, Any] = {
            id(one): one.merged() for one in self.layers.modules() if isinstance(one, LowRank)
        }
        layers, norm = (
            copy.deepcopy(one, memo).to(base.device, base.dtype) for one in (self.layers, self.norm)
        )
        lm = _on(base, layers.eval().requires_grad_(False), norm.requires_grad_(False), kept)
        lm.name = f"sorted {base.name}"
        return lm


def _lower(module: nn.Module, rank: int) -> None:
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, LowRank(child, rank))
        else:
            _lower(child, rank)


def _on(base: LM, layers: nn.ModuleList, norm: nn.Module, kept: Tensor | None) -> LM:
    inner = shallow_copy(_inner(base))
    inner._modules["layers"], inner._modules["norm"] = layers, norm
    config: Any = copy.copy(inner.config)
    config.num_hidden_layers = len(layers)
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = config.layer_types[: len(layers)]
    inner.config = config
    module = shallow_copy(base.module)
    module._modules[str(base.module.base_model_prefix)] = inner
    module.config = config
    whole = LM(module, base.name, base.row_floor)
    return whole if kept is None else trimmed.trimmed(whole, trimmed.cut(base, kept))


def _inner(lm: LM) -> Any:
    return getattr(lm.module, str(lm.module.base_model_prefix))


# Files ---------------------------------------------------------------------------------------------------------


def write(
    folder: Path,
    base: LM,
    tensors: Mapping[str, Tensor],
    shape: Shape,
    kept: Tensor | None,
    card: Mapping[str, Any],
) -> None:
    """A sorted draft's state dict, in the base's dtype, and its card."""
    trained.write(KIND, folder, base, tensors, asdict(shape), kept, {"targets": {}, **card})


def read_card(folder: Path) -> dict[str, Any]:
    """Raises ModelFileError."""
    try:
        card = trained.read_card(folder)
    except (OSError, ValueError) as error:
        raise ModelFileError(f"cannot read `{folder / trained.CARD}`: {error}", hint=KIND.hint) from None
    if not isinstance(card, dict) or not isinstance(card.get("targets"), dict):
        KIND.refuse(folder, "has a card without targets")
    return card


def read(folder: Path, base: LM) -> tuple[SortedDraft, Tensor | None]:
    """The sorted draft in `folder`, and the ids its head is trimmed to. Raises ModelFileError."""
    stored = trained.read(KIND, folder, base)
    try:
        draft = SortedDraft(base, Shape(tuple(stored.shape["depths"]), stored.shape["rank"]))
        draft.load_state_dict(stored.tensors)
    except (RuntimeError, KeyError, TypeError, ValueError, RequestError) as error:
        raise ModelFileError(f"the sorted draft `{folder}` does not fit `{base.name}`: {error}") from error
    return draft.to(base.device).eval(), stored.kept


def shipped(base: LM) -> Path:
    """The folder of the sorted draft that comes with specctl for these weights. Raises MissingError."""
    return trained.shipped(KIND, base)[0]


def thresholds(folder: Path, shape: Shape, target: LM) -> tuple[float, ...]:
    """Those the card holds for these weights of a target, one a depth, else `CLIMB`. Raises ModelFileError."""
    fitted = read_card(folder)["targets"].get(trained.fingerprint(target))
    if fitted is None:
        return (*[CLIMB] * (len(shape.depths) - 1), 0.0)
    found = fitted.get("thresholds") if isinstance(fitted, dict) else None
    if not isinstance(found, list) or not all(isinstance(one, float | int) for one in found):
        found = []
    if len(found) != len(shape.depths):
        KIND.refuse(folder, f"has a card without a threshold for each depth of `{target.name}`")
    return tuple(map(float, found))

"""Rounding weights to 16 levels in groups of 32 columns."""

from __future__ import annotations

import torch
from torch import Tensor

from specctl.models.quantize.scheme import TINY

GROUP = 32


def quantised(weight: Tensor, *, centre: int) -> tuple[Tensor, Tensor, Tensor]:
    """Levels `[N, K]` (uint8) 0 … 15, scales and places of the centre `[N, K / group]` of some rows.

    `weight = (level - centre) * scale + place`, to the nearest.
    """
    groups = weight.float().unflatten(1, (-1, GROUP))
    low, high = groups.amin(dim=-1), groups.amax(dim=-1)
    scale = ((high - low) / 15).clamp(min=TINY).to(weight.dtype)
    place = (low + scale.float() * centre).to(weight.dtype)
    levels = (
        (groups - place.float()[..., None]).div_(scale.float()[..., None]).add_(centre).round_().clamp_(0, 15)
    )
    return levels.flatten(1).to(torch.uint8), scale, place

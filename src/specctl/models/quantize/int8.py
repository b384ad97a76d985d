"""8 bits a weight, one scale a row: `torch._weight_int8pack_mm`, on CPU and (never run by us) on CUDA."""

from __future__ import annotations

import torch
from torch import Tensor

from specctl.models.quantize.scheme import ROWS_AT_ONCE, TINY, BufferedLinear, on_cpu_or_cuda


class Int8Linear(BufferedLinear):
    """Round to nearest, symmetric: `weight = levels * scale` with levels in -127 … 127."""

    levels: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        pieces = [_quantise(rows) for rows in weight.detach().split(ROWS_AT_ONCE)]
        self.register_buffer("levels", torch.cat([levels for levels, _ in pieces]))
        self.register_buffer("scale", torch.cat([scale for _, scale in pieces]))

    @staticmethod
    def buffers_of(shape: tuple[int, int]) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {"levels": ("I8", shape), "scale": ("BF16", shape[:1])}

    @staticmethod
    def fits(weight: Tensor) -> bool:
        return on_cpu_or_cuda(weight)

    def product(self, x: Tensor) -> Tensor:
        return torch._weight_int8pack_mm(x, self.levels, self.scale)

    def dense(self) -> Tensor:
        return self.levels.float() * self.scale.float()[:, None]


def _quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Levels `[N, K]` (int8) and scales `[N]` of some rows."""
    scale = (weight.abs().amax(dim=1).float() / 127).clamp(min=TINY).to(weight.dtype)
    # Levels by the rounded scale, which is the one the product uses.
    levels = weight.float().div_(scale.float()[:, None]).round_().clamp_(-127, 127)
    return levels.to(torch.int8), scale

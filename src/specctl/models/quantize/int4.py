"""4 bits a weight in groups of 32 columns: torch's own int4 operators, on CPU and (never run by us) on CUDA."""

from __future__ import annotations

import torch
from torch import Tensor

from specctl.models.quantize.scheme import GROUP, ROWS_AT_ONCE, TINY, BufferedLinear, on_cpu_or_cuda


class Int4Linear(BufferedLinear):
    """Round to nearest, asymmetric: `weight = (level - 8) * scale + zero`, levels 0 … 15, each group its own.

    `levels` are packed the way the device's kernel reads them; that differs between CPUs (`stored.py` looks).
    """

    levels: Tensor
    scales_and_zeros: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        levels, scales_and_zeros = [], []
        for rows in weight.detach().split(ROWS_AT_ONCE):  # whole blocks of packing, which are of 64 at most
            some, both = _quantise(rows)
            levels.append(_pack(some))
            scales_and_zeros.append(both)
        self.register_buffer("levels", torch.cat(levels))
        # The kernels want `[K / group, N, 2]`.
        self.register_buffer("scales_and_zeros", torch.cat(scales_and_zeros).transpose(0, 1).contiguous())

    @staticmethod
    def buffers_of(shape: tuple[int, int]) -> dict[str, tuple[str, tuple[int, ...]]]:
        rows, columns = shape
        return {
            "levels": ("U8", (rows, columns // 2)),
            "scales_and_zeros": ("BF16", (columns // GROUP, rows, 2)),
        }

    @staticmethod
    def fits(weight: Tensor) -> bool:
        rows, columns = weight.shape
        return on_cpu_or_cuda(weight) and columns % GROUP == 0 and rows % 16 == 0

    def product(self, x: Tensor) -> Tensor:
        aten = torch.ops.aten
        multiply = aten._weight_int4pack_mm_for_cpu if x.device.type == "cpu" else aten._weight_int4pack_mm
        y: Tensor = multiply(x, self.levels, GROUP, self.scales_and_zeros)
        return y

    def dense(self) -> Tensor:
        # The packing is the kernel's own business: the kernel itself says what it holds.
        unit = torch.eye(self.in_features, dtype=self.scales_and_zeros.dtype, device=self.levels.device)
        return self.product(unit).T.float()


def _quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Levels `[N, K]` (uint8) and scales with zeros `[N, K / group, 2]` of some rows."""
    groups = weight.float().unflatten(1, (-1, GROUP))
    low, high = groups.amin(dim=-1), groups.amax(dim=-1)
    scale = ((high - low) / 15).clamp(min=TINY).to(weight.dtype)
    zero = (low + scale.float() * 8).to(weight.dtype)
    levels = (groups - zero.float()[..., None]).div_(scale.float()[..., None]).add_(8).round_().clamp_(0, 15)
    return levels.flatten(1).to(torch.uint8), torch.stack([scale, zero], dim=-1)


def _pack(levels: Tensor) -> Tensor:
    if levels.device.type == "cpu":
        packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels.int(), 1)
        return packed
    pairs = levels[:, ::2] << 4 | levels[:, 1::2]
    inner_k_tiles = 2  # the smallest: shapes need be multiples of 32 columns only
    on_gpu: Tensor = torch.ops.aten._convert_weight_to_int4pack(pairs.contiguous(), inner_k_tiles)
    return on_gpu

"""4 bits a weight as `layers.c` reads them, and the product by it."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from specctl.models.kernels.library import library
from specctl.models.quantize.levels import GROUP, quantised
from specctl.models.quantize.scheme import ROWS_AT_ONCE, BufferedLinear

_LANES = 16
_BLOCK = 320
_LEVELS = 64  # where in a block they begin, behind scales and offsets


class Matrix(ctypes.Structure):
    _fields_ = (
        ("blocks", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
    )


class Int4Dot(BufferedLinear):
    """`weight = level * scale + offset`, levels 0 … 15, each group its own; inputs are rounded to 8 bits in groups.

    A row's product has the same bits however many rows there are.
    """

    blocks: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        pieces = [_packed(*quantised(rows, centre=0)) for rows in weight.detach().split(ROWS_AT_ONCE)]
        self.register_buffer("blocks", torch.cat(pieces))

    @staticmethod
    def buffers_of(shape: tuple[int, int]) -> dict[str, tuple[str, tuple[int, ...]]]:
        rows, columns = shape
        return {"blocks": ("U8", (rows // _LANES, columns // GROUP, _BLOCK))}

    @staticmethod
    def fits(weight: Tensor) -> bool:
        rows, columns = weight.shape
        return (
            weight.device.type == "cpu"
            and weight.dtype == torch.bfloat16
            and columns % GROUP == 0
            and rows % _LANES == 0
            and library() is not None
        )

    @property
    def matrix(self) -> Matrix:
        """Points into this layer, which has to outlive it."""
        if not hasattr(self, "_wide_bias"):
            self._wide_bias = None if self.bias is None else self.bias.detach().float().contiguous()
        return Matrix(address(self.blocks), address(self._wide_bias), self.out_features, self.in_features)

    def product(self, x: Tensor) -> Tensor:
        wide = x.float().contiguous()
        y = torch.empty(len(wide), self.out_features)
        matrix = Matrix(address(self.blocks), None, self.out_features, self.in_features)
        kernels = library()
        assert kernels is not None
        failed = kernels.run_product(
            ctypes.byref(matrix),
            ctypes.c_void_p(address(wide)),
            ctypes.c_int64(len(wide)),
            ctypes.c_void_p(address(y)),
            ctypes.c_int(torch.get_num_threads()),
        )
        if failed:
            raise MemoryError("no memory for a draft's step")
        return y.to(x.dtype)

    def dense(self) -> Tensor:
        rows, columns = self.out_features, self.in_features
        both = self.blocks[..., _LEVELS:].unflatten(-1, (4, _LANES, 4))
        # [blocks, groups, vectors, lanes, 4] twice -> [blocks, lanes, groups, vectors, halves, 4]
        levels = torch.stack([both & 15, both >> 4], dim=-2).permute(0, 3, 1, 2, 4, 5)
        by = self.blocks[..., :_LEVELS].contiguous().view(torch.bfloat16).unflatten(-1, (2, _LANES))
        scale, offset = by.permute(2, 0, 3, 1).float().unbind()
        weight = levels.flatten(3).float() * scale[..., None] + offset[..., None]
        return weight.reshape(rows, columns)


def _packed(levels: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Blocks `[N / 16, K / 32, 320]` of levels `[N, K]`, scales and offsets `[N, K / 32]` in bfloat16."""
    # [blocks, lanes, groups, vectors, halves, 4] -> [halves, blocks, groups, vectors, lanes, 4]
    apart = levels.view(-1, _LANES, levels.shape[1] // GROUP, 4, 2, 4).permute(4, 0, 2, 3, 1, 5)
    both = apart[0] | apart[1] << 4
    by = torch.stack([scale, offset], dim=-1).view(-1, _LANES, scale.shape[1], 2).permute(0, 2, 3, 1)
    bytes_of = by.contiguous().view(torch.uint8).flatten(2)
    return torch.cat([bytes_of, both.flatten(2)], dim=-1)


def address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()

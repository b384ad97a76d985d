"""4 bits a weight as `layers.c` reads them, and the product by it."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from specctl.models.kernels.build import built
from specctl.models.quantize.scheme import GROUP, BufferedLinear

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
        self.register_buffer("blocks", _packed(weight.detach().contiguous()))

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
            and built() is not None
        )

    def product(self, x: Tensor) -> Tensor:
        wide = x.float().contiguous()
        y = torch.empty(len(wide), self.out_features)
        failed = _kernels().run_product(
            ctypes.byref(matrix(self.blocks)),
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
        weight: Tensor = levels.flatten(3).float() * scale[..., None] + offset[..., None]
        return weight.reshape(rows, columns)


def matrix(blocks: Tensor, bias: Tensor | None = None) -> Matrix:
    """Points into these tensors, which have to outlive it. The bias is float32."""
    return Matrix(address(blocks), address(bias), blocks.shape[0] * _LANES, blocks.shape[1] * GROUP)


def _packed(weight: Tensor) -> Tensor:
    """Blocks `[N / 16, K / 32, 320]` of a weight `[N, K]`."""
    rows, columns = weight.shape
    blocks = torch.empty(rows // _LANES, columns // GROUP, _BLOCK, dtype=torch.uint8)
    _kernels().pack(
        ctypes.c_void_p(address(weight)),
        ctypes.c_int64(rows),
        ctypes.c_int64(columns),
        ctypes.c_void_p(address(blocks)),
        ctypes.c_int(torch.get_num_threads()),
    )
    return blocks


def _kernels() -> ctypes.CDLL:
    found = built()
    assert found is not None
    return found


def address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()

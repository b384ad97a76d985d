"""What every way of storing a draft's linear layer has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

ROWS_AT_ONCE = 512
"""Rows quantised at a time: their float32 copies stay in the processor's caches, where those of a whole head would
be the peak of the memory taken."""

TINY = torch.finfo(torch.float32).tiny
"""The least scale: rows or groups of zeros must not be divided by zero."""


GROUP = 32
"""Columns that share a scale where weights have 4 bits."""


class CheapLinear(nn.Module, ABC):
    """A linear layer `[..., K] -> [..., N]` whose weight is kept in another form than it was loaded in."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    @staticmethod
    @abstractmethod
    def fits(weight: Tensor) -> bool:
        """Whether the operators take a weight `[N, K]` of this shape, dtype and device."""

    @abstractmethod
    def product(self, x: Tensor) -> Tensor:
        """`[rows, K] -> [rows, N]`, without the bias."""

    @abstractmethod
    def dense(self) -> Tensor:
        """The weight `[N, K]` the product stands for, in float32."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.product(x.reshape(-1, self.in_features)).view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def wide(self) -> nn.Linear:
        """The same layer as an ordinary one in float32, to measure rounding against."""
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        linear.weight = nn.Parameter(self.dense(), requires_grad=False)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.float(), requires_grad=False)
        return linear


class BufferedLinear(CheapLinear):
    """One whose weight is kept in buffers, which can be stored."""

    @classmethod
    def restored(cls, shape: tuple[int, int], buffers: Mapping[str, Tensor], bias: Tensor | None) -> Self:
        """The layer that once held these `buffers_of` a weight of this shape `[N, K]`."""
        layer = cls.__new__(cls)
        CheapLinear.__init__(layer, torch.empty(shape, device="meta"), bias)
        for name, tensor in buffers.items():
            layer.register_buffer(name, tensor)
        return layer

    @staticmethod
    @abstractmethod
    def buffers_of(shape: tuple[int, int]) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Type, as safetensors names it, and shape of what a CPU keeps of a bf16 weight `[N, K]`."""


def on_cpu_or_cuda(weight: Tensor) -> bool:
    """16-bit weights where torch has these operators."""
    return weight.device.type in ("cpu", "cuda") and weight.dtype == torch.bfloat16

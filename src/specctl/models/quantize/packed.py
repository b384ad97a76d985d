"""The same weights, laid out once for oneDNN's kernels instead of at every call. CPU only.

Less time for a forward, and fewer kernels: from two rows on, a row's result is the same however many are computed
beside it (measured, in bfloat16 and float32; `models/numerics.py` tests it on each machine).
"""

from __future__ import annotations

import torch
from torch import Tensor

from specctl.models.quantize.scheme import CheapLinear


class PackedLinear(CheapLinear):
    """The same weights; sums may be taken in another order than `F.linear` takes them."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        # No buffer: an opaque tensor can be neither cast nor moved.
        self._packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 1)

    @staticmethod
    def fits(weight: Tensor) -> bool:
        return (
            weight.device.type == "cpu"
            and torch.backends.mkldnn.is_available()
            and (
                weight.dtype == torch.float32
                or (weight.dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))
            )
        )

    def product(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")
        return y

    def dense(self) -> Tensor:
        return self._packed.to_dense().float()

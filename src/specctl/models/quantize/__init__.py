"""Other forms for a draft's linear layers: 8 bits, 4 bits, or the same 16 laid out for the kernel.

Only drafts are treated so: whatever they propose the target decides, so the output keeps its bits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor, nn

from specctl.models.quantize.forms import form_of
from specctl.models.quantize.packed import PackedLinear
from specctl.models.quantize.scheme import CheapLinear

Scheme = Literal["int8", "int4"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)


class Maker:
    """Makes layers of one scheme; those that the operators do not take stay as they are, and are counted."""

    def __init__(self, scheme: Scheme | None) -> None:
        self.scheme = scheme
        self.made = 0
        self.kept: list[Tensor] = []

    def __call__(self, weight: Tensor, bias: Tensor | None) -> nn.Module:
        form = PackedLinear if self.scheme is None else form_of(self.scheme, weight.device)
        if form.fits(weight):
            self.made += 1
            return form(weight, bias)
        self.kept.append(weight)
        return _linear(weight, bias)

    @property
    def note(self) -> str | None:
        """A sentence on what was asked for and could not be done."""
        if self.scheme is None or not self.kept:
            return None
        one, total = self.kept[0], self.made + len(self.kept)
        shape, dtype = "x".join(map(str, one.shape)), str(one.dtype).removeprefix("torch.")
        return (
            f"{len(self.kept)} of {total} layers of the draft are not in `{self.scheme}`: "
            f"there is no such product for {shape} in {dtype} on {one.device.type}"
        )


def replaced(module: nn.Module, make: Callable[[Tensor, Tensor | None], nn.Module]) -> nn.Module:
    """The module with all its linear layers made anew; whatever else it has is shared with it."""
    linears = [one for one in module.modules() if type(one) is nn.Linear]
    # What deepcopy finds in its memo it takes as already copied.
    memo: dict[int, object] = {id(one): one for one in [*module.parameters(), *module.buffers()]}
    memo |= {id(one): make(one.weight, one.bias) for one in linears}
    return copy.deepcopy(module, memo)


def widened(module: nn.Module) -> nn.Module:
    """A copy in float32 of a module with 16-bit activations, quantised layers with the values they stand for."""
    memo: dict[int, object] = {
        id(one): one.wide() for one in module.modules() if isinstance(one, CheapLinear)
    }
    return copy.deepcopy(module, memo).float()


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return linear

"""How weights of few bits are kept here: by scheme, device, and what this machine has kernels for."""

from __future__ import annotations

import torch

from specctl.models.kernels.build import built
from specctl.models.quantize.int4 import Int4Linear
from specctl.models.quantize.int4_dot import Int4Dot
from specctl.models.quantize.int8 import Int8Linear
from specctl.models.quantize.scheme import BufferedLinear


def form_of(scheme: str, device: torch.device) -> type[BufferedLinear]:
    if scheme == "int8":
        return Int8Linear
    return Int4Dot if device.type == "cpu" and built() is not None else Int4Linear

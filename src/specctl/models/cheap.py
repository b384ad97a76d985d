"""A draft made cheap: fewer bits a weight, fewer steps a layer. The target is never touched."""

from __future__ import annotations

from specctl.models import fused
from specctl.models.lm import LM
from specctl.models.quantize import Maker, Scheme, replaced


def cheapened(lm: LM, quantize: Scheme | None) -> tuple[LM, str | None]:
    """The draft to run instead of `lm`, and a sentence if not all of it could be quantised.

    Its linear layers are its own, all else it shares with `lm`: drop that to free its weights. It keeps no shape
    invariance, so it runs on as few rows as there are.
    """
    make = Maker(quantize)
    module = (
        fused.FusedDecoder(lm.module, make) if fused.fits(lm.module) else replaced(lm.module, make)
    ).eval()
    return LM(module, f"{lm.name} {quantize}" if quantize else lm.name, kept=lm.kept, twin=lm.twin), make.note

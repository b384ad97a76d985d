"""A draft made cheap: fewer bits a weight, fewer steps a layer. The target is never touched."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from specctl.errors import ModelFileError
from specctl.models import fused, mapped, views
from specctl.models.lm import LM
from specctl.models.quantize import Maker, Scheme, replaced, stored
from specctl.models.quantize.stored import Place, Stored
from specctl.models.trained import fingerprint
from specctl.store import quantized

_HEAD = "lm_head"


@dataclass(frozen=True, slots=True)
class Found:
    """A stored draft; `head` holds its trimmed head, if that is stored too."""

    body: Stored
    head: Stored | None = None


def cheapened(lm: LM, quantize: Scheme | None, found: Found | None = None) -> tuple[LM, str | None]:
    """The draft to run instead of `lm`, and a sentence if not all of it could be quantised.

    Its linear layers are its own, all else it shares with `lm`, which goes on reading prompts where weights are in
    fewer bits: products of many rows unpack those again and again (2.5 times as long at 256 tokens in int4). Mapped
    weights that no long prompt asks for take no memory. It keeps no shape invariance, so it runs on as few rows as
    there are. What was `found` stored is mapped instead of made; raises ModelFileError if that is another model's.
    """
    make = Maker(quantize)
    module = _built(lm.module, make) if found is None else _mapped(lm, make, found)
    mapped.release(lm.module)
    name = f"{lm.name} {quantize}" if quantize else lm.name
    # A twin reads no prompts; elsewhere than on a CPU memory would be paid for it.
    reads = quantize is not None and lm.device.type == "cpu" and not lm.twin
    reader = views.segment(lm.module, 0, lm.n_layers) if reads else None
    return LM(module.eval(), name, kept=lm.kept, reads=lm.reads, twin=lm.twin, reader=reader), make.note


def packed(lm: LM) -> LM:
    """`lm` with its weights laid out for the CPU's kernels, to run on; itself where there are none for it.

    The weights as they were mapped are not read again, so their memory is given back, layer by layer: never are all
    of them there twice.
    """
    make, areas = Maker(None), mapped.clean_areas()

    def packed_layer(weight: Tensor, bias: Tensor | None) -> nn.Module:
        layer = make(weight, bias)
        mapped.forget(weight, areas)
        return layer

    module = replaced(lm.module, packed_layer)
    return replace(lm, packed=module, _views={}) if make.made else lm


def find(lm: LM, quantize: Scheme | None, whole: LM, trim: Path | None) -> tuple[Found | None, str | None]:
    """What is stored of `lm`, which is `whole` with its head trimmed to `trim`, and a word on what is of no use.

    Never raises: what is not stored is made.
    """
    if quantize is None or lm.device.type != "cpu" or lm.dtype != torch.bfloat16:
        return None, None
    source = fingerprint(whole)
    path = quantized.find(quantize, source)
    body, note = _read(path, quantize, source)
    if body is None:
        return None, note
    head, note = _read(
        trim and head_path(trim, quantize), quantize, source if trim is None else fingerprint(lm)
    )
    return Found(body, head), note


def _read(path: Path | None, quantize: Scheme, source: str) -> tuple[Stored | None, str | None]:
    if path is None or not path.is_file():
        return None, None
    try:
        return stored.read(path, quantize, source), None
    except ModelFileError as error:
        return None, f"{error.message}; until `specctl pull --quantize` makes it again, each start does"


def stored_path(lm: LM, quantize: Scheme) -> Path:
    """The stored draft of a loaded model, made now unless one is there that `find` takes.

    Raises MachineError; ModelFileError where this device or dtype has no such operators.
    """
    found, _ = find(lm, quantize, lm, None)
    if found is not None:
        return found.body.path
    cheap, _ = cheapened(lm, quantize)
    source = fingerprint(lm)
    return stored.write(quantized.path_for(lm.name, quantize, source), cheap.module, quantize, source)


def store_head(lm: LM, quantize: Scheme, trim: Path) -> Path:
    """Quantise the head of `lm`, which is trimmed to `trim`, and keep it there. Raises as `stored_path`."""
    head: Any = lm.module.get_submodule(_HEAD)
    holder = nn.ModuleDict({_HEAD: Maker(quantize)(head.weight, head.bias)})
    return stored.write(head_path(trim, quantize), holder, quantize, fingerprint(lm))


def head_path(trim: Path, quantize: str) -> Path:
    return trim / f"{quantize}.safetensors"


def _built(module: nn.Module, make: fused.MakeLinear) -> nn.Module:
    if not fused.fits(module):
        return replaced(module, make)
    areas = mapped.clean_areas()
    return fused.FusedDecoder(module, make, lambda layer: mapped.release(layer, areas))


def _mapped(lm: LM, make: Maker, found: Found) -> nn.Module:
    """Put together without weights, so that none is read or joined, and filled from the file."""
    head: Any = lm.module.get_submodule(_HEAD) if lm.kept is not None else None
    module = _built(replaced(lm.module, _weightless), Place)
    for name, place in stored.places(module):
        layer: nn.Module
        if name != _HEAD or head is None:
            layer = found.body.layer(name, place.shape, place.bias)
        elif found.head is not None:
            layer = found.head.layer(name, place.shape, place.bias)
        else:
            layer = make(head.weight, head.bias)
        module.set_submodule(name, layer)
    return module


def _weightless(weight: Tensor, bias: Tensor | None) -> nn.Module:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return linear

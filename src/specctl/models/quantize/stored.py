"""A draft's quantised layers on disk: made once, mapped at load instead of made again.

A file says what it was made from and how. 4-bit weights lie as the CPU's kernel reads them, which differs between
machines and versions of torch, so a small sample of that packing is compared too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from specctl.errors import ModelFileError
from specctl.models.quantize.forms import form_of
from specctl.models.quantize.scheme import GROUP, BufferedLinear
from specctl.models.saving import save_whole
from specctl.store.safetensors_screen import TensorInfo, read_header

FORMAT = "specctl-quantized-1"

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that fits a source and this machine; `tensors` are the entries of its header."""

    path: Path
    scheme: str
    tensors: Mapping[str, TensorInfo]

    def layer(self, name: str, shape: tuple[int, int], bias: Tensor | None) -> BufferedLinear:
        """The layer called `name` for a weight `[N, K]` of this shape. Raises ModelFileError for any other."""
        form = form_of(self.scheme, _CPU)
        wanted = form.buffers_of(shape)
        for part, (dtype, size) in wanted.items():
            found = self.tensors.get(f"{name}.{part}")
            if found is None or (found.dtype, found.shape) != (dtype, size):
                _refuse(self.path, f"does not hold `{name}` of this draft")
        with safe_open(self.path, framework="pt") as file:
            return form.restored(shape, {part: file.get_tensor(f"{name}.{part}") for part in wanted}, bias)


def read(path: Path, scheme: str, source: str) -> Stored:
    """The file at `path`, which has to have been made from the weights with the fingerprint `source`.

    Raises ModelFileError if it is broken, was made from other weights, in another way, or for another machine.
    """
    tensors = read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            facts: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"cannot read `{path}`: {error}") from error
    for fact, (value, complaint) in _facts(scheme, source).items():
        if facts.get(fact) != value:
            _refuse(path, complaint)
    return Stored(path, scheme, tensors)


def write(path: Path, module: nn.Module, scheme: str, source: str) -> Path:
    """All quantised layers of a module. Raises MachineError; ModelFileError if a linear layer is not quantised."""
    tensors: dict[str, Tensor] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, BufferedLinear):
            tensors |= {f"{name}.{part}": tensor for part, tensor in layer.named_buffers(recurse=False)}
        elif isinstance(layer, nn.Linear):
            raise ModelFileError(
                f"`{name}` of this model has no product in `{scheme}` here, so no draft is stored",
                hint="profiles with `quantize` still work: they quantise what can be, at load",
            )
    facts = {fact: value for fact, (value, _) in _facts(scheme, source).items()}
    return save_whole(path, dict(sorted(tensors.items())), facts)


class Place(nn.Module):
    """Where a layer is going to be, in a decoder put together without weights."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.shape: tuple[int, int] = (weight.shape[0], weight.shape[1])
        self.bias = bias if bias is None else nn.Parameter(bias.detach(), requires_grad=False)


def places(module: nn.Module) -> Iterator[tuple[str, Place]]:
    yield from [(name, one) for name, one in module.named_modules() if isinstance(one, Place)]


def packing(scheme: str) -> str:
    """A sample of how weights lie on this machine, over all sizes of blocks a kernel may have: a digest."""
    levels = torch.arange(240 * 64).reshape(240, 64) * 7 % 251 / 256
    form = form_of(scheme, _CPU)(levels.to(torch.bfloat16), None)
    digest = hashlib.sha256()
    for _, tensor in form.named_buffers():
        digest.update(tensor.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _facts(scheme: str, source: str) -> dict[str, tuple[str, str]]:
    """What a file has to say about itself, and what is wrong with it where it says something else."""
    return {
        "format": (FORMAT, "is not a stored draft of this version of specctl"),
        "scheme": (scheme, f"is not in `{scheme}`"),
        "group": (str(GROUP), "has groups of another size"),
        "source": (source, "was made from other weights"),
        "torch": (torch.__version__, "was made by another version of torch"),
        "packing": (packing(scheme), "was packed for another kind of CPU"),
    }


def _refuse(path: Path, what: str) -> NoReturn:
    raise ModelFileError(
        f"the stored draft `{path.name}` {what}", hint="make it again with `specctl pull --quantize`"
    )

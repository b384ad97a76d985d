"""A model that reads out only some of its vocabulary: cheaper drafts, the same output (VocabTrim).

A trimmed head is a copy of the kept rows; the input embedding and the source's own head stay whole, so one model
can draft with the copy and verify with the original. Source: Goel et al., "VocabTrim", arXiv:2506.22694.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.functional import pad

from specctl.errors import ModelFileError
from specctl.models.lm import LM
from specctl.models.quantize import Maker
from specctl.models.views import shallow_copy
from specctl.store import vocabulary
from specctl.store.safetensors_screen import read_header

FILE = "trim.safetensors"
FORMAT = "specctl-trim-1"


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """Kept rows of a vocabulary head: `ids` `[k]` int64 ascending, `weight` `[k, H]`, `bias` `[k]` or None."""

    ids: Tensor
    weight: Tensor
    bias: Tensor | None = None


def cut(lm: LM, ids: Tensor) -> Head:
    """The rows `ids` of a loaded model's own head."""
    head: Any = cast(Any, lm.module).get_output_embeddings()
    return Head(ids, head.weight.detach()[ids], None if head.bias is None else head.bias.detach()[ids])


def plain_linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


def trimmed(lm: LM, head: Head, make: Callable[[Tensor, Tensor | None], nn.Module] = plain_linear) -> LM:
    """`lm` with logits over the kept ids only; it shares all else, and `lm` itself keeps its head.

    `make` turns weight and bias into the layer, quantised for instance.
    """
    weight = head.weight.to(lm.device, lm.dtype)
    bias = None if head.bias is None else head.bias.to(lm.device, lm.dtype)
    module = shallow_copy(lm.module)
    module._modules["lm_head"] = make(weight, bias)
    packed = None
    if lm.packed is not None:
        packed = shallow_copy(lm.packed)
        packed._modules["lm_head"] = Maker(None)(weight, bias)
    return LM(module, lm.name, lm.row_floor, head.ids.to(lm.device), twin=lm.twin, packed=packed)


def widen(logits: Tensor, kept: Tensor | None, vocab_size: int) -> Tensor:
    """A drafter's logits `[..., k]` over the target's vocabulary, `[..., vocab_size]`.

    `kept` says which ids they are; None: the first ones, up to padding. What the drafter cannot say has -inf, so
    its law q is zero there, and noise keyed by id means the same tokens as for the target.
    """
    if kept is None:
        # Models of one family pad their vocabularies differently; what the target lacks cannot be drafted.
        return pad(logits, (0, vocab_size - logits.shape[-1]), value=float("-inf"))
    wide = logits.new_full((*logits.shape[:-1], vocab_size), float("-inf"))
    return wide.index_copy_(-1, kept, logits)


def is_map(ids: Tensor, vocab_size: int) -> bool:
    """Whether `ids` can be the kept ids of a head: ascending, and within the vocabulary."""
    if ids.dim() != 1 or not len(ids) or bool((ids[1:] <= ids[:-1]).any()):
        return False
    return 0 <= int(ids[0]) <= int(ids[-1]) < vocab_size


def read(folder: Path, lm: LM, source: Path, vocab_size: int) -> Head:
    """The trimmed head in `folder` for `lm`, which was loaded from `source`.

    Raises ModelFileError unless its map is there, whole, made for this tokenizer and within `vocab_size` of the
    target, and every row is bit for bit the one of `lm` that the map names: engines that fall back to another
    map draft nonsense silently.
    """
    head, facts = _read(folder)
    require_tokenizer(folder, facts, source)
    _check_rows(folder, head, lm, vocab_size)
    return head


def require_tokenizer(folder: Path, facts: dict[str, str], source: Path) -> None:
    """Raises ModelFileError unless the head was made for the tokenizer of the model in `source`."""
    if facts.get("tokenizer") != vocabulary.fingerprint(source):
        _refuse(folder, f"was made for another tokenizer than that of `{source.name}`")


def read_map(folder: Path) -> tuple[Tensor, dict[str, str]]:
    """The kept ids and what the file says about itself, without a model. Raises ModelFileError."""
    head, facts = _read(folder)
    return head.ids, facts


def _read(folder: Path) -> tuple[Head, dict[str, str]]:
    """A file that agrees with itself."""
    path = folder / FILE
    if not path.is_file():
        raise ModelFileError(f"there is no file `{path}`", hint="make it with `specctl trim`")
    found = read_header(path)
    if not {"ids", "weight"} <= found.keys() or found["ids"].dtype != "I64":
        _refuse(folder, "lacks the map from its rows to token ids")
    try:
        with safe_open(path, framework="pt") as file:
            facts: dict[str, str] = file.metadata() or {}
            bias = file.get_tensor("bias") if "bias" in found else None
            head = Head(file.get_tensor("ids"), file.get_tensor("weight"), bias)
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"cannot read `{path}`: {error}") from error
    if facts.get("format") != FORMAT:
        _refuse(folder, "is not a trimmed head of this version of specctl")
    if facts.get("map") != map_digest(head.ids, facts.get("tokenizer", "")):
        _refuse(folder, "has a map that was changed after it was made")
    return head, facts


def map_digest(ids: Tensor, tokenizer: str) -> str:
    """sha256 over the kept ids and the tokenizer they are ids of."""
    return hashlib.sha256(ids.numpy().tobytes() + tokenizer.encode()).hexdigest()


def _check_rows(folder: Path, head: Head, lm: LM, vocab_size: int) -> None:
    full: Any = lm.module.lm_head
    ids = head.ids
    if ids.dim() != 1 or not len(ids) or head.weight.shape != (len(ids), full.weight.shape[1]):
        _refuse(folder, f"does not have the shape of the head of `{lm.name}`")
    if bool((ids[1:] <= ids[:-1]).any()) or not 0 <= int(ids[0]) <= int(ids[-1]) < len(full.weight):
        _refuse(folder, "has a map that is not ascending or leaves the vocabulary")
    if int(ids[-1]) >= vocab_size:
        _refuse(folder, "keeps tokens the target does not have")
    pairs = [(head.weight, full.weight), (head.bias, full.bias)]
    for mine, theirs in pairs:
        same = (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            same = torch.equal(mine.to(theirs.device, theirs.dtype), theirs.detach()[ids.to(theirs.device)])
        if not same:
            _refuse(folder, f"has other rows than the head of `{lm.name}`")


def _refuse(folder: Path, what: str) -> NoReturn:
    raise ModelFileError(f"the trimmed head `{folder}` {what}", hint="make it again with `specctl trim`")

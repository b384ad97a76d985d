"""The head of a model on disk: where its rows are, which must stay, and copies of some; nothing is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from specctl.errors import ModelFileError
from specctl.models.trimmed import Head
from specctl.store import screen, vocabulary

_HEAD = ("lm_head.weight", "model.embed_tokens.weight")  # a tied head is the embedding


@dataclass(frozen=True, slots=True)
class Source:
    """`weight` is `[rows, width]` in `folder`; `bias` is None for nearly all models."""

    folder: Path
    weight: str
    bias: str | None
    rows: int
    width: int
    parameters: int
    unread: int

    @property
    def read_a_step(self) -> int:
        """Parameters a step reads with the whole head: of an untied embedding only single rows are."""
        return self.parameters - self.unread


def find(folder: Path) -> Source:
    """Raises ModelFileError for a folder that is no model, or has no head specctl knows."""
    tensors = screen.folder(folder).tensors
    name = next((name for name in _HEAD if name in tensors), None)
    if name is None or len(tensors[name].shape) != 2:
        raise ModelFileError(f"`{folder.name}` has no vocabulary head that can be trimmed")
    rows, width = tensors[name].shape
    bias = "lm_head.bias" if "lm_head.bias" in tensors else None
    total = sum(tensor.elements for tensor in tensors.values())
    apart = name == _HEAD[0] and _HEAD[1] in tensors
    return Source(folder, name, bias, rows, width, total, rows * width if apart else 0)


def must_keep(folders: Iterable[Path]) -> frozenset[int]:
    """Ends, special tokens and what the chat templates are made of: without them no draft ends a turn."""
    ids: set[int] = set()
    for folder in folders:
        words = vocabulary.read(folder)
        ids |= words.special | words.ends
        ids |= {index for index, text in words.tokens.items() if text in words.named.values()}
        rendered = vocabulary.render(words, "") if words.template else None
        ids |= set(vocabulary.cut(folder, rendered)) if rendered else set()
    return frozenset(ids)


def rows(source: Source, ids: Tensor) -> Head:
    """The rows `ids`, copied bit for bit. The file is mapped: only pages that are read take memory."""
    return Head(
        ids,
        _tensor(source, source.weight).index_select(0, ids),
        None if source.bias is None else _tensor(source, source.bias).index_select(0, ids),
    )


def _tensor(source: Source, name: str) -> Tensor:
    single = source.folder / "model.safetensors"
    if not single.exists():
        index = json.loads((source.folder / "model.safetensors.index.json").read_bytes())
        single = source.folder / index["weight_map"][name]
    with safe_open(single, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor

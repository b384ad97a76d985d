"""Training samples on disk: token ids and the target's hidden states, memory-mapped, in shards.

A shard holds a block of conversations by index, so a killed capture goes on with the blocks it lacks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from specctl.errors import RequestError
from specctl.store.files import write_atomic

FORMAT = "specctl-shard-1"


@dataclass(frozen=True, slots=True)
class Sample:
    """One conversation. `ids` `[L + 1]` int64, states `[L, H]`: position t predicts `ids[t + 1]`.

    `hidden[depth]` is after that many layers, `last` after the final norm; `answer` is the first position that
    predicts a token of the answer.
    """

    ids: Tensor
    answer: int
    hidden: dict[int, Tensor]
    last: Tensor


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a sample is: its states are rows [start, end) of a file, its ids begin at `ids`."""

    file: int
    ids: int
    start: int
    end: int
    answer: int


def shard_path(folder: Path, block: int) -> Path:
    return folder / f"{block:06d}.safetensors"


def write(path: Path, samples: Sequence[Sample], facts: Mapping[str, Any]) -> None:
    """One shard. `facts` say what was captured of which target; shards of one folder agree on them."""
    lengths = [len(sample.last) for sample in samples]
    tensors = {
        "ids": torch.cat([sample.ids for sample in samples]).int(),
        "lengths": torch.tensor(lengths),
        "answers": torch.tensor([sample.answer for sample in samples]),
        "last": torch.cat([sample.last for sample in samples]),
    }
    for depth in samples[0].hidden:
        tensors[f"hidden.{depth}"] = torch.cat([sample.hidden[depth] for sample in samples])
    # One entry: safetensors writes several in any order, and shards made twice should be equal.
    write_atomic(path, save(tensors, metadata={"facts": _text(facts)}))


def _text(facts: Mapping[str, Any]) -> str:
    return json.dumps({"format": FORMAT, **facts}, sort_keys=True)


class Shards:
    """The samples of a folder, read when asked for. Raises RequestError for shards of another capture."""

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self._files: list[Any] = []
        self._places: list[_Place] = []
        wanted = _text(facts)
        for path in sorted(folder.glob("*.safetensors")):
            file: Any = safe_open(path, framework="pt")
            if (file.metadata() or {}).get("facts") != wanted:
                raise RequestError(
                    f"`{folder}` holds states of another target or of other settings",
                    hint="use an empty folder",
                )
            self._index(file)

    def _index(self, file: Any) -> None:
        start = 0
        lengths, answers = (file.get_tensor(name).tolist() for name in ("lengths", "answers"))
        for number, (length, answer) in enumerate(zip(lengths, answers, strict=True)):
            # A sample has one id more than it has states.
            self._places.append(_Place(len(self._files), start + number, start, start + length, answer))
            start += length
        self._files.append(file)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def lengths(self) -> list[int]:
        return [place.end - place.start for place in self._places]

    def sample(self, number: int, depths: Sequence[int]) -> Sample:
        """Sample `number` with the states after `depths` layers."""
        place = self._places[number]
        file = self._files[place.file]
        states = slice(place.start, place.end)
        return Sample(
            file.get_slice("ids")[place.ids : place.ids + place.end - place.start + 1].long(),
            place.answer,
            {depth: file.get_slice(f"hidden.{depth}")[states] for depth in depths},
            file.get_slice("last")[states],
        )

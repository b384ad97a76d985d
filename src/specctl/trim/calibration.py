"""The answers a head is trimmed by, on disk from the first one on, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from specctl.errors import RequestError
from specctl.store import files

FILE = "calibration.jsonl"
_SCHEMA = 1
_HELD_OUT = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer. `prompt` and `answer` are token ids, chat template and all; `prompt` may be unknown, so empty.

    `text` is the digest of the prompt as the user gave it; empty for prompts nobody gave.
    """

    index: int
    category: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a calibration depends on; another one is never gone on with. `origin` says what the answers are."""

    target: str
    tokenizer: str
    origin: str
    prompts: str
    max_new_tokens: int
    seed: int


class Calibration:
    """Samples in `folder`, each appended as it comes."""

    def __init__(self, folder: Path, settings: Settings, *, force: bool = False) -> None:
        """Raises RequestError if another calibration is there and not `force`, MachineError."""
        self._path = folder / FILE
        self.settings = settings
        self.samples: dict[int, Sample] = {}
        found = read(folder)
        if found is not None and found[0] == settings:
            self.samples = {one.index: one for one in found[1]}
        elif self._path.exists() and not force:
            what = "with other settings" if found else "that cannot be read"
            raise RequestError(
                f"`{folder}` holds a calibration {what}",
                hint="choose another folder, or --force to start again",
            )
        with files.disk_errors(str(self._path)):
            folder.mkdir(parents=True, exist_ok=True)
        lines = [{"schema": _SCHEMA, **asdict(settings)}, *map(asdict, self.samples.values())]
        files.write_atomic(self._path, b"".join(_line(one) for one in lines))

    def extend(self, samples: Iterable[Sample], told: Callable[[Sample], None]) -> None:
        with files.disk_errors(str(self._path)), self._path.open("ab") as out:
            for sample in samples:
                out.write(_line(asdict(sample)))
                out.flush()
                self.samples[sample.index] = sample
                told(sample)

    def missing(self, indices: Iterable[int]) -> list[int]:
        return [index for index in indices if index not in self.samples]

    def ordered(self) -> list[Sample]:
        return [self.samples[index] for index in sorted(self.samples)]


def read(folder: Path) -> tuple[Settings, list[Sample]] | None:
    """What is there; None if it is not a calibration. A last line that was cut off is left out."""
    try:
        head, *lines = (folder / FILE).read_bytes().split(b"\n")
        fields: dict[str, Any] = json.loads(head)
        if fields.pop("schema") != _SCHEMA:
            return None
        settings = Settings(**fields)
        samples = [_sample(json.loads(line)) for line in lines[:-1]]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return settings, samples


def split(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Those to count, and every fifth to judge by, all categories among them: what was counted is always covered.

    Fewer than five are both.
    """
    ordered = [sample for _, group in by_category(samples) for sample in group]
    held_out = ordered[_HELD_OUT - 1 :: _HELD_OUT]
    counted = [sample for sample in ordered if sample not in held_out]
    return (counted, held_out) if held_out else (ordered, ordered)


def digest(text: str) -> str:
    """How a prompt is known again without being kept."""
    return hashlib.sha256(text.strip().encode()).hexdigest()[:16]


def refuse_shared(calibrated: Iterable[str], evaluated: Iterable[str], what: str) -> None:
    """Digests of prompts. Raises RequestError if some are in both: figures would flatter themselves."""
    shared = set(calibrated) & set(evaluated)
    if shared:
        raise RequestError(
            f"`{what}` shares {len(shared)} prompts with the calibration",
            hint="evaluate on prompts that were not calibrated with",
        )


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _sample(fields: dict[str, Any]) -> Sample:
    prompt, answer = _ids(fields["prompt"]), _ids(fields["answer"])
    return Sample(int(fields["index"]), str(fields["category"]), prompt, answer, str(fields["text"]))


def _ids(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(one) is int and one >= 0 for one in values):
        raise ValueError("not token ids")
    return tuple(values)


def by_category(samples: Iterable[Sample]) -> Iterator[tuple[str, list[Sample]]]:
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.category, []).append(sample)
    yield from sorted(groups.items())

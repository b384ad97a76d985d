"""One trimming from answers to a folder: order, size, rows, facts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from specctl.errors import RequestError
from specctl.models import trimmed
from specctl.store import vocabulary
from specctl.trim import calibration, counts, source, write
from specctl.trim import export as export_map
from specctl.trim.calibration import Sample
from specctl.trim.curve import Point, coverage, rounded
from specctl.trim.source import Source


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known once there are answers: `order` by all of them, `judging` the order by those that were counted,
    `held_out` the others, for a curve that does not flatter itself.
    """

    target: Source
    draft: Source
    must: frozenset[int]
    tally: Tensor
    order: Tensor
    judging: Tensor
    held_out: list[Sample]

    @property
    def rows(self) -> int:
        """Most rows a head for this target can have: its padding may be smaller than the draft's."""
        return len(self.order)

    def covered(self, sizes: Sequence[int]) -> list[Point]:
        return coverage(self.judging, self.held_out, sizes, self.target.rows)

    def size_for(self, share: float) -> int:
        """Raises RequestError for a share no size reaches, or that is none."""
        tally = counts.count((one.answer for one in self.held_out), self.target.rows)
        return rounded(max(counts.size_for(self.judging, tally, share), len(self.must)), self.rows)


def require_possible(target: Path, draft: Path, size: int) -> None:
    """Raises RequestError for a size no head of this pair can have."""
    rows = min(source.find(folder).rows for folder in (target, draft))
    counts.require_size(size, source.must_keep({target, draft}), rows)


def plan(target: Path, draft: Path, samples: Sequence[Sample], mass: Tensor) -> Plan:
    """`mass`: `expected.masses` of these samples.

    Raises RequestError if the samples hold no tokens, ModelFileError for folders that cannot be used.
    """
    sources = source.find(target), source.find(draft)
    rows = min(one.rows for one in sources)
    must = source.must_keep({target, draft})
    counted, held_out = calibration.split(samples)
    tally = counts.count((one.answer for one in samples), sources[0].rows)
    known = counts.count((one.answer for one in counted), sources[0].rows)
    weights = counts.expected(tally, mass.sum(dim=0)), counts.expected(known, mass[0])
    order, judging = (counts.ranking(one, must, rows) for one in weights)
    return Plan(*sources, must, tally, order, judging, held_out)


def finish(folder: Path, made: Plan, point: Point, settings: calibration.Settings) -> Path:
    """Cut and write. Raises MachineError."""
    ids = counts.keep(made.order, point.size)
    facts = {
        "target": settings.target,
        "draft": made.draft.folder.name,
        "vocabulary": str(made.target.rows),
        "origin": settings.origin,
        "counted": str(int(made.tally.sum())),
        "coverage": json.dumps({"all": point.covered, **point.coverage}, sort_keys=True),
    }
    head = source.rows(made.draft, ids)
    return write.write(folder, head, tokenizer=vocabulary.fingerprint(made.draft.folder), facts=facts)


def described(folder: Path, draft: Path) -> tuple[Tensor, dict[str, float]]:
    """The kept ids of a head for this draft, and the coverage it was made with. Raises ModelFileError."""
    ids, facts = trimmed.read_map(folder)
    trimmed.require_tokenizer(folder, facts, draft)
    return ids, json.loads(facts["coverage"])


def export(folder: Path, form: str) -> Path:
    """Raises ModelFileError, MachineError; RequestError without the calibration, which has the frequencies."""
    ids, facts = trimmed.read_map(folder)
    found = calibration.read(folder)
    if found is None:
        raise RequestError(f"`{folder}` has no calibration", hint="make it again with `specctl trim`")
    tally = counts.count((one.answer for one in found[1]), int(facts["vocabulary"]))
    return export_map.write(folder, form, ids, tally)

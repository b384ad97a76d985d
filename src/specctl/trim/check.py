"""How a trimmed head does on text it was not made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from specctl.store.vocabulary import Vocabulary
from specctl.trim import counts
from specctl.trim.calibration import Sample, by_category

_FALL = 0.03
_LISTED = 5


@dataclass(frozen=True, slots=True)
class Found:
    """One category, or `all`. `falls`: three points or more below what the calibration promised."""

    category: str
    tokens: int
    coverage: float
    falls: bool
    missed: list[str]


def check(
    samples: Sequence[Sample], ids: Tensor, promised: float, words: Vocabulary, vocab_size: int
) -> list[Found]:
    """Raises RequestError if the samples hold no tokens."""
    found = []
    for category, group in [*by_category(samples), ("all", list(samples))]:
        tally = counts.count((one.answer for one in group), vocab_size)
        total = int(tally.sum())
        share = int(tally[ids].sum()) / total
        tally[ids] = 0
        often = tally.topk(min(_LISTED, vocab_size))
        missed = [words.text(int(index)) for index, n in zip(*often[::-1], strict=True) if n]
        found.append(Found(category, total, share, promised - share >= _FALL, missed))
    return found

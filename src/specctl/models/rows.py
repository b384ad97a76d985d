"""How many rows a forward is filled up to. Kernels that read weights can be faster with five rows than with one.

Which number that is depends on the machine and on the sizes of the layers, so it is measured once. Dummy rows are
computed and never looked at; where numerics are invariant (`models/numerics.py`) no bit depends on them.
"""

from __future__ import annotations

from dataclasses import replace

from specctl.models import costs, remembered
from specctl.models.lm import LM

CANDIDATES = (1, 2, 3, 4, 5, 6, 8)

_ROUNDS = 6
_CONTEXT = 64
_AS_GOOD = 1.03
"""Times less than this apart are one; then fewer rows are taken."""


def fewest_rows(lm: LM) -> int:
    """The best of `CANDIDATES` for a forward of a single token: remembered, or measured now."""
    key = costs.fingerprint(replace(lm, fewest_rows=1))
    known = remembered.load("rows").get(key)
    if known not in CANDIDATES:
        known = _measure(lm)
        remembered.add("rows", {key: known})
    return int(known)


def _measure(lm: LM) -> int:
    """By the least time of some rounds: what else the machine does can only add to it."""
    cache = costs.filled(lm, 1, _CONTEXT, max(CANDIDATES))
    times: dict[int, list[float]] = {rows: [] for rows in CANDIDATES}
    for _ in range(_ROUNDS):
        for rows, some in times.items():
            some.append(costs.seconds(replace(lm, fewest_rows=rows), cache, 1, 1))
    least = {rows: min(some) for rows, some in times.items()}
    return next(rows for rows in CANDIDATES if least[rows] <= _AS_GOOD * min(least.values()))

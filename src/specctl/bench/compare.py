"""Two runs of the same prompts against each other."""

from __future__ import annotations

from dataclasses import dataclass

from specctl.bench.report import Run
from specctl.bench.statistics import Interval, mean_interval
from specctl.bench.summary import by_group
from specctl.errors import RequestError


@dataclass(frozen=True, slots=True)
class Change:
    """How a contestant's speedup over plain decoding changed, prompt by prompt: a ratio, above 1 if B is faster.

    Speedups, not tokens/s, so that a machine that was slower in one run is no change.
    """

    contestant: str
    batch_size: int
    ratio: Interval
    prompts: int

    @property
    def verdict(self) -> str:
        """Whether the interval leaves out 1; undecided for fewer than three prompts."""
        if self.prompts < 3:
            return "too few prompts"
        if self.ratio.low > 1:
            return "faster"
        return "slower" if self.ratio.high < 1 else "no difference seen"


def compare(a: Run, b: Run) -> list[Change]:
    """For all that is in both. Raises RequestError for runs of different prompts or lengths."""
    for what in ("suite", "max_new_tokens"):
        first, second = getattr(a.setup, what), getattr(b.setup, what)
        if first != second:
            raise RequestError(
                f"the runs differ in `{what}`", hint="compare runs of the same --suite, --per-kind and -n"
            )
    changes = []
    for name, size in dict.fromkeys((one.contestant, one.batch_size) for one in a.trials):
        before, after = _speedups(a, name, size), _speedups(b, name, size)
        kinds: dict[str, list[float]] = {}
        for key in before.keys() & after.keys():
            kinds.setdefault(key[0], []).append(after[key] / before[key])
        if kinds and name != a.baseline:
            n = sum(map(len, kinds.values()))
            changes.append(Change(name, size, mean_interval(dict(sorted(kinds.items()))), n))
    if not changes:
        raise RequestError("the runs have no method in common", hint="`specctl bench --profile` chooses them")
    return changes


def _speedups(run: Run, name: str, size: int) -> dict[tuple[str, str], float]:
    trials, plain = (
        [one for one in run.trials if one.contestant == which and one.batch_size == size]
        for which in (name, run.baseline)
    )
    return by_group(trials, plain)

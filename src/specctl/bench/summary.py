"""From trials to the figures of a report: paired speedups, acceptance, shares of time, Spec-Bench's own metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from statistics import median
from typing import Any

from specctl.bench.statistics import Interval, geometric_mean, mean_interval
from specctl.bench.trial import Trial


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes of weights a contestant holds, and reads in a step of its drafter and of the target; None: unknown."""

    held: int | None = None
    draft_step: int | None = None
    target_step: int | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """One contestant at one batch size. Speedups are ratios of whole answers' tokens/s, prefill included.

    `decoding_speedup` leaves prefill out. `shares` are of the whole time: prefill, draft, verify, other.
    `accepted_of_offered[i]`: of the rounds that drafted token i, how many kept it. Memory is the weights it needs
    plus the largest growth during an answer.
    """

    contestant: str
    batch_size: int
    trials: int
    tokens: int
    tokens_per_s: float
    decoding_tokens_per_s: float | None
    speedup: Interval
    decoding_speedup: Interval | None
    categories: dict[str, Interval]
    worst: str
    equal: int
    mean_acceptance_length: float | None
    accepted_of_offered: list[float]
    first_token_s: float | None
    shares: dict[str, float] | None
    memory_bytes: int | None
    mbsu: float | None
    spec_bench: dict[str, float | None]

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        data["speedup"] = self.speedup._asdict()
        data["decoding_speedup"] = self.decoding_speedup and self.decoding_speedup._asdict()
        data["categories"] = {kind: value._asdict() for kind, value in self.categories.items()}
        return data


def summarise(trials: Sequence[Trial], weights: dict[str, Weights], baseline: str) -> list[Summary]:
    """A summary for each contestant and batch size, in the order they first appear."""
    found: dict[tuple[int, str], list[Trial]] = {}
    for trial in trials:
        found.setdefault((trial.batch_size, trial.contestant), []).append(trial)
    return [
        _summary(some, found[batch_size, baseline], weights.get(name, Weights()))
        for (batch_size, name), some in found.items()
    ]


def _summary(trials: Sequence[Trial], plain: Sequence[Trial], weights: Weights) -> Summary:
    speedups = paired(trials, plain)
    kinds = {kind: mean_interval({kind: values}) for kind, values in speedups.items()}
    decoding = paired(trials, plain, decoding=True)
    length = _acceptance_length(trials)
    return Summary(
        contestant=trials[0].contestant,
        batch_size=trials[0].batch_size,
        trials=len(trials),
        tokens=sum(one.tokens for one in trials),
        tokens_per_s=sum(one.tokens for one in trials) / sum(one.seconds for one in trials),
        decoding_tokens_per_s=_decoding_rate(trials),
        speedup=mean_interval(speedups),
        decoding_speedup=mean_interval(decoding) if decoding else None,
        categories=kinds,
        worst=min(kinds, key=lambda kind: kinds[kind].mean),
        equal=sum(one.equal for one in trials),
        mean_acceptance_length=length,
        accepted_of_offered=_by_position(trials),
        first_token_s=_median(one.first_token_s for one in trials),
        shares=_shares(trials),
        memory_bytes=_memory(trials, weights),
        mbsu=_mbsu(trials, length, weights),
        spec_bench=_spec_bench(trials, plain),
    )


def paired(
    trials: Sequence[Trial], plain: Sequence[Trial], *, decoding: bool = False
) -> dict[str, list[float]]:
    """Per kind, each group's speedup: the geometric mean over repeats of the ratio to the baseline's same turn."""
    kinds: dict[str, list[float]] = {}
    for (kind, _), ratio in by_group(trials, plain, decoding=decoding).items():
        kinds.setdefault(kind, []).append(ratio)
    return kinds


def by_group(
    trials: Sequence[Trial], plain: Sequence[Trial], *, decoding: bool = False
) -> dict[tuple[str, str], float]:
    """Speedups by kind and group."""
    before = {(one.group, one.repeat): _rate(one, decoding) for one in plain}
    ratios: dict[tuple[str, str], list[float]] = {}
    for one in trials:
        rate, base = _rate(one, decoding), before.get((one.group, one.repeat))
        if rate and base:
            ratios.setdefault((one.category, one.group), []).append(rate / base)
    return {key: geometric_mean(values) for key, values in ratios.items()}


def _rate(trial: Trial, decoding: bool) -> float | None:
    return trial.decoding_tokens_per_s if decoding else trial.tokens_per_s


def _decoding_rate(trials: Sequence[Trial]) -> float | None:
    if any(one.prefill_s is None for one in trials):
        return None
    return sum(one.tokens for one in trials) / sum(one.seconds - (one.prefill_s or 0) for one in trials)


def _acceptance_length(trials: Sequence[Trial]) -> float | None:
    """Over all rounds of all answers; a round's own token counts (vLLM, and Spec-Bench's mean accepted tokens)."""
    rounds = sum(one.rounds or 0 for one in trials)
    return 1 + sum(sum(one.accepted) for one in trials) / rounds if rounds else None


def _by_position(trials: Sequence[Trial]) -> list[float]:
    offered = [sum(some) for some in zip_longest(*(one.offered for one in trials), fillvalue=0)]
    accepted = [sum(some) for some in zip_longest(*(one.accepted for one in trials), fillvalue=0)]
    return [kept / tried for kept, tried in zip_longest(accepted, offered, fillvalue=0) if tried]


def _shares(trials: Sequence[Trial]) -> dict[str, float] | None:
    if any(one.prefill_s is None for one in trials):
        return None
    total = sum(one.seconds for one in trials)
    parts = {
        "prefill": sum(one.prefill_s or 0 for one in trials) / total,
        "draft": sum(one.draft_s or 0 for one in trials) / total,
        "verify": sum(one.verify_s or 0 for one in trials) / total,
    }
    return {**parts, "other": 1 - sum(parts.values())}


def _memory(trials: Sequence[Trial], weights: Weights) -> int | None:
    growth = [one.growth_bytes for one in trials if one.growth_bytes is not None]
    return weights.held + max(growth) if growth and weights.held is not None else None


def _mbsu(trials: Sequence[Trial], length: float | None, weights: Weights) -> float | None:
    """Memory-bound speedup: length / (c * drafted tokens a round + 1), c the bytes read drafter : target.

    A model of a machine that only waits for memory, not a measurement (as in VocabTrim, arXiv:2506.22694).
    """
    rounds = sum(one.rounds or 0 for one in trials)
    if length is None or not rounds or weights.draft_step is None or not weights.target_step:
        return None
    drafted = sum(sum(one.offered) for one in trials) / rounds
    return length / (weights.draft_step / weights.target_step * drafted + 1)


def _spec_bench(trials: Sequence[Trial], plain: Sequence[Trial]) -> dict[str, float | None]:
    """Spec-Bench's two metrics (arXiv:2401.07851), tokens counted alike on both sides, unlike its script.

    They weigh prompts differently: the speedup is a ratio of means over prompts, the mean accepted tokens a mean
    over rounds.
    """
    rate, base = (sum(one.tokens_per_s for one in some) / len(some) for some in (trials, plain))
    return {
        "mean_accepted_tokens": _acceptance_length(trials),
        "tokens_per_s": rate,
        "speedup": rate / base,
    }


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None

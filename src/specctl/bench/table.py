"""A run's figures as rows of text, and what they mean in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from specctl.bench.statistics import Interval
from specctl.bench.summary import Summary

HEAD = (
    "method",
    "batch",
    "tokens/s",
    "speedup (95 %)",
    "worst kind",
    "decoding",
    "length",
    "first token",
    "draft/verify/other",
    "memory",
    "MBSU",
    "equal",
)
_NOTHING = "–"
_SLOWER = 0.995  # rounds to less than 1.00


def row(one: Summary) -> list[str]:
    return [
        one.contestant,
        str(one.batch_size),
        f"{one.tokens_per_s:.1f}",
        interval(one.speedup),
        f"{one.categories[one.worst].mean:.2f} {one.worst}",
        f"{one.decoding_speedup.mean:.2f}" if one.decoding_speedup else _NOTHING,
        f"{one.mean_acceptance_length:.2f}" if one.mean_acceptance_length else _NOTHING,
        f"{one.first_token_s:.2f} s" if one.first_token_s is not None else _NOTHING,
        _shares(one),
        f"{one.memory_bytes / 1e6:.0f} MB" if one.memory_bytes is not None else _NOTHING,
        f"{one.mbsu:.2f}" if one.mbsu is not None else _NOTHING,
        f"{one.equal}/{one.trials}",
    ]


def interval(value: Interval) -> str:
    """A mean of one value, or of equal ones, has no interval."""
    if value.low == value.high:
        return f"{value.mean:.2f}"
    return f"{value.mean:.2f} ({value.low:.2f}–{value.high:.2f})"


def category_table(summaries: Sequence[Summary], baseline: str) -> tuple[list[str], list[list[str]]]:
    """Speedups by kind of prompt: a column a method."""
    shown = [one for one in summaries if one.contestant != baseline]
    batches = {one.batch_size for one in summaries}
    names = [f"{one.contestant} ×{one.batch_size}" if len(batches) > 1 else one.contestant for one in shown]
    kinds = list(dict.fromkeys(kind for one in shown for kind in one.categories))
    rows = [
        [kind, *(interval(one.categories[kind]) if kind in one.categories else _NOTHING for one in shown)]
        for kind in kinds
    ]
    return ["speedup", *names], [*rows, ["all kinds", *(interval(one.speedup) for one in shown)]]


def words(summaries: Sequence[Summary], baseline: str) -> Iterator[str]:
    """Where something is slower than plain decoding, and where the text differs: said, not left to be found."""
    for one in summaries:
        if one.contestant == baseline:
            continue
        at = f" in batches of {one.batch_size}" if one.batch_size > 1 else ""
        slower = sorted((value.mean, kind) for kind, value in one.categories.items() if value.mean < _SLOWER)
        if slower:
            listed = ", ".join(f"{kind} {mean:.2f}" for mean, kind in slower)
            overall = "overall and on" if one.speedup.mean < _SLOWER else "on"
            yield f"{one.contestant}{at} is slower than {baseline} {overall} {listed}"
        if one.equal < one.trials:
            yield (
                f"{one.contestant}{at} wrote other tokens than {baseline} in {one.trials - one.equal} of "
                f"{one.trials} answers"
            )


def _shares(one: Summary) -> str:
    if one.shares is None:
        return _NOTHING
    return "/".join(f"{100 * one.shares[part]:.0f}" for part in ("draft", "verify", "other")) + " %"

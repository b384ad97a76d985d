"""The figures of a run in words: while it goes on, and when it is over."""

from __future__ import annotations

from specctl.cli import console
from specctl.decode.stats import SLOWER, Stats

MANY_ROUNDS = 50  # below that a percentage says more than is known
_SOME_ROUNDS = 8


def live_line(stats: Stats) -> str:
    return " · ".join(
        part for part in (_speed(stats), _acceptance(stats), f"{stats.new_tokens} tokens") if part
    )


def stats_line(stats: Stats, *, exact: bool) -> str:
    parts = [f"{stats.new_tokens} tokens", _speed(stats), f"{stats.rounds} rounds", _acceptance(stats)]
    if not exact:
        parts.append("lossy: not the target's own distribution")
    return " · ".join(part for part in parts if part)


def say(stats: Stats, *, exact: bool, verbose: bool) -> None:
    """The closing lines on standard error."""
    console.note(stats_line(stats, exact=exact))
    if stats.mirror.rounds:
        _say_mirror(stats)
    speedup = stats.estimated_speedup
    if speedup is not None and speedup < SLOWER and stats.rounds >= _SOME_ROUNDS:
        console.note(
            f"slower than plain decoding: {speedup:.2f} x at most (est.); `specctl bench` measures it"
        )
    if verbose:
        console.note(
            f"prefill {stats.prefill_s:.2f} s · decoding {stats.decode_s:.2f} s "
            f"(drafting {stats.draft_s:.2f}, verifying {stats.verify_s:.2f})"
        )


def _say_mirror(stats: Stats) -> None:
    """Hits, and what was measured apart from what is modelled."""
    mirror = stats.mirror
    parts = [f"drafted ahead: {mirror.hits} of {mirror.tried} verdicts"]
    if mirror.modelled_s:
        parts.append(
            f"modelled on two devices like this one: {stats.new_tokens / mirror.modelled_s:.1f} tokens/s"
        )
    elif mirror.hidden is not None:
        parts.append(f"{mirror.hidden:.0%} of drafting ahead hidden (measured)")
    console.note(" · ".join(parts))
    if mirror.in_place:
        console.note(f"{mirror.in_place} of {mirror.rounds} rounds drafted in place: {mirror.why}")


def _speed(stats: Stats) -> str:
    return f"{stats.tokens_per_s:.1f} tokens/s" if stats.tokens_per_s else ""


def _acceptance(stats: Stats) -> str:
    if not stats.drafted or stats.mean_acceptance_length is None:
        return "nothing drafted" if stats.rounds else ""
    counts = f"accepted {stats.accepted} of {stats.drafted}"
    if stats.rounds >= MANY_ROUNDS and stats.acceptance_rate is not None:
        counts += f" ({stats.acceptance_rate:.0%})"
    return f"{counts} · mean acceptance length {stats.mean_acceptance_length:.2f}"

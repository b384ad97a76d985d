"""What `specctl tune` found, as a table and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specctl.cli import console

if TYPE_CHECKING:
    from specctl.bench.settings import Setting
    from specctl.bench.tune import Tuning

_HEAD = ("setting", "predicted", "measured (95 %)", "tokens/s", "length", "equal")
_NOTHING = "–"


def show(tuning: Tuning, *, as_json: bool) -> None:
    if as_json:
        console.document(_document(tuning))
        return
    rows = [_row(tuning, one) for one in _shown(tuning)]
    if tuning.plain is not None:
        rate = f"{tuning.plain.tokens_per_s:.1f}"
        equal = f"{tuning.plain.equal}/{tuning.plain.trials}"
        rows.insert(0, ["plain decoding", "1.00", "1.00", rate, "1.00", equal])
    console.table(_HEAD, rows)
    prompts = f"{tuning.prompts} prompt{'s' if tuning.prompts > 1 else ''}"
    console.line(
        f"{len(tuning.settings)} settings simulated on {prompts}, {len(tuning.measured)} run, "
        f"in {tuning.seconds:.0f} s"
    )
    best = tuning.best()
    if best is not None:
        how = "measured" if tuning.measured else "predicted, not run: the time was up"
        console.line(f"best: {best.profile.name}: {tuning.speedup(best):.2f} × plain decoding ({how})")
        return
    console.line("do not speculate here: nothing is faster than plain decoding by more than 2 %")
    for sentence in tuning.reasons():
        console.line(sentence)


def _shown(tuning: Tuning) -> list[Setting]:
    """What was run, and the most promising one of each source and method."""
    names = {one.profile.name for one in tuning.tops()} | tuning.measured.keys()
    return [one for one in tuning.settings if one.profile.name in names]


def _row(tuning: Tuning, one: Setting) -> list[str]:
    from specctl.bench.table import interval

    found = tuning.measured.get(one.profile.name)
    start = [one.profile.name, f"{one.predicted:.2f}"]
    if found is None:
        return [*start, *[_NOTHING] * 4]
    length = found.mean_acceptance_length
    return [
        *start,
        interval(found.speedup),
        f"{found.tokens_per_s:.1f}",
        f"{length:.2f}" if length else _NOTHING,
        f"{found.equal}/{found.trials}",
    ]


def _document(tuning: Tuning) -> dict[str, Any]:
    from specctl.bench import machine
    from specctl.profile.schema import effective

    best = tuning.best()
    measured = {name: one.to_json() for name, one in tuning.measured.items()}
    return {
        "schema": 1,
        "machine": machine.machine(),
        "versions": machine.versions(),
        "prompts": tuning.prompts,
        "seconds": tuning.seconds,
        "best": best and {"setting": best.profile.name, "profile": effective(best.profile)},
        "speedup": tuning.speedup(best) if best else 1.0,
        "reasons": list(tuning.reasons()),
        "plain": tuning.plain and tuning.plain.to_json(),
        "settings": [
            {
                "setting": one.profile.name,
                "drafter": one.profile.drafter.model_dump(),
                "predicted_speedup": one.predicted,
                "measured": measured.get(one.profile.name),
            }
            for one in tuning.settings
        ],
    }

"""A run as one HTML page: tables, charts, and what is needed to repeat it. It loads nothing from anywhere.

Names of models, profiles and kinds of prompts come from files, so everything is escaped; no script may run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from specctl.bench import charts, table
from specctl.bench.report import Run
from specctl.bench.summary import Summary


def page(run: Run) -> str:
    """The whole document."""
    setup = run.setup
    found = run.summaries()
    shown = [one for one in found if one.contestant != run.baseline]
    names = [_name(one, found) for one in shown]
    title = f"specctl bench: {', '.join(setup.models) or 'no model'}"
    body = [f"<h1>{escape(title)}</h1>", *_facts(run), *_words(run, found)]
    if shown:
        body += [*_tables(run, found), *_speedups(shown, names), *_acceptance(shown, names)]
    body += [*_curves(run), *_foretold(run, shown), *_repeat(run)]
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _name(one: Summary, found: Sequence[Summary]) -> str:
    several = len({each.batch_size for each in found}) > 1
    return f"{one.contestant} ×{one.batch_size}" if several else one.contestant


def _facts(run: Run) -> Iterator[str]:
    setup, machine = run.setup, run.setup.machine
    suite = setup.suite
    said = [
        f"{setup.date} · {machine.get('cpu') or machine.get('machine')}, {machine.get('threads')} threads, "
        f"{setup.device}, {setup.dtype}, {setup.numerics} numerics",
        f"{suite.get('prompts')} prompts of {suite.get('name')}, up to {setup.max_new_tokens} tokens, "
        f"{setup.repeats} time{'s' if setup.repeats > 1 else ''}; everything in turns with plain decoding",
    ]
    yield "".join(f'<p class="soft">{escape(text)}</p>' for text in said)


def _words(run: Run, found: Sequence[Summary]) -> Iterator[str]:
    said = (
        [] if run.complete else ["This run was cut short: whole groups of prompts only are in the figures."]
    )
    said += table.words(found, run.baseline)
    said += [f"{name} was not measured: {why}" for name, why in run.setup.skipped.items()]
    if said:
        yield f'<ul class="warn">{"".join(f"<li>{escape(text)}</li>" for text in said)}</ul>'


def _tables(run: Run, found: Sequence[Summary]) -> Iterator[str]:
    yield "<h2>Figures</h2>"
    yield _table(table.HEAD, [table.row(one) for one in found])
    yield (
        '<p class="soft">Speedup: tokens/s of whole answers, prefill included, over plain decoding of the same '
        "prompt in the same turn; geometric mean over prompts of a kind, then over kinds; 95 % bootstrap interval. "
        "Decoding: prefill left out. Length: tokens a target forward yields. MBSU: a model, not measured.</p>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
    return f'<div class="wide"><table><tr>{cells}</tr>\n{lines}</table></div>'


def _speedups(shown: Sequence[Summary], names: Sequence[str]) -> Iterator[str]:
    kinds = list(dict.fromkeys(kind for one in shown for kind in one.categories))
    rows = [(kind, [one.categories.get(kind) for one in shown]) for kind in kinds]
    yield "<h2>Speedup by kind of prompt</h2>"
    yield charts.legend([(name, kinds) for name in names])
    yield charts.intervals(
        [*rows, ("all kinds", [one.speedup for one in shown])], "speedup over plain decoding, 95 % interval"
    )


def _acceptance(shown: Sequence[Summary], names: Sequence[str]) -> Iterator[str]:
    series = [
        (name, [(float(at), share) for at, share in enumerate(one.accepted_of_offered, start=1)])
        for name, one in zip(names, shown, strict=True)
    ]
    if any(points for _, points in series):
        yield "<h2>Acceptance by position</h2>"
        yield charts.legend(series)
        yield charts.lines(series, "place in the draft", "kept, of the rounds that drafted so far")


def _curves(run: Run) -> Iterator[str]:
    if run.curves:
        yield "<h2>What a forward costs</h2>"
        series = [
            (name, [(float(tokens), 1e3 * seconds) for tokens, seconds in sorted(curve.items())])
            for name, curve in run.curves.items()
        ]
        yield charts.legend(series)
        yield charts.lines(series, "tokens in one forward", "milliseconds")


def _foretold(run: Run, shown: Sequence[Summary]) -> Iterator[str]:
    measured = {one.contestant: one.categories for one in shown if one.batch_size == 1}
    series = [
        (name, [(kind, x, measured[name][kind].mean) for kind, x in kinds.items() if kind in measured[name]])
        for name, kinds in run.predicted.items()
        if name in measured
    ]
    if any(points for _, points in series):
        yield "<h2>Predicted against measured</h2>"
        yield charts.legend(series)
        yield charts.pairs(series, "speedup predicted from costs and a trace", "speedup measured")
        yield '<p class="soft">A point is a kind of prompt. Dashed: 15 % off.</p>'


def _repeat(run: Run) -> Iterator[str]:
    setup = run.setup
    facts = {
        "versions": setup.versions,
        "machine": setup.machine,
        "models": setup.models,
        "suite": setup.suite,
        "seed": setup.seed,
        "profiles": setup.profiles,
    }
    yield "<h2>To repeat it</h2>"
    yield f"<pre>{escape(' '.join(setup.argv))}</pre>"
    yield f"<pre>{escape(json.dumps(facts, indent=1, ensure_ascii=True))}</pre>"

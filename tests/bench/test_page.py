"""The HTML report: hostile text stays text, nothing is loaded, and marks stand where their figures are."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from test_bench_statistics import run, trials

from specctl.bench import charts, output, page
from specctl.bench.statistics import Interval

HOSTILE = "<script>alert('1')</script>\"&\ud800"


def report() -> str:
    """With every section; all that may come from a file is hostile."""
    found = [
        replace(
            one, category=HOSTILE if one.category == "chat" else one.category, offered=(9, 4), accepted=(5, 1)
        )
        for one in trials(0.9)
    ]
    found = [replace(one, contestant=HOSTILE) if one.contestant == "fast" else one for one in found]
    one = run([replace(each, rounds=20) for each in found])
    one.setup = replace(
        one.setup,
        argv=[HOSTILE],
        models={HOSTILE: "0"},
        suite={"name": HOSTILE, "prompts": 2},
        skipped={HOSTILE: HOSTILE},
        machine={"cpu": HOSTILE},
        profiles={HOSTILE: {"about": HOSTILE}},
    )
    one.predicted = {HOSTILE: {HOSTILE: 1.2, "code": 1.1}}
    one.curves = {HOSTILE: {1: 0.05, 2: 0.06, 8: 0.1}}
    return page.page(one)


def test_text_from_files_stays_text() -> None:
    text = report()
    assert len(re.findall("<h2>", text)) == 6
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "<script" in text.replace("&lt;", "<"), "the check sees a report that does not escape"


def test_nothing_is_loaded() -> None:
    text = report()
    assert not re.search(r"https?:|src=|href=|url\(|@import", text)
    assert "default-src 'none'" in text


def test_charts_are_well_formed() -> None:
    drawn = re.findall(r"<svg.*?</svg>", report().replace("\ud800", "?"), re.DOTALL)
    assert len(drawn) > 4
    for one in drawn:
        ElementTree.fromstring(one)


def test_a_run_cut_short_before_anything_was_measured_has_a_page(tmp_path: Path) -> None:
    one = run([])
    one.complete = False
    output.write(tmp_path, one)
    output.write_page(tmp_path, one)
    assert "cut short" in (tmp_path / "report.html").read_text()


def test_marks_stand_where_their_figures_are() -> None:
    rows = [("a", [Interval(1.5, 1.2, 2.0), None]), ("b", [Interval(0.5, 0.5, 0.5), Interval(1.0, 0.9, 1.1)])]
    drawn = charts.intervals(rows, "speedup")
    marks = [(float(x), float(y)) for x, y in re.findall(r"translate\(([\d.]+),([\d.]+)\)", drawn)]
    one = re.search(r'class="one" x1="([\d.]+)"', drawn)
    assert one is not None
    assert [x > float(one[1]) for x, _ in marks] == [True, False, False]
    assert marks[2][0] == float(one[1])
    assert marks[0][1] < marks[1][1] < marks[2][1]


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [0.93, 1.07], [1, 64], [3e-5, 4e-5], [0.5, 12345.0]])
def test_scales_hold_all_values_with_ticks_at_their_ends(values: list[float]) -> None:
    scale = charts.scale(values, 100, 700)
    assert scale.low <= min(values) * (1 + 1e-9)
    assert max(values) <= scale.high * (1 + 1e-9)
    ticks = scale.ticks()
    assert ticks[0] == pytest.approx(scale.low)
    assert ticks[-1] == pytest.approx(scale.high)
    assert 2 <= len(ticks) <= 10
    assert (scale(scale.low), scale(scale.high)) == (100, 700)
    assert len({scale.written(tick) for tick in ticks}) == len(ticks)

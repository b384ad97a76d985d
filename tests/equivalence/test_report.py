"""The verdict on a run, its one line, its JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from specctl.equivalence import suite
from specctl.equivalence.document import document, write
from specctl.equivalence.report import (
    HEAD,
    Divergence,
    Problem,
    Report,
    SequenceReport,
    Verdict,
    exit_code,
    first_line,
    table_row,
)
from specctl.errors import MachineError, RequestError

TIE = Divergence(3, 2, 1, 5, 6, 0.01, 0.02, -0.01, 0.4, certified=True)


def sequence(verdict: Verdict = Verdict.EXACT, what: str = "broken") -> SequenceReport:
    problems = (Problem(verdict, what),) if verdict.violation else ()
    ties = (TIE,) if verdict is Verdict.TIE else ()
    return SequenceReport("a", verdict, problems, ties, (1, 2, 3), "length", 2, 1)


def report(*verdicts: Verdict, **changes: object) -> Report:
    one = Report(
        profile="default",
        target="t",
        draft=None,
        settings={"method": "ngram"},
        device="cpu",
        dtype="bfloat16",
        numerics="invariant",
        guarantee="G2",
        sequences=tuple(sequence(verdict) for verdict in verdicts),
        coverage={"accepted": 12, "drafted": 30, "not_exercised": []},
    )
    return replace(one, **changes)  # type: ignore[arg-type]


def test_the_first_line_can_be_quoted() -> None:
    exact = report(Verdict.EXACT, Verdict.EXACT)
    assert first_line([exact]) == (
        "PASS (G2, bit-exact bf16) 2/2: 2 exact; 0 violations; 12 accepted, 18 rejected"
    )
    native = report(Verdict.EXACT, Verdict.TIE, guarantee="G3", noise={"eps": 0.5})
    assert first_line([exact, native]) == (
        "PASS (G2, bit-exact bf16; G3, native bf16) 4/4: 3 exact, 1 tie; 0 violations; noise 0.5; "
        "24 accepted, 36 rejected"
    )
    broken = report(Verdict.EXACT, Verdict.DIVERGED)
    assert first_line([broken]).startswith("FAIL (G2, bit-exact bf16) 1/2: 1 exact; 1 violation;")


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([Verdict.EXACT, Verdict.TIE], 0),
        ([Verdict.EXACT, Verdict.INCONCLUSIVE], 3),
        ([Verdict.INCONCLUSIVE, Verdict.STATE], 1),
        ([Verdict.SUSPECT], 1),
        ([Verdict.DRAFT_DEGRADED, Verdict.EXACT], 1),
        ([], 3),
    ],
)
def test_exit_codes(verdicts: list[Verdict], code: int) -> None:
    assert exit_code(verdicts) == code
    assert report(*verdicts).exit_code == code


def test_a_problem_of_the_whole_run_is_a_violation() -> None:
    idle = report(Verdict.EXACT, problems=(Problem(Verdict.DRAFT_DEGRADED, "nothing drafted"),))
    assert idle.exit_code == 1
    assert first_line([idle]).startswith("FAIL")


def test_the_gravest_verdict_counts() -> None:
    assert report(Verdict.STATE, Verdict.STRUCTURE, Verdict.TIE).verdict is Verdict.STRUCTURE
    assert len(table_row(report(Verdict.TIE))) == len(HEAD)


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    one = document([report(Verdict.TIE, Verdict.EXACT)], {"other": "no draft"})
    for name in ("a", "b"):
        write(tmp_path / name, one)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    data = json.loads((tmp_path / "a").read_text())
    assert data["schema"] == 1
    assert data["not_verified"] == {"other": "no draft"}
    assert data["runs"][0]["totals"]["certified_ties"] == 1
    assert data["runs"][0]["sequences"][0]["first_divergence"]["gap_ref"] == 0.01
    with pytest.raises(MachineError):
        write(tmp_path / "none" / "a", one)


# Prompts --------------------------------------------------------------------------------------------------------


def test_the_built_in_prompts_are_of_all_kinds() -> None:
    every = suite.builtin(quick=False)
    kinds = {"chat", "code", "long", "one-token", "unicode", "special", "stop", "cap"}
    assert kinds <= {one.kind for one in every}
    assert len({one.id for one in every}) == len(every)
    quick = suite.builtin(quick=True)
    assert 5 < len(quick) < len(every)
    assert {one.id for one in quick} <= {one.id for one in every}


def test_prompt_files(tmp_path: Path) -> None:
    bench = tmp_path / "q.jsonl"
    bench.write_text(
        '{"question_id": 7, "category": "writing", "turns": ["one", "two"]}\n\n{"prompt": "x"}\n'
    )
    assert [(one.id, one.text, one.kind) for one in suite.read(bench)] == [
        ("7", "one", "writing"),
        ("line-3", "x", "file"),
    ]
    plain = tmp_path / "p.txt"
    plain.write_text("first\n\nsecond\n")
    assert [one.text for one in suite.read(plain)] == ["first", "second"]


@pytest.mark.parametrize("content", ["{", "[]", '{"turns": []}', '{"prompt": 3}', '{"prompt": " "}', "", "7"])
def test_bad_prompt_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(content)
    with pytest.raises(RequestError):
        suite.read(path)


def test_prompt_files_that_are_not_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    for name in ("a.txt", "none.txt"):
        with pytest.raises(RequestError):
            suite.read(tmp_path / name)

"""`specctl bench` and `doctor` from end to end, on a tiny model on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from specctl.cli.main import main


def bench(tiny: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str, str]:
    code = main(["bench", "-p", "ngram", "--target", str(tiny), "--suite", "p.jsonl", "-n", "8", *more])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_run_is_shown_written_and_compared(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = bench(tiny, capsys, "-o", "r", "--batch-size", "1,2", "--predict")
    assert code == 0
    assert out.splitlines()[0].split()[:3] == ["method", "batch", "tokens/s"]
    assert "ngram: predicted" in out
    data = json.loads(Path("r/bench.json").read_text())
    assert data["complete"]
    assert {one["batch_size"] for one in data["trials"]} == {1, 2}
    assert all(one["equal"] for one in data["trials"])
    assert data["setup"]["argv"][0] == "specctl"
    assert main(["bench", "compare", "r", "r"]) == 0
    assert "too few prompts" in capsys.readouterr().out


def test_a_speedup_that_is_missed_exits_with_1(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(tiny, capsys, "--fail-under", "1000")[0] == 1
    assert bench(tiny, capsys, "--fail-under", "0.0001")[0] == 0


def test_planted_other_tokens_are_counted(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from specctl.bench.profiles import ProfileContestant

    honest = ProfileContestant.run

    def lying(self: ProfileContestant, requests: list, size: int, cancelled: object) -> object:  # type: ignore[type-arg]
        from dataclasses import replace

        outcome = honest(self, requests, size, cancelled)  # type: ignore[arg-type]
        return outcome if self.name == "plain" else replace(outcome, answers=((1, 2, 3),))

    monkeypatch.setattr(ProfileContestant, "run", lying)
    assert "ngram wrote other tokens than plain in 2 of 2 answers" in bench(tiny, capsys)[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--batch-size", "0"), "no list of 1 to 64"),
        (("--suite", "none.jsonl"), "cannot read `none.jsonl`"),
        (("--peers", "-t", "1"), "compares greedy decoding"),
        (("-p", "nobody"), "no profile `nobody`"),
    ],
)
def test_mistakes_are_named(
    tiny: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    code, _, err = bench(tiny, capsys, *options)
    assert code == 2
    assert said in err


def test_doctor_measures_and_advises(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--target", str(tiny), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["target_ms"]["1"] > 0
    assert 0 < len(data["advice"]) <= 3
    assert data["expected_speedup"]["low"] <= data["expected_speedup"]["high"]

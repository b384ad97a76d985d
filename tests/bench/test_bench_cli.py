"""`specctl bench` and `doctor` from end to end, on a tiny model on disk."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from fakes import noisy_lm, shared_lm
from specctl.cli.main import main
from specctl.models import costs
from specctl.models.costs import Costs, Curve


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
    assert "Predicted against measured" in Path("r/report.html").read_text()
    assert main(["bench", "compare", "r", "r"]) == 0
    assert "too few prompts" in capsys.readouterr().out


def test_ctrl_c_keeps_the_groups_that_are_done(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from specctl.bench.profiles import ProfileContestant

    honest, runs = ProfileContestant.run, 0

    def interrupted(self: ProfileContestant, *args: Any) -> Any:
        nonlocal runs
        runs += 1
        if runs == 5:  # two to warm up, two of the first group, then in the middle of the second
            os.kill(os.getpid(), signal.SIGINT)
        return honest(self, *args)

    monkeypatch.setattr(ProfileContestant, "run", interrupted)
    code, out, err = bench(tiny, capsys, "-o", "r")
    assert code == 130
    assert "whole groups only" in err
    assert "ngram" in out
    data = json.loads(Path("r/bench.json").read_text())
    assert not data["complete"]
    assert [one["contestant"] for one in data["trials"]] == ["plain", "ngram"]
    assert "This run was cut short" in Path("r/report.html").read_text()


def test_every_figure_is_in_the_document(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a method that drafts; which may be none here are those that need rounds or Linux."""
    _, out, _ = bench(tiny, capsys, "--json", "--predict")
    data = json.loads(out)
    one = next(one for one in data["summary"] if one["contestant"] == "ngram")
    assert {name for name, value in one.items() if value is None} <= {"memory_bytes"}
    assert set(one["shares"]) == {"prefill", "draft", "verify", "other"}
    assert set(one["spec_bench"]) == {"mean_accepted_tokens", "tokens_per_s", "speedup"}
    assert set(one["categories"]) == set(data["predicted_speedup"]["ngram"]) == {"copy", "talk"}
    assert all(seconds > 0 for curve in data["curves"].values() for seconds in curve.values())
    assert {"argv", "machine", "versions", "models", "suite", "profiles", "seed"} <= data["setup"].keys()


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


def test_what_is_measured_anew_replaces_what_was_remembered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SPECCTL_CACHE_DIR", str(tmp_path))
    wrong = Curve({1: {1: 9.0, 2: 9.0}}, 9.0, thorough=True)
    right = Curve({1: {1: 1.0, 2: 1.1}}, 0.1, thorough=True)
    monkeypatch.setattr(costs, "measure", lambda lm, *, thorough: wrong)
    assert costs.of(shared_lm(), noisy_lm()) == Costs(wrong, wrong)
    monkeypatch.setattr(costs, "measure", lambda lm, *, thorough: right)
    assert costs.of(shared_lm(), noisy_lm()).target == wrong
    assert costs.anew(shared_lm(), noisy_lm()) == costs.of(shared_lm(), noisy_lm()) == Costs(right, right)
    assert costs.anew(shared_lm(), None) == Costs(right)


def test_the_default_is_auto_and_is_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from specctl.cli import lineup
    from specctl.profile import read

    monkeypatch.chdir(tmp_path)
    default = read.load("default")
    assert default.drafter.method == "auto"
    assert default.accept == "coupled", "sampled text may not depend on what forwards cost here"
    found = lineup.line_up(["all"], {"pair": "smollm2-135m"})
    assert found.skipped["auto"] == "the same settings as `default`"
    assert [one.name for one in lineup.line_up(["default", "auto"], {}).profiles] == [
        "plain",
        "default",
        "auto",
    ]

"""`specctl tune`: what it writes, what it refuses, and how it decides."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from specctl.bench import settings, trace, tune
from specctl.bench.settings import Setting, Source
from specctl.bench.statistics import Interval
from specctl.bench.summary import Summary, summarise
from specctl.bench.trace import Trace
from specctl.bench.trial import Trial
from specctl.bench.tune import Tuning
from specctl.cli.main import main
from specctl.cli.tune import budget_seconds
from specctl.decode.draft import Request
from specctl.errors import RequestError
from specctl.models.costs import Costs, Curve
from specctl.profile import read, write
from specctl.profile.schema import Profile


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small grid: what is tested here is the same for each of its points."""
    monkeypatch.setattr(settings, "LENGTHS", (2, 4))
    monkeypatch.setattr(settings, "CONFIDENCES", (None, 0.5))
    monkeypatch.setattr(settings, "LOOKUP_LENGTHS", (6,))
    monkeypatch.setattr(settings, "AUTO_LENGTHS", (8,))


def tuned(tiny: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str, str]:
    code = main(["tune", "--target", str(tiny), "--prompts", "p.jsonl", "-n", "8", "--budget", "1h", *more])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.usefixtures("few")
def test_a_profile_is_written_that_can_be_used(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = tuned(tiny, capsys, "-o", "mine.yaml", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["prompts"] == 2
    assert {one["drafter"]["method"] for one in found["settings"]} == {"ngram", "self", "auto"}
    run = [one for one in found["settings"] if one["measured"]]
    assert run == [] or found["plain"]["tokens_per_s"] > 0
    assert all(one["measured"]["equal"] == one["measured"]["trials"] == 2 for one in run)
    profile = read.load("./mine.yaml")
    assert profile.target == str(tiny)
    assert profile.about.startswith("tuned 2")
    assert main(["profiles", "check", "mine.yaml"]) == 0


@pytest.mark.usefixtures("few")
def test_a_table_says_what_was_found(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = tuned(tiny, capsys)
    assert out.startswith("setting ")
    assert "2 prompts" in out
    assert ("best: " in out) != ("do not speculate here" in out)
    assert not list(Path().glob("*.yaml"))


def test_a_profile_that_is_there_is_not_replaced(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text("mine")
    code, _, err = tuned(tiny, capsys, "-o", "mine.yaml")
    assert code == 2
    assert "`mine.yaml` exists" in err
    assert Path("mine.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-o", "mine.txt"), "let it end in `.yaml`"),
        (("-o", "Mine!.yaml"), "cannot be a profile's name"),
        (("--budget", "soon"), "no time up to a day"),
        (("--budget", "0s"), "no time up to a day"),
        (("--prompts", "none.jsonl"), "cannot read `none.jsonl`"),
    ],
)
def test_mistakes_are_named(
    tiny: Path, capsys: pytest.CaptureFixture[str], options: Sequence[str], said: str
) -> None:
    code, _, err = tuned(tiny, capsys, *options)
    assert code == 2
    assert said in err


@pytest.mark.usefixtures("few")
def test_ctrl_c_writes_no_profile(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = trace.plain

    def interrupted(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return honest(*args)

    monkeypatch.setattr(trace, "plain", interrupted)
    code, _, err = tuned(tiny, capsys, "-o", "mine.yaml")
    assert code == 130
    assert "no profile is written" in err
    assert not Path("mine.yaml").exists()


def test_times_are_read() -> None:
    assert [budget_seconds(text) for text in ("90s", "5m", "1h", "300")] == [90, 300, 3600, 300]
    for wrong in ("", "m", "-1s", "1.5m", "25h"):
        with pytest.raises(RequestError):
            budget_seconds(wrong)


COSTS = Costs(Curve({1: {1: 1.0, 65: 1.64}}, 0.1), Curve({1: {1: 0.5, 65: 0.6}}, 0.05))


def source(name: str, right: float | None = 0.5) -> Source:
    """With a trace whose tokens are right that often; no models."""
    n = 100
    answer = tuple(range(n))
    proposed = [None if right is None else at if at < right * n else -1 for at in answer]
    one = Trace(Request((1, 2), n), answer, tuple(proposed), (1.0,) * n)
    return Source(name, cast(Any, None), COSTS, {"chat": [one]})


def setting(at: Source, name: str, predicted: float, method: str = "self") -> Setting:
    fields = {"schema": 1, "about": "", "pair": "smollm2-135m", "drafter": {"method": method}}
    return Setting(at, Profile.model_validate({**fields, "name": name}), predicted)


def measured(name: str, speedup: float) -> Summary:
    plain = Trial("plain", "chat", "chat-1", 1, 0, 100, 10.0, "d", True)
    one = summarise([plain, replace(plain, contestant=name)], {}, "plain")[1]
    return replace(one, speedup=Interval(speedup, speedup, speedup))


def test_what_was_measured_beats_what_was_promised() -> None:
    bits = source("self int4")
    found = Tuning([setting(bits, "a", 1.9), setting(bits, "b", 1.5), setting(bits, "c", 1.4)])
    assert found.best() is found.settings[0]
    found.measured = {"a": measured("a", 1.2), "b": measured("b", 1.6)}
    assert found.best() is found.settings[1]


def test_it_may_advise_against_drafting_and_says_what_would_be_needed() -> None:
    found = Tuning([setting(source("self int4", 0.2), "a", 1.01), setting(source("lookup", None), "b", 0.9)])
    assert found.best() is None
    first, second = found.reasons()
    assert first.startswith("self int4: at best 1.01 × plain decoding; 20% of its single tokens are right")
    assert (
        "drafting pays from 5" in first
    )  # a step costs half a forward, so about every second token must be right
    assert second == "lookup: at best 0.90 × plain decoding"
    found.measured = {"a": measured("a", 1.3)}
    assert found.best() is found.settings[0]


def test_the_best_few_are_of_several_kinds_and_all_promise_something() -> None:
    bits, words = source("self int4"), source("lookup", None)
    found = [setting(bits, f"s{n}", 2 - n / 10) for n in range(5)]
    found += [setting(words, "l", 1.2, "ngram"), setting(words, "slow", 0.8, "ngram")]
    assert [one.profile.name for one in settings.finalists(found, 4)] == ["s0", "s1", "l"]
    assert settings.finalists(found, 1) == found[:1]


def test_a_written_profile_comes_back(tmp_path: Path) -> None:
    before = setting(source("x"), "mine", 1.0, "auto").profile
    before = before.model_copy(update={"about": "1.5 × faster: no, `yes`\n# x", "accept": "coupled"})
    (tmp_path / "mine.yaml").write_text(write.text(before))
    assert read.load(str(tmp_path / "mine.yaml")) == before


@pytest.mark.usefixtures("few")
def test_time_that_is_up_leaves_one_prompt_and_predictions(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune.Clock, "elapsed", 7200.0)
    found = json.loads(tuned(tiny, capsys, "--json")[1])
    assert found["prompts"] == 1
    assert all(one["measured"] is None and one["predicted_speedup"] > 0 for one in found["settings"])

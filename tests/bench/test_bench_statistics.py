"""Geometric means, their intervals, and what a summary makes of trials: on times written down by hand."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from specctl.bench import compare, machine, output, report, suites, table
from specctl.bench.report import Run, Setup
from specctl.bench.statistics import geometric_mean, mean_interval
from specctl.bench.summary import Weights, by_group, summarise
from specctl.bench.trial import Trial
from specctl.errors import RequestError

KINDS = ("chat", "code")


def trial(name: str, group: str, seconds: float, **more: Any) -> Trial:
    kind, _, repeat = group.partition("/")
    fields = {"tokens": 100, "digest": "d", "equal": True, "batch_size": 1, **more}
    return Trial(name, kind[:4], kind, repeat=int(repeat or 0), seconds=seconds, **fields)


def trials(speedup: float, seed: int = 0, noise: float = 0.02) -> list[Trial]:
    """Six prompts of each kind; the machine's speed drifts by a fifth, which hits both contestants of a turn."""
    draws = random.Random(seed)
    found = []
    for kind in KINDS:
        for number in range(6):
            drift = draws.uniform(0.8, 1.2)
            own = 1 + 0.3 * (number % 3)  # some prompts suit the method better
            group = f"{kind}{number}"
            found.append(trial("plain", group, 10 * drift * draws.uniform(1 - noise, 1 + noise)))
            found.append(
                trial("fast", group, 10 * drift / speedup / own * draws.uniform(1 - noise, 1 + noise))
            )
    return found


def run(found: list[Trial]) -> Run:
    setup = Setup(
        argv=["specctl", "bench"],
        date="2026-01-01T00:00:00+00:00",
        machine=machine.machine(),
        versions=machine.versions(),
        models={},
        dtype="bfloat16",
        device="cpu",
        numerics="invariant",
        suite={"name": "x", "prompts": 12, "sha256": "0"},
        profiles={},
        repeats=1,
        max_new_tokens=100,
        seed=0,
    )
    return Run(setup, "plain", {"fast": Weights(1000, 250, 500)}, found, complete=True)


def test_a_kind_with_more_prompts_counts_no_more() -> None:
    assert mean_interval({"a": [2.0] * 9, "b": [0.5]}).mean == pytest.approx(1)
    assert geometric_mean([2, 8]) == pytest.approx(4)
    with pytest.raises(ValueError, match="no values"):
        geometric_mean([])


def test_intervals_hold_what_they_promise() -> None:
    """The true mean is inside about 95 of 100 times: fewer than 85 would be a wrong interval."""
    inside = 0
    for seed in range(100):
        draws = random.Random(seed)
        sample = [1.5 * 2 ** draws.gauss(0, 0.3) for _ in range(30)]
        interval = mean_interval({"a": sample[:15], "b": sample[15:]}, seed)
        inside += interval.low <= 1.5 <= interval.high
    assert 85 <= inside <= 100


def test_drift_of_the_machine_is_no_speedup() -> None:
    honest = summarise(trials(1.0, noise=0.0), {}, "plain")[1]
    # 1, 1.3 and 1.6 times as fast, whatever the drift.
    assert honest.speedup.mean == pytest.approx((1 * 1.3 * 1.6) ** (1 / 3))
    assert set(honest.categories) == set(KINDS)
    unpaired = [replace(one, repeat=one.repeat + 1) for one in trials(1.0) if one.contestant == "fast"]
    assert by_group(unpaired, [one for one in trials(1.0) if one.contestant == "plain"]) == {}


def test_a_summary_counts_acceptance_shares_and_bytes() -> None:
    details = {"prefill_s": 1.0, "draft_s": 2.0, "verify_s": 4.0, "rounds": 40, "first_token_s": 1.1}
    drafting = trial("fast", "chat0", 8.0, **details, offered=(40, 20), accepted=(30, 10), growth_bytes=50)
    weights = {"fast": Weights(1000, 250, 500)}
    one = summarise([trial("plain", "chat0", 16.0), drafting], weights, "plain")[1]
    assert one.mean_acceptance_length == 2.0  # 40 rounds, 40 accepted, the target's own included
    assert one.accepted_of_offered == [0.75, 0.5]
    assert one.shares == {"prefill": 0.125, "draft": 0.25, "verify": 0.5, "other": 0.125}
    assert one.memory_bytes == 1050
    assert one.mbsu == pytest.approx(2.0 / (0.5 * 1.5 + 1))
    assert one.spec_bench == {"mean_accepted_tokens": 2.0, "tokens_per_s": 12.5, "speedup": 2.0}
    assert one.decoding_speedup is None  # the baseline's prefill is not known


def test_slower_and_different_are_said_in_words() -> None:
    slow = [trial("plain", "chat0", 10.0), trial("fast", "chat0", 12.0, equal=False)]
    said = list(table.words(summarise(slow, {}, "plain"), "plain"))
    assert said[0] == "fast is slower than plain overall and on chat 0.83"
    assert said[1] == "fast wrote other tokens than plain in 1 of 1 answers"
    assert list(table.words(summarise(trials(1.2), {}, "plain"), "plain")) == []


def test_a_planted_slowdown_of_five_percent_is_seen_and_nothing_else() -> None:
    same = compare.compare(run(trials(1.5, seed=1)), run(trials(1.5, seed=2)))[0]
    assert same.verdict == "no difference seen"
    slower = compare.compare(run(trials(1.5, seed=1)), run(trials(1.5 * 0.95, seed=2)))[0]
    assert slower.verdict == "slower"
    assert slower.ratio.mean == pytest.approx(0.95, abs=0.02)


def test_runs_of_other_prompts_are_not_compared() -> None:
    other = run(trials(1.0))
    other.setup = replace(other.setup, suite={"name": "y"})
    with pytest.raises(RequestError, match="differ in `suite`"):
        compare.compare(run(trials(1.0)), other)


def test_a_report_comes_back_as_it_was(tmp_path: Path) -> None:
    before = run(trials(1.3))
    output.write(tmp_path / "out", before)
    after = report.read(tmp_path / "out")
    assert (after.trials, after.setup, after.weights) == (before.trials, before.setup, before.weights)
    assert len((tmp_path / "out" / "bench.csv").read_text().splitlines()) == 1 + len(before.trials)
    (tmp_path / "out" / "bench.json").write_text('{"kind": "bench"}')
    with pytest.raises(RequestError, match="no report of `specctl bench`"):
        report.read(tmp_path / "out")


def test_the_suite_has_eight_kinds_of_six_prompts() -> None:
    prompts = suites.builtin()
    kinds = [prompt.kind for prompt in prompts]
    assert sorted({kind: kinds.count(kind) for kind in kinds}.values()) == [6] * 8
    assert len({prompt.text for prompt in prompts}) == len({prompt.id for prompt in prompts}) == 48
    assert len(suites.of_each_kind(prompts, 1)) == 8
    assert suites.digest(prompts) != suites.digest(prompts[:-1])


def test_groups_are_of_one_kind_and_take_turns() -> None:
    found = suites.groups(suites.builtin(), 4)
    assert [len(group.prompts) for group in found] == [4] * 8 + [2] * 8
    assert len({group.category for group in found[:8]}) == 8
    assert all({prompt.kind for prompt in group.prompts} == {group.category} for group in found)

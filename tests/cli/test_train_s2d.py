"""`specctl train s2d` from end to end, on a tiny model: train, fit, draft."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_harness import Cli, Done

from specctl.errors import ExitCode


@pytest.fixture
def files(home: Path) -> Path:
    """Conversations in token ids that repeat themselves, and settings of a short training."""
    chance = random.Random(0)
    lines = []
    for index in range(24):
        word = [chance.randrange(5, 40) for _ in range(3)]
        lines.append(json.dumps({"index": index, "prompt": [5, 6, *word], "answer": word * 3}))
    Path("talks.jsonl").write_text("\n".join(lines) + "\n")
    Path("short.jsonl").write_text("\n".join(lines[:9]) + "\n")
    Path("few.yaml").write_text("steps: 6\nbatch: 4\nwarmup: 1\nevaluate_every: 3\n")
    return Path.cwd()


@pytest.fixture
def train(cli: Cli, tiny_folder: Path, files: Path) -> Callable[..., Done]:
    def run(*options: str, base: str | None = None) -> Done:
        model = () if "--fit-thresholds" in options else ("--base", base or str(tiny_folder))
        shape = ("--depths", "1,2", "--rank", "2", "--vocabulary", "60")
        data = ("--data", "talks.jsonl", "--config", "few.yaml", "-o", "made")
        return cli("train", "s2d", *model, *shape, *data, *options)

    return run


def test_train_fit_and_draft(train: Callable[..., Done], cli: Cli, tiny_folder: Path) -> None:
    done = train()
    assert done.code == ExitCode.OK, done.err
    assert "depth 1: top-1" in done.out
    assert "depth 2: top-1" in done.out
    fitted = train("--fit-thresholds", "--target", str(tiny_folder), "--draft-tokens", "3", "--json")
    assert fitted.code == ExitCode.OK, fitted.err
    entry = json.loads(fitted.out)
    card: dict[str, Any] = json.loads(Path("made/card.json").read_text())
    assert [one["depth"] for one in card["held_out"]] == card["depths"] == [1, 2]
    (known,) = card["targets"].values()
    assert known["thresholds"] == entry["thresholds"]
    assert len(known["promised"]["static"]) == len(known["agreement"]) == 2
    Path("mine.yaml").write_text(
        f"schema: 1\nabout: mine\ntarget: {tiny_folder}\ndrafter: {{method: s2d, weights: made}}\n"
    )
    answers = [
        cli("run", "-p", profile, *more, "-n", "12", "--json", "the sky")
        for profile, more in (("./mine.yaml", ()), ("plain", ("--target", str(tiny_folder))))
    ]
    assert [one.code for one in answers] == [ExitCode.OK, ExitCode.OK], answers[0].err
    texts = [json.loads(one.out)["text"] for one in answers]
    assert texts[0] == texts[1]


def test_a_finished_training_is_not_done_again(train: Callable[..., Done]) -> None:
    first = json.loads(train("--json").out)
    weights = Path("made/s2d.safetensors").read_bytes()
    again = json.loads(train("--json").out)
    assert (first["ended"], again["step"]) == ("done", 6)
    assert Path("made/s2d.safetensors").read_bytes() == weights
    other = train("--depths", "2")
    assert other.code == ExitCode.REQUEST
    assert "holds a training of another kind" in other.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--depths", "2,x"), "is no list of layers"),
        (("--depths", "1,3"), "cannot be cut"),
        (("--loss", "mse"), "use ce or distil"),
        (("--target", "anything"), "goes with `--fit-thresholds`"),
        (("--data", "short.jsonl"), "too few to learn from"),
        (("--fit-thresholds", "--target", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_done_is_said(
    train: Callable[..., Done], options: tuple[str, ...], message: str
) -> None:
    done = train(*options)
    assert done.code in (ExitCode.REQUEST, ExitCode.MISSING)
    assert message in done.err
    assert not Path("made/s2d.safetensors").exists()


def test_thresholds_of_nothing_cannot_be_fitted(train: Callable[..., Done], tiny_folder: Path) -> None:
    done = train("--fit-thresholds", "--target", str(tiny_folder))
    assert done.code == ExitCode.REQUEST
    assert "card.json" in done.err

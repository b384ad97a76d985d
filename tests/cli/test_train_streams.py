"""`specctl train streams` from end to end, on a tiny model: train, draft with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_harness import Cli, Done

from specctl.errors import ExitCode

Train = Callable[..., Done]


@pytest.fixture
def train(cli: Cli, tiny_folder: Path, home: Path) -> Train:
    ids = torch.randint(5, 60, (45, 12), generator=torch.Generator().manual_seed(0)).tolist()
    records = [{"index": i, "prompt": row[:4], "answer": row[4:]} for i, row in enumerate(ids)]
    Path("talk.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    Path("few.yaml").write_text("steps: 6\nbatch: 4\nwarmup: 1\nevaluate_every: 3\n")

    def run(*options: str) -> Done:
        data = ("--data", "talk.jsonl", "--config", "few.yaml", "--vocabulary", "60")
        return cli("train", "streams", "--target", str(tiny_folder), *data, "-o", "made", *options)

    return run


def answer(cli: Cli, target: Path, method: str, draft: str | None) -> Done:
    lines = ["schema: 1", "about: mine", f"target: {target}", f"drafter: {{method: {method}}}"]
    Path("mine.yaml").write_text("\n".join([*lines, f"draft: {draft}" if draft else ""]))
    return cli("run", "-p", "./mine.yaml", "-n", "12", "--json", "the sky")


def test_train_and_draft(train: Train, cli: Cli, tiny_folder: Path) -> None:
    done = train()
    assert done.code == ExitCode.OK, done.err
    assert "stream 2: top-1" in done.out
    card = json.loads(Path("made/card.json").read_text())
    assert [one["stream"] for one in card["held_out"]] == [1, 2]
    plain = json.loads(answer(cli, tiny_folder, "none", None).out)
    for method, draft in (
        ("mirror", "{streams: made}"),
        ("draft-model", f"{{model: {tiny_folder}, streams: made}}"),
    ):
        mine = answer(cli, tiny_folder, method, draft)
        assert mine.code == ExitCode.OK, mine.err
        assert json.loads(mine.out)["token_ids"] == plain["token_ids"]
        assert json.loads(mine.out)["stats"]["drafted"] > 0


def test_a_finished_training_is_not_done_again(train: Train) -> None:
    first = json.loads(train("--json").out)
    weights = Path("made/streams.safetensors").read_bytes()
    again = json.loads(train("--json").out)
    assert (first["ended"], again["step"]) == ("done", 6)
    assert Path("made/streams.safetensors").read_bytes() == weights
    other = train("--streams", "3")
    assert other.code == ExitCode.REQUEST
    assert "holds a training of another kind" in other.err


def test_streams_that_do_not_belong_are_refused(cli: Cli, tiny_folder: Path, home: Path) -> None:
    missing = answer(cli, tiny_folder, "mirror", "{streams: shipped}")
    assert missing.code == ExitCode.MISSING
    assert "no set of streams is shipped" in missing.err
    useless = answer(cli, tiny_folder, "self", "{streams: made}")
    assert useless.code == ExitCode.REQUEST
    assert "is of no use to method `self`" in useless.err

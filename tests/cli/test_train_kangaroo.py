"""`specctl train kangaroo` from end to end on a tiny model: what it writes, and how it goes on after a stop."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_harness import Cli, Done
from safetensors.torch import load_file

from fake_tokenizers import SPECIAL, byte_tokenizer
from fakes import tiny_module
from specctl.errors import ExitCode
from specctl.training import capture, conversation_file
from specctl.training.loop import CHECKPOINT, Trainer

SETTINGS = {"steps": 6, "batch": 4, "learning_rate": 0.01, "warmup": 2, "evaluate_every": 2}
Train = Callable[..., Done]


def save(folder: Path, seed: int) -> Path:
    """A model of four layers that can be asked."""
    tokenizer = byte_tokenizer()
    end = tokenizer.convert_tokens_to_ids(SPECIAL[2])
    changes = {"vocab_size": len(tokenizer), "eos_token_id": end, "hidden_size": 16}
    tiny_module(seed=seed, dtype=torch.float32, native=True, **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("target") / "tiny", seed=0)


@pytest.fixture
def data(home: Path) -> Path:
    """45 conversations in token ids."""
    ids = torch.randint(0, 250, (45, 12), generator=torch.Generator().manual_seed(0)).tolist()
    path = Path("talk.jsonl")
    records = [{"index": i, "prompt": row[:4], "answer": row[4:]} for i, row in enumerate(ids)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def train(cli: Cli, model: Path, data: Path) -> Train:
    Path("settings.yaml").write_text("".join(f"{key}: {value}\n" for key, value in SETTINGS.items()))

    def run(output: str, *more: str, **changes: str) -> Done:
        wish = {"--target": str(model), "--data": str(data), "--exit": "1", "--vocabulary": "64", **changes}
        argv = [part for pair in wish.items() for part in pair if wish[pair[0]]]
        fixed = ("--dtype", "float64", "--config", "settings.yaml", "-o", output)
        return cli("train", "kangaroo", *argv, *fixed, *more)

    return run


def interrupt_after(n: int, owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C once, after the n-th call."""
    original = getattr(owner, name)
    calls: list[int] = []

    def pressed(*given: Any, **named: Any) -> Any:
        result = original(*given, **named)
        calls.append(1)
        if len(calls) == n:
            os.kill(os.getpid(), signal.SIGINT)
        return result

    monkeypatch.setattr(owner, name, pressed)


def same_adapter(*folders: str) -> bool:
    one, other = (load_file(f"{folder}/kangaroo.safetensors") for folder in folders)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def answer(cli: Cli, model: Path, adapter: str | None, **settings: str) -> Done:
    """One with the adapter in `adapter`, or plain."""
    drafter = (
        {"method": "kangaroo", "adapter": adapter, "rests": False, **settings}
        if adapter
        else {"method": "none"}
    )
    profile = {"schema": 1, "about": "a test", "target": str(model), "dtype": "float64", "drafter": drafter}
    Path("mine.yaml").write_text(json.dumps(profile))
    return cli("run", "-p", "./mine.yaml", "-n", "20", "--json", "hello")


def test_trains_and_drafts(train: Train, cli: Cli, model: Path) -> None:
    done = train("out", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert (told["ended"], told["step"], told["depth"], told["block"]) == ("done", 6, 1, "layer")
    card = json.loads(Path("out/card.json").read_text())
    assert card["held_out"] == told["held_out"]
    assert card["held_out"]["acceptance"] > 0
    assert [one["step"] for one in card["curve"]] == [2, 4, 6]
    assert card["trained"]["data"] == "talk.jsonl"
    assert card["trained"]["positions"] == 45 * 11
    mine, plain = (json.loads(answer(cli, model, adapter).out) for adapter in ("out", None))
    assert mine["token_ids"] == plain["token_ids"]
    assert mine["stats"]["drafted"] > 0
    copied = answer(cli, model, "out", copy="int4")
    assert json.loads(copied.out)["token_ids"] == plain["token_ids"]
    assert json.loads(copied.out)["stats"]["drafted"] == mine["stats"]["drafted"]
    assert "layers of the draft are not in `int4`" in copied.err  # of these sizes and in float64


def test_an_adapter_of_another_target_is_refused(train: Train, cli: Cli, tmp_path: Path) -> None:
    assert train("out").code == 0
    done = answer(cli, save(tmp_path / "other", seed=1), "out")
    assert done.code == ExitCode.REQUEST
    assert "was trained for another model" in done.err


def test_interrupted_training_leaves_an_adapter_and_goes_on(
    train: Train, cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train("whole").code == 0
    with monkeypatch.context() as patch:
        interrupt_after(3, Trainer, "_one_step", patch)
        done = train("cut")
    assert done.code == ExitCode.INTERRUPTED
    assert "the same command goes on from here" in done.err
    assert json.loads(Path("cut/card.json").read_text())["trained"]["steps"] == 3
    assert json.loads(answer(cli, model, "cut").out)["stats"]["drafted"] > 0
    assert train("cut").code == 0
    assert Path("cut", CHECKPOINT).read_bytes() == Path("whole", CHECKPOINT).read_bytes()
    assert same_adapter("cut", "whole")


def test_interrupted_before_an_evaluation_keeps_what_was_learnt(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(1, Trainer, "_one_step", monkeypatch)
    assert train("out").code == ExitCode.INTERRUPTED
    learnt, written = load_file(f"out/{CHECKPOINT}"), load_file("out/kangaroo.safetensors")
    names = written.keys() - {"kept"}
    assert names
    assert all(torch.equal(written[name], learnt[f"now.{name}"]) for name in names)


def test_interrupted_probes_choose_nothing(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_after(1, Trainer, "_one_step", monkeypatch)
    assert train("out", **{"--exit": "auto"}).code == ExitCode.INTERRUPTED
    assert not Path("out/card.json").exists()


def test_interrupted_capture_goes_on(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(capture, "BLOCK", 15)
        interrupt_after(1, capture.shards, "write", patch)
        done = train("cut")
        assert done.code == ExitCode.INTERRUPTED
        assert [one.name for one in Path("cut/states").iterdir()] == ["000000.safetensors"]
        assert train("cut").code == 0
        assert train("whole").code == 0
    assert same_adapter("cut", "whole")


def test_a_folder_of_another_training_is_refused(train: Train) -> None:
    assert train("out").code == 0
    done = train("out", "--block", "attention")
    assert done.code == ExitCode.REQUEST
    assert "`out` holds a training of another kind" in done.err


def test_exit_auto_takes_the_best_promise(train: Train) -> None:
    done = train("auto", "--json", **{"--exit": "auto", "--block": "attention"})
    assert done.code == 0, done.err
    probed = {
        int(path.parent.name): json.loads(path.read_text())["predicted_speedup"]
        for path in Path("auto/probes").glob("*/card.json")
    }
    assert sorted(probed) == [1, 2, 3]
    assert json.loads(done.out)["depth"] == max(probed, key=lambda depth: probed[depth])


def test_self_written_conversations_are_kept_and_shared(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation_file, "_STRIDE", 32)
    monkeypatch.setattr("specctl.training.conversations.Lengths.__init__.__defaults__", (6, 9))
    done = train("self", "--tokens", "300", **{"--data": ""})
    assert done.code == 0, done.err
    path = Path("self/conversations.jsonl")
    first = json.loads(path.read_text().splitlines()[0])
    assert sorted(first) == ["answer", "index", "prompt"]
    before = path.read_bytes()
    assert train("self", "--tokens", "300", **{"--data": ""}).code == 0
    assert path.read_bytes() == before
    assert train("again", **{"--data": str(path)}).code == 0


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"prompt": [1], "answer": [9999]}', "`answer` is not a list of token ids below 259"),
        ('{"prompt": [1]', "is not JSON"),
    ],
)
def test_a_bad_line_is_named(train: Train, data: Path, line: str, what: str) -> None:
    data.write_text(data.read_text() + line + "\n")
    done = train("out")
    assert (done.code, done.out) == (ExitCode.REQUEST, "")
    assert done.err.startswith(f"error: `{data}:46`")
    assert what in done.err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("option", "value", "what"),
    [
        ("--exit", "4", "exit layer 4 is not inside"),
        ("--exit", "top", "`--exit top` is not a layer"),
        ("--block", "mlp", "`--block mlp` is unknown"),
        ("--tokens", "many", "`--tokens many` is not a number of tokens"),
        ("--data", "missing.jsonl", "cannot read `missing.jsonl`"),
    ],
)
def test_what_cannot_be_is_said_at_once(train: Train, option: str, value: str, what: str) -> None:
    done = train("out", **{option: value})
    assert (done.code, done.out) == (ExitCode.REQUEST, "")
    assert done.err.startswith("error: ")
    assert what in done.err

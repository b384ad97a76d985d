"""`specctl batch` from end to end, on a tiny model."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from cli_harness import Cli, Done

from specctl.batch import output
from specctl.errors import ExitCode

TEXTS = ["hello", "what is this, and what is that?", "a", "blue sky " * 9, "one two", "end of it"]


@pytest.fixture
def batch(cli: Cli, tiny_folder: Path) -> Callable[..., Done]:
    def run(path: Path | str, *options: str, profile: str = "ngram") -> Done:
        target = ("--target", str(tiny_folder), "--dtype", "float64", "-p", profile)
        return cli("batch", str(path), *target, "-n", "9", "--batch-size", "2", *options)

    return run


@pytest.fixture
def prompts(home: Path) -> Path:
    path = Path("prompts.jsonl")
    entries: list[dict[str, Any]] = [{"prompt": text, "id": f"p{i}"} for i, text in enumerate(TEXTS)]
    entries[1]["max_new_tokens"] = 3
    entries[2] |= {"seed": 9, "stop": ["@"]}
    entries[3] = {"id": "p3", "messages": [{"role": "user", "content": TEXTS[3]}]}
    entries[4] = {"question_id": "p4", "category": "qa", "turns": [TEXTS[4], "more"]}
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_answers_in_input_order(batch: Callable[..., Done], prompts: Path) -> None:
    done = batch(prompts)
    assert done.code == ExitCode.OK, done.err
    found = records(done.out)
    assert [one["id"] for one in found] == [f"p{i}" for i in range(6)]
    assert all(set(one) == {"id", "text", "token_ids", "finish_reason", "stats"} for one in found)
    assert [len(one["token_ids"]) for one in found][:2] == [9, 3]
    assert all(one["stats"]["new_tokens"] == len(one["token_ids"]) for one in found)
    assert "6 of 6 answers" in done.err


def test_an_answer_is_what_run_gives(
    batch: Callable[..., Done], cli: Cli, prompts: Path, tiny_folder: Path
) -> None:
    """Sampled: the same seed gives the same text, in a batch and alone, by every schedule."""
    sampling = ("-t", "0.9", "--seed", "5", "--accept", "coupled")
    found = records(batch(prompts, *sampling, "-q").out)
    for index in (0, 3, 4):
        alone = cli(
            "run", TEXTS[index], "--target", str(tiny_folder), "--dtype", "float64", "-p", "plain", "-n", "9",
            *sampling, "--json",
        )  # fmt: skip
        assert json.loads(alone.out)["token_ids"] == found[index]["token_ids"]
    for schedule in ("eqspec", "exspec"):
        other = batch(prompts, *sampling, "--schedule", schedule, "--window", "3")
        assert [one["token_ids"] for one in records(other.out)] == [one["token_ids"] for one in found]
        assert "realigning" in other.err
        assert ("groups of one width" in other.err) == (schedule == "exspec")


def test_a_file_gets_the_bytes_a_pipe_gets(batch: Callable[..., Done], prompts: Path) -> None:
    piped = batch(prompts).out
    done = batch(prompts, "-o", "out.jsonl")
    assert (done.code, done.out) == (ExitCode.OK, "")
    assert Path("out.jsonl").read_text() == piped
    again = batch(prompts, "-o", "out.jsonl")
    assert again.code == ExitCode.OK
    assert "holds all 6 answers already" in again.err


def test_going_on_behind_what_is_written(batch: Callable[..., Done], prompts: Path) -> None:
    """Another batch size and schedule may do the rest: they do not decide the answers."""
    out = Path("out.jsonl")
    batch(prompts, "-o", "out.jsonl", profile="plain")
    whole = out.read_bytes()
    for kept in (0, 1, 4, 5):
        lines = whole.splitlines(keepends=True)
        out.write_bytes(b"".join(lines[:kept]) + lines[kept][:7])
        done = batch(prompts, "-o", "out.jsonl", "--batch-size", "3", "--schedule", "eqspec", profile="plain")
        assert done.code == ExitCode.OK
        assert out.read_bytes() == whole
        assert (f"holds {kept} answers" in done.err) == (kept > 0)


@pytest.mark.parametrize("change", [("-n", "8"), ("--seed", "4"), ("--raw",), ("--system", "x")])
def test_other_settings_are_refused(change: Sequence[str], batch: Callable[..., Done], prompts: Path) -> None:
    batch(prompts, "-o", "out.jsonl")
    before = Path("out.jsonl").read_bytes()
    done = batch(prompts, "-o", "out.jsonl", *change)
    assert done.code == ExitCode.REQUEST
    assert done.err == (
        "error: `out.jsonl` exists and holds the answers to other prompts or settings "
        "(give another file with -o, or --restart to replace it)\n"
    )
    assert Path("out.jsonl").read_bytes() == before
    assert batch(prompts, "-o", "out.jsonl", *change, "--restart").code == ExitCode.OK


def test_other_prompts_are_refused(batch: Callable[..., Done], prompts: Path) -> None:
    batch(prompts, "-o", "out.jsonl")
    prompts.write_text(prompts.read_text().replace("hello", "hallo"))
    assert batch(prompts, "-o", "out.jsonl").code == ExitCode.REQUEST


def test_bad_lines(batch: Callable[..., Done], prompts: Path) -> None:
    """Of the file's format, and prompts that do not fit the model; nothing is written before they are named."""
    long = json.dumps({"prompt": "x" * 400})
    prompts.write_text('{"prompt": "good"}\n{"prompt": 3}\n' + long + '\n{"prompt": "good too"}\n')
    done = batch(prompts, "-o", "out.jsonl")
    assert (done.code, done.out) == (ExitCode.REQUEST, "")
    assert done.err.startswith("error: `prompts.jsonl:2`: `prompt`: input should be a valid string")
    prompts.write_text(prompts.read_text().replace('{"prompt": 3}', '{"prompt": "3"}'))
    done = batch(prompts, "-o", "out.jsonl")
    assert done.code == ExitCode.REQUEST
    assert "`prompts.jsonl:3`: the prompt has" in done.err
    assert not Path("out.jsonl").exists()
    prompts.write_text(prompts.read_text().replace('{"prompt": "3"}', "3"))
    done = batch(prompts, "-o", "out.jsonl", "--skip-bad")
    assert done.code == ExitCode.OK
    assert "2 bad lines left out" in done.err
    assert [one["id"] for one in records(Path("out.jsonl").read_text())] == ["line-1", "line-4"]
    assert "going on" not in batch(prompts, "-o", "out.jsonl", "--skip-bad").err.replace(
        "going on behind", ""
    )


def test_ctrl_c_keeps_what_is_written_and_the_rest_follows(
    batch: Callable[..., Done], prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = batch(prompts, profile="plain").out
    write = output.AnswerFile.write

    def interrupted(self: output.AnswerFile, record: Any) -> None:
        write(self, record)
        if not pressed:
            pressed.append(1)
            os.kill(os.getpid(), signal.SIGINT)

    pressed: list[int] = []

    monkeypatch.setattr(output.AnswerFile, "write", interrupted)
    first = batch(prompts, "-o", "out.jsonl", profile="plain")
    assert first.code == ExitCode.INTERRUPTED
    assert "interrupted; with -o, the same command goes on from here" in first.err
    assert whole.startswith(Path("out.jsonl").read_text())
    assert 0 < len(records(Path("out.jsonl").read_text())) < 6
    assert batch(prompts, "-o", "out.jsonl", profile="plain").code == ExitCode.OK
    assert Path("out.jsonl").read_text() == whole


def test_wrong_requests(batch: Callable[..., Done], prompts: Path) -> None:
    assert "error: cannot read `nowhere.txt`" in batch("nowhere.txt").err
    assert batch(prompts, "--schedule", "best").code == ExitCode.REQUEST
    assert batch(prompts, "--raw", "--system", "x").code == ExitCode.REQUEST
    done = batch(prompts, "-o", "no/folder/out.jsonl")
    assert (done.code, done.err.splitlines()[-1][:14]) == (ExitCode.REQUEST, "error: cannot ")


def test_the_live_view(terminal: Callable[..., Done], prompts: Path, tiny_folder: Path, home: Path) -> None:
    done = terminal(
        "batch", str(prompts), "--target", str(tiny_folder), "--dtype", "float64", "-p", "plain", "-n", "6",
        "-o", "out.jsonl",
    )  # fmt: skip
    assert done.code == ExitCode.OK
    assert "6 of 6 answers" in done.out
    assert "rows · " in done.out
    assert "tokens/s" in done.out
    assert "ETA" in done.out

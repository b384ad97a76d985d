"""Conversations on disk: bad lines are named, and what a killed run wrote is not written again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from specctl.errors import RequestError
from specctl.training import conversation_file
from specctl.training.conversation_file import Kept, holds_ids, read
from specctl.training.conversations import Conversation

VOCAB = 50
GOOD = {"prompt": [1, 2], "answer": [3]}
SETTINGS = {"target": "t", "seed": 0}


class Writer:
    """Writes conversations backwards, index 3 never; remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, indices: Sequence[int]) -> Iterator[Conversation]:
        self.asked.append(list(indices))
        for index in reversed(indices):
            if index != 3:
                yield Conversation(index, (index % VOCAB,), (7, index % VOCAB))


@pytest.fixture(autouse=True)
def _short_strides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation_file, "_STRIDE", 8)


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(one if isinstance(one, str) else json.dumps(one) + "\n" for one in records))
    return path


def test_lines_are_conversations_by_index(tmp_path: Path) -> None:
    numbered = lines(tmp_path / "a.jsonl", {**GOOD, "index": 9}, "\n", {**GOOD, "index": 2})
    assert read(numbered, VOCAB) == {i: Conversation(i, (1, 2), (3,)) for i in (2, 9)}
    assert list(read(lines(tmp_path / "b.jsonl", GOOD, GOOD), VOCAB)) == [0, 1]
    assert holds_ids(numbered)
    assert not holds_ids(lines(tmp_path / "c.jsonl", {"prompt": "text"}))
    assert not holds_ids(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        ("{nonsense\n", "is not JSON"),
        ([1, 2], "`prompt` is not a list of token ids below 50"),
        ({**GOOD, "prompt": [VOCAB]}, "`prompt` is not a list of token ids below 50"),
        ({**GOOD, "prompt": [True]}, "`prompt` is not a list of token ids below 50"),
        ({"prompt": [1], "answer": "text"}, "`answer` is not a list of token ids below 50"),
        ({**GOOD, "index": -1}, "`index` is not a number from 0"),
        ({**GOOD, "index": 0}, "conversation 0 once more"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, bad: Any, what: str) -> None:
    path = lines(tmp_path / "a.jsonl", GOOD, bad)
    with pytest.raises(RequestError, match=what) as refused:
        read(path, VOCAB)
    assert f"{path}:2" in str(refused.value)


def test_what_is_held_is_not_written_again(tmp_path: Path) -> None:
    path, write = tmp_path / "x" / "conversations.jsonl", Writer()
    first = list(Kept(path, SETTINGS, VOCAB).get(range(4), write))
    assert [one.index for one in first] == [0, 1, 2]
    assert write.asked == [[*range(8)]]
    again = Kept(path, SETTINGS, VOCAB)
    assert list(again.get([1, 2], write)) == first[1:]
    assert len(write.asked) == 1
    assert [one.index for one in again.get([6, 3, 9], write)] == [6, 9]
    assert write.asked[1:] == [[3], [*range(8, 16)]]


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    path, whole = tmp_path / "a" / "conversations.jsonl", tmp_path / "b" / "conversations.jsonl"
    write = Writer()
    everything = list(Kept(whole, SETTINGS, VOCAB).get(range(8), write))
    list(Kept(path, SETTINGS, VOCAB).get([], write))
    path.write_bytes(whole.read_bytes()[:-5])
    (path.parent / "conversations.jsonl.job").write_bytes(
        (whole.parent / "conversations.jsonl.job").read_bytes()
    )
    assert list(Kept(path, SETTINGS, VOCAB).get(range(8), write)) == everything
    assert write.asked[1:] == [[0, 3]]
    assert read(path, VOCAB) == read(whole, VOCAB)


def test_planted_append_behind_half_a_line_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "conversations.jsonl"
    list(Kept(path, SETTINGS, VOCAB).get([0], Writer()))
    with path.open("ab") as file:
        file.write(b'{"index": 1, "pro' + b'{"index": 11, "prompt": [1], "answer": [1]}\n')
    with pytest.raises(RequestError, match="is not JSON"):
        Kept(path, SETTINGS, VOCAB)


@pytest.mark.parametrize("change", [{"seed": 1}, {"target": "other"}])
def test_other_settings_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "conversations.jsonl"
    list(Kept(path, SETTINGS, VOCAB).get([0], Writer()))
    with pytest.raises(RequestError, match="of another model or with other settings"):
        Kept(path, {**SETTINGS, **change}, VOCAB)


def test_a_foreign_file_is_not_written_to(tmp_path: Path) -> None:
    path = lines(tmp_path / "conversations.jsonl", GOOD)
    before = path.read_bytes()
    with pytest.raises(RequestError) as refused:
        Kept(path, SETTINGS, VOCAB)
    assert f"--data {path}" in (refused.value.hint or "")
    assert path.read_bytes() == before

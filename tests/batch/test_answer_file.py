"""The file of answers survives being cut anywhere, and is never appended to by a stranger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from specctl.batch import output
from specctl.batch.output import AnswerFile, as_line, fingerprint
from specctl.errors import RequestError

RECORDS: list[dict[str, Any]] = [
    {"id": name, "text": text} for name, text in [("a", "one\n"), ("b", "\u2028{"), ("c", ""), ("d", "é" * 9)]
]
WHOLE = "".join(map(as_line, RECORDS)).encode()


def write_from(path: Path, start: int, job: str = "job", *, restart: bool = False) -> None:
    with AnswerFile(path, job, restart=restart) as out:
        assert out.done == [record["id"] for record in RECORDS[:start]]
        for record in RECORDS[start:]:
            out.write(record)


def test_an_uninterrupted_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write_from(path, 0)
    assert path.read_bytes() == WHOLE
    write_from(path, 4)
    assert path.read_bytes() == WHOLE


def test_a_file_cut_at_any_byte_is_completed_to_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write_from(path, 0)
    for end in range(len(WHOLE) + 1):
        path.write_bytes(WHOLE[:end])
        write_from(path, WHOLE[:end].count(b"\n"))
        assert path.read_bytes() == WHOLE


def test_planted_half_lines_would_be_kept_without_the_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.jsonl"
    write_from(path, 0)
    path.write_bytes(WHOLE[:-5])
    whole_lines = output._whole_lines
    monkeypatch.setattr(output, "_whole_lines", lambda held: (whole_lines(held)[0], len(held)))
    write_from(path, 3)
    assert path.read_bytes() != WHOLE


def test_a_line_that_was_damaged_is_made_again_with_all_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write_from(path, 0)
    lines = WHOLE.splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\0" * len(lines[1]) + b"\n" + b"".join(lines[2:]))
    write_from(path, 1)
    assert path.read_bytes() == WHOLE


def test_other_prompts_or_settings_are_refused_and_restart_replaces(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write_from(path, 0)
    with pytest.raises(RequestError, match="other prompts or settings"):
        AnswerFile(path, "another", restart=False)
    assert path.read_bytes() == WHOLE
    write_from(path, 0, "another", restart=True)
    write_from(path, 4, "another")


@pytest.mark.parametrize("sidecar", [None, b"", b"{", b"[]", b'{"schema": 2, "job": "job"}'])
def test_a_file_of_unknown_origin_is_not_touched(sidecar: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("my own notes\n")
    if sidecar is not None:
        (tmp_path / "out.jsonl.job").write_bytes(sidecar)
    with pytest.raises(RequestError, match="other prompts or settings"):
        AnswerFile(path, "job", restart=False)
    assert path.read_text() == "my own notes\n"


def test_a_kill_before_the_first_line_does_no_harm(tmp_path: Path) -> None:
    """OUT is there and empty, with or without its sidecar, of this job or another."""
    path = tmp_path / "out.jsonl"
    for before in (None, "job", "another"):
        path.write_bytes(b"")
        sidecar = tmp_path / "out.jsonl.job"
        sidecar.unlink(missing_ok=True)
        if before:
            sidecar.write_text(json.dumps({"schema": 1, "job": before}))
        write_from(path, 0)
        assert path.read_bytes() == WHOLE


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with AnswerFile(path, "job", restart=False):
        with pytest.raises(RequestError, match="written by another run"):
            AnswerFile(path, "job", restart=False)
        with pytest.raises(RequestError, match="written by another run"):
            AnswerFile(path, "job", restart=True)


def test_a_failure_before_the_first_answer_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with pytest.raises(ZeroDivisionError), AnswerFile(path, "job", restart=False):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RequestError, match="cannot write"):
        AnswerFile(tmp_path / "no" / "such" / "folder.jsonl", "job", restart=False)


def test_fingerprints_tell_facts_apart() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert len({fingerprint(fact) for fact in ([1], ["1"], {"1": None}, [1, None])}) == 4

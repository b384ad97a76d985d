"""Files of prompts: what is taken, what is refused, and with which line number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from specctl.batch.prompts import Prompt, read, refuse
from specctl.errors import RequestError


def file(tmp_path: Path, *lines: Any, name: str = "prompts.jsonl") -> Path:
    path = tmp_path / name
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text, encoding="utf-8")
    return path


def test_all_formats(tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    path = file(
        tmp_path,
        {"prompt": "one", "id": "a", "max_new_tokens": 7, "seed": 3, "stop": ["\n"], "source": "ignored"},
        "",
        {"messages": talk, "id": 12},
        {"question_id": 81, "category": "writing", "turns": ["first", "second"], "reference": ["x"]},
        {"prompt": "line separators \u2028 and \u0085 stay"},
    )
    prompts, bad = read(path)
    assert bad == []
    assert prompts == [
        Prompt(1, "a", "one", (), 7, 3, ("\n",)),
        Prompt(3, "12", "", (("system", "be brief"), ("user", "hi"))),
        Prompt(4, "81", "first"),
        Prompt(5, "line-5", "line separators \u2028 and \u0085 stay"),
    ]


def test_raw_line_separators_do_not_split_json(tmp_path: Path) -> None:
    prompts, bad = read(file(tmp_path, '{"prompt": "a\u2028b"}'))
    assert [one.text for one in prompts] == ["a\u2028b"]
    assert bad == []


def test_plain_lines(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffone\r\n\r\n  \r\n{two}\r\nthree".encode())
    assert [(one.id, one.text) for one in read(path)[0]] == [
        ("line-1", "one"),
        ("line-4", "{two}"),
        ("line-5", "three"),
    ]


BAD: dict[str, tuple[Any, str]] = {
    "no json": ("{prompt: 1}", "invalid JSON"),
    "no object": ([1], "should be an object"),
    "neither": ({"text": "hi"}, "exactly one of `prompt`, `messages` and `turns`"),
    "both": ({"prompt": "a", "turns": ["b"]}, "exactly one of"),
    "empty": ({"prompt": "  "}, "the prompt is empty"),
    "no turns": ({"turns": []}, "`turns`"),
    "a number": ({"prompt": 3}, "`prompt`: input should be a valid string"),
    "a quoted number": (
        {"prompt": "a", "max_new_tokens": "3"},
        "`max_new_tokens`: input should be a valid integer",
    ),
    "none to make": ({"prompt": "a", "max_new_tokens": 0}, "`max_new_tokens`: input should be greater"),
    "a negative seed": ({"prompt": "a", "seed": -1}, "`seed`"),
    "an empty stop": ({"prompt": "a", "stop": [""]}, "`stop.0`"),
    "a role of its own": ({"messages": [{"role": "root", "content": "a"}]}, "`messages.0.role`"),
    "no last word": ({"messages": [{"role": "assistant", "content": "a"}]}, "must be the user's"),
    "half a character": ('{"prompt": "\\ud800"}', "invalid JSON"),
    "too deep": ("[" * 100_000, ""),
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_bad_line_is_named_by_its_number(name: str, tmp_path: Path) -> None:
    line, said = BAD[name]
    path = file(tmp_path, {"prompt": "good"}, line, {"prompt": "good too"})
    prompts, bad = read(path)
    assert [one.line for one in prompts] == [1, 3]
    assert [one.line for one in bad] == [2]
    assert said in bad[0].what
    with pytest.raises(RequestError, match=r"prompts\.jsonl:2`: "):
        refuse(path, bad)


def test_the_first_bad_line_is_told_and_the_others_counted(tmp_path: Path) -> None:
    path = file(tmp_path, "{", {"prompt": "a"}, "{", "{")
    _, bad = read(path)
    with pytest.raises(RequestError, match=r"jsonl:1`: .*; 2 more of its lines are bad"):
        refuse(path, bad)
    refuse(path, [])


@pytest.mark.parametrize(
    ("data", "said"), [(b"", "has no prompts"), (b"\n \n", "has no prompts"), (b"a\xff", "not UTF-8")]
)
def test_files_that_cannot_be_used(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(data)
    with pytest.raises(RequestError, match=said):
        read(path)
    with pytest.raises(RequestError, match="cannot read"):
        read(tmp_path / "nowhere.jsonl")

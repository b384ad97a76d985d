from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specctl.errors import MissingError, RequestError
from specctl.store import fetch, names

BAD = [
    "", " ", "-", "--help", "-x/y", "a/b/c", "a/", "/b ", "a//b", "owner/..", "owner/repo/../..",
    "a/../../b", "..a/b", "a/.b", "a/b.", "own er/repo", "owner/repo@", "owner/repo@../x", "owner/repo@a..b",
    "owner/repo@-x", "owner/re--po", "con", "CON/x", "a/nul", "a/com1.txt", "C:x", "C:\\x", "\\\\host\\share",
    "a\\b", "a/b\x00", "a/b\n", "a/b\x1b[31m", "a/\u202eb", "a/\u200bb", "a/b\u2028", "a/\ud800", "a/" + "b" * 4096,
    "owner/réseau", "https://huggingface.co/a/b", "a@b", "a;b/c", "$(id)/x", "a/b?x", "~", "~root",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_refused(text: str) -> None:
    with pytest.raises((RequestError, MissingError)) as caught:
        fetch.resolve(text)
    message = caught.value.message + (caught.value.hint or "")
    assert message.isprintable()
    assert len(message) < 1500


@pytest.mark.parametrize(
    ("text", "repo", "revision"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", None),
        ("a/b@main", "a/b", "main"),
        ("a/b@refs/pr/1", "a/b", "refs/pr/1"),
        ("a_1/b.c-d@0123abc", "a_1/b.c-d", "0123abc"),
    ],
)
def test_hub_names(text: str, repo: str, revision: str | None) -> None:
    assert names.parse(text) == names.HubName(repo, revision)


def test_registry_names_and_near_misses() -> None:
    assert names.parse("smollm2-135m") == names.RegistryName("smollm2-135m")
    with pytest.raises(RequestError, match="unknown model `smollm2-136m`") as caught:
        fetch.resolve("smollm2-136m")
    assert "did you mean `smollm2-135m`?" in str(caught.value.hint)


def test_local_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own" / "model").mkdir(parents=True)
    (tmp_path / "x.gguf").write_bytes(b"")
    (tmp_path / "notes.txt").write_bytes(b"")
    assert names.parse("own/model") == names.LocalFolder(tmp_path / "own" / "model")
    assert names.parse(str(tmp_path / "own")) == names.LocalFolder(tmp_path / "own")
    assert names.parse("x.gguf") == names.LocalGguf(tmp_path / "x.gguf")
    assert names.parse("own/other") == names.HubName("own/other", None)
    with pytest.raises(MissingError, match=r"no such file or folder: `gone\.gguf`"):
        names.parse("gone.gguf")
    with pytest.raises(RequestError, match=r"neither a folder nor a \.gguf file"):
        names.parse("./notes.txt")


@given(st.text(max_size=60))
def test_any_text_is_a_name_or_one_clean_error(text: str) -> None:
    with contextlib.suppress(RequestError, MissingError):
        names.parse(text)

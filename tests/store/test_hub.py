from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import errors
from store_fakes import Recorder, write_hub_snapshot

from specctl.errors import MachineError, MissingError, ModelFileError
from specctl.store import fetch, hub
from specctl.store.progress import SilentProgress
from specctl.store.registry import HubSource

SOURCE = HubSource("a/b")


def siblings(*names: str) -> SimpleNamespace:
    return SimpleNamespace(
        sha="f" * 40, siblings=[SimpleNamespace(rfilename=name, size=10) for name in names]
    )


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Set what the hub says about a repository: an answer, or an error to raise."""

    def set_answer(value: Any) -> None:
        def model_info(*args: Any, **kwargs: Any) -> Any:
            if isinstance(value, Exception):
                raise value
            return value

        monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)

    return set_answer


def http(kind: type[errors.HfHubHTTPError], status: int) -> errors.HfHubHTTPError:
    response: Any = SimpleNamespace(headers={}, request=None, status_code=status)
    return kind("secret token hf_abcdefghij in the message", response=response)


FAILURES: list[tuple[Exception, str, str, bool]] = [
    (http(errors.GatedRepoError, 403), "`a/b` is gated", "hf auth login", False),
    (http(errors.RepositoryNotFoundError, 404), "the hub has no model `a/b`", "spelling", False),
    (http(errors.RevisionNotFoundError, 404), "no revision", "", False),
    (http(errors.HfHubHTTPError, 503), "the hub answered 503", "specctl pull a/b", True),
    (errors.OfflineModeIsEnabled("x"), "no connection", "specctl pull a/b", True),
    (errors.LocalEntryNotFoundError("x"), "no connection", "specctl pull a/b", True),
    (ConnectionResetError("x"), "no connection", "specctl pull a/b", True),
    (TimeoutError("x"), "no connection", "specctl pull a/b", True),
    (ValueError("a page that is not JSON"), "no connection", "specctl pull a/b", True),
    (errors.HTTPError("x"), "no connection", "specctl pull a/b", True),  # type: ignore[attr-defined]
]


@pytest.mark.parametrize(("error", "message", "hint", "unreachable"), FAILURES)
def test_errors_say_what_to_do(
    answer: Callable[[Any], None], error: Exception, message: str, hint: str, unreachable: bool
) -> None:
    answer(error)
    with pytest.raises(MissingError, match=message) as caught:
        hub.listing(SOURCE)
    assert hint in (caught.value.hint or "")
    assert isinstance(caught.value, hub.HubUnreachable) == unreachable
    assert "hf_" not in caught.value.message + (caught.value.hint or "")


def test_only_harmless_files_are_wanted(answer: Callable[[Any], None]) -> None:
    wanted = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer.model", "chat_template.jinja"]
    unwanted = [
        "modeling.py", "pytorch_model.bin", "x.pt", "onnx/model.safetensors", "original/params.json",
        "consolidated.safetensors", "README.md", "model.gguf", "evil.so", ".gitattributes",
    ]  # fmt: skip
    answer(siblings(*wanted, *unwanted))
    assert sorted(file.name for file in hub.listing(SOURCE)) == sorted(wanted)
    plan = fetch.plan("a/b")
    assert (plan.total_bytes, plan.missing_bytes) == (50, 50)


def test_repository_of_pickles_is_refused_before_download(answer: Callable[[Any], None]) -> None:
    answer(siblings("config.json", "pytorch_model.bin"))
    with pytest.raises(ModelFileError, match="no safetensors weights") as caught:
        hub.fetch(SOURCE, SilentProgress())
    assert "a/b@refs/pr/1" in str(caught.value.hint)


def test_fetch(answer: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer(siblings("config.json", "model.safetensors"))
    asked: list[dict[str, Any]] = []

    def snapshot_download(repo: str, **options: Any) -> str:
        asked.append(options)
        if options.get("local_files_only"):
            raise errors.LocalEntryNotFoundError("x")
        return str(write_hub_snapshot(tmp_path / "hub", repo))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    progress = Recorder()
    folder = fetch.fetch("a/b", offline=False, progress=progress)
    assert (folder / "config.json").exists()
    assert progress.started == [("a/b from the hub", 20)]
    assert progress.advanced == 20
    assert not any(pattern.endswith((".py", ".bin", "*")) for pattern in asked[-1]["allow_patterns"])


def test_no_space_for_a_repository(answer: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    answer(siblings("config.json", "model.safetensors"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=19))
    with pytest.raises(MachineError, match="not enough free space for `a/b`"):
        hub.fetch(SOURCE, SilentProgress())


@pytest.mark.usefixtures("no_network")
def test_cached_snapshot_is_found_only_if_whole(tmp_path: Path) -> None:
    assert hub.find(SOURCE) is None
    snapshot = write_hub_snapshot(tmp_path / "hub", "a/b")
    assert hub.find(SOURCE) == snapshot
    assert hub.find(HubSource("a/b", "other")) is None
    weights = snapshot / "model.safetensors"
    blob = weights.resolve()
    weights.unlink()
    (snapshot / "model.safetensors.index.json").write_text('{"weight_map": {"a": "1.safetensors"}}')
    assert hub.find(SOURCE) is None
    (snapshot / "1.safetensors").symlink_to(blob)
    assert hub.find(SOURCE) == snapshot
    blob.unlink()
    assert hub.find(SOURCE) is None


@pytest.mark.usefixtures("no_network")
def test_truncated_file_in_the_cache_is_refused(tmp_path: Path) -> None:
    blob = (write_hub_snapshot(tmp_path / "hub", "a/b") / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-1])
    with pytest.raises(ModelFileError, match="is broken"):
        fetch.find("a/b")

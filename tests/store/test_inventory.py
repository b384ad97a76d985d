from __future__ import annotations

from pathlib import Path

import pytest
from store_fakes import write_hub_snapshot, write_model

from specctl import paths
from specctl.errors import MissingError, ModelFileError
from specctl.store import files, inventory


def write_converted(name: str) -> Path:
    folder = paths.models_dir() / name
    write_model(folder)
    files.write_manifest(folder, name, files.Origin("index", "package index x==1", "0" * 64), "MIT")
    return folder


def test_nothing_there() -> None:
    assert inventory.models() == []
    assert not paths.models_dir().exists()
    for name in ("smollm2-135m", "a/b"):
        with pytest.raises(MissingError, match="is not on disk") as caught:
            inventory.path(name)
        assert f"specctl pull {name}" in str(caught.value.hint)
        with pytest.raises(MissingError):
            inventory.remove(name)


def test_list_and_path(tmp_path: Path) -> None:
    folder = write_converted("one")
    snapshot = write_hub_snapshot(tmp_path / "hub", "a/b")
    partial = paths.models_dir() / ".partial-two-0123456789ab"
    partial.mkdir()
    (partial / "001.whl").write_bytes(b"12345")
    listed = inventory.models()
    assert [(model.name, model.kind) for model in listed] == [
        ("one", "converted"),
        ("two", "partial"),
        ("a/b", "hub"),
    ]
    assert listed[0].bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert listed[1].bytes == 5
    assert inventory.path("one") == folder
    assert inventory.path("a/b") == snapshot


def test_remove_ours(tmp_path: Path) -> None:
    one, two = write_converted("one"), write_converted("two")
    size = inventory.models()[0].bytes
    assert inventory.remove("one") == size
    assert not one.exists()
    assert two.exists()
    assert [path.name for path in paths.models_dir().iterdir()] == ["two"]


def test_remove_from_the_hub_cache(tmp_path: Path) -> None:
    write_hub_snapshot(tmp_path / "hub", "a/b")
    kept = write_hub_snapshot(tmp_path / "hub", "a/c")
    assert inventory.remove("a/b") > 0
    assert not (tmp_path / "hub" / "models--a--b").exists()
    assert (kept / "config.json").exists()


def test_planted_links_are_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    write_model(precious)
    files.write_manifest(precious, "precious", files.Origin("index", "x", "0" * 64), "MIT")
    folder = write_converted("one")
    (folder / "link").symlink_to(precious)
    (folder / "file").symlink_to(precious / "config.json")
    (paths.models_dir() / "linked").symlink_to(precious)
    (paths.models_dir() / ".partial-x-0123456789ab").symlink_to(precious)
    assert [model.name for model in inventory.models()] == ["one"]

    inventory.remove("one")
    for name in ("linked", "x", "../precious", str(precious), "."):
        with pytest.raises((MissingError, ModelFileError)):
            inventory.remove(name)
    assert len(list(precious.iterdir())) == 5


def test_half_model_is_not_listed() -> None:
    folder = write_converted("one")
    (folder / "tokenizer.json").unlink()
    assert inventory.models() == []
    with pytest.raises(MissingError):
        inventory.path("smollm2-135m")

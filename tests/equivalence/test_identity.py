"""Reports name what was loaded by its hashes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from specctl.equivalence.identity import identify


def test_models_are_named_by_their_bytes(tmp_path: Path) -> None:
    target = tmp_path / "models--o--r" / "snapshots" / "0a1b2c"
    draft = tmp_path / "draft"
    for folder in (target, draft):
        folder.mkdir(parents=True)
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            (folder / name).write_text(f"{folder.name} {name}")
    found = identify(("o/r", target), ("small", draft))
    assert found["target"]["id"] == "o/r"
    assert found["target"]["revision"] == "0a1b2c"
    assert found["target"]["sha256"]["model.safetensors"] == (
        hashlib.sha256(b"0a1b2c model.safetensors").hexdigest()
    )
    assert found["draft"]["revision"] is None
    assert found["draft"]["sha256"].keys() == {"config.json", "model.safetensors"}
    assert found["tokenizer_sha256"] == hashlib.sha256(b"0a1b2c tokenizer.json").hexdigest()
    assert identify(("o/r", target), None)["draft"] is None

"""Small model folders and GGUF files, and isolation: no test here sees the user's caches or the network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from store_fakes import CONFIG, GOOD_DATA, GOOD_HEADER, TEMPLATE, TOKENS, safetensors_bytes, tokenizer


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Own folders for all we write. `real` tests look at the real caches."""
    if request.node.get_closest_marker("real"):
        return
    for name in ("CONFIG", "DATA", "CACHE"):
        monkeypatch.setenv(f"SPECCTL_{name}_DIR", str(tmp_path / "own" / name.lower()))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any use of the hub's client or of pip fails the test."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the network was used")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    monkeypatch.setattr("subprocess.run", refuse)


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """A folder with config, weights, tokenizer; keyword arguments change single entries of the config."""

    def make(
        name: str = "model",
        *,
        tokens: list[str] | None = None,
        template: str | None = TEMPLATE,
        special: tuple[str, ...] = ("<pad>", "<end>", "<start>"),
        **config: Any,
    ) -> Path:
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        merged = {key: value for key, value in {**CONFIG, **config}.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(merged))
        (folder / "model.safetensors").write_bytes(safetensors_bytes(GOOD_HEADER, GOOD_DATA))
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer(tokens or TOKENS, special)))
        settings = {"eos_token": "<end>", "chat_template": template}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        return folder

    return make

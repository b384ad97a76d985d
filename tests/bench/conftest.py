from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fake_tokenizers import byte_tokenizer
from fakes import tiny_module


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A random model in a folder, beside two prompts in `p.jsonl`; that folder's parent is where one stands."""
    for name in ("CONFIG", "DATA", "CACHE"):
        monkeypatch.setenv(f"SPECCTL_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    tokenizer = byte_tokenizer()
    module = tiny_module(
        dtype=torch.bfloat16, vocab_size=len(tokenizer), max_position_embeddings=2048, eos_token_id=2
    )
    module.save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    lines = [{"prompt": text, "category": kind} for kind, text in (("copy", "abcabcabc"), ("talk", "Hello."))]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "tiny"

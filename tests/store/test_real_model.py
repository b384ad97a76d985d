"""The default model as a user gets it: from the package index, through the conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from specctl.store import fetch, files, pair, registry, vocabulary

pytestmark = pytest.mark.real


def test_model_is_whole_and_known_again(smollm2: Path) -> None:
    assert fetch.find("smollm2-135m") == smollm2
    manifest = files.read_manifest(smollm2)
    if manifest is not None:  # not the hub's copy
        for name, (size, digest) in manifest.files.items():
            assert (smollm2 / name).stat().st_size == size
            assert files.sha256(smollm2 / name) == digest
        assert vocabulary.fingerprint(smollm2) == registry.models()["smollm2-135m"].tokenizer


def test_tokenizer(smollm2: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(smollm2)
    for token in ("<|im_start|>", "<|im_end|>", "<|endoftext|>"):
        assert len(tokenizer.encode(token)) == 1
    for text in ("def f(x):\n\treturn x + 12  # ok\n", "Zażółć — 你好 🎉", "  5\n    1. item"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    # Digits stand alone, so the two spaces stay one token.
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("a  57")) == ["a", "ĠĠ", "5", "7"]
    assert tokenizer.encode("<|im_end|>")[0] in vocabulary.read(smollm2).ends


def test_pair_check(smollm2: Path) -> None:
    report = pair.check(smollm2, smollm2, max_tokens=512)
    assert (report.problems, report.warnings) == ((), ())
    assert 520_000_000 < report.memory.weights < 560_000_000

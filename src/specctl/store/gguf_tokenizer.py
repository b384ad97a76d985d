"""Tokenizer and generation settings of a converted GGUF file, as close to the original as it allows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from specctl.store import files
from specctl.store.gguf_screen import GgufHeader
from specctl.store.progress import Progress

_CONTROL, _UNUSED = 3, 5  # token types
_END_TOKENS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>")
_PLACEHOLDER = re.compile(r"\[PAD\d+\]|<\|?unused_?\d+\|?>")
# What transformers knows how to cut, or cuts right without knowing: `tokenizer.ggml.pre`.
_KNOWN_RULES = frozenset(
    {"default", "gpt-2", "gpt2", "smollm", "qwen2", "llama-bpe", "llama3", "llama-v3", "tekken"}
)


def write_generation_config(destination: Path, header: GgufHeader, config: Any) -> None:
    """A GGUF file names one end token; models that chat stop at any special token of that kind."""
    from transformers import GenerationConfig

    key = "tokenizer.ggml."
    tokens = header.metadata.get(key + "tokens") or []
    types = header.metadata.get(key + "token_type") or []
    control = {token for token, kind in zip(tokens, types, strict=False) if kind == _CONTROL}
    declared = header.metadata.get(key + "eos_token_id")
    ends = [] if declared is None else [declared]
    ends += [
        tokens.index(token) for token in _END_TOKENS if token in control and tokens.index(token) != declared
    ]
    generation = GenerationConfig.from_model_config(config)
    generation.eos_token_id = ends if len(ends) > 1 else declared
    generation.save_pretrained(destination)


def write_tokenizer(source: Path, destination: Path, header: GgufHeader, progress: Progress) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(
        source.parent, gguf_file=source.name, local_files_only=True
    )
    tokenizer.save_pretrained(destination)
    rules = header.metadata.get("tokenizer.ggml.pre", "default")
    if header.metadata.get("tokenizer.ggml.model") == "gpt2" and rules not in _KNOWN_RULES:
        progress.note(
            f"{source.name} cuts text by the rules `{rules[:40]}`, which may not be followed exactly"
        )
    path = destination / "tokenizer.json"
    parsed = json.loads(path.read_bytes())
    _drop_placeholders(parsed, header)
    _restore_rules(parsed, rules)
    files.write_atomic(path, json.dumps(parsed, ensure_ascii=False).encode())


def _drop_placeholders(parsed: dict[str, Any], header: GgufHeader) -> None:
    """Ids that only pad the matrix to a round size are no tokens, and the original does not list them."""
    tokens = header.metadata.get("tokenizer.ggml.tokens") or []
    types = header.metadata.get("tokenizer.ggml.token_type") or []
    unused = {token for token, kind in zip(tokens, types, strict=False) if kind == _UNUSED}
    vocab = parsed["model"]["vocab"]
    if isinstance(vocab, dict):
        kept = {
            token: n for token, n in vocab.items() if token not in unused or not _PLACEHOLDER.fullmatch(token)
        }
        parsed["model"]["vocab"] = kept


def _restore_rules(parsed: dict[str, Any], rules: str) -> None:
    """Two things transformers does not read out of the file (transformers 5.23)."""
    if rules == "qwen2":
        parsed["normalizer"] = {"type": "NFC"}
    if rules == "smollm":
        # Without it `  5` is cut as ` ` + ` ` + `5`, not as the two spaces the model was trained on.
        digits = {"type": "Digits", "individual_digits": True}
        parsed["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, parsed["pre_tokenizer"]]}

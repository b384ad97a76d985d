"""A tokenizer made in the test: real, fast, and small enough to know by heart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer(words: Sequence[str] = (), chat_template: str | None = CHAT_TEMPLATE) -> Any:
    """Byte-level BPE without merges: each byte is a token. `words` are more tokens, special ones come last."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    written = ["".join(piece for piece, _ in level.pre_tokenize_str(word)) for word in words]
    vocab = {piece: i for i, piece in enumerate([*sorted(level.alphabet()), *written])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = level
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=SPECIAL[2], additional_special_tokens=list(SPECIAL)
    )
    tokenizer.chat_template = chat_template
    return tokenizer

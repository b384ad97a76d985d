"""A tiny model on disk, with a tokenizer, that the command line can be pointed at."""

from __future__ import annotations

from pathlib import Path

import torch

from fake_tokenizers import SPECIAL, byte_tokenizer
from fakes import tiny_module


def save(folder: Path) -> Path:
    tokenizer = byte_tokenizer(["the ", "sky"])
    end = tokenizer.convert_tokens_to_ids(SPECIAL[2])
    module = tiny_module(
        dtype=torch.float32, native=True, vocab_size=len(tokenizer), eos_token_id=end, num_hidden_layers=2
    )
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

"""What the draft holds likely where the target answered: it ranks the tokens that few answers never showed.

A calibration of some thousand tokens sees only a few thousand different ids. The draft's probabilities, summed over
the same places, are counts of what could have stood there instead, and only what a draft holds likely is drafted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from specctl.models.lm import LM
from specctl.models.saving import save_whole
from specctl.trim import calibration, costs
from specctl.trim.calibration import Sample

FILE = "expected.safetensors"
_ENOUGH = 20_000
"""Tokens read of each part: with more of them the counts themselves say it."""


def masses(draft: LM, samples: Sequence[Sample], told: Callable[[int], None] = lambda read: None) -> Tensor:
    """Probabilities by id, summed over places of the counted and of the judging answers, `[2, V]` float64.

    Every n-th answer is read of more than 20,000 tokens. `told` hears of tokens as they are read.
    """
    found = []
    for part in calibration.split(samples):
        total = torch.zeros(draft.vocab_size, dtype=torch.float64)
        for one in part[:: -(-sum(len(one.answer) for one in part) // _ENOUGH) or 1]:
            for logits in costs.read_along(draft, one):
                total += logits.float().softmax(dim=-1).sum(dim=0).double().cpu()
            told(len(one.answer))
        found.append(total)
    return torch.stack(found)


def key(samples: Sequence[Sample], draft: str) -> str:
    """What masses depend on. `draft` names the model and the form of its weights."""
    text = json.dumps([draft, [astuple(one) for one in samples]])
    return hashlib.sha256(text.encode()).hexdigest()


def read(folder: Path, wanted: str) -> Tensor | None:
    """The masses kept under this key; None if there are none, or they cannot be used."""
    try:
        with safe_open(folder / FILE, framework="pt") as file:
            found: Tensor = file.get_tensor("masses")
            known = (file.metadata() or {}).get("key")
    except (SafetensorError, OSError):
        return None
    return found if known == wanted and found.dim() == 2 and len(found) == 2 else None


def write(folder: Path, wanted: str, found: Tensor) -> None:
    """Raises MachineError."""
    save_whole(folder / FILE, {"masses": found}, {"key": wanted})

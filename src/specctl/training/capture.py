"""From conversations to shards: each is run through the target once, and its states are kept.

A block of conversations is one shard, so a killed capture goes on with the blocks it lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specctl.models.lm import LM, PREFILL_CHUNK
from specctl.models.trained import fingerprint
from specctl.training import shards
from specctl.training.conversations import Conversation
from specctl.training.shards import Sample

BLOCK = 64
"""Conversations a shard."""

Source = Callable[[Sequence[int]], Iterable[Conversation]]
"""The conversations with these indices; some may be missing."""


@dataclass(frozen=True, slots=True)
class Captured:
    """So far, over all shards of the folder. `full`: the disk budget ends the capture here."""

    conversations: int
    tokens: int
    bytes: int
    full: bool = False


def facts(lm: LM, depths: Sequence[int], settings: dict[str, Any]) -> dict[str, Any]:
    """What shards must agree on to be read together."""
    return {"target": fingerprint(lm), "depths": list(depths), **settings}


def capture(
    lm: LM,
    source: Source,
    folder: Path,
    about: dict[str, Any],
    *,
    tokens: int,
    count: int | None = None,
    budget: int,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Captured]:
    """Fill `folder` until it holds `tokens` positions, all of `count` conversations, or `budget` bytes.

    `about` are the `facts`. Blocks already there are kept. An interrupted block is not written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = shards.Shards(folder, about)
    held, n, block = sum(done.lengths), len(done), 0
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    yield Captured(n, held, size)
    while held < tokens and (count is None or block * BLOCK < count) and not cancelled():
        path = shards.shard_path(folder, block)
        indices = range(block * BLOCK, min((block + 1) * BLOCK, count or (block + 1) * BLOCK))
        block += 1
        if path.exists():
            continue
        ordered = sorted(source(indices), key=lambda one: one.index)
        samples = [sample for one in ordered if (sample := states_of(lm, one, about["depths"]))]
        if cancelled() or not samples:
            continue
        shards.write(path, samples, about)
        held, n = held + sum(len(one.last) for one in samples), n + len(samples)
        size += path.stat().st_size
        # The next shard may be as large as this one.
        full = size + path.stat().st_size > budget
        yield Captured(n, held, size, full)
        if full:
            return


@torch.no_grad()
def states_of(lm: LM, one: Conversation, depths: Sequence[int]) -> Sample | None:
    """A conversation's states; None where there is no answer to learn from, or no room for it."""
    ids = [*one.prompt, *one.answer]
    if len(one.answer) < 2 or len(one.prompt) < 1 or len(ids) > lm.context_length:
        return None
    cache = lm.new_cache()
    cache.admit()
    kept: dict[int, list[Tensor]] = {depth: [] for depth in [*depths, lm.n_layers]}
    for start in range(0, len(ids) - 1, PREFILL_CHUNK):
        chunk = ids[start : min(start + PREFILL_CHUNK, len(ids) - 1)]
        states: Any = [chunk]
        below = 0
        for depth, parts in kept.items():
            states = lm.segment(cache, states, range(1), below, depth)
            parts.append(states[0])
            below = depth
        cache.commit(0, len(chunk))
    base: Any = getattr(lm.module, str(lm.module.base_model_prefix))
    last = base.norm(torch.cat(kept.pop(lm.n_layers)))
    hidden = {depth: torch.cat(parts) for depth, parts in kept.items()}
    return Sample(torch.tensor(ids), len(one.prompt) - 1, hidden, last)

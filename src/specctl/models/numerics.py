"""The start-up self-test of shape-invariant numerics.

In 16 bits a position's logits depend on how many rows are computed beside it, because kernels are chosen by
shape. Where that choice is the same for every shape that decoding uses, speculative output equals plain output
bit for bit. Whether it is, on this machine, for this model and dtype, is measured here and remembered.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import replace

import torch
from torch import Tensor

from specctl.models import remembered
from specctl.models.cache import SlotCache
from specctl.models.lm import LM

FLOORS = (2, 4, 8)
"""Candidates for the fewest rows a forward may have: a single row, or two in float32, takes other kernels."""

_PROBES = (  # tokens of context; shapes: (rows, columns)
    (19, ((1, 5), (3, 6))),
    # float32 attention changes kernels between some 150 and 500 slots.
    (
        250,
        ((1, 3), (1, 4), (1, 5), (1, 6), (1, 9), (1, 13), (2, 2), (3, 5), (1, 33), (1, 65)),
    ),
    # Sums over more than 1024 slots are split by their number, which a longer neighbour sets.
    (700, ((1, 5), (3, 5))),
)


def invariant_floor(lm: LM) -> int | None:
    """The smallest row floor that makes this model's logits independent of shape; None if there is none."""
    known = remembered.load("numerics")
    key = _fingerprint(lm)
    floor: int | None = known.get(key)
    if key not in known or floor not in (None, *FLOORS):
        floor = next((floor for floor in FLOORS if holds(lm, floor)), None)
        remembered.add("numerics", {key: floor})
    return floor


def holds(lm: LM, floor: int) -> bool:
    """Whether each position's logits are those it has when fed alone, in every shape tried.

    All columns are compared: kernels treat what is left over behind whole blocks of rows in another way.
    """
    probe = replace(lm, row_floor=floor, fewest_rows=1)
    for context, shapes in _PROBES:
        n_rows, n_columns = (max(sizes) for sizes in zip(*shapes, strict=True))
        ids = _probe_ids(lm.vocab_size, n_columns)
        cache = filled_cache(probe, [context, context - 5, 2 * context][:n_rows], n_columns + floor)
        reference = _one_by_one(probe, cache, ids)
        for n, q in shapes:
            if not torch.equal(probe.forward(cache, [ids[:q]] * n, range(n))[0], reference[:q]):
                return False
    return True


def _one_by_one(lm: LM, cache: SlotCache, ids: list[int]) -> Tensor:
    """Logits `[len(ids), vocab]`: the first tokens fed alone, those behind four at a time (a shape tried)."""
    parts = []
    at = 0
    while at < len(ids):
        block = ids[at : at + (1 if at < 13 else 4)]
        parts.append(lm.forward(cache, [block], range(1), offset=at)[0])
        at += len(block)
    return torch.cat(parts)


def filled_cache(lm: LM, lengths: list[int], room: int) -> SlotCache:
    """Rows of these lengths whose keys and values are noise: as good as a prefill here, and much faster."""
    cache = lm.new_cache()
    cache.reserve(len(lengths), max(lengths) + room)
    for _ in lengths:
        cache.admit()
    lm.forward(cache, [[0]], range(1))
    generator = torch.Generator().manual_seed(0)
    for layer in cache.slot_layers:
        for tensor in layer.tensors():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    for row, length in enumerate(lengths):
        cache.commit(row, length)
    return cache


def _probe_ids(vocab_size: int, n: int) -> list[int]:
    """Arbitrary but fixed token ids, spread over the vocabulary."""
    return [(i * 7919 + 13) % vocab_size for i in range(n)]


def _fingerprint(lm: LM) -> str:
    facts = {
        "model": lm.config.to_json_string(use_diff=False),
        "dtype": str(lm.dtype),
        "device": device_name(lm.device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "packed": lm.packed is not None,
        "probes": _PROBES,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def device_name(device: torch.device) -> str:
    """What tells this machine's arithmetic from another's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()} {torch.backends.cpu.get_cpu_capability()} {platform.node()}"

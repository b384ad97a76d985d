"""The start-up self-test of shape-invariant numerics.

In 16 bits a position's logits depend on how many rows are computed beside it, because kernels are chosen by
shape. Where that choice is the same for every shape that decoding uses, speculative output equals plain output
bit for bit. Whether it is, on this machine, for this model and dtype, is measured here and remembered.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform

import torch
from torch import Tensor

from specctl import paths
from specctl.errors import MachineError
from specctl.models.cache import SlotCache
from specctl.models.lm import LM
from specctl.store.files import write_atomic

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
    known = _load_cache()
    key = _fingerprint(lm)
    if key not in known:
        known[key] = next((floor for floor in FLOORS if holds(lm, floor)), None)
        _save_cache(known)
    return known[key]


def holds(lm: LM, floor: int) -> bool:
    """Whether each position's logits are those it has when fed alone, in every shape tried.

    All columns are compared: kernels treat what is left over behind whole blocks of rows in another way.
    """
    probe = LM(lm.module, lm.name, row_floor=floor)
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
        "probes": _PROBES,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def device_name(device: torch.device) -> str:
    """What tells this machine's arithmetic from another's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()} {torch.backends.cpu.get_cpu_capability()} {platform.node()}"


def _load_cache() -> dict[str, int | None]:
    try:
        known = json.loads((paths.cache_dir() / "numerics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {key: floor for key, floor in known.items() if floor in (None, *FLOORS)}


def _save_cache(known: dict[str, int | None]) -> None:
    path = paths.cache_dir() / "numerics.json"
    # Only a cache: where it cannot be written the next start measures again.
    with contextlib.suppress(OSError, MachineError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(known, indent=1).encode())

"""How much memory models and caches will take, and how much there is."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specctl.store.safetensors_screen import TensorInfo

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = (  # limit, use, and the part of it that is file cache and can be given back
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_LOGIT_ROWS = 64  # rows of float32 logits alive at once, generously


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes. `available` is None where the system does not say."""

    weights: int
    caches: int
    working: int
    available: int | None

    @property
    def total(self) -> int:
        return self.weights + self.caches + self.working

    @property
    def fits(self) -> bool:
        return self.available is None or self.total <= self.available


def weight_bytes(tensors: dict[str, TensorInfo], dtype_bytes: int) -> int:
    return sum(tensor.elements for tensor in tensors.values()) * dtype_bytes


def cache_bytes(config: dict[str, Any], *, max_tokens: int, batch_size: int, dtype_bytes: int) -> int:
    """Keys and values of every layer, at full length: sliding windows save nothing in a slot cache."""
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    return int(2 * config["num_hidden_layers"] * kv_heads * head_dim * max_tokens * batch_size * dtype_bytes)


def working_bytes(config: dict[str, Any], *, batch_size: int) -> int:
    """Logits of a round, in float32, with a copy."""
    return int(2 * 4 * config["vocab_size"] * _LOGIT_ROWS * batch_size)


def available() -> int | None:
    """Free memory, or what the control group still allows if that is less."""
    amounts = [amount for amount in (_system(), _control_group()) if amount is not None]
    return min(amounts, default=None)


def _system() -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _control_group() -> int | None:
    for limit_name, use_name, cache_key in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # `max` is no number: no limit
            limit = int((_CGROUP_ROOT / limit_name).read_text())
            used = int((_CGROUP_ROOT / use_name).read_text())
            statistics = (_CGROUP_ROOT / use_name).with_name("memory.stat").read_text().splitlines()
            fields = dict(line.split()[:2] for line in statistics)
            return max(0, limit - used + int(fields.get(cache_key, 0)))
    return None

"""Can this target and this draft work together, here? Answered before any weight is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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


@dataclass(frozen=True, slots=True)
class PairReport:
    """`problems` forbid the pair (or the request), `warnings` do not. Sentences without a final stop."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    memory: MemoryNeed

    def refuse(self) -> None:
        """Raises PairError for the first problem, MachineError if the memory does not suffice."""
        raise NotImplementedError


def check(
    target: Path, draft: Path | None, *, max_tokens: int, batch_size: int = 1, dtype_bytes: int = 2
) -> PairReport:
    """`max_tokens` is prompt plus answer, per row; `dtype_bytes` the width the models are loaded in."""
    raise NotImplementedError

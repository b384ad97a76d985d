"""Prompts to measure with: the built-in suite, and files in Spec-Bench's format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from specctl.equivalence.suite import Prompt, read

__all__ = ["Group", "Prompt", "builtin", "digest", "groups", "of_each_kind", "read", "tuning"]


@dataclass(frozen=True, slots=True)
class Group:
    """Prompts of one kind that are decoded together: the unit of comparison. One prompt at batch size 1."""

    category: str
    prompts: tuple[Prompt, ...]
    batch_size: int

    @property
    def name(self) -> str:
        return "+".join(one.id for one in self.prompts)


def builtin() -> list[Prompt]:
    """Eight kinds of six prompts each, written for measuring."""
    return _written("builtin.yaml")


def tuning() -> list[Prompt]:
    """Eight kinds of two prompts each, to choose settings with; none of them is in the built-in suite."""
    return _written("tuning.yaml")


def _written(name: str) -> list[Prompt]:
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    return [
        Prompt(f"{kind}-{number}", prompt.strip(), kind)
        for kind, prompts in yaml.safe_load(text).items()
        for number, prompt in enumerate(prompts, start=1)
    ]


def of_each_kind(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """The first `count` of each kind, in the order of the suite."""
    seen: dict[str, int] = {}
    chosen = []
    for prompt in prompts:
        seen[prompt.kind] = seen.get(prompt.kind, 0) + 1
        if seen[prompt.kind] <= count:
            chosen.append(prompt)
    return chosen


def groups(prompts: Sequence[Prompt], batch_size: int) -> list[Group]:
    """Neighbours of one kind together, kinds taking turns, so that a run cut short has seen all of them."""
    kinds: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        kinds.setdefault(prompt.kind, []).append(prompt)
    queues = [
        [Group(kind, tuple(some[at : at + batch_size]), batch_size) for at in range(0, len(some), batch_size)]
        for kind, some in kinds.items()
    ]
    longest = max(map(len, queues), default=0)
    return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]


def digest(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of ids and texts: equal for runs that can be compared prompt by prompt."""
    text = json.dumps([asdict(prompt) for prompt in prompts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

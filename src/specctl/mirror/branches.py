"""What a writer writes: drafts, and continuations of them on the way to being drafts."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from specctl.decode.draft import Key
from specctl.mirror.outcomes import Guess, Ranked


@dataclass(frozen=True, slots=True)
class Plan:
    """How many branches to write, of at most how many tokens; `trust` is the exit's weight beside the draft's own
    guesses, 0 to 1."""

    candidates: int
    branches: int
    draft_tokens: int
    trust: float


@dataclass(slots=True)
class Branch:
    """A row's draft: its tokens, the laws `[k, vocab]` they were drawn from (None: not drawn), and the draft's own
    guess at the verdict, without the slot behind the last token."""

    tokens: list[int] = field(default_factory=list)
    q: Tensor | None = None
    guess: Guess = field(default_factory=lambda: Guess([], []))


@dataclass(slots=True)
class Twig:
    """A branch being written: its key, the ids before its first token, the slots in the cache of the last of these
    and of its own tokens as far as they are read, and its laws."""

    key: Key
    ids: list[int]
    room: int
    slots: list[int] = field(default_factory=list)
    branch: Branch = field(default_factory=Branch)
    laws: list[Tensor] = field(default_factory=list)
    open: bool = True

    @property
    def whole(self) -> list[int]:
        return [*self.ids, *self.branch.tokens]

    @property
    def unread(self) -> list[int]:
        return self.whole[len(self.ids) - 1 + len(self.slots) :]

    def add(self, token: int, best: Ranked, chance: float, q: Tensor | None, eos: frozenset[int]) -> None:
        self.branch.tokens.append(token)
        self.branch.guess.slots.append(best)
        self.branch.guess.drafted.append(chance)
        if q is not None:
            self.laws.append(q)
        self.open = token not in eos and len(self.branch.tokens) < self.room

    def done(self) -> Branch:
        self.branch.q = torch.stack(self.laws) if self.laws else None
        return self.branch

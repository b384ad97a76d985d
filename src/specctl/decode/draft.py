"""What passes between the loop and a drafter: rows, drafts, verdicts, and the drafter's four calls.

Drafts are chains. Only the acceptors, `Target.commit` and the mask builder (`models/lm.py`) may rely on that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from specctl.decode.sampling import Sampler
from specctl.mirror.worker import Worker
from specctl.models.cache import SlotCache
from specctl.models.costs import Costs
from specctl.models.lm import LM


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to continue. `seed` keys the row's noise; `stop` are strings of generated text."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(slots=True)
class Row:
    """A request being decoded: `ids` are its committed tokens, prompt first. Read-only for drafters."""

    index: int
    request: Request
    ids: list[int]

    @property
    def generated(self) -> list[int]:
        return self.ids[len(self.request.prompt) :]


@dataclass(slots=True)
class Draft:
    """Tokens proposed for each live row, a list a row; an empty list means plain decoding.

    `q`: the laws the tokens were drawn from, `[n, k, vocab]` with k the longest draft; None: one-hot, the token
    was not drawn. `hidden`: `[n, k + 1, H]`, states after the target's first `depth` layers for the last
    committed token and each drafted one, if drafting computed them; scoring then runs the other layers only.
    `confidence`: how likely the drafter found each token, like `tokens`; None where it did not look.
    """

    tokens: list[list[int]]
    q: Tensor | None = None
    hidden: Tensor | None = None
    depth: int = 0
    confidence: list[list[float]] | None = None

    @property
    def longest(self) -> int:
        return max(len(row) for row in self.tokens)

    def padded(self, width: int) -> list[list[int]]:
        """The rows filled up to `width` with token 0; what stands there is computed and never read."""
        return [row + [0] * (width - len(row)) for row in self.tokens]

    def counts(self, device: torch.device) -> Tensor:
        return torch.tensor([len(row) for row in self.tokens], device=device)


@dataclass(frozen=True, slots=True)
class Scored:
    """The target's forward over a draft: logits `[n, k + 1, vocab]` and the hidden states asked for.

    `hidden[depth]` is `[n, k + 1, H]`, after that many layers. `halves`: seconds before and after `Midway.call`.
    """

    logits: Tensor
    hidden: dict[int, Tensor] = field(default_factory=dict)
    halves: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many drafted tokens were accepted, and the token the target adds; int64 `[n]` each."""

    accepted: Tensor
    bonus: Tensor


class Drafter(Protocol):
    """Proposes tokens. A row's place in `rows` is its slot; slots are dense and the loop moves them.

    `draft` and `observe` may speak of the first slots only; the others wait.

    `needs` lists the depths whose hidden states the target has to capture. A drafter whose drafts get longer or
    shorter by what was accepted before says so with `adapts = True`; verification takes it for False.
    """

    needs: frozenset[int]

    def begin(self, row: Row, hidden: dict[int, Tensor]) -> None:
        """A row joins as the last slot. `hidden[depth]` is `[1, len(prompt) - 1, H]`: all but its last token."""

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        """Propose at most `budget[b]` tokens for each row."""

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        """The verdict: `accepted[b]` of the last draft, already in `rows[b].ids` with what the target added."""

    def swap(self, one: int, other: int) -> None:
        """Two rows change places. Only rows in front take part in a round (`schedules/exspec.py`)."""

    def drop(self, slot: int) -> None:
        """A row is done; the last slot moves into its place."""


@runtime_checkable
class SharesCache(Protocol):
    """A drafter that runs layers of the target, or a copy of them: it writes above the committed slots of the
    target's own cache."""

    def share(self, cache: SlotCache) -> None:
        """The cache of the target it drafts for; told before the first row joins."""


def share_cache(drafter: Drafter, cache: SlotCache) -> None:
    """For the loop, and for whoever stands in for a drafter."""
    if isinstance(drafter, SharesCache):
        drafter.share(cache)


@runtime_checkable
class Chooses(Protocol):
    """A drafter that has others draft, and decides whom to ask by costs and by what was accepted.

    Whom it asks depends on its past; what that one proposes does not. So a verifier looks who was `asked` for a
    slot in the last round, and has a fresh drafter `ask_only` him.
    """

    def asked(self, slot: int) -> object: ...

    def ask_only(self, whom: object) -> None: ...


Key = tuple[int, int]
"""A verdict on a row's draft: how many tokens were accepted, and the target's own token behind them."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """What drafting during verification came to in a round.

    Per row the verdicts it was `ready` for, and whether the real one was among them: None where nothing is left to
    be drafted, or nothing was. `spent_s` went into it; the target waited for `waited_s` of that, or for all of it
    where nothing `overlaps`. `failed`: why the round's drafts had to be made in place instead.
    """

    ready: list[list[Key]]
    hits: list[bool | None]
    halves: tuple[float, float]
    spent_s: float
    waited_s: float
    overlaps: bool
    failed: str | None = None


@dataclass(frozen=True, slots=True)
class Midway:
    """What a drafter does half-way through the target's forward (Mirror-SD); its attribute `midway`, if it has one.

    `call(rows, hidden)` comes after `depth` layers, with their states `[n, k + 1, H]`, before the others run;
    `report()` after `observe`.
    """

    depth: int
    call: Callable[[Sequence[Row], Tensor], None]
    report: Callable[[], Ahead]


def midway(drafter: Drafter) -> Midway | None:
    """For the loop, and for whoever stands in for a drafter."""
    found: Midway | None = getattr(drafter, "midway", None)
    return found


@dataclass(frozen=True, slots=True)
class Parts:
    """What a drafter may be built from; `costs` are measured where they are None and needed.

    `rows`: the most that take part in a round. `worker` drafts in a process of its own (`mirror/sites.py`).
    """

    target: LM
    draft: LM | None
    sampler: Sampler
    eos: frozenset[int]
    costs: Costs | None = None
    rows: int = 1
    worker: Worker | None = None


_REGISTRY = {
    "none": "specctl.drafters.none:NoDrafter",
    "draft-model": "specctl.drafters.draft_model:DraftModel",
    "self": "specctl.drafters.draft_model:OwnWeights",
    "kangaroo": "specctl.drafters.kangaroo:Kangaroo",
    "s2d": "specctl.drafters.s2d:S2D",
    "mirror": "specctl.drafters.mirror:Mirror",
    "ngram": "specctl.drafters.ngram:Ngram",
    "auto": "specctl.drafters.auto:Auto",
}


def build_drafter(params: Any, parts: Parts) -> Drafter:
    """The drafter for a profile's `drafter:` block, by its `method`. Imports that one module only."""
    module, _, name = _REGISTRY[params.method].partition(":")
    drafter: Drafter = getattr(import_module(module), name)(params, parts)
    return drafter

"""Acceptors by exact enumeration: every branch of chance is walked with its weight, nothing is estimated.

A world has its own law for every prefix. All drafts, coins and draws become the rows of one batch; the joint law
of the first k + 1 tokens (what a round emits, then plain sampling) must be the product of the target's laws.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specctl.decode.accept import Acceptor
from specctl.decode.draft import Draft, Request, Row, Verdict
from specctl.decode.noise import Place, Stream
from specctl.decode.sampling import Law, Sampler

PROMPT = (7, 7)
IDENTITY = Law(temperature=1.0)
EXACT = 1e-12

Prefix = tuple[int, ...]
Table = dict[Prefix, Tensor]


@dataclass(frozen=True)
class World:
    """Laws p and q for each prefix; `stop` says where a draft ends; q None: `argmax(q)` is drafted."""

    vocab: int
    k: int
    p: Table
    q: Table
    stop: Callable[[Prefix], bool] = lambda prefix: False
    drawn: bool = True

    def drafts(self) -> list[tuple[Prefix, float]]:
        """Every draft that can happen, with its weight. A draft ends behind a token, never before it."""
        found: list[tuple[Prefix, float]] = []
        open_: list[tuple[Prefix, float]] = [((), 1.0)]
        while open_:
            prefix, weight = open_.pop()
            if len(prefix) == self.k or self.stop(prefix):
                found.append((prefix, weight))
                continue
            law = self.q[prefix]
            if not self.drawn:
                law = torch.nn.functional.one_hot(law.argmax(), self.vocab).double()
            open_ += [((*prefix, token), weight * float(law[token])) for token in range(self.vocab)]
        return [(prefix, weight) for prefix, weight in found if weight > 0]


def world(
    vocab: int,
    k: int,
    law_p: Callable[[torch.Generator], Tensor],
    law_q: Callable[[torch.Generator], Tensor],
    seed: int,
    *,
    stop: Callable[[Prefix], bool] = lambda prefix: False,
    drawn: bool = True,
) -> World:
    generator = torch.Generator().manual_seed(seed)
    prefixes = [p for size in range(k + 1) for p in itertools.product(range(vocab), repeat=size)]
    p = {prefix: law_p(generator) for prefix in prefixes}
    q = {prefix: law_q(generator) for prefix in prefixes}
    return World(vocab, k, p, q, stop, drawn)


class Branches:
    """`Draws` that a test walks: each row (its key) has its coins and its token given; `weight` is their law."""

    def __init__(self, coins: Sequence[Sequence[bool]], tokens: Sequence[int]) -> None:
        self._coins, self._tokens = coins, tokens
        self.weight = torch.ones(len(tokens), dtype=torch.float64)

    def accept(self, probability: Tensor, at: Sequence[Place]) -> Tensor:
        result = []
        for chance, place in zip(probability.tolist(), at, strict=True):
            coins, slot = self._coins[place.key], place.position - len(PROMPT)
            # Behind a row's own draft the coin is free and says yes: it must not count.
            if slot < len(coins):
                self.weight[place.key] *= chance if coins[slot] else 1 - chance
            result.append(slot >= len(coins) or coins[slot])
        return torch.tensor(result)

    def sample(self, probs: Tensor, at: Sequence[Place], stream: Stream) -> Tensor:
        for law, place in zip(probs, at, strict=True):
            self.weight[place.key] *= law[self._tokens[place.key]] / law.sum()
        return torch.tensor([self._tokens[place.key] for place in at])


def row(key: int) -> Row:
    return Row(key, Request(PROMPT, 9, seed=key), list(PROMPT))


def emitted_law(
    accept: Acceptor,
    world: World,
    *,
    shown_q: Table | None = None,
    law: Law = IDENTITY,
    logits: Table | None = None,
) -> Tensor:
    """The joint law of the first k + 1 tokens, `[vocab] * (k + 1)`.

    `shown_q` is what the acceptor is told instead of the laws the drafts come from; `logits` are what `law`
    makes the target's laws from, if not their logarithms.
    """
    shape = (world.vocab,) * (world.k + 1)
    branches = [
        (draft, weight, coins, token)
        for draft, weight in world.drafts()
        for coins in itertools.product((True, False), repeat=len(draft))
        for token in range(world.vocab)
    ]
    draws = Branches([one[2] for one in branches], [one[3] for one in branches])
    drafts = [list(one[0]) for one in branches]
    longest = max(map(len, drafts))
    padded = [tuple(draft + [0] * (longest - len(draft))) for draft in drafts]
    table = logits or {prefix: p.log() for prefix, p in world.p.items()}
    scores = torch.stack([torch.stack([table[x[:i]] for i in range(longest + 1)]) for x in padded])
    q = None
    told = shown_q or (world.q if world.drawn else None)
    if told is not None and longest:
        q = torch.stack([torch.stack([told[x[:i]] for i in range(longest)]) for x in padded])
    verdict = accept(
        scores, Draft(drafts, q), [row(key) for key in range(len(branches))], Sampler(law, draws)
    )
    joint = torch.zeros(shape, dtype=torch.float64)
    for at, (draft, weight, _, _) in enumerate(branches):
        n = int(verdict.accepted[at])
        assert n <= len(draft)
        block = (*draft[:n], int(verdict.bonus[at]))
        joint[block] += weight * draws.weight[at] * continuation(world, block)
    return joint


def continuation(world: World, block: Prefix) -> Tensor:
    """The law of what plain sampling adds to a block, up to k + 1 tokens in all."""
    if len(block) > world.k:
        return torch.ones((), dtype=torch.float64)
    return torch.stack(
        [world.p[block][token] * continuation(world, (*block, token)) for token in range(world.vocab)]
    )


def distance(accept: Acceptor, world: World, *, shown_q: Table | None = None) -> float:
    """Largest difference between the emitted law and the target's."""
    return float((emitted_law(accept, world, shown_q=shown_q) - continuation(world, ())).abs().max())


# Laws -------------------------------------------------------------------------------------------------------


def smooth(vocab: int) -> Callable[[torch.Generator], Tensor]:
    return lambda g: (torch.randn(vocab, generator=g, dtype=torch.float64) * 1.5).softmax(-1)


def fixed(*weights: float) -> Callable[[torch.Generator], Tensor]:
    law = torch.tensor(weights, dtype=torch.float64)
    return lambda _: law / law.sum()


def trimmed(vocab: int) -> Callable[[torch.Generator], Tensor]:
    """A draft that can say half of the words only, as trimmed vocabularies and top-k do."""

    def law(g: torch.Generator) -> Tensor:
        weights = smooth(vocab)(g)
        weights[torch.randperm(vocab, generator=g)[: vocab // 2]] = 0
        return weights / weights.sum()

    return law


def one_hot(vocab: int) -> Callable[[torch.Generator], Tensor]:
    return lambda g: torch.eye(vocab, dtype=torch.float64)[int(torch.randint(vocab, (), generator=g))]


def tiny_masses(vocab: int) -> Callable[[torch.Generator], Tensor]:
    """Probabilities from 1 down to 1e-300 and the subnormal 5e-324."""

    def law(g: torch.Generator) -> Tensor:
        weights = 10.0 ** -torch.randint(0, 300, (vocab,), generator=g).double()
        weights[0], weights[-1] = 1.0, 5e-324
        return weights / weights.sum()

    return law


def surely_wrong(prefix: Prefix) -> bool:
    return bool(prefix) and prefix[-1] == 0


HARD = {
    "equal": (fixed(5, 3, 1, 1), fixed(5, 3, 1, 1)),
    "disjoint": (fixed(5, 3, 0, 0), fixed(0, 0, 1, 1)),
    "one-hot-q": (smooth(4), one_hot(4)),
    "one-hot-p": (one_hot(4), smooth(4)),
    "one-hot-both": (one_hot(4), one_hot(4)),
    "q-zero-where-p-is-not": (smooth(4), trimmed(4)),
    "p-zero-where-q-is-not": (trimmed(4), smooth(4)),
    "tiny-masses": (tiny_masses(4), smooth(4)),
    "tiny-masses-in-q": (smooth(4), tiny_masses(4)),
    "residual-below-1e-15": (fixed(1, 1, 1, 1), fixed(1, 1, 1 + 1e-15, 1 - 1e-15)),
    "paper": (fixed(5, 3, 1, 1), fixed(2, 5, 2, 1)),
}


def textbook(
    *,
    ratio: Callable[[float, float], float] = lambda p, q: p / q if q > 0 else 0.0,
    residual: Callable[[Tensor, Tensor], Tensor] = lambda p, q: (p - q).clamp(min=0),
    bonus: Callable[[Tensor, Tensor], Tensor] = lambda p, last_q: p,
    keeps_going: bool = False,
) -> Acceptor:
    """Rejection sampling row by row, as the papers write it, with parts to be broken."""

    def accept(scores: Tensor, draft: Draft, rows: Sequence[Row], sampler: Sampler) -> Verdict:
        laws = sampler.law.probabilities(scores)
        accepted, added = [], []
        for b, (tokens, one) in enumerate(zip(draft.tokens, rows, strict=True)):
            eye = torch.eye(laws.shape[-1], dtype=laws.dtype)
            qs = [eye[x] if draft.q is None else draft.q[b, i] for i, x in enumerate(tokens)]
            coins = [
                bool(
                    sampler.draws.accept(
                        laws.new_tensor([min(1.0, ratio(float(laws[b, i, x]), float(qs[i][x])))]),
                        [Place(one.request.seed, len(one.ids) + i)],
                    )
                )
                for i, x in enumerate(tokens)
            ]
            n = sum(coins) if keeps_going else len(list(itertools.takewhile(bool, coins)))
            law = bonus(laws[b, n], qs[-1] if qs else laws[b, n])
            if n < len(tokens):
                left = residual(laws[b, n], qs[n])
                law = left if left.sum() > 0 else laws[b, n]
            place = Place(one.request.seed, len(one.ids) + n)
            added.append(int(sampler.draws.sample(law[None], [place], Stream.TARGET)))
            accepted.append(n)
        return Verdict(torch.tensor(accepted), torch.tensor(added))

    return accept


PAPER = world(4, 2, *HARD["paper"], seed=0)

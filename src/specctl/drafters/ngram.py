"""N-gram drafting: the text so far often says what comes next (prompt lookup, and the answer itself).

The last few tokens are sought in what stands before them, and what followed there most often is drafted; then the
same again, with the drafted token at the end. No model, next to no cost. Sources: Saxena, "Prompt Lookup Decoding"
(2023), the same idea in arXiv:2304.04487; counting what followed, as in arXiv:2411.04975.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from torch import Tensor

from specctl.decode import length
from specctl.decode.draft import Draft, Parts, Row, Scored
from specctl.models import costs
from specctl.profile.drafters import NgramParams

_WORTH = 0.07
"""A drafted token is worth its place while it is kept at least this often. A row costs a small model's forward some
3 % on a CPU (`specctl doctor` shows it); twice that did best in replays of plain answers to prompts of our own."""

_VOTES = 16
"""The latest places where an n-gram stood that are asked what followed."""

_RECENT = 48
"""Tokens among which the most frequent one is sought where nothing matches."""


class Agreement(IntEnum):
    """How sure what followed an n-gram is: it stood once; the same always; mostly; as often something else."""

    ONCE = 0
    ALWAYS = 1
    MOSTLY = 2
    SPLIT = 3


_RIGHT = (
    (0.03, 0.03, 0.03, 0.03),
    (0.23, 0.43, 0.34, 0.13),
    (0.51, 0.78, 0.57, 0.26),
    (0.58, 0.78, 0.68, 0.26),
    (0.70, 0.91, 0.63, 0.40),
    (0.76, 0.90, 0.70, 0.40),
    (0.87, 0.99, 0.80, 0.46),
)
"""How often a token was right, by length of the match (the last line: or longer) and agreement: answers of
SmolLM2-135M to prompts of our own. A row's own count takes over as it grows."""

_IMAGINED = 16


@dataclass(frozen=True, slots=True)
class Guess:
    """One drafted token, the length of the match that it followed, and whether others followed there too."""

    token: int
    size: int
    agreement: Agreement


class Ngram:
    """Drafts what followed the last few tokens before, for as long as that is likely to be kept.

    The longer the match and the more its places agree, the likelier the next token; how likely is counted for each
    row. Where a forward is filled up with dummies (`LM.columns`), guesses cost no more than they do, so
    that many tokens are drafted however unlikely. With `draft_tokens: auto` all rows together decide how much of it
    is worth its place (`decode/length.py`).
    """

    needs: frozenset[int] = frozenset()
    adapts = True

    def __init__(self, params: NgramParams, parts: Parts) -> None:
        self._params = params
        self._costs = None
        if params.draft_tokens == "auto":
            self._costs = parts.costs or costs.of(parts.target, None, rows=parts.rows)
        self._company = length.Company.of(parts.sampler, parts.rows)
        self._eos = parts.eos
        self._target = parts.target
        self._free = 0  # columns of a round that dummies would take
        self._seen: list[Lookup] = []
        self._odds: list[Odds] = []
        self._guessed: list[tuple[int, list[Guess]]] = []  # place of the first token, by slot

    def begin(self, row: Row, hidden: dict[int, Tensor]) -> None:
        self._seen.append(Lookup(self._params.min_ngram, self._params.max_ngram))
        self._odds.append(Odds())

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        tokens, chances = [], []
        self._guessed = []
        self._free = self._target.columns(len(rows), 1) - 1
        for slot, (row, most) in enumerate(zip(rows, budget, strict=True)):
            self._seen[slot].extend(row.ids)
            guesses, chance = self._guesses(slot, row.ids, min(most, self._params.most))
            self._guessed.append((len(row.ids), guesses))
            tokens.append([guess.token for guess in guesses])
            chances.append(chance)
        if self._costs is not None:
            contexts = [len(row.ids) for row in rows]
            lengths = length.known(chances, contexts, self._costs, self._company)
            tokens = [one[:most] for one, most in zip(tokens, lengths, strict=True)]
            chances = [one[:most] for one, most in zip(chances, lengths, strict=True)]
        return Draft(tokens, confidence=chances)

    def _guesses(self, slot: int, ids: Sequence[int], limit: int) -> tuple[list[Guess], list[float]]:
        """The draft behind `ids`, and how likely each of its tokens is if those before it are right."""
        seen, odds = self._seen[slot], self._odds[slot]
        text = list(ids[-self._params.max_ngram :])
        guesses: list[Guess] = []
        chances: list[float] = []
        all_right = 1.0
        while len(guesses) < limit and not (guesses and guesses[-1].token in self._eos):
            guess = seen.next(text)
            if guess is None and not guesses and self._free and self._params.min_ngram == 1:
                guess = most_frequent(ids)
            if guess is None:
                break
            chance = odds.chance(guess)
            all_right *= chance
            if all_right < _WORTH and len(guesses) >= self._free:
                break
            guesses.append(guess)
            chances.append(chance)
            text.append(guess.token)
        return guesses, chances

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        """Learns from what was committed, so it does not matter whether its draft was the one that was scored."""
        for row, odds, (at, guesses) in zip(rows, self._odds, self._guessed, strict=False):
            odds.count(guesses, row.ids[at:])

    def swap(self, one: int, other: int) -> None:
        self._seen[one], self._seen[other] = self._seen[other], self._seen[one]
        self._odds[one], self._odds[other] = self._odds[other], self._odds[one]

    def drop(self, slot: int) -> None:
        self._seen[slot] = self._seen[-1]
        self._odds[slot] = self._odds[-1]
        self._seen.pop()
        self._odds.pop()


class Odds:
    """How often guesses of each kind were right, in one row.

    >>> odds, guess = Odds(), Guess(7, 2, Agreement.ONCE)
    >>> odds.chance(guess)
    0.51
    >>> for _ in range(34):
    ...     odds.count([guess, guess], committed=[5])
    >>> round(odds.chance(guess), 3)
    0.163
    """

    def __init__(self) -> None:
        self._tries = [[_IMAGINED] * len(rates) for rates in _RIGHT]
        self._right = [[_IMAGINED * rate for rate in rates] for rates in _RIGHT]

    def chance(self, guess: Guess) -> float:
        size = min(guess.size, len(_RIGHT) - 1)
        return self._right[size][guess.agreement] / self._tries[size][guess.agreement]

    def count(self, guesses: Sequence[Guess], committed: Sequence[int]) -> None:
        """A draft's outcome: what was committed judges its tokens up to the first wrong one."""
        for guess, token in zip(guesses, committed, strict=False):
            size = min(guess.size, len(_RIGHT) - 1)
            self._tries[size][guess.agreement] += 1
            self._right[size][guess.agreement] += guess.token == token
            if guess.token != token:
                return


class Lookup:
    """What followed each n-gram of a growing sequence.

    >>> seen = Lookup(1, 2)
    >>> seen.extend([5, 6, 7, 8, 5, 6, 9, 5, 6, 7, 5, 6])
    >>> seen.next([5, 6])
    Guess(token=7, size=2, agreement=<Agreement.MOSTLY: 2>)
    >>> seen.next([6, 8])
    Guess(token=5, size=1, agreement=<Agreement.ONCE: 0>)
    """

    def __init__(self, shortest: int, longest: int) -> None:
        self._sizes = range(longest, shortest - 1, -1)
        self._after: dict[tuple[int, ...], list[int]] = {}
        self._indexed = 0

    def extend(self, ids: Sequence[int]) -> None:
        """Index all n-grams of `ids` that something follows; the earlier part is known already."""
        for end in range(max(self._indexed, 1), len(ids)):
            for size in self._sizes:
                if size <= end:
                    self._after.setdefault(tuple(ids[end - size : end]), []).append(ids[end])
        self._indexed = len(ids)

    def next(self, text: Sequence[int]) -> Guess | None:
        """What followed the longest known n-gram that `text` ends in: most often, the latest among equals."""
        for size in self._sizes:
            followed = self._after.get(tuple(text[-size:])) if size <= len(text) else None
            if followed:
                latest = followed[: -_VOTES - 1 : -1]
                token, votes = Counter(latest).most_common(1)[0]
                return Guess(token, size, _agreement(votes, len(latest)))
        return None


def _agreement(votes: int, places: int) -> Agreement:
    if places == 1:
        return Agreement.ONCE
    if votes == places:
        return Agreement.ALWAYS
    return Agreement.MOSTLY if 2 * votes > places else Agreement.SPLIT


def most_frequent(ids: Sequence[int]) -> Guess:
    """The commonest of the last tokens, for want of a match."""
    return Guess(Counter(ids[: -_RECENT - 1 : -1]).most_common(1)[0][0], 0, Agreement.SPLIT)

"""From answers to the tokens worth keeping: counts, an order, and what a number of them covers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor

from specctl.errors import RequestError

_PRIOR, _PRIOR_FROM = 0.02, 1000
"""Weight and bend of a Zipf law over ids, of the values tried the best for unseen answers of SmolLM2-135M."""


def count(answers: Iterable[Sequence[int]], vocab_size: int) -> Tensor:
    """How often each id occurs, `[vocab_size]`. Raises RequestError if there is no token at all."""
    found = torch.zeros(vocab_size, dtype=torch.int64)
    for answer in answers:
        found += torch.bincount(torch.tensor(answer, dtype=torch.int64), minlength=vocab_size)
    if not int(found.sum()):
        raise RequestError("there are no answers to count tokens in", hint="give prompts that are answered")
    return found


def expected(counts: Tensor, mass: Tensor) -> Tensor:
    """How often to expect each id in other answers, `[V]` float64: as often as it was said, or the draft held it
    likely (`mass`, its probabilities summed over the same places), and a little by its id.

    Merges of a byte-pair vocabulary are numbered by how frequent they were, so of ids nothing speaks for the lowest
    are the best guess.
    """
    share = counts / counts.sum() + _fitted(mass, len(counts)) / mass.sum().clamp(min=1)
    return share + _PRIOR / (torch.arange(len(counts)) + _PRIOR_FROM)


def ranking(weight: Tensor, must: Collection[int], rows: int) -> Tensor:
    """All ids below `rows` in the order they are kept: `must` first, then the more frequent, then the lower."""
    weight = _fitted(weight, rows)
    weight[[one for one in must if one < rows]] = weight.sum() + 1
    return weight.sort(descending=True, stable=True).indices


def _fitted(values: Tensor, rows: int) -> Tensor:
    """A copy with `rows` entries, zeros where there were none: models of one family pad differently."""
    fitted = values.new_zeros(rows)
    fitted[: len(values)] = values[:rows]
    return fitted


def covered(order: Tensor, counts: Tensor) -> Tensor:
    """Share of the counted tokens among the first 1, 2, … ids of `order`, `[len(order)]` float64."""
    inside = counts.new_zeros(max(len(order), len(counts)))
    inside[: len(counts)] = counts
    return inside[order].cumsum(0).double() / counts.sum()


def size_for(order: Tensor, counts: Tensor, wanted: float) -> int:
    """The fewest ids of `order` that cover this share. Raises RequestError if all of them do not."""
    require_share(wanted)
    shares = covered(order, counts)
    if float(shares[-1]) < wanted:
        raise RequestError(
            f"a coverage of {wanted:g} cannot be reached: the whole head covers {float(shares[-1]):.4f}",
            hint="choose less",
        )
    return int((shares >= wanted).nonzero()[0]) + 1


def require_share(wanted: float) -> None:
    """Raises RequestError for what is no share."""
    if not 0 < wanted <= 1:
        raise RequestError(f"`--coverage {wanted:g}` is not a share", hint="give a number above 0, at most 1")


def require_size(size: int, must: Collection[int], rows: int) -> None:
    """Raises RequestError for a size no head can have."""
    if not 0 < size <= rows:
        raise RequestError(f"`--size {size}` is not possible", hint=f"give a number from 1 to {rows}")
    if size < len(must):
        raise RequestError(
            f"`--size {size}` is below the {len(must)} tokens that are always kept",
            hint="ends, special tokens and those of the chat template stay; choose more",
        )


def keep(order: Tensor, size: int) -> Tensor:
    """The first `size` ids of `order`, ascending."""
    return order[:size].sort().values

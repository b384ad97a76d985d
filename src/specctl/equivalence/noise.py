"""Numeric noise of a model in a dtype on a device: how far paths of equal mathematics differ.

Only plain forwards over fresh caches are measured, never rollback: a bug must not calibrate itself into the noise.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from specctl.equivalence.rescore import Rescorer
from specctl.models import remembered
from specctl.models.lm import LM

_LONGEST = 256
_SINGLE_STEPS = 24  # positions of a text decoded one by one; that path costs a forward each
_OUTLIER = 10
_MARGIN = 2
"""Times the 99.9 % quantile. The errors' tail is thin: their largest is little above it, or it is an outlier."""


@dataclass(frozen=True, slots=True)
class Noise:
    """`eps` bounds the error of a gap between two logits, `quantiles` are those of the error. `flips` is the share
    of positions whose best token is not the re-scoring's, for noise alone.

    `worst` names the largest error if one position stands out, which must not widen the bound: then nothing can be
    said. `median_gap` is that of the re-scored top two.
    """

    eps: float
    flips: float
    positions: int
    quantiles: dict[str, float]
    largest: float
    median_gap: float
    worst: str | None = None

    @property
    def problem(self) -> str | None:
        """Why this noise cannot tell a tie from a bug."""
        if self.worst is not None:
            return f"the noise has an outlier of {self.largest:.3g} {self.worst}"
        if self.eps > self.median_gap:
            return f"the noise ({self.eps:.3g}) is larger than the median gap ({self.median_gap:.3g})"
        return None

    def most_ties(self, positions: int) -> int:
        """More ties than this are too many to be chance: the 99.99 % quantile of their Poisson law.

        Two paths are compared, and each may flip.
        """
        return poisson_quantile(2 * positions * self.flips, 0.9999)


def calibrate(
    lm: LM,
    texts: Sequence[Sequence[int]],
    rescorer: Rescorer,
    *,
    blocks: Sequence[int],
    rows: int,
    positions: int,
) -> Noise:
    """Measure on `texts` until `positions` are done; remembered for this model, dtype, device and amount.

    Paths: the whole text at once; cached blocks of each size in `blocks`, also with `rows` ragged rows; one
    token at a time. Each is compared with the wide re-scoring.
    """
    key = _fingerprint(lm, texts, blocks, rows, positions)
    known = remembered.load("noise")
    if key in known:
        return Noise(**known[key])
    errors: list[Tensor] = []
    gaps: list[Tensor] = []
    sizes: list[Tensor] = []
    places: list[str] = []
    flipped: list[Tensor] = []
    for number, text in enumerate(texts):
        ids = list(text[:_LONGEST])
        wide = rescorer.logits(ids, len(ids)).double()
        top = wide.topk(2, dim=-1)
        gaps.append(top.values[:, 0] - top.values[:, 1])
        sizes.append(top.values[:, 0].abs())
        for name, logits in _paths(lm, ids, blocks, rows):
            flipped.append(logits.argmax(dim=-1) != top.indices[: len(logits), 0])
            path = logits.double().gather(1, top.indices[: len(logits)])
            errors.append((path[:, 0] - path[:, 1] - gaps[-1][: len(logits)]).abs())
            places += [f"({name}, text {number}, position {at})" for at in range(len(logits))]
        if sum(map(len, gaps)) >= positions:
            break
    # One more flip than was seen: none among few positions does not mean never.
    flips = (int(torch.cat(flipped).sum()) + 1) / sum(map(len, flipped))
    noise = _summary(lm.dtype, torch.cat(errors), torch.cat(gaps), torch.cat(sizes), flips, places)
    remembered.add("noise", {key: asdict(noise)})
    return noise


def _paths(lm: LM, ids: list[int], blocks: Sequence[int], rows: int) -> Iterator[tuple[str, Tensor]]:
    """Name and logits `[m, vocab]` of the first m positions."""
    yield "whole", _cached(lm, ids, len(ids), 1)
    for size in blocks:
        yield f"blocks of {size}", _cached(lm, ids, size, 1)
    if rows > 1:
        yield f"{rows} rows", _cached(lm, ids, max(blocks, default=1), rows)
    yield "one by one", _cached(lm, ids[:_SINGLE_STEPS], 1, 1)


def _cached(lm: LM, ids: list[int], size: int, rows: int) -> Tensor:
    """Logits of the first row; the others are the same text, each shorter by one token, so that rows are ragged."""
    cache = lm.new_cache()
    cache.reserve(rows, len(ids) + size + lm.row_floor)
    for row in range(rows):
        cache.admit()
        if 0 < row < len(ids):
            lm.forward(cache, [ids[:row]], range(row, row + 1))
            cache.commit(row, row)
    seen = []
    for start in range(0, len(ids), size):
        block = ids[start : start + size]
        padded = block + [block[-1]] * (size - len(block))
        logits = lm.forward(cache, [padded] * rows, range(rows))
        for row in range(rows):
            cache.commit(row, size)
        seen.append(logits[0, : len(block)])
    return torch.cat(seen)


def _summary(
    dtype: torch.dtype, errors: Tensor, gaps: Tensor, sizes: Tensor, flips: float, places: list[str]
) -> Noise:
    shares = {"0.5": 0.5, "0.9": 0.9, "0.99": 0.99, "0.999": 0.999}
    ordered = errors.sort().values
    quantiles = {
        name: float(ordered[min(math.ceil(share * len(ordered)), len(ordered)) - 1])
        for name, share in shares.items()
    }
    largest = float(ordered[-1])
    size = max(float(sizes.median()), 1.0)
    ulp = torch.finfo(dtype).eps * 2.0 ** math.floor(math.log2(size))
    eps = max(_MARGIN * quantiles["0.999"], 2 * ulp)
    outlier = largest > _OUTLIER * max(quantiles["0.999"], ulp)
    return Noise(
        eps=eps,
        flips=flips,
        positions=len(gaps),
        quantiles=quantiles,
        largest=largest,
        median_gap=float(gaps.median()),
        worst=places[int(errors.argmax())] if outlier else None,
    )


def poisson_quantile(mean: float, share: float) -> int:
    """The smallest n with P(Poisson(mean) <= n) >= share.

    >>> poisson_quantile(0.0, 0.9999), poisson_quantile(1.0, 0.9999)
    (0, 6)
    """
    n, below = 0, math.exp(-mean)
    while below < share:
        n += 1
        below += math.exp(n * math.log(mean) - mean - math.lgamma(n + 1))
    return n


def _fingerprint(
    lm: LM, texts: Sequence[Sequence[int]], blocks: Sequence[int], rows: int, positions: int
) -> str:
    """A few weights stand for all: models of one configuration differ in them."""
    weights = [float(parameter.detach().flatten()[0]) for parameter in lm.module.parameters()]
    facts = {
        "model": lm.config.to_json_string(use_diff=False),
        "weights": weights,
        "dtype": str(lm.dtype),
        "device": str(lm.device),
        "attention": str(lm.config._attn_implementation),
        "packed": lm.packed is not None,
        "modules": sorted({type(module).__name__ for module in lm.module.modules()}),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "amount": [list(blocks), rows, positions, lm.row_floor, lm.fewest_rows, _MARGIN],
        "texts": [list(text) for text in texts],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

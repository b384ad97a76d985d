"""Numeric noise of a model in a dtype on a device: how far paths of equal mathematics differ."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Noise:
    """`eps` bounds the error of a gap between two logits. `near` is the share of positions with a gap below it."""

    eps: float
    near: float
    positions: int
    quantiles: dict[str, float]
    largest: float

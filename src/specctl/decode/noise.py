"""Random draws that depend on nothing but the row's key, the position and what they are for.

A shared generator would make a row's text depend on its neighbours and on how many tokens were drafted. Here
every draw has its own generator, seeded by a hash, so runs repeat on any batch and with any drafter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Stream(IntEnum):
    """What a draw is for. Two draws at one place must never share a number (vllm-ascend#16370)."""

    TARGET = 0
    DRAFT = 1
    ACCEPT = 2
    RESIDUAL = 3


class Place(NamedTuple):
    """Where a draw happens: the row's key and the absolute position of the token it decides."""

    key: int
    position: int


class Draws(Protocol):
    """The only source of randomness in decoding; an enumerator can stand in for it."""

    def accept(self, probability: Tensor, at: Sequence[Place]) -> Tensor:
        """One coin a place: `probability` `[n]` to bool `[n]`."""

    def sample(self, probs: Tensor, at: Sequence[Place], stream: Stream) -> Tensor:
        """One token a place: `probs` `[n, vocab]`, not necessarily normalised, to int64 `[n]`."""


class KeyedDraws:
    """`Draws` from torch's CPU generator, so that a seed means the same numbers on every device."""

    def __init__(self) -> None:
        self._generator = torch.Generator()

    def accept(self, probability: Tensor, at: Sequence[Place]) -> Tensor:
        coins = [
            torch.rand((), dtype=torch.float64, generator=self._seeded(place, Stream.ACCEPT)) for place in at
        ]
        # Compared on the CPU: not every device has float64.
        return (torch.stack(coins) < probability.cpu().double()).to(probability.device)

    def sample(self, probs: Tensor, at: Sequence[Place], stream: Stream) -> Tensor:
        # Exponential races: argmax(p / E) draws from p, and the same E with another p' draws from p' as
        # close to it as one number allows; that is what couples draft and target (arXiv:2408.07978).
        waits = torch.empty(probs.shape, dtype=probs.dtype)
        for row, place in enumerate(at):
            waits[row].exponential_(generator=self._seeded(place, stream))
        # Some of torch's generators return 0 once in 2**24 numbers, and 0 / 0 would win over every token.
        waits.clamp_(min=torch.finfo(probs.dtype).tiny)
        return (probs / waits.to(probs.device)).argmax(dim=-1)

    def _seeded(self, place: Place, stream: Stream) -> torch.Generator:
        text = f"{place.key}:{place.position}:{int(stream)}".encode()
        digest = hashlib.blake2b(text, digest_size=8).digest()
        self._generator.manual_seed(int.from_bytes(digest, "big") >> 1)
        return self._generator

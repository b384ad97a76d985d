"""Verification of a subject against the reference decoder."""

from __future__ import annotations

from collections.abc import Sequence

from specctl.decode.draft import Request
from specctl.equivalence.noise import Noise
from specctl.equivalence.report import SequenceReport
from specctl.equivalence.subject import Subject


def verify_greedy(
    subject: Subject, requests: Sequence[Request], *, batch_size: int, noise: Noise | None, audit: float
) -> list[SequenceReport]:
    """Decode the requests and account for every token, in their order.

    `noise` None tolerates nothing: tokens, logits and caches have to be equal bit for bit. `audit` is the share
    of rounds whose caches are rebuilt from a copy.
    """
    raise NotImplementedError

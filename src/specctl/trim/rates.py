"""Tokens a second of whole answers, with heads of several sizes in turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from specctl.decode.stats import Stats
from specctl.models.lm import LM
from specctl.session import Request, Session
from specctl.trim.curve import Point


def measured(
    session: Session,
    drafts: dict[int, LM],
    points: Sequence[Point],
    prompts: Sequence[tuple[int, ...]],
    max_new_tokens: int,
) -> list[Point]:
    """The points with tokens/s, prefill apart; `drafts` by the size of their heads.

    Sizes take turns prompt by prompt: a machine's speed drifts more than they differ.
    """
    asked = [Request(prompt, max_new_tokens) for prompt in prompts]
    stats = [Stats() for _ in points]
    for number, request in enumerate(asked):
        for turn in range(len(points)):
            at = (turn + number) % len(points)
            for event in replace(session, draft=drafts[points[at].size]).generate([request]):
                stats[at].add(event)
    return [replace(point, measured=one.tokens_per_s) for point, one in zip(points, stats, strict=True)]

"""Tokens a second of whole answers, with heads of several sizes in turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from specctl.decode.stats import Stats
from specctl.models import trimmed
from specctl.session import Request, Session
from specctl.trim import counts
from specctl.trim.curve import Point
from specctl.trim.job import Plan


def measured(
    session: Session, points: Sequence[Point], made: Plan, n_prompts: int, max_new_tokens: int
) -> list[Point]:
    """The points with tokens/s, prefill apart, on prompts that were not counted. The session drafts.

    Sizes take turns prompt by prompt: a machine's speed drifts more than they differ.
    """
    assert session.draft is not None
    heads = [
        trimmed.trimmed(session.draft, trimmed.cut(session.draft, counts.keep(made.judging, point.size)))
        for point in points
    ]
    asked = [Request(one.prompt, max_new_tokens) for one in made.held_out if one.prompt][:n_prompts]
    stats = [Stats() for _ in points]
    for number, request in enumerate(asked):
        for turn in range(len(points)):
            at = (turn + number) % len(points)
            for event in replace(session, draft=heads[at]).generate([request]):
                stats[at].add(event)
    return [replace(point, measured=one.tokens_per_s) for point, one in zip(points, stats, strict=True)]

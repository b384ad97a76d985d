"""A first divergence as a person can read it."""

from __future__ import annotations

from collections.abc import Sequence

from specctl.decode.draft import Request
from specctl.equivalence.reference import decode_plainly
from specctl.equivalence.report import Context, SequenceReport
from specctl.equivalence.subject import Subject

_TOKENS = 12


def context(
    subject: Subject, requests: Sequence[Request], sequences: Sequence[SequenceReport]
) -> Context | None:
    """The first divergence that is no tie, else the first tie; text on both sides of it."""
    found = [
        (request, report, one)
        for request, report in zip(requests, sequences, strict=True)
        for one in report.divergences
    ]
    if not found:
        return None
    request, report, one = min(found, key=lambda entry: entry[2].certified)
    shared = [*request.prompt, *report.tokens[: one.index]]
    rest = Request((*shared, one.ar_token), _TOKENS - 1, request.seed)
    reference = [one.ar_token, *decode_plainly(subject.target, rest, subject.rules).tokens]
    return Context(
        report.id,
        one,
        subject.rules.render(shared[-2 * _TOKENS :]),
        subject.rules.render(reference),
        subject.rules.render(report.tokens[one.index : one.index + _TOKENS]),
    )

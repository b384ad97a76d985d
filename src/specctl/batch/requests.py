"""Prompts of a file made ready for a session, and the fingerprint of what is asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from specctl.batch.output import fingerprint
from specctl.batch.prompts import BadLine, Prompt
from specctl.errors import RequestError
from specctl.profile.schema import Profile, effective
from specctl.session import Request, Session


def encode(
    session: Session, prompts: Sequence[Prompt], *, raw: bool
) -> tuple[list[Prompt], list[Request], list[BadLine]]:
    """The prompts that fit, as requests, and those that do not. The default seed is the profile's, as in `run`."""
    fitting: list[Prompt] = []
    requests: list[Request] = []
    bad: list[BadLine] = []
    for prompt in prompts:
        try:
            ids = _ids(session, prompt, raw)
        except RequestError as error:
            bad.append(BadLine(prompt.line, error.message))
            continue
        fitting.append(prompt)
        requests.append(_request(session.profile, prompt, ids))
    return fitting, requests, bad


def job(profile: Profile, models: Sequence[str], prompts: Sequence[Prompt], *, raw: bool) -> str:
    """What decides the answers. Batch size and schedule do not, so a run may go on with others."""
    settings = {key: value for key, value in effective(profile).items() if key != "about"}
    return fingerprint([settings, list(models), raw, [asdict(prompt) for prompt in prompts]])


def _ids(session: Session, prompt: Prompt, raw: bool) -> tuple[int, ...]:
    if prompt.messages:
        return session.encode_messages([{"role": role, "content": text} for role, text in prompt.messages])
    return session.encode(prompt.text, system=None if raw else session.profile.system, raw=raw)


def _request(profile: Profile, prompt: Prompt, ids: tuple[int, ...]) -> Request:
    return Request(
        ids,
        prompt.max_new_tokens or profile.max_new_tokens,
        profile.sampling.seed if prompt.seed is None else prompt.seed,
        tuple(profile.stop) if prompt.stop is None else prompt.stop,
    )

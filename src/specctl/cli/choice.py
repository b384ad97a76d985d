"""Which models a profile means, by the store's registry."""

from __future__ import annotations

from dataclasses import dataclass

from specctl.errors import PairError, RequestError
from specctl.profile.schema import Profile
from specctl.store import fetch
from specctl.store.registry import Model


@dataclass(frozen=True, slots=True)
class Choice:
    """`pair` is the registry's name, if it was chosen by one; `draft` is None unless a model drafts."""

    pair: str | None
    target: Model
    draft: Model | None

    @property
    def models(self) -> tuple[Model, ...]:
        return (self.target,) if self.draft is None else (self.target, self.draft)


def choose(profile: Profile) -> Choice:
    """Raises RequestError for a name nobody knows, PairError for a pair without the draft it needs."""
    pair = fetch.resolve(profile.pair or profile.target or "")
    draft = None
    if profile.drafter.takes_draft:
        named = profile.draft.model if profile.draft else None
        draft = fetch.resolve(named).target if named else pair.draft
        if draft is None and profile.drafter.uses_draft:
            raise PairError(
                f"pair `{profile.pair}` has no draft model, and method `{profile.drafter.method}` needs one",
                hint="give --draft, or a profile with another method, such as `ngram`",
            )
    return Choice(profile.pair, pair.target, draft)


def problems(profile: Profile) -> list[str]:
    """What the registry has against a profile that is well-formed."""
    try:
        choose(profile)
    except RequestError as error:
        return [error.message + (f" ({error.hint})" if error.hint else "")]
    return []

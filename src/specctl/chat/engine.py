"""What a chat asks of whatever generates. The screens know this and nothing of models."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from specctl.decode.prompt import Message
from specctl.errors import RequestError
from specctl.events import Event
from specctl.profile.schema import Profile
from specctl.store.progress import Progress


@dataclass(frozen=True, slots=True)
class Offer:
    """A pair one can chat with. `bytes` is its size, None if nobody knows."""

    name: str
    about: str
    bytes: int | None
    on_disk: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """What was loaded, as it is in force. `notes` are to be shown to the user."""

    target: str
    draft: str | None
    device: str
    dtype: str
    exact: bool
    context_length: int
    notes: tuple[str, ...] = ()


class ContextFull(RequestError):
    """The conversation leaves no room for an answer. `drop`: how many of the oldest exchanges are too many; 0 if
    the prompt alone is."""

    def __init__(self, tokens: int, limit: int, drop: int) -> None:
        super().__init__(
            f"the conversation has {tokens} tokens, the context holds {limit}",
            hint="drop the oldest exchanges, or /clear" if drop else "shorten the prompt",
        )
        self.tokens = tokens
        self.limit = limit
        self.drop = drop


class Engine(Protocol):
    """Every call blocks, so it is made in a thread, and never two at once.

    All but `offers` and `missing` raise SpecctlError.
    """

    def offers(self) -> list[Offer]:
        """The pairs there are."""

    def missing(self, profile: Profile) -> bool:
        """Whether models of the profile have to be fetched first."""

    def open(self, profile: Profile, progress: Progress) -> Ready:
        """Fetch what is missing and load; what is loaded already, and its cache, stays."""

    def reply(
        self,
        messages: Sequence[Message],
        *,
        plain: bool = False,
        attempt: int = 0,
        cancelled: Callable[[], bool],
    ) -> Generator[Event, None, None]:
        """Answer the last message, without drafts if `plain`; ends within a round once `cancelled` is true.

        `attempt` counts retries: each has another seed. Raises ContextFull.
        """

    def baseline(self) -> float | None:
        """Plain tokens/s of what is loaded, if it was ever measured here."""

    def probe(self, cancelled: Callable[[], bool]) -> float | None:
        """Measure and remember the baseline; None if it was cancelled."""

"""The engine of a chat on this machine: one session at a time, its models and cache kept across profiles."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from specctl.chat import baseline
from specctl.chat.engine import ContextFull, Offer, Ready
from specctl.decode.prompt import Message
from specctl.errors import MachineError, RequestError, is_out_of_memory
from specctl.events import Event
from specctl.models.lm import LM
from specctl.profile.drafters import NoneParams
from specctl.profile.schema import Profile
from specctl.session import Request, Session
from specctl.store import fetch, registry
from specctl.store.progress import Progress

LEAST_ROOM = 32
"""Tokens of context that have to be left for an answer."""

_PROBE = "Write the numbers from one to fifty."

Opener = Callable[[Profile, Progress, LM | None], tuple[Session, Sequence[str]]]


class LocalEngine:
    """`opener` finds or fetches a profile's models, checks and loads them; it is handed a target to reuse.

    `missing` says whether it would have to fetch.
    """

    def __init__(self, opener: Opener, missing: Callable[[Profile], bool]) -> None:
        self._opener = opener
        self.missing = missing
        self._session: Session | None = None

    def offers(self) -> list[Offer]:
        found = []
        for pair in registry.pairs().values():
            sizes = [model.bytes for model in pair.models]
            total = None if None in sizes else sum(size or 0 for size in sizes)
            on_disk = all(fetch.find(model) is not None for model in pair.models)
            found.append(Offer(pair.name, pair.about, total, on_disk))
        return found

    def open(self, profile: Profile, progress: Progress) -> Ready:
        before = self._session
        reused = before.target if before is not None and _loads_alike(before.profile, profile) else None
        if reused is None:
            self._session = None  # make room before the next model is loaded
        with _out_of_memory(), _out_of_the_collectors_way():
            session, notes = self._opener(profile, progress, reused)
        if before is not None and session.target is before.target:
            session.kept = before.kept
        self._session = session
        info = session.info
        said = (*notes, *(note for note in (info.numerics_note, info.draft_note) if note))
        context = session.target.context_length
        return Ready(info.target, info.draft, info.device, info.dtype, info.exact, context, said)

    def reply(
        self,
        messages: Sequence[Message],
        *,
        plain: bool = False,
        attempt: int = 0,
        cancelled: Callable[[], bool],
    ) -> Generator[Event, None, None]:
        session = self._plain() if plain else self._opened
        prompt = self._fitting(session, messages)
        profile = session.profile
        seed = profile.sampling.seed + attempt
        request = Request(prompt, profile.max_new_tokens, seed, tuple(profile.stop))
        with _out_of_memory():
            try:
                yield from session.reply(request, cancelled=cancelled)
            finally:
                self._opened.kept = session.kept

    def baseline(self) -> float | None:
        return baseline.load(self._key)

    def probe(self, cancelled: Callable[[], bool]) -> float | None:
        session = self._plain()
        ids = session.encode(_PROBE, system=None, raw=not session.tokenizer.chat_template)
        with _out_of_memory():
            events = list(session.generate([Request(ids, baseline.PROBE_TOKENS)], cancelled=cancelled))
        speed = None if cancelled() else baseline.of_events(events)
        if speed is not None:
            baseline.save(self._key, speed)
        return speed

    @property
    def _opened(self) -> Session:
        if self._session is None:
            raise RequestError("no model is loaded", hint="choose one with /profile")
        return self._session

    @property
    def _key(self) -> str:
        import torch

        info = self._opened.info
        facts = (
            info.target,
            info.device,
            info.dtype,
            info.numerics,
            torch.get_num_threads(),
            torch.__version__,
        )
        return " ".join(map(str, facts))

    def _plain(self) -> Session:
        """The same models and rules without drafts."""
        session = self._opened
        changes = {"name": "plain", "drafter": NoneParams(method="none"), "draft": None}
        return replace(session, profile=session.profile.model_copy(update=changes))

    def _fitting(self, session: Session, messages: Sequence[Message]) -> tuple[int, ...]:
        limit = session.target.context_length
        ids = session.tokens(messages)
        if len(ids) + LEAST_ROOM <= limit:
            return ids
        system = [message for message in messages[:1] if message["role"] == "system"]
        turns = messages[len(system) :]
        drop = 1
        while 2 * drop < len(turns):
            if len(session.tokens([*system, *turns[2 * drop :]])) + LEAST_ROOM <= limit:
                break
            drop += 1
        raise ContextFull(len(ids), limit, min(drop, len(turns) // 2))


def _loads_alike(one: Profile, other: Profile) -> bool:
    """Whether both mean the same target in the same form."""
    names = ("pair", "target", "dtype", "device", "numerics")
    return all(getattr(one, name) == getattr(other, name) for name in names)


@contextmanager
def _out_of_the_collectors_way() -> Iterator[None]:
    """What is there at the end stays: looking through all of it again and again would halt keys and answers."""
    gc.unfreeze()
    yield
    gc.collect()
    gc.freeze()


@contextmanager
def _out_of_memory() -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise MachineError(
            "out of memory", hint="try /set max_new_tokens 128, /clear, or a smaller pair"
        ) from error

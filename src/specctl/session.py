"""Models, drafter and rules put together for a profile: what every command generates with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic_ns
from typing import Any

import torch

from specctl import __version__
from specctl.decode.accept import ACCEPTORS
from specctl.decode.draft import Drafter, Parts, Request, build_drafter
from specctl.decode.loop import Rules, decode
from specctl.decode.prompt import Message, encode_chat, encode_messages, encode_raw
from specctl.decode.sampling import Law, Sampler
from specctl.decode.schedules import DEFAULT, DEFAULT_WINDOW
from specctl.decode.target import Kept, Target
from specctl.decode.text import annotate, render
from specctl.errors import RequestError
from specctl.events import Emitted, Event, Prefilled, Started
from specctl.mirror.worker import Worker
from specctl.models import costs
from specctl.models.cheap import packed
from specctl.models.costs import Costs
from specctl.models.lm import LM
from specctl.models.load import load, load_tokenizer
from specctl.models.numerics import invariant_floor
from specctl.models.rows import fewest_rows
from specctl.opening import open_draft, open_worker
from specctl.profile.schema import Profile

__all__ = ["Message", "Request", "Session", "SessionInfo", "open_session"]


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What is in force, after `auto` and fallbacks. The notes say why a wish was not met."""

    target: str
    draft: str | None
    device: str
    dtype: str
    numerics: str
    numerics_note: str | None
    draft_note: str | None
    accept: str
    exact: bool


@dataclass(slots=True)
class Session:
    """Loaded models and a profile. Each `generate` starts from empty caches, each `reply` from the last one's."""

    profile: Profile
    info: SessionInfo
    tokenizer: Any
    target: LM
    draft: LM | None
    eos: frozenset[int]
    costs: Costs | None = None
    kept: Kept | None = field(default=None, repr=False, compare=False)
    worker: Worker | None = field(default=None, repr=False, compare=False)

    def encode(self, prompt: str, *, system: str | None, raw: bool) -> tuple[int, ...]:
        """Prompt to token ids, by the model's chat template or as it stands.

        Raises RequestError for an empty prompt, one that does not fit the context, or a missing template.
        """
        ids = encode_raw(self.tokenizer, prompt) if raw else encode_chat(self.tokenizer, prompt, system)
        return self._fitting(ids)

    def encode_messages(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """A conversation to token ids, ready for the next answer. Raises RequestError as `encode` does."""
        return self._fitting(encode_messages(self.tokenizer, messages))

    def _fitting(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        if len(ids) >= self.target.context_length:
            raise RequestError(
                f"the prompt has {len(ids)} tokens, the context of `{self.info.target}` only "
                f"{self.target.context_length}",
                hint="shorten the prompt",
            )
        return ids

    def tokens(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """A conversation to token ids, however many. Raises RequestError for what the template refuses."""
        return encode_messages(self.tokenizer, messages)

    def generate(
        self,
        requests: Sequence[Request],
        *,
        batch_size: int = 1,
        schedule: str = DEFAULT,
        window: int = DEFAULT_WINDOW,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Event]:
        """Decode the requests by the profile, at most `batch_size` at once; the events carry text.

        The first one is `Started`. `window` is how many rows schedule `exspec` chooses a batch from.
        """
        rules = replace(self.rules(self.sampler(), batch_size), schedule=schedule, window=window)
        _, events = self._decode(requests, rules, cancelled, None)
        yield self._started(len(requests))
        yield from events

    def reply(self, request: Request, *, cancelled: Callable[[], bool] = lambda: False) -> Iterator[Event]:
        """Like `generate` for one request; what its prompt shares with the last one and its answer is not
        computed again, whatever profile that was under.

        The target's cache lives on until the next `reply`.
        """
        kept, self.kept = self.kept, None
        target, events = self._decode([request], self.rules(self.sampler()), cancelled, kept)
        yield self._started(1)
        ids = list(request.prompt)
        for event in events:
            # Only a cache that the prompt has gone into completely is worth keeping.
            if isinstance(event, Prefilled):
                self.kept = Kept(target.cache, ids)
            elif isinstance(event, Emitted):
                ids.extend(event.tokens)
            yield event

    def _decode(
        self,
        requests: Sequence[Request],
        rules: Rules,
        cancelled: Callable[[], bool],
        kept: Kept | None,
    ) -> tuple[Target, Iterator[Event]]:
        drafter = self.drafter(rules.sampler, rules.batch_size)
        first = requests[: rules.batch_size]
        longest = max(len(one.prompt) + one.max_new_tokens for one in first)
        capacity = min(longest, self.target.context_length) + 1
        target = self.make_target(len(first), capacity, drafter.needs, kept)
        events = decode(target, drafter, requests, rules, cancelled=cancelled)
        return target, annotate(_beside(self.worker, events), self.tokenizer, requests)

    def make_target(
        self, slots: int, capacity: int, needs: frozenset[int], kept: Kept | None = None
    ) -> Target:
        """The target with room for `slots` rows of `capacity` tokens, on the kept cache if there is one."""
        return Target(self.target, slots=slots, capacity=capacity, captures=needs, kept=kept)

    def sampler(self) -> Sampler:
        """The profile's law of the next token, with keyed noise."""
        wish = self.profile.sampling
        law = Law(wish.temperature, wish.top_k, wish.top_p, wish.min_p, wish.repetition_penalty)
        return Sampler.keyed(law, coupled=self.info.accept == "coupled")

    def drafter(self, sampler: Sampler, rows: int = 1) -> Drafter:
        """The profile's drafter with empty caches, for rounds of up to `rows`."""
        self.weigh(rows)
        if self.worker is not None and self.worker.gone is not None:
            self.worker = Worker(self.worker.recipe)  # until it has loaded, drafts are made in place
        parts = Parts(self.target, self.draft, sampler, self.eos, self.costs, rows, self.worker)
        return build_drafter(_looking(self.profile), parts)

    def weigh(self, rows: int) -> None:
        """Measure what forwards of up to `rows` cost, if the drafter goes by it and it is not known yet."""
        if self.profile.drafter.weighs_costs and (self.costs is None or self.costs.lack(rows)):
            self.costs = costs.of(self.target, self.draft, rows=rows)

    def rules(self, sampler: Sampler, batch_size: int = 1) -> Rules:
        return Rules(
            accept=ACCEPTORS[self.info.accept],
            sampler=sampler,
            eos=self.eos,
            context_length=self.target.context_length,
            render=lambda tokens: render(self.tokenizer, tokens),
            batch_size=batch_size,
            probabilities=self.profile.probabilities,
        )

    def _started(self, rows: int) -> Started:
        info, profile = self.info, self.profile
        return Started(
            t_ns=monotonic_ns(),
            tool=f"specctl {__version__}",
            profile=profile.name,
            target=info.target,
            draft=info.draft,
            device=info.device,
            dtype=info.dtype,
            numerics=info.numerics,
            accept=info.accept,
            exact=info.exact,
            seed=profile.sampling.seed,
            rows=rows,
            settings={
                "drafter": profile.drafter.model_dump(),
                "draft": profile.draft.model_dump() if profile.draft else None,
                "sampling": profile.sampling.model_dump(),
                "max_new_tokens": profile.max_new_tokens,
            },
        )


def open_session(
    profile: Profile,
    target_dir: Path,
    draft_dir: Path | None,
    *,
    target_name: str,
    draft_name: str | None,
    target: LM | None = None,
) -> Session:
    """Load the models and settle numerics. Raises the errors of `models/load.py`.

    `target` is the target if it is loaded already, the way the profile asks for.
    """
    native = profile.numerics == "native"
    if target is None:
        loaded = load(target_dir, name=target_name, dtype=profile.dtype, device=profile.device, native=native)
        target = packed(loaded)
    worker = open_worker(profile, target, draft_dir or target_dir, draft_name)
    draft, draft_note = open_draft(profile, target, target_dir, draft_dir, draft_name)
    with _threads_left(worker):
        note = None if native else _settle_numerics(target)
        if target.packed is not None:
            target.fewest_rows = fewest_rows(target)
    if draft is not None and draft.reads and not draft.twin:
        draft.row_floor = target.row_floor  # its states come from the target, so its drafts repeat as well
    info = SessionInfo(
        target=target_name,
        draft=None if draft is None else draft.name,
        device=str(target.device),
        dtype=str(target.dtype).removeprefix("torch."),
        numerics="native" if native or note else "invariant",
        numerics_note=note,
        draft_note=draft_note,
        accept="greedy" if profile.sampling.temperature == 0 else profile.accept,
        exact=True,
    )
    if worker is not None and not worker.started():
        info = replace(info, draft_note="the draft's worker did not start: drafts are made in place")
    tokenizer = load_tokenizer(target_dir)
    session = Session(profile, info, tokenizer, target, draft, _end_tokens(target, tokenizer), worker=worker)
    session.weigh(1)
    return session


@contextmanager
def _threads_left(worker: Worker | None) -> Iterator[None]:
    """The target computes with the threads a worker leaves, one at least, so both have cores of their own."""
    whole = torch.get_num_threads()
    if worker is not None:
        torch.set_num_threads(max(whole - worker.recipe.threads, 1))
    try:
        yield
    finally:
        torch.set_num_threads(whole)


def _beside(worker: Worker | None, events: Iterator[Event]) -> Iterator[Event]:
    """Decoding with the threads that are left."""
    with _threads_left(worker):
        yield from events


def _looking(profile: Profile) -> Any:
    """The drafter's settings; where probabilities are asked for, one that need not look at its own looks."""
    params = profile.drafter
    if profile.probabilities and getattr(params, "min_confidence", 0.0) is None:
        return params.model_copy(update={"min_confidence": 0.0})
    return params


def _settle_numerics(target: LM) -> str | None:
    """Give the target the row floor the self-test found; a sentence if it has none. A draft needs none."""
    floor = invariant_floor(target)
    if floor is None:
        return (
            f"`invariant` numerics do not hold for `{target.name}` in {target.dtype} here; "
            "near-ties may fall differently from plain decoding"
        )
    target.row_floor = floor
    return None


def _end_tokens(target: LM, tokenizer: Any) -> frozenset[int]:
    """Every id that ends an answer: of the generation config, the model config and the tokenizer."""
    found: set[int] = set()
    generation = getattr(target.module, "generation_config", None)
    for listed in (
        getattr(generation, "eos_token_id", None),
        target.config.eos_token_id,
        tokenizer.eos_token_id,
    ):
        found.update([] if listed is None else [listed] if isinstance(listed, int) else listed)
    return frozenset(found)

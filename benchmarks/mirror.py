"""Mirror-SD on real prompts: hit rates by slot and category, time hidden, and modelled speedups.

    python benchmarks/mirror.py QUESTIONS --pair qwen2.5-coder-1.5b --per-category 1 --branches 20 --count
    python benchmarks/mirror.py QUESTIONS --pair qwen2.5-coder-1.5b --per-category 2
    python benchmarks/mirror.py QUESTIONS --overlap worker
    python benchmarks/mirror.py QUESTIONS --count --devices a.yaml --devices b.yaml
    python benchmarks/mirror.py QUESTIONS --kills 20

Every prompt is answered by plain decoding, by the draft model and by Mirror in turns, greedily. With overlap `none`
(the default) seconds of two devices are modelled: as fast as this one, or as a YAML table says; and what other
weights of the exit, and fewer branches, would have hit is counted: hits change nothing of what is drafted.
`--count` leaves out the draft model and all times.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Timer
from time import perf_counter, sleep
from typing import Any

import yaml

from specctl.decode.draft import Key, Request
from specctl.decode.stats import Stats
from specctl.events import Branched, Drafted, Event, Mirrored, Verified
from specctl.mirror import writer
from specctl.mirror.outcomes import Guess, choose
from specctl.mirror.predict import Devices, predict, recorded
from specctl.profile import override, read
from specctl.profile.schema import effective
from specctl.session import Session, open_session
from specctl.store import fetch
from specctl.trim import gather

TRUSTS = {"exit alone": 1.0, "draft alone": 0.0}
BRANCHES = (1, 2, 4, 8, 16)


@dataclass
class Seen:
    """A category's answers by each method, and Mirror's recorded events. `others`: hits of other choices."""

    stats: dict[str, Stats] = field(default_factory=lambda: defaultdict(Stats))
    recordings: list[list[Event]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    equal: int = 0
    n: int = 0

    @property
    def mirrored(self) -> list[Mirrored]:
        return [event for events in self.recordings for event in events if isinstance(event, Mirrored)]


class Choices:
    """Stands for `choose`, and keeps what it would have chosen otherwise; one entry a drafted round."""

    def __init__(self) -> None:
        self.made: list[dict[str, list[Key]]] = []

    def __call__(
        self, draft: Sequence[int], guesses: Sequence[tuple[Guess, float]], candidates: int, branches: int
    ) -> list[Key]:
        (exit_, _), (own, _) = guesses
        found = choose(draft, guesses, candidates, branches)
        other = {
            name: choose(draft, [(exit_, trust), (own, 1 - trust)], candidates, branches)
            for name, trust in TRUSTS.items()
        }
        other |= {f"{n} branches": found[:n] for n in BRANCHES if n < branches}
        self.made.append(other)
        return found

    def hits(self, events: Sequence[Event]) -> Counter[str]:
        """How often each other choice held the verdict, where another draft was needed; forgets them."""
        found: Counter[str] = Counter()
        left, drafted, verdict = iter(self.made), False, (0, 0)
        for event in events:
            match event:
                case Drafted():
                    drafted = bool(event.tokens)
                case Verified():
                    verdict = (event.accepted, event.bonus)
                case Branched() if drafted:
                    other = next(left)
                    found.update(
                        name for name, keys in other.items() if event.hit is not None and verdict in keys
                    )
        self.made = []
        return found


def answer(session: Session, request: Request, stats: Stats) -> tuple[list[int], list[Event]]:
    tokens: list[int] = []
    events = []
    for event in session.generate([request]):
        stats.add(event)
        events.append(event)
        tokens += getattr(event, "tokens", ()) if event.kind == "emitted" else ()
    return tokens, events


def show(name: str, seen: Seen, tables: dict[str, Devices], count: bool) -> None:
    mirror, draft, plain = (seen.stats[method] for method in ("mirror", "draft", "plain"))
    tally = mirror.mirror
    summary = tally.summary()
    slots = " ".join(f"{slot}:{hits}/{n}" for slot, (hits, n) in summary["hits_by_slot"].items())
    rate = f"{tally.hits / tally.tried:.2f}" if tally.tried else "-"
    print(f"{name:22} {seen.equal}/{seen.n} equal  hit rate {rate}  by slot {slots}")
    if seen.others and name == "all":
        others = ", ".join(f"{other} {hits / tally.tried:.2f}" for other, hits in seen.others.items())
        print(f"{'':22} other choices for these rounds: {others}")
    for table, devices in tables.items():
        found = [predict(recorded(events), devices) for events in seen.recordings]
        plain_s, draft_s, mirror_s = (
            sum(getattr(one, what) for one in found) for what in ("plain", "draft_model", "mirror")
        )
        print(
            f"{'':22} modelled, {table}: {plain_s / mirror_s:.2f} x plain, "
            f"{draft_s / mirror_s:.2f} x the draft model"
        )
    if count:
        return
    print(
        f"{'':22} measured: {plain.decode_s / mirror.decode_s:.2f} x plain, "
        f"draft model {plain.decode_s / draft.decode_s:.2f} x plain; "
        f"branches hidden {tally.hidden or 0:.0%} ({summary['hidden_is']}); in place {tally.in_place} rounds"
    )
    short = [one for one in seen.mirrored if 0 < one.ahead_s <= one.upper_s]
    if short:
        waited, ahead = (sum(getattr(one, what) for one in short) for what in ("waited_s", "ahead_s"))
        hidden = 1.0 if tally.modelled_s else 1 - waited / ahead
        print(
            f"{'':22} branches no longer than the upper layers in {len(short)} of {len(seen.mirrored)} rounds, "
            f"{hidden:.0%} of them hidden there"
        )
    if tally.modelled_s:
        print(
            f"{'':22} modelled, two devices like this one: {plain.decode_s / tally.modelled_s:.2f} x plain, "
            f"{draft.decode_s / tally.modelled_s:.2f} x the draft model"
        )


def kills(session: Session, request: Request, n: int) -> None:
    """Kill the worker at random moments of an answer, whatever it is doing; the answer has to stay what it is."""
    begun = perf_counter()
    expected, events = answer(session, request, Stats())
    rounds = sum(isinstance(event, Drafted) for event in events)
    round_s = (perf_counter() - begun) / rounds
    equal = 0
    for seed in range(n):
        assert session.worker is not None
        luck = random.Random(seed)
        at, stats = luck.randrange(1, rounds), Stats()
        tokens: list[int] = []
        killer = Timer(luck.uniform(0, round_s), os.kill, (session.worker.pid, signal.SIGKILL))
        for event in session.generate([request]):
            stats.add(event)
            tokens += event.tokens if event.kind == "emitted" else ()
            if isinstance(event, Drafted) and event.round == at:
                killer.start()
        seen = "" if session.worker.gone else ", seen after its end"
        print(
            f"killed {1e3 * killer.interval:.0f} ms into round {at}: equal {tokens == expected}, "
            f"{stats.mirror.in_place} of {stats.mirror.rounds} rounds in place{seen}"
        )
        equal += tokens == expected
        killer.join()
        while session.worker.ready:  # until it is known to be dead
            sleep(0.01)
        session.drafter(session.sampler())  # starts another worker
        session.worker.started()
    print(f"{equal} of {n} answers equal")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("questions", type=Path)
    parser.add_argument("--pair", default="smollm2-135m")
    parser.add_argument("--per-category", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=10**6, help="at most so many in all")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--overlap", default="none")
    parser.add_argument("--exit", type=int)
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--branches", type=int, default=8)
    parser.add_argument("--draft-tokens", type=int, default=4)
    parser.add_argument("--devices", type=Path, action="append", default=[])
    parser.add_argument("--streams", help="`shipped`, or a folder of `specctl train streams`")
    parser.add_argument("--trust", type=float, default=0.05)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--count", action="store_true", help="hit rates only")
    args = parser.parse_args()

    settings: dict[str, Any] = {
        "method": "mirror",
        "overlap": "worker" if args.kills else args.overlap,
        "exit": args.exit,
        "candidates": args.candidates,
        "trust": args.trust,
        "branches": args.branches,
        "draft_tokens": args.draft_tokens,
    }
    profile = override.merge(read.load("mirror"), {"pair": args.pair, "drafter": settings})
    plainly = profile
    if args.streams:
        profile = override.recorded({**effective(profile), "draft": {"streams": args.streams}}, "mirror")
    pair = fetch.resolve(args.pair)
    folder, draft = fetch.find(pair.target), fetch.find(pair.draft) if pair.draft else None
    assert folder is not None, f"run `specctl pull {args.pair}` first"
    names = {"target_name": pair.target.name, "draft_name": pair.draft.name if pair.draft else None}
    session = open_session(profile, folder, draft, **names)
    drafting = {"method": "mirror", "candidates": 0, "draft_tokens": args.draft_tokens}
    others = {
        "plain": replace(
            session, profile=override.merge(plainly, {"drafter": {"method": "none"}}), worker=None
        ),
        "draft": replace(session, profile=override.merge(profile, {"drafter": drafting}), worker=None),
    }
    tables = {path.stem: Devices.from_table(yaml.safe_load(path.read_text())) for path in args.devices}
    if session.draft is not None and session.draft.streams is not None:
        said = len(session.draft.streams)
        tables = {name: replace(one, draft=replace(one.draft, streams=said)) for name, one in tables.items()}
    choices = Choices()
    if session.worker is None:
        writer.choose = choices
    found: dict[str, Seen] = defaultdict(Seen)
    total = Seen()
    for entry in gather.entries(args.questions):
        seen = found[entry.category]
        if seen.n >= args.per_category or total.n >= args.prompts or len(entry.prompt) > 4000:
            continue
        request = Request(session.encode(entry.prompt, system=None, raw=False), args.new_tokens)
        if args.kills:
            kills(session, request, args.kills)
            return
        plain, _ = answer(others["plain"], request, Stats())  # and everything is warm
        for one in (seen, total):
            one.n += 1
        for name, other in (("mirror", session),) if args.count else (*others.items(), ("mirror", session)):
            choices.made.clear()
            tokens, events = answer(other, request, seen.stats[name])
            for event in events:
                total.stats[name].add(event)
        more = choices.hits(events) if session.worker is None else Counter[str]()
        for one in (seen, total):
            one.equal += tokens == plain
            one.recordings.append(events)
            one.others.update(more)
        print(f"{total.n} answered", file=sys.stderr)
    for name, seen in [*found.items(), ("all", total)]:
        if seen.n:
            show(name, seen, tables, args.count)


if __name__ == "__main__":
    main()

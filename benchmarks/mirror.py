"""Mirror-SD on real prompts: hit rates by slot and category, time hidden, and modelled speedups.

    python benchmarks/mirror.py QUESTIONS --pair qwen2.5-coder-1.5b --per-category 2
    python benchmarks/mirror.py QUESTIONS --overlap worker
    python benchmarks/mirror.py QUESTIONS --devices devices.yaml
    python benchmarks/mirror.py QUESTIONS --kills 20

Every prompt is answered by plain decoding, by the draft model and by Mirror in turns, greedily. With overlap `none`
(the default) seconds of two devices are modelled: as fast as this one, or as a YAML table says.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from specctl.decode.draft import Request
from specctl.decode.stats import Stats
from specctl.events import Event, Timed
from specctl.mirror.predict import Devices, predict, recorded
from specctl.profile import override, read
from specctl.session import Session, open_session
from specctl.store import fetch
from specctl.trim import gather


@dataclass
class Seen:
    """A category's answers by each method, and Mirror's recorded events."""

    stats: dict[str, Stats] = field(default_factory=lambda: defaultdict(Stats))
    recordings: list[list[Event]] = field(default_factory=list)
    equal: int = 0
    n: int = 0


def answer(session: Session, request: Request, stats: Stats) -> tuple[list[int], list[Event]]:
    tokens: list[int] = []
    events = []
    for event in session.generate([request]):
        stats.add(event)
        events.append(event)
        tokens += getattr(event, "tokens", ()) if event.kind == "emitted" else ()
    return tokens, events


def show(name: str, seen: Seen, devices: Devices | None) -> None:
    mirror, draft, plain = (seen.stats[method] for method in ("mirror", "draft", "plain"))
    tally = mirror.mirror
    summary = tally.summary()
    slots = " ".join(f"{slot}:{hits}/{n}" for slot, (hits, n) in summary["hits_by_slot"].items())
    rate = f"{tally.hits / tally.tried:.2f}" if tally.tried else "-"
    print(f"{name:22} {seen.equal}/{seen.n} equal  hit rate {rate}  by slot {slots}")
    print(
        f"{'':22} measured: {plain.decode_s / mirror.decode_s:.2f} x plain, "
        f"draft model {plain.decode_s / draft.decode_s:.2f} x plain; "
        f"branches hidden {tally.hidden or 0:.0%} ({summary['hidden_is']}); in place {tally.in_place} rounds"
    )
    if tally.modelled_s:
        print(
            f"{'':22} modelled, two devices like this one: {plain.decode_s / tally.modelled_s:.2f} x plain, "
            f"{draft.decode_s / tally.modelled_s:.2f} x the draft model"
        )
    if devices is not None:
        found = [predict(recorded(events), devices) for events in seen.recordings]
        plain_s, draft_s, mirror_s = (
            sum(getattr(one, what) for one in found) for what in ("plain", "draft_model", "mirror")
        )
        print(
            f"{'':22} modelled, devices of the table: {plain_s / mirror_s:.2f} x plain, "
            f"{draft_s / mirror_s:.2f} x the draft model"
        )


def kills(session: Session, request: Request, n: int) -> None:
    """Kill the worker at random moments; the answer has to stay what it is."""
    expected, events = answer(session, request, Stats())
    rounds = sum(isinstance(event, Timed) for event in events)
    for seed in range(n):
        at, seen, tokens = random.Random(seed).randrange(1, max(rounds, 2)), 0, []
        stats = Stats()
        for event in session.generate([request]):
            stats.add(event)
            tokens += event.tokens if event.kind == "emitted" else ()
            seen += isinstance(event, Timed)
            if isinstance(event, Timed) and seen == at and session.worker is not None:
                os.kill(session.worker.pid, signal.SIGKILL)
        mirror = stats.mirror
        print(
            f"killed after round {at}: equal {tokens == expected}, {mirror.in_place} rounds in place: {mirror.why}"
        )
        session.drafter(session.sampler())  # starts another worker
        assert session.worker is not None
        session.worker.started()


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
    parser.add_argument("--devices", type=Path)
    parser.add_argument("--kills", type=int, default=0)
    args = parser.parse_args()

    settings: dict[str, Any] = {
        "method": "mirror",
        "overlap": "worker" if args.kills else args.overlap,
        "exit": args.exit,
        "candidates": args.candidates,
        "branches": args.branches,
        "draft_tokens": args.draft_tokens,
    }
    profile = override.merge(read.load("mirror"), {"pair": args.pair, "drafter": settings})
    pair = fetch.resolve(args.pair)
    folder, draft = fetch.find(pair.target), fetch.find(pair.draft) if pair.draft else None
    assert folder is not None, f"run `specctl pull {args.pair}` first"
    names = {"target_name": pair.target.name, "draft_name": pair.draft.name if pair.draft else None}
    session = open_session(profile, folder, draft, **names)
    drafting = {"method": "mirror", "candidates": 0, "draft_tokens": args.draft_tokens}
    others = {
        "plain": replace(
            session, profile=override.merge(profile, {"drafter": {"method": "none"}}), worker=None
        ),
        "draft": replace(session, profile=override.merge(profile, {"drafter": drafting}), worker=None),
    }
    devices = Devices.from_table(yaml.safe_load(args.devices.read_text())) if args.devices else None
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
        for name, other in (*others.items(), ("mirror", session)):
            tokens, events = answer(other, request, seen.stats[name])
            for event in events:
                total.stats[name].add(event)
        for one in (seen, total):
            one.equal += tokens == plain
            one.recordings.append(events)
    for name, seen in [*found.items(), ("all", total)]:
        if seen.n:
            show(name, seen, devices)


if __name__ == "__main__":
    main()

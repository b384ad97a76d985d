"""Profile `kangaroo` against plain decoding, in turns in one process: speed and output by category.

    python benchmarks/kangaroo.py QUESTIONS.jsonl [--per-category 2] [--new-tokens 64] [--adapter DIR]
        [--confidence 0.2 0.4 0.6] [--draft-tokens 2 4 6] [--copy int4]

Prints, for each category, threshold and draft length: ratio to plain, equal answers, acceptance by place in the
draft, and the share of time outside the models' forwards. `--copy int4` is profile `kangaroo-int4`. QUESTIONS may
be conversations in ids.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from specctl.events import Emitted, Verified
from specctl.models.lm import LM
from specctl.profile import override, read
from specctl.session import Request, Session, open_session
from specctl.store import fetch
from specctl.training import conversation_file
from specctl.trim import gather


@dataclass(slots=True)
class Seen:
    """Sums over one category; `tried` and `kept` by place in the draft."""

    logs: list[float] = field(default_factory=list)
    equal: int = 0
    rounds: int = 0
    tokens: int = 0
    tried: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    kept: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    seconds: float = 0.0
    inside: float = 0.0


@contextmanager
def forwards(spent: list[float]) -> Iterator[None]:
    """Adds the time of every forward to `spent[0]`."""
    original = LM._run

    def timed(self: LM, *passed: Any, **named: Any) -> Any:
        begun = perf_counter()
        try:
            return original(self, *passed, **named)
        finally:
            spent[0] += perf_counter() - begun

    LM._run = timed  # type: ignore[method-assign]
    try:
        yield
    finally:
        LM._run = original  # type: ignore[method-assign]


def answer(session: Session, request: Request, seen: Seen | None) -> tuple[list[int], float]:
    tokens: list[int] = []
    spent = [0.0]
    begun = perf_counter()
    with forwards(spent):
        for event in session.generate([request]):
            if isinstance(event, Emitted):
                tokens += event.tokens
            elif isinstance(event, Verified) and seen is not None:
                seen.rounds += 1
                seen.tokens += event.accepted + 1
                for place in range(min(event.accepted + 1, event.drafted)):
                    seen.tried[place] += 1
                    seen.kept[place] += place < event.accepted
    seconds = perf_counter() - begun
    if seen is not None:
        seen.seconds, seen.inside = seen.seconds + seconds, seen.inside + spent[0]
    return tokens, seconds


def measure(session: Session, plain: Session, asked: list[tuple[str, Request]]) -> dict[str, Seen]:
    found: dict[str, Seen] = defaultdict(Seen)
    for category, request in asked:
        mine, seconds = answer(session, request, found[category])
        theirs, before = answer(plain, request, None)
        found[category].logs.append(math.log(before / seconds))
        found[category].equal += mine == theirs
    return found


def show(title: str, found: dict[str, Seen]) -> None:
    print(title)
    for category, seen in found.items():
        places = " ".join(f"{seen.kept[i] / seen.tried[i]:.2f}" for i in sorted(seen.tried))
        print(
            f"  {category:24} {math.exp(sum(seen.logs) / len(seen.logs)):.2f} x"
            f"  {seen.equal}/{len(seen.logs)} equal  {seen.tokens / max(seen.rounds, 1):.2f} tokens/round"
            f"  outside forwards {1 - seen.inside / seen.seconds:.1%}  kept by place {places}"
        )
    means = [sum(seen.logs) / len(seen.logs) for seen in found.values()]
    print(f"  geometric mean over categories {math.exp(sum(means) / len(means)):.3f} x")


def requests(session: Session, path: Path, per_category: int, new_tokens: int) -> list[tuple[str, Request]]:
    if conversation_file.holds_ids(path):
        held = conversation_file.read(path, session.target.vocab_size)
        some = list(held.values())[:per_category]
        return [("conversations", Request(one.prompt, new_tokens)) for one in some]
    asked: list[tuple[str, Request]] = []
    counts: dict[str, int] = defaultdict(int)
    for entry in gather.entries(path):
        counts[entry.category] += 1
        if counts[entry.category] <= per_category and len(entry.prompt) < 4000:
            prompt = session.encode(entry.prompt, system=None, raw=False)
            asked.append((entry.category, Request(prompt, new_tokens)))
    return asked


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("questions", type=Path)
    parser.add_argument("--per-category", type=int, default=2)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--draft-tokens", type=int, nargs="+", default=[4])
    parser.add_argument("--confidence", type=float, nargs="+", default=[0.4])
    parser.add_argument("--adapter")
    parser.add_argument("--copy", choices=["int4", "int8"])
    args = parser.parse_args()

    pair = fetch.resolve("smollm2-135m")
    folder = fetch.find(pair.target)
    assert folder is not None, "run `specctl pull smollm2-135m` first"
    base = read.load("kangaroo")
    drafter = {**base.drafter.model_dump(), "adapter": args.adapter, "copy": args.copy}
    first = override.merge(base, {"drafter": drafter})
    session = open_session(first, folder, None, target_name="smollm2-135m", draft_name=None)
    plain = replace(session, profile=override.merge(base, {"drafter": {"method": "none"}}))
    asked = requests(session, args.questions, args.per_category, args.new_tokens)
    answer(plain, asked[0][1], None)
    for confidence in args.confidence:
        for draft_tokens in args.draft_tokens:
            changed = {"min_confidence": confidence, "draft_tokens": draft_tokens}
            profile = override.merge(first, {"drafter": {**drafter, **changed}})
            found = measure(replace(session, profile=profile), plain, asked)
            show(f"min_confidence {confidence}, draft_tokens {draft_tokens}", found)


if __name__ == "__main__":
    main()

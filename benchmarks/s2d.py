"""A sorted draft on SmolLM2: against each static depth, other methods and plain decoding, in turns, by category.

    python benchmarks/s2d.py QUESTIONS.jsonl [--per-category 2] [--new-tokens 64] [--weights DIR]
    python benchmarks/s2d.py --sorted-against-separate CONVERSATIONS.jsonl [--steps 200] [--depths 2,4]

The first prints, for each profile, the ratio to plain decoding by category and its geometric mean, equal answers,
tokens a second, mean acceptance length and, for `s2d`, exits per depth and mean layers a drafted token; `depth D`
is the same sorted draft, made to answer at that depth always. The second trains one sorted draft and one draft for
each depth with as many steps, and prints their held-out losses; its conversations are in token ids.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from specctl.drafters.s2d import S2D
from specctl.events import Emitted, Verified
from specctl.models.load import load
from specctl.models.sorted_draft import Shape
from specctl.profile import override, read
from specctl.session import Request, Session, open_session
from specctl.store import fetch
from specctl.training import conversation_file
from specctl.training.kangaroo import frequent_tokens
from specctl.training.loop import Settings, Split, Trainer
from specctl.training.sorted import Sorted
from specctl.trim import gather


@dataclass(slots=True)
class Seen:
    """Sums over all prompts; `logs` by category: of the ratio to plain decoding."""

    logs: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    equal: int = 0
    rounds: int = 0
    tokens: int = 0
    seconds: float = 0.0
    exits: list[int] = field(default_factory=list)


def answer(session: Session, request: Request, seen: Seen | None = None) -> tuple[list[int], float]:
    made: list[Any] = []
    original = Session.drafter

    def kept(self: Session, sampler: Any) -> Any:
        made.append(original(self, sampler))
        return made[-1]

    Session.drafter = kept  # type: ignore[method-assign]
    tokens: list[int] = []
    rounds = 0
    begun = perf_counter()
    try:
        for event in session.generate([request]):
            if isinstance(event, Emitted):
                tokens += event.tokens
            rounds += isinstance(event, Verified)
    finally:
        Session.drafter = original  # type: ignore[method-assign]
    seconds = perf_counter() - begun
    if seen is not None:
        seen.rounds, seen.tokens, seen.seconds = (
            seen.rounds + rounds,
            seen.tokens + len(tokens),
            seen.seconds + seconds,
        )
        if isinstance(made[-1], S2D):
            before = seen.exits or [0] * len(made[-1].exits)
            seen.exits = [a + b for a, b in zip(before, made[-1].exits, strict=True)]
    return tokens, seconds


def sessions(folder: Path, weights: str | None) -> dict[str, Session]:
    base = read.load("s2d")
    adaptive = override.merge(base, {"drafter": {**base.drafter.model_dump(), "weights": weights}})
    opened = {"s2d": open_session(adaptive, folder, None, target_name="smollm2-135m", draft_name=None)}
    first = opened["s2d"]
    assert first.draft is not None
    depths = [depth for depth, _ in first.draft.exits]
    for j, depth in enumerate(depths):
        always = [1.01] * j + [0.0] * (len(depths) - j)
        profile = override.merge(adaptive, {"drafter.thresholds": always})
        opened[f"depth {depth}"] = replace(first, profile=profile)
    for name in ("kangaroo", "self-int4"):
        loaded = read.load(name)
        opened[name] = open_session(
            loaded, folder, None, target_name="smollm2-135m", draft_name=None, target=first.target
        )
    opened["plain"] = replace(first, profile=read.load("plain"), draft=None)
    return opened


def compare(args: argparse.Namespace, folder: Path) -> None:
    opened = sessions(folder, args.weights)
    plain = opened.pop("plain")
    asked: list[tuple[str, Request]] = []
    counts: dict[str, int] = defaultdict(int)
    for entry in gather.entries(args.questions):
        counts[entry.category] += 1
        if counts[entry.category] <= args.per_category and len(entry.prompt) < 4000:
            ids = plain.encode(entry.prompt, system=None, raw=False)
            asked.append((entry.category, Request(ids, args.new_tokens)))
    found = {name: Seen() for name in opened}
    for session in (plain, *opened.values()):
        answer(session, replace(asked[0][1], max_new_tokens=8))
    for category, request in asked:
        for name, session in opened.items():
            mine, seconds = answer(session, request, found[name])
            theirs, before = answer(plain, request)
            found[name].logs[category].append(math.log(before / seconds))
            found[name].equal += mine == theirs
    depths = [depth for depth, _ in opened["s2d"].draft.exits]  # type: ignore[union-attr]
    for name, seen in found.items():
        show(name, seen, depths, len(asked))


def show(name: str, seen: Seen, depths: list[int], asked: int) -> None:
    means = {category: sum(logs) / len(logs) for category, logs in seen.logs.items()}
    print(
        f"{name:10} {math.exp(sum(means.values()) / len(means)):.3f} x plain · {seen.equal}/{asked} equal"
        f" · {seen.tokens / seen.seconds:.1f} tokens/s · {seen.tokens / seen.rounds:.2f} tokens a round"
    )
    print("   " + " · ".join(f"{category} {math.exp(mean):.2f}" for category, mean in means.items()))
    if sum(seen.exits):
        shares = " · ".join(
            f"depth {d} {n / sum(seen.exits):.0%}" for d, n in zip(depths, seen.exits, strict=True)
        )
        layers = sum(d * n for d, n in zip(depths, seen.exits, strict=True)) / sum(seen.exits)
        print(f"   exits {shares} · {layers:.2f} layers a drafted token")


def lessons(args: argparse.Namespace, folder: Path) -> None:
    base = load(folder, name="smollm2-135m")
    texts = list(conversation_file.read(args.sorted_against_separate, base.vocab_size).values())
    depths = tuple(map(int, args.depths.split(",")))
    split = Split([len(one.prompt) + len(one.answer) for one in texts])
    kept = frequent_tokens((texts[number].answer for number in split.train), 4096, [2])
    settings = Settings(steps=args.steps, batch=4, evaluate_every=args.steps, learning_rate=2e-3)
    for shape in (depths, *((depth,) for depth in depths)):
        objective = Sorted(base, Shape(shape, args.rank), kept, texts)
        with tempfile.TemporaryDirectory() as unused:
            trainer = Trainer(objective, split, settings, Path(unused))
            begun = perf_counter()
            for _ in trainer.run():
                pass
        losses = ", ".join(
            f"depth {depth}: loss {one.loss:.3f}, top-1 {one.top1:.1%}"
            for depth, one in zip(shape, objective.by_depth, strict=True)
        )
        print(f"trained at {shape}: {losses} ({perf_counter() - begun:.0f} s)")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("questions", type=Path, nargs="?")
    parser.add_argument("--per-category", type=int, default=2)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--weights")
    parser.add_argument("--sorted-against-separate", type=Path, metavar="CONVERSATIONS")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--depths", default="2,4")
    parser.add_argument("--rank", type=int, default=96)
    args = parser.parse_args()
    if args.questions is None and args.sorted_against_separate is None:
        parser.error("give QUESTIONS or --sorted-against-separate")
    torch.manual_seed(0)
    folder = fetch.find(fetch.resolve("smollm2-135m").target)
    assert folder is not None, "run `specctl pull smollm2-135m` first"
    if args.sorted_against_separate:
        lessons(args, folder)
    else:
        compare(args, folder)


if __name__ == "__main__":
    main()

"""Short trainings of adapters side by side: which exit, block, vocabulary and optimiser promise most.

    python benchmarks/kangaroo_training.py CONVERSATIONS.jsonl STATES [--tokens 300000] [--steps 150] [--batch 8]
        [--exits 1 2 3 4 6 8 10]

CONVERSATIONS are token ids, as `specctl train` writes them; their states at all exits go to STATES, once.
Prints for each variant the held-out figures, the predicted speedup with what this machine's forwards cost, in
bfloat16 and with drafting layers at `--copy-share` of that time, and trained tokens a second of processor time.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import get_args

from specctl.models import adapter as adapters
from specctl.models.adapter import Block, Shape
from specctl.profile import read
from specctl.session import Session, open_session
from specctl.store import fetch
from specctl.training import capture, conversation_file, predict
from specctl.training.kangaroo import SETTINGS, Kangaroo, frequent_tokens
from specctl.training.loop import Ended, Evaluated, Settings, Split, Stepped, Trainer
from specctl.training.predict import Costs
from specctl.training.shards import Shards

DEPTHS = [1, 2, 3, 4, 6, 8, 10]


def captured(session: Session, conversations: Path, states: Path, tokens: int) -> Shards:
    held = list(conversation_file.read(conversations, session.target.vocab_size).values())
    about = capture.facts(session.target, DEPTHS, {"conversations": str(conversations)})
    some = capture.capture(
        session.target,
        lambda indices: [held[index] for index in indices],
        states,
        about,
        tokens=tokens,
        count=len(held),
        budget=12_000_000_000,
    )
    for step in some:
        print(f"captured {step.tokens:,} positions", flush=True)
    return Shards(states, about)


def variants(exits: list[int], steps: int, batch: int) -> Iterator[tuple[str, Shape, int, Settings]]:
    """Name, shape, vocabulary and settings: one thing at a time is changed."""
    base = replace(SETTINGS, steps=steps, batch=batch, warmup=steps // 4, evaluate_every=max(steps // 2, 1))
    middle = exits[len(exits) // 2]
    for depth in exits:
        yield f"exit {depth}", Shape(depth, "layer"), 8192, base
    for block in get_args(Block):
        if block != "layer":
            yield f"exit {middle}, {block}", Shape(middle, block), 8192, base
    for vocabulary in (4096, 16384):
        yield f"exit {middle}, head of {vocabulary}", Shape(middle, "layer"), vocabulary, base
    for optimiser, rate in (("adamw", 0.0012), ("adamw", 0.003), ("muon", 0.003), ("muon", 0.02)):
        changed = replace(base, optimiser=optimiser, learning_rate=rate)
        yield f"exit {middle}, {optimiser} {rate}", Shape(middle, "layer"), 8192, changed


def cheaper(costs: Costs, share: float) -> Costs:
    """Drafting from a copy: its layers at `share` of the time, the target's run whole in verification."""
    adapter, shallow = costs.adapter * share, costs.shallow * share
    return Costs(costs.plain, shallow, adapter, costs.deep + costs.shallow - shallow)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("conversations", type=Path)
    parser.add_argument("states", type=Path)
    parser.add_argument("--tokens", type=int, default=300_000)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--exits", type=int, nargs="+", default=DEPTHS)
    parser.add_argument("--copy-share", type=float, default=0.45)
    args = parser.parse_args()

    pair = fetch.resolve("smollm2-135m")
    folder = fetch.find(pair.target)
    assert folder is not None, "run `specctl pull smollm2-135m` first"
    session = open_session(read.load("plain"), folder, None, target_name="smollm2-135m", draft_name=None)
    lm = session.target
    data = captured(session, args.conversations, args.states, args.tokens)
    split = Split(data.lengths)
    texts = [data.sample(number, []).ids.tolist() for number in split.train]
    for name, shape, vocabulary, settings in variants(args.exits, args.steps, args.batch):
        kept = frequent_tokens(texts, vocabulary, sorted(session.eos))
        objective = Kangaroo(lm, shape, kept, data)
        drafting = adapters.Adapter(lm, shape).to(lm.device, lm.dtype)
        costs = predict.measure(lm, adapters.readout(lm, drafting, kept))
        with TemporaryDirectory() as place:
            trainer = Trainer(objective, split, settings, Path(place))
            begun, tokens, told = process_time(), 0, []
            for event in trainer.run():
                if isinstance(event, Stepped):
                    tokens += event.tokens
                elif isinstance(event, Evaluated):
                    one = event.figures
                    told.append(f"{event.step}: {one.top1:.1%} / {one.acceptance:.1%}")
                else:
                    assert isinstance(event, Ended)
        seconds = process_time() - begun
        top1 = trainer.figures.top1 if trainer.figures else 0.0
        promised = [predict.best(each, top1) for each in (costs, cheaper(costs, args.copy_share))]
        print(
            f"{name:28} top-1 / acceptance at step {', '.join(told)}"
            f" · predicted {promised[0][1]:.2f} x (draft {promised[0][0]}), from a copy {promised[1][1]:.2f} x"
            f" · {tokens / seconds:,.0f} tokens/s",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""Draft length and confidence threshold of an adapter, from the conversations its training held out.

    python benchmarks/kangaroo_thresholds.py DIR [--draft-cost 0.14]

DIR is what `specctl train kangaroo` made. Rounds are played on the held-out answers: they are greedy, so as long as
drafts are right the adapter sees the very states it would see in a run. `--draft-cost`: a drafted token's time over
a plain step's. Prints tokens and drafts a round, and the predicted speedup; only a run says what it is worth.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from specctl.models import adapter as adapters
from specctl.profile import read
from specctl.session import open_session
from specctl.store import fetch
from specctl.training.kangaroo import Kangaroo
from specctl.training.loop import Split
from specctl.training.shards import Shards

Guesses = list[tuple[list[bool], list[float]]]
"""For each answer: whether the adapter names the next token, and how sure it is."""


@torch.no_grad()
def guesses(folder: Path) -> Guesses:
    pair = fetch.resolve("smollm2-135m")
    target = fetch.find(pair.target)
    assert target is not None, "run `specctl pull smollm2-135m` first"
    session = open_session(read.load("plain"), target, None, target_name="smollm2-135m", draft_name=None)
    trained, kept = adapters.read(folder, session.target)
    first = min((folder / "states").glob("*.safetensors"))
    facts = json.loads(safe_open(first, framework="pt").metadata()["facts"])
    facts.pop("format")
    data = Shards(folder / "states", facts)
    objective = Kangaroo(session.target, trained.shape, kept, data)
    objective.adapter.load_state_dict(trained.state_dict())
    found: Guesses = []
    for number in Split(data.lengths).held_out:
        sample = data.sample(number, [trained.shape.depth])
        sure, best = objective._logits(objective._hidden([sample])).softmax(-1).max(-1)
        named: Tensor = best if kept is None else kept[best]
        found.append(((named == sample.ids[sample.answer + 1 :]).tolist(), sure.tolist()))
    return found


def play(found: Guesses, draft_tokens: int, least: float) -> tuple[float, float]:
    """Tokens and drafts a round. Behind a wrong draft, confidence is taken to be what it is on the answer."""
    rounds = tokens = drafts = 0
    for right, sure in found:
        at = 0
        while at < len(right):
            drafted = 0
            while drafted < draft_tokens and at + drafted < len(right):
                drafted += 1
                if sure[at + drafted - 1] < least:
                    break
            kept = next((i for i in range(drafted) if not right[at + i]), drafted)
            rounds, tokens, drafts = rounds + 1, tokens + kept + 1, drafts + drafted
            at += kept + 1
    return tokens / rounds, drafts / rounds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--draft-cost", type=float, default=0.14)
    args = parser.parse_args()

    found = guesses(args.folder)
    every = [one for right, _ in found for one in right]
    print(f"{len(found)} answers, {len(every):,} tokens, {sum(every) / len(every):.1%} named right")
    for draft_tokens in (1, 2, 3, 4, 6, 8):
        for least in (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7):
            tokens, drafts = play(found, draft_tokens, least)
            speed = tokens / (1 + drafts * args.draft_cost)
            print(
                f"draft_tokens {draft_tokens} min_confidence {least:.1f}: {tokens:.2f} tokens, "
                f"{drafts:.2f} drafts a round, predicted {speed:.3f} x"
            )


if __name__ == "__main__":
    main()

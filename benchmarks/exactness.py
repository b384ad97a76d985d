"""Is speculative output plain decoding's, token for token, on real models and many prompts?

    python benchmarks/exactness.py PAIR QUESTIONS.jsonl [--profiles ngram,draft-model] [--count 40]
        [--new-tokens 128] [--batch-size 1] [--plain-batch-size 1] [--temperature 0] [--numerics invariant]

QUESTIONS is in Spec-Bench's format; `--count` of them are taken at even steps. Temperature > 0 uses the
`coupled` acceptor, whose sampled text is a function of the seed alone. Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from foundation import session


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("pair")
    parser.add_argument("questions", type=Path)
    parser.add_argument("--profiles", default="ngram,draft-model")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=1, help="of the profiles")
    parser.add_argument("--plain-batch-size", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--numerics", default="invariant")
    options = parser.parse_args()

    lines = options.questions.read_text(encoding="utf-8").splitlines()
    chosen = [json.loads(lines[i * len(lines) // options.count]) for i in range(options.count)]
    overrides: dict[str, Any] = {
        "sampling.temperature": options.temperature,
        "accept": "coupled",
        "numerics": options.numerics,
    }
    plain = session(options.pair, "plain", **overrides)
    print(f"numerics: {plain.info.numerics} {plain.info.numerics_note or ''}", flush=True)
    expected = answers(plain, chosen, options.new_tokens, options.plain_batch_size, "plain")
    wrong = 0
    for name in options.profiles.split(","):
        opened = session(options.pair, name, **overrides)
        got = answers(opened, chosen, options.new_tokens, options.batch_size, name)
        differing = [
            question["question_id"] for question, a, b in zip(chosen, got, expected, strict=True) if a != b
        ]
        print(
            f"{name}: {len(chosen) - len(differing)}/{len(chosen)} equal; differing: {differing}", flush=True
        )
        wrong += len(differing)
    return 1 if wrong else 0


def answers(
    opened: Any, questions: list[Any], new_tokens: int, batch_size: int, name: str
) -> list[list[int]]:
    from specctl.decode.stats import Stats
    from specctl.events import Emitted, Finished
    from specctl.session import Request

    prompts = [opened.encode(question["turns"][0], system=None, raw=False) for question in questions]
    tokens: list[list[int]] = [[] for _ in prompts]
    done, stats = 0, Stats()
    for event in opened.generate([Request(ids, new_tokens) for ids in prompts], batch_size=batch_size):
        stats.add(event)
        if isinstance(event, Emitted):
            tokens[event.row] += event.tokens
        if isinstance(event, Finished):
            done += 1
            print(f"  {name}: {done}/{len(prompts)} answers", end="\r", file=sys.stderr, flush=True)
    length = stats.mean_acceptance_length or 0
    print(
        f"{name}: {stats.new_tokens} tokens, mean acceptance length {length:.2f}, batch {batch_size}",
        flush=True,
    )
    return tokens


if __name__ == "__main__":
    sys.exit(main())

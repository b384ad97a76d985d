"""Is speculative output plain decoding's, token for token, on real models and many prompts?

    python benchmarks/exactness.py PAIR QUESTIONS.jsonl [--profiles ngram,draft-model] [--count 40]
                                   [--new-tokens 128] [--temperature 0] [--numerics invariant]

QUESTIONS is in Spec-Bench's format; `--count` of them are taken at even steps. Temperature > 0 uses the
`coupled` acceptor, whose sampled text is a function of the seed alone. Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from foundation import ours, session


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("pair")
    parser.add_argument("questions", type=Path)
    parser.add_argument("--profiles", default="ngram,draft-model")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--new-tokens", type=int, default=128)
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
    names = options.profiles.split(",")
    plain, *others = (session(options.pair, name, **overrides) for name in ["plain", *names])
    for other in others:  # one copy of the target is enough
        other.target.module = plain.target.module
    print(f"numerics: {plain.info.numerics} {plain.info.numerics_note or ''}", flush=True)
    equal = dict.fromkeys(names, 0)
    for question in chosen:
        prompt = question["turns"][0]
        _, _, expected = ours(plain, prompt, options.new_tokens)
        verdicts = []
        for name, other in zip(names, others, strict=True):
            _, rounds, answer = ours(other, prompt, options.new_tokens)
            same = answer == expected
            equal[name] += same
            at = next((i for i, (a, b) in enumerate(zip(answer, expected)) if a != b), len(answer))
            verdicts.append(f"{name} {'equal' if same else f'DIFFERS at {at}'} in {rounds} rounds")
        print(f"{question['question_id']}: {len(expected)} tokens; {'; '.join(verdicts)}", flush=True)
    print(", ".join(f"{name} {n}/{len(chosen)} equal" for name, n in equal.items()))
    return 0 if all(n == len(chosen) for n in equal.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Is speculative output plain decoding's, token for token, on real models and many prompts?

    python benchmarks/exactness.py PAIR QUESTIONS.jsonl [--profiles ngram,draft-model] [--count 40]
        [--new-tokens 128] [--batch-size 1] [--plain-batch-size 1] [--temperature 0] [--numerics invariant]
        [--answers FILE.jsonl [--piece 8]]

QUESTIONS is in Spec-Bench's format; `--count` of them are taken at even steps. Temperature > 0 uses the
`coupled` acceptor, whose sampled text is a function of the seed alone. Exit code 1 if anything differs.

With `--answers` each answer is kept in FILE, and a run that was stopped goes on where it was; with `--piece`
one call decodes so many questions of one profile, and exit code 3 says that more are left.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
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
    parser.add_argument("--answers", type=Path, help="keeps the answers, so that a run can be stopped")
    parser.add_argument("--piece", type=int, help="questions decoded by one call; needs --answers")
    options = parser.parse_args()
    if options.piece and not options.answers:
        parser.error("--piece needs --answers")

    lines = options.questions.read_text(encoding="utf-8").splitlines()
    chosen = [json.loads(lines[i * len(lines) // options.count]) for i in range(options.count)]
    known = Answers(options)
    names = options.profiles.split(",")
    size = options.piece or len(chosen)
    for start in range(0, len(chosen), size):
        for name in ["plain", *names]:
            piece = chosen[start : start + size]
            missing = [one for one in piece if (name, one["question_id"]) not in known.tokens]
            decode(options, name, missing, known)
            if options.piece and missing:
                compare(names, known)
                return 3
    return compare(names, known)


class Answers:
    """Token ids by profile and question: those of this run's settings in the file, and new ones."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._file: Path | None = options.answers
        self._of = [options.pair, options.new_tokens, options.temperature, options.numerics]
        self._batch_sizes = options.plain_batch_size, options.batch_size
        self.tokens: dict[tuple[str, int], list[int]] = {}
        text = self._file.read_text(encoding="utf-8") if self._file and self._file.exists() else ""
        for line in text.splitlines():
            one = json.loads(line)
            if one["of"] == [*self._of, self.batch_size(one["profile"])]:
                self.tokens[one["profile"], one["question_id"]] = one["tokens"]

    def batch_size(self, name: str) -> int:
        return self._batch_sizes[name != "plain"]

    def add(self, name: str, question: int, tokens: list[int]) -> None:
        self.tokens[name, question] = tokens
        if self._file:
            of = [*self._of, self.batch_size(name)]
            line = {"of": of, "profile": name, "question_id": question, "tokens": tokens}
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def decode(options: argparse.Namespace, name: str, questions: Sequence[Any], known: Answers) -> None:
    """Answer the questions by one profile."""
    from specctl.decode.stats import Stats
    from specctl.events import Emitted, Finished
    from specctl.session import Request

    if not questions:
        return
    overrides: dict[str, Any] = {
        "sampling.temperature": options.temperature,
        "accept": "coupled",
        "numerics": options.numerics,
    }
    opened = session(options.pair, name, **overrides)
    prompts = [opened.encode(question["turns"][0], system=None, raw=False) for question in questions]
    tokens: list[list[int]] = [[] for _ in prompts]
    done, stats, batch_size = 0, Stats(), known.batch_size(name)
    requests = [Request(ids, options.new_tokens) for ids in prompts]
    for event in opened.generate(requests, batch_size=batch_size):
        stats.add(event)
        if isinstance(event, Emitted):
            tokens[event.row] += event.tokens
        if isinstance(event, Finished):
            done += 1
            known.add(name, questions[event.row]["question_id"], tokens[event.row])
            print(f"  {name}: {done}/{len(prompts)} answers", end="\r", file=sys.stderr, flush=True)
    print(
        f"{name}: {opened.info.numerics} {opened.info.numerics_note or ''}, {stats.new_tokens} tokens, mean "
        f"acceptance length {stats.mean_acceptance_length or 0:.2f}, batch {batch_size}",
        flush=True,
    )


def compare(names: Sequence[str], known: Answers) -> int:
    """Print what differs among the answers there are; 1 if something does."""
    wrong = 0
    for name in names:
        both = [one for profile, one in known.tokens if profile == name and ("plain", one) in known.tokens]
        differing = [one for one in both if known.tokens[name, one] != known.tokens["plain", one]]
        total = sum(len(known.tokens[name, one]) for one in both)
        equal = f"{len(both) - len(differing)}/{len(both)} equal ({total} tokens)"
        print(f"{name}: {equal}; differing: {differing}", flush=True)
        wrong += len(differing)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

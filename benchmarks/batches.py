"""Throughput by batch size and schedule, what each stage takes, and whether every token is plain decoding's.

    python benchmarks/batches.py run PAIR QUESTIONS.jsonl --method plain --batch-sizes 1,2,4,8 --results FILE.jsonl
    python benchmarks/batches.py run PAIR QUESTIONS.jsonl --method ngram --schedules ragged,eqspec,exspec ...
    python benchmarks/batches.py show --results FILE.jsonl
    python benchmarks/batches.py memory PAIR QUESTIONS.jsonl [--count 1000]

METHOD is a profile, or `scripted`: a drafter that costs nothing and is right with probability `--right` a token.
Run `--method plain --batch-sizes 1` first: it is what equality is counted against, and what `scripted` reads.
Each `run` appends its measurements to FILE, so that a table can be made in pieces; `show` prints the table, medians
where something was measured more than once. Prompts are of mixed lengths, limits 24 to 64 tokens. Run it with
everything else idle.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foundation import session

CAPS = (48, 24, 64, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["run", "show", "memory"])
    parser.add_argument("pair", nargs="?")
    parser.add_argument("questions", nargs="?", type=Path)
    parser.add_argument("--method", default="plain")
    parser.add_argument("--batch-sizes", default="1,2,4,8,16")
    parser.add_argument("--schedules", default="ragged")
    parser.add_argument("--window", type=int, default=32)
    parser.add_argument("--draft-tokens", type=int)
    parser.add_argument("--right", type=float, default=0.7)
    parser.add_argument("--count", type=int, default=16, help="prompts; the same for all batch sizes")
    parser.add_argument("--longest", type=int, default=400, help="leave out prompts of more tokens")
    parser.add_argument("--numerics", default="invariant")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--results", type=Path, default=Path("batches.jsonl"))
    options = parser.parse_args()
    {"run": run, "show": show, "memory": memory}[options.what](options)


def run(options: argparse.Namespace) -> None:
    overrides: dict[str, Any] = {"numerics": options.numerics, "dtype": options.dtype}
    if options.draft_tokens and options.method != "scripted":
        overrides["drafter.draft_tokens"] = options.draft_tokens
    opened = session(options.pair, "plain" if options.method == "scripted" else options.method, **overrides)
    requests = ask(opened, options)
    if options.method == "scripted":
        script(type(opened), options, reference(options, len(requests)))
    list(opened.generate(requests[:1]))
    for size in map(int, options.batch_sizes.split(",")):
        for schedule in options.schedules.split(","):
            found = measure(opened, requests, size, schedule, options)
            with options.results.open("a", encoding="utf-8") as results:
                results.write(json.dumps(found) + "\n")
            print(line(found, [found]), flush=True)


def ask(opened: Any, options: argparse.Namespace) -> list[Any]:
    from specctl.session import Request

    lines = options.questions.read_text(encoding="utf-8").splitlines()
    prompts = [opened.encode(json.loads(one)["turns"][0], system=None, raw=False) for one in lines]
    prompts = [ids for ids in prompts if len(ids) <= options.longest]
    chosen = [prompts[i * len(prompts) // options.count] for i in range(options.count)]
    return [Request(ids, CAPS[i % len(CAPS)]) for i, ids in enumerate(chosen)]


def measure(
    opened: Any, requests: Sequence[Any], size: int, schedule: str, options: argparse.Namespace
) -> dict[str, Any]:
    from specctl.decode.stats import Stats
    from specctl.events import Emitted

    stats = Stats()
    tokens: list[list[int]] = [[] for _ in requests]
    begun = time.perf_counter()
    for event in opened.generate(requests, batch_size=size, schedule=schedule, window=options.window):
        stats.add(event)
        if isinstance(event, Emitted):
            tokens[event.row] += event.tokens
    return {
        "pair": options.pair,
        "method": options.method,
        "k": options.draft_tokens,
        "numerics": f"{opened.info.dtype} {opened.info.numerics}",
        "batch_size": size,
        "schedule": schedule,
        "seconds": time.perf_counter() - begun,
        "grouping_rate": stats.grouping_rate,
        "forwards": stats.forwards,
        "align_s": stats.align_s,
        "tokens": tokens,
        **stats.summary(),
    }


# Scripted drafts ------------------------------------------------------------------------------------------------


def reference(options: argparse.Namespace, rows: int) -> list[list[int]]:
    plain = [one for one in load(options) if is_reference(one, options.pair) and len(one["tokens"]) == rows]
    if not plain:
        sys.exit("first: --method plain --batch-sizes 1, with the same --count and --results")
    tokens: list[list[int]] = plain[-1]["tokens"]
    return tokens


def is_reference(one: dict[str, Any], pair: str) -> bool:
    return one["pair"] == pair and one["method"] == "plain" and one["batch_size"] == 1


def script(session_class: Any, options: argparse.Namespace, answers: list[list[int]]) -> None:
    """Every session drafts from the known answers from now on."""
    k, right = options.draft_tokens or 4, options.right

    class Scripted:
        needs: frozenset[int] = frozenset()

        def begin(self, row: Any, hidden: Any) -> None:
            """Nothing to keep."""

        def draft(self, rows: Any, budget: Any) -> Any:
            from specctl.decode.draft import Draft

            return Draft([self.one(row, min(most, k)) for row, most in zip(rows, budget, strict=True)])

        def one(self, row: Any, most: int) -> list[int]:
            done = len(row.generated)
            known = answers[row.index][done : done + most]
            return [
                token + (hash((row.index, done + i)) % 1000 >= right * 1000) for i, token in enumerate(known)
            ]

        def observe(self, rows: Any, scored: Any, accepted: Any) -> None:
            """Nothing to learn."""

        def swap(self, one: int, other: int) -> None:
            """Nothing to move."""

        def drop(self, slot: int) -> None:
            """Nothing to move."""

    session_class.drafter = lambda self, sampler: Scripted()


# The table ------------------------------------------------------------------------------------------------------


def load(options: argparse.Namespace) -> list[dict[str, Any]]:
    if not options.results.exists():
        return []
    return [json.loads(one) for one in options.results.read_text(encoding="utf-8").splitlines()]


def show(options: argparse.Namespace) -> None:
    everything = load(options)
    print(
        "pair · method · numerics · batch · schedule | tokens/s | × batch 1 | × plain | accepted | draft, verify, "
        "align, other | one width | equal"
    )
    seen = set()
    for one in everything:
        if (key := identity(one)) not in seen:
            seen.add(key)
            print(line(one, everything))


def identity(one: dict[str, Any]) -> tuple[Any, ...]:
    names = ("pair", "method", "k", "numerics", "batch_size", "schedule")
    return (*(one[name] for name in names), len(one["tokens"]))


def rate(everything: Sequence[dict[str, Any]], like: tuple[Any, ...]) -> float | None:
    rates = [one["tokens_per_s"] for one in everything if identity(one) == like]
    return statistics.median(rates) if rates else None


def line(one: dict[str, Any], everything: Sequence[dict[str, Any]]) -> str:
    pair, method, k, numerics, size, schedule, rows = identity(one)
    own = rate(everything, identity(one)) or 0.0
    alone = rate(everything, (pair, method, k, numerics, 1, "ragged", rows))
    plain = rate(everything, (pair, "plain", None, numerics, size, "ragged", rows))
    total = one["decode_s"]
    stages = [one["draft_s"], one["verify_s"], one["align_s"]]
    shares = ", ".join(f"{100 * stage / total:.1f}" for stage in [*stages, total - sum(stages)])
    expected = next((each["tokens"] for each in everything if is_reference(each, pair)), None)
    equal = (
        ""
        if expected is None
        else f"{sum(a == b for a, b in zip(one['tokens'], expected, strict=False))}/{rows}"
    )
    accepted = "" if one["acceptance_rate"] is None else f"{one['acceptance_rate']:.0%}"
    what = f"{pair} · {method}{'' if k is None else f' k={k}'} · {numerics} · {size} · {schedule}"
    ratios = f"{against(own, alone)} | {against(own, plain)}"
    return f"{what} | {own:.1f} | {ratios} | {accepted} | {shares} % | {one['grouping_rate']:.0%} | {equal}"


def against(own: float, other: float | None) -> str:
    return "–" if other is None else f"{own / other:.2f}"


# Memory ---------------------------------------------------------------------------------------------------------


def memory(options: argparse.Namespace) -> None:
    """Resident memory while many short answers are made at batch 8: it has to stay flat."""
    from specctl.events import Finished

    options.longest = min(options.longest, 64)
    opened = session(options.pair, "ngram" if options.method == "plain" else options.method)
    requests = [type(one)(one.prompt, 4) for one in ask(opened, options)]
    done = 0
    for event in opened.generate(requests, batch_size=8):
        if isinstance(event, Finished):
            done += 1
            if done % max(len(requests) // 10, 1) == 0:
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                print(f"{done} answers: {resident():.0f} MB now, {peak:.0f} MB at most", flush=True)


def resident() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()

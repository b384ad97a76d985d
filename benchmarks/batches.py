"""Throughput by batch size and schedule, what each stage takes, and whether every token is plain decoding's.

    python benchmarks/batches.py run PAIR QUESTIONS.jsonl --methods plain,ngram,ngram:auto --batch-sizes 1,4,8
        [--schedules ragged,eqspec,exspec] [--repeats 3] [--results FILE.jsonl]
    python benchmarks/batches.py show --results FILE.jsonl
    python benchmarks/batches.py memory PAIR QUESTIONS.jsonl [--count 1000]

A method is a profile, or `scripted`: a drafter that costs nothing and is right with probability `--right` a token.
Behind a colon stand the drafted tokens, a number or `auto`. All methods share one target and take turns, batch size
by batch size, so that a slow moment hits all alike: name `plain` first, the others are compared with it.
Plain decoding at batch size 1 is what equality is counted against, and what `scripted` reads: measure it first.
Each `run` appends its measurements to FILE; `show` prints the table, medians with their range where something was
measured more than once. Tokens/s are over everything, prompts included. Prompts are of mixed lengths, limits 24 to
64 tokens, divided by `--shorter`. Run it with everything else idle.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from foundation import pull, session

CAPS = (48, 24, 64, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["run", "show", "memory"])
    parser.add_argument("pair", nargs="?")
    parser.add_argument("questions", nargs="?", type=Path)
    parser.add_argument("--methods", default="plain")
    parser.add_argument("--batch-sizes", default="1,2,4,8,16")
    parser.add_argument("--schedules", default="ragged")
    parser.add_argument("--window", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--right", type=float, default=0.7)
    parser.add_argument("--count", type=int, default=16, help="prompts; the same for all batch sizes")
    parser.add_argument("--longest", type=int, default=400, help="leave out prompts of more tokens")
    parser.add_argument("--shorter", type=int, default=1, help="divides the limits of the answers")
    parser.add_argument("--numerics", default="invariant")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--results", type=Path, default=Path("batches.jsonl"))
    options = parser.parse_args()
    {"run": run, "show": show, "memory": memory}[options.what](options)


def run(options: argparse.Namespace) -> None:
    sizes = [int(size) for size in options.batch_sizes.split(",")]
    opened = open_all(options)
    requests = ask(next(iter(opened.values())), options)
    began = time.time()
    for each in opened.values():
        each.weigh(max(sizes))
        list(each.generate([replace(requests[0], max_new_tokens=4)]))
    for size in sizes:
        for repeat in range(options.repeats):
            for method, each in opened.items():
                if method.startswith("scripted"):
                    each = scripted(each, method, options, reference(options, requests))
                for schedule in options.schedules.split(","):
                    found = measure(each, requests, size, schedule, options)
                    found |= {"method": method, "turn": [began, repeat]}
                    with options.results.open("a", encoding="utf-8") as results:
                        results.write(json.dumps(found) + "\n")
                    print(line([found], load(options)), flush=True)


def open_all(options: argparse.Namespace) -> dict[str, Any]:
    """A session a method. They share the target, and those of one profile the draft."""
    from specctl.profile import override, read
    from specctl.session import open_session

    shared: dict[str, Any] = {"pair": options.pair, "numerics": options.numerics, "dtype": options.dtype}
    plain = session(options.pair, "plain", numerics=options.numerics, dtype=options.dtype)
    profiles = {"plain": plain, "scripted": plain}
    opened: dict[str, Any] = {}
    for method in options.methods.split(","):
        name, _, tokens = method.partition(":")
        if name not in profiles:
            profiles[name] = open_session(
                override.merge(read.load(name), shared),
                *pull(options.pair),
                target_name=options.pair,
                draft_name="draft",
                target=plain.target,
            )
        opened[method] = profiles[name]
        if tokens and name != "scripted":
            wish = {"drafter.draft_tokens": int(tokens) if tokens.isdecimal() else tokens}
            opened[method] = replace(profiles[name], profile=override.merge(profiles[name].profile, wish))
    return opened


def ask(opened: Any, options: argparse.Namespace) -> list[Any]:
    from specctl.session import Request

    lines = [json.loads(one) for one in options.questions.read_text(encoding="utf-8").splitlines()]
    texts = [one["prompt"] if "prompt" in one else one["turns"][0] for one in lines]
    prompts = [opened.encode(text, system=None, raw=False) for text in texts]
    prompts = [ids for ids in prompts if len(ids) <= options.longest]
    chosen = [prompts[i * len(prompts) // options.count] for i in range(options.count)]
    return [Request(ids, max(CAPS[i % len(CAPS)] // options.shorter, 1)) for i, ids in enumerate(chosen)]


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
        "numerics": f"{opened.info.dtype} {opened.info.numerics}",
        "batch_size": size,
        "schedule": schedule,
        "prompts": sizes_of(requests),
        "seconds": time.perf_counter() - begun,
        "speed": stats.new_tokens / (stats.prefill_s + stats.decode_s),
        "grouping_rate": stats.grouping_rate,
        "drafted_a_row": stats.drafted / stats.rounds,
        "align_s": stats.align_s,
        "tokens": tokens,
        **stats.summary(),
    }


def sizes_of(requests: Sequence[Any]) -> list[list[int]]:
    return [[len(one.prompt), one.max_new_tokens] for one in requests]


# Scripted drafts ------------------------------------------------------------------------------------------------


def reference(options: argparse.Namespace, requests: Sequence[Any]) -> list[list[int]]:
    """Plain decoding's answers to these requests, one row at a time."""
    found = [one for one in load(options) if is_reference(one, options.pair, sizes_of(requests))]
    if not found:
        sys.exit("first: --methods plain --batch-sizes 1, with the same prompts and --results")
    tokens: list[list[int]] = found[-1]["tokens"]
    return tokens


def is_reference(one: dict[str, Any], pair: str, prompts: list[list[int]]) -> bool:
    return (
        one["pair"] == pair
        and one["method"] == "plain"
        and one["batch_size"] == 1
        and one["prompts"] == prompts
    )


def scripted(opened: Any, method: str, options: argparse.Namespace, answers: list[list[int]]) -> Any:
    """A session that drafts from the known answers."""
    k, right = int(method.partition(":")[2] or 4), options.right

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

    class Playing(type(opened)):  # type: ignore[misc]
        def drafter(self, sampler: Any, rows: int = 1) -> Any:
            return Scripted()

    return Playing(**{field.name: getattr(opened, field.name) for field in fields(opened)})


# The table ------------------------------------------------------------------------------------------------------

NAMES = ("pair", "method", "numerics", "batch_size", "schedule", "prompts")


def load(options: argparse.Namespace) -> list[dict[str, Any]]:
    if not options.results.exists():
        return []
    return [json.loads(one) for one in options.results.read_text(encoding="utf-8").splitlines()]


def show(options: argparse.Namespace) -> None:
    everything = load(options)
    print(
        "pair · method · numerics · batch · schedule | tokens/s | × batch 1 | × plain | accepted, drafted a row "
        "and round | draft, verify, align, other | one width | equal"
    )
    groups: list[list[dict[str, Any]]] = []
    for one in everything:
        same = next((group for group in groups if alike(group[0], one)), None)
        groups.append([one]) if same is None else same.append(one)
    for group in groups:
        print(line(group, everything))


def alike(one: dict[str, Any], other: dict[str, Any], **but: Any) -> bool:
    """Whether `other` is a measurement of the same thing; `but`: of one that differs in this."""
    return all(other[name] == but.get(name, one[name]) for name in NAMES)


def line(group: Sequence[dict[str, Any]], everything: Sequence[dict[str, Any]]) -> str:
    one = group[0]
    speed = spread([each["speed"] for each in group], 1)
    alone = statistics.median(
        [each["speed"] for each in everything if alike(one, each, batch_size=1, schedule="ragged")] or [0]
    )
    middle = statistics.median(each["speed"] for each in group)
    against_plain = [
        each["speed"] / other["speed"]
        for each in group
        for other in everything
        if other["turn"] == each["turn"] and alike(each, other, method="plain", schedule="ragged")
    ]
    expected = next(
        (it["tokens"] for it in everything if is_reference(it, one["pair"], one["prompts"])), None
    )
    equal = min(same_rows(each["tokens"], expected) for each in group) if expected else None
    stages = [sum(each[stage] for each in group) for stage in ("draft_s", "verify_s", "align_s")]
    total = sum(each["decode_s"] for each in group)
    shares = ", ".join(f"{100 * stage / total:.1f}" for stage in [*stages, total - sum(stages)])
    accepted = (
        "" if one["acceptance_rate"] is None else f"{one['acceptance_rate']:.0%}, {one['drafted_a_row']:.2f}"
    )
    return " | ".join(
        [
            f"{one['pair']} · {one['method']} · {one['numerics']} · {one['batch_size']} · {one['schedule']}",
            speed,
            f"{middle / alone:.2f}" if alone else "–",
            spread(against_plain, 2) if against_plain else "–",
            accepted,
            f"{shares} %",
            f"{one['grouping_rate']:.0%}",
            "" if equal is None else f"{equal}/{len(one['tokens'])}",
        ]
    )


def spread(values: Sequence[float], digits: int) -> str:
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def same_rows(tokens: Sequence[Any], expected: Sequence[Any]) -> int:
    return sum(a == b for a, b in zip(tokens, expected, strict=True))


# Memory ---------------------------------------------------------------------------------------------------------


def memory(options: argparse.Namespace) -> None:
    """Resident memory while many short answers are made at batch 8: it has to stay flat."""
    from specctl.events import Finished

    options.longest = min(options.longest, 64)
    opened = next(iter(open_all(options).values()))
    requests = [replace(one, max_new_tokens=4 + i % 5) for i, one in enumerate(ask(opened, options))]
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

"""What trimming a drafter's head costs and gains.

    python benchmarks/trim.py head [--pair P] [--repeats 9]
    python benchmarks/trim.py step --pair P --trim DIR [--repeats 15]
    python benchmarks/trim.py answers --pair P --trim DIR [--prompts FILE.jsonl] [--start 0] [--count 8]
    python benchmarks/trim.py cut --pair P --trim DIR [--prompts FILE]
    python benchmarks/trim.py write --pair P --prompts FILE.jsonl --answers ANSWERS.jsonl [--per-category 3]
    python benchmarks/trim.py count --pair P --trim DIR --answers ANSWERS.jsonl [--quantize int4]

head: the vocabulary head at V, V/2 … V/16. step: a drafter's step, whole and trimmed. answers: end to end, by
category; `--start` and `--count` take it in pieces. cut: time and memory of trimming by the answers DIR holds, to
the prompts of FILE, or to the model's own.
Whole and trimmed take turns in one process. Run these with everything else idle,
on prompts that DIR was not calibrated with.

write: the target's answers to new prompts; a killed run goes on. count: coverage, mean acceptance length and MBSU
on them at V, V/2 … V/32, kept by the answers of DIR. These two count, and may share the machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from foundation import PROMPTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("check", choices=list(CHECKS))
    parser.add_argument("--pair", default="qwen2.5-coder-1.5b")
    parser.add_argument("--trim", type=Path)
    parser.add_argument("--quantize", choices=("int8", "int4"))
    parser.add_argument("--draft-tokens", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--prompts", type=Path, help="Spec-Bench's format; default: eight of our own")
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--answers", type=Path, help="written by `write`, read by `count`")
    parser.add_argument("--per-category", type=int, default=3, help="questions of each category for `write`")
    options = parser.parse_args()
    CHECKS[options.check](options)


def middle(values: list[float]) -> str:
    return f"{statistics.median(values) * 1000:7.2f} ms ({min(values) * 1000:.2f}–{max(values) * 1000:.2f})"


def folders(pair: str) -> tuple[Path, Path]:
    from specctl.store.fetch import fetch_pair
    from specctl.store.progress import SilentProgress

    fetched = fetch_pair(pair, offline=False, progress=SilentProgress())
    return fetched.target, fetched.draft or fetched.target


def head(options: argparse.Namespace) -> None:
    """Rows read in turns, so that none is found in the CPU's caches."""
    import torch

    from specctl.trim import source

    found = source.find(folders(options.pair)[1])
    whole = source.rows(found, torch.arange(found.rows)).weight
    sizes = [found.rows >> step for step in range(5)]
    heads = {size: whole[:size].clone() for size in sizes}
    x = torch.randn(2, found.width).to(whole.dtype)
    other = torch.empty(64 << 20, dtype=torch.uint8)
    times: dict[int, list[float]] = defaultdict(list)
    for _ in range(options.repeats + 1):
        for size in sizes:
            other.add_(1)
            begun = time.perf_counter()
            torch.nn.functional.linear(x, heads[size])
            times[size].append(time.perf_counter() - begun)
    for size in sizes:
        share = statistics.median(times[size][1:]) / statistics.median(times[sizes[0]][1:])
        print(f"{size:>8,} rows {middle(times[size][1:])}  {share:.3f} of the time")


def session(options: argparse.Namespace, trim: Path | None) -> Any:
    from specctl.profile import override, read
    from specctl.profile.schema import effective
    from specctl.session import open_session

    target, draft = folders(options.pair)
    separate = draft != target
    source = {
        "model": str(draft) if separate else None,
        "trim": str(trim) if trim else None,
        "quantize": options.quantize,
    }
    method = "draft-model" if separate else "self"
    profile = override.merge(read.load("plain"), {"pair": options.pair})
    changes = {"drafter": {"method": method, "draft_tokens": options.draft_tokens}, "draft": source}
    profile = override.recorded({**effective(profile), **changes}, "trim")
    return open_session(
        profile, target, draft if separate else None, target_name=options.pair, draft_name="draft"
    )


def both(options: argparse.Namespace) -> tuple[Any, Any]:
    """Two sessions over one target."""
    trimmed = session(options, options.trim)
    whole = session(options, None)
    return replace(whole, target=trimmed.target), trimmed


def step(options: argparse.Namespace) -> None:
    from specctl.models.numerics import filled_cache

    drafts = [one.draft for one in both(options)]
    caches = [filled_cache(lm, [256], 8) for lm in drafts]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(options.repeats + 2):
        for lm, cache, mine in zip(drafts, caches, times, strict=True):
            begun = time.perf_counter()
            lm.forward(cache, [[0]], range(1))
            mine.append(time.perf_counter() - begun)
    for name, mine in zip(("whole", "trimmed"), times, strict=True):
        print(f"{name:<8} {middle(mine[2:])}")
    faster = statistics.median(times[0][2:]) / statistics.median(times[1][2:])
    print(f"the trimmed step is {faster:.3f} x as fast (aim: 15 % less time, 1.176)")


def answers(options: argparse.Namespace) -> None:
    from specctl.decode.stats import Stats
    from specctl.session import Request

    sides = both(options)
    prompts = PROMPTS
    if options.prompts:
        lines = [json.loads(line) for line in options.prompts.read_text(encoding="utf-8").splitlines()]
        prompts = [
            (line.get("category", "file"), (line.get("turns") or [line["prompt"]])[0]) for line in lines
        ]
    results: dict[str, list[tuple[float, float]]] = defaultdict(list)
    list(sides[0].generate([Request(sides[0].encode("Hi", system=None, raw=False), 4)]))
    list(sides[1].generate([Request(sides[1].encode("Hi", system=None, raw=False), 4)]))
    for number, (category, prompt) in enumerate(prompts[options.start : options.start + options.count]):
        request = Request(sides[0].encode(prompt, system=None, raw=False), options.new_tokens)
        stats, texts = [Stats(), Stats()], [[], []]  # type: ignore[var-annotated]
        for side in (0, 1) if number % 2 else (1, 0):
            for event in sides[side].generate([request]):
                stats[side].add(event)
                if event.kind == "emitted":
                    texts[side] += event.tokens
        assert texts[0] == texts[1], "trimming must not change the answer"
        speed = (stats[1].tokens_per_s or 0) / (stats[0].tokens_per_s or 1)
        length = (stats[1].mean_acceptance_length or 1) / (stats[0].mean_acceptance_length or 1)
        results[category].append((speed, length))
        print(
            f"{category:<12} tokens/s {stats[0].tokens_per_s:.2f} -> {stats[1].tokens_per_s:.2f} ({speed:.3f} x), "
            f"mean acceptance length {stats[0].mean_acceptance_length:.2f} -> "
            f"{stats[1].mean_acceptance_length:.2f} ({length:.3f} x)",
            flush=True,
        )
    for category, found in [*results.items(), ("all", [one for group in results.values() for one in group])]:
        speed, length = (math.exp(statistics.fmean(math.log(one[at]) for one in found)) for at in (0, 1))
        print(
            f"{category:<12} {len(found):>3} prompts: speed {speed:.3f} x, acceptance length {length:.3f} x"
        )
    print("aims: speed >= 1.08 x, acceptance length >= 0.95 x")


def cut(options: argparse.Namespace) -> None:
    """The command itself, in a copy of DIR: another size, from the answers and the draft's expectations there."""
    from specctl.trim import calibration

    settings, kept = calibration.read(options.trim)
    source = "self" if settings.prompts == "self" else str(options.prompts)
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(options.trim, Path(folder) / "trim")
        command = [sys.executable, "-m", "specctl", "trim", "--pair", options.pair, "--calibrate", source]
        command += ["--count", str(len(kept)), "-n", str(settings.max_new_tokens), "--size", "16k", "-q"]
        begun = time.perf_counter()
        subprocess.run([*command, "--force", "-o", str(copy)], check=True)
        seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{seconds:.1f} s (aim <= 10), peak {peak:.0f} MB (aim: the head + 500), {os.cpu_count()} cores")


def write(options: argparse.Namespace) -> None:
    """Plain answers to the first questions of each category, appended as they come."""
    from specctl.profile import override, read
    from specctl.session import open_session
    from specctl.training.conversations import answered

    taken: dict[int, tuple[str, str]] = {}
    seen: Counter[str] = Counter()
    for number, line in enumerate(map(json.loads, options.prompts.read_text(encoding="utf-8").splitlines())):
        seen[line["category"]] += 1
        if seen[line["category"]] <= options.per_category:
            taken[number] = line["category"], (line.get("turns") or [line["prompt"]])[0]
    done = {one["index"] for one in read_answers(options.answers)} if options.answers.exists() else set()
    profile = override.merge(read.load("plain"), {"pair": options.pair})
    plain = open_session(profile, folders(options.pair)[0], None, target_name=options.pair, draft_name=None)
    prompts = {
        n: plain.encode(text, system=None, raw=False) for n, (_, text) in taken.items() if n not in done
    }
    with options.answers.open("a", encoding="utf-8") as out:
        for one in answered(plain, prompts, max_new_tokens=options.new_tokens, batch_size=8):
            fields = {"index": one.index, "category": taken[one.index][0]}
            print(json.dumps({**fields, "prompt": one.prompt, "answer": one.answer}), file=out, flush=True)


def read_answers(path: Path) -> list[dict[str, Any]]:
    """Lines of `write`, or of `calibration.jsonl`; one that was cut off is left out."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [one for one in map(json.loads, lines) if "answer" in one]


def count(options: argparse.Namespace) -> None:
    from specctl.models.cheap import cheapened
    from specctl.models.load import load
    from specctl.trim import calibration, costs, counts, curve, expected, job

    target, draft = folders(options.pair)
    kept = sorted(calibration.read(options.trim)[1], key=lambda one: one.index)
    lm = cheapened(load(draft, name=draft.name, native=True), options.quantize)[0]
    mass = expected.read(options.trim, expected.key(kept, f"{draft.name} None"))
    made = job.plan(target, draft, kept, expected.masses(lm, kept) if mass is None else mass)
    sizes = sorted(curve.rounded(made.rows >> step, made.rows) for step in range(6))
    samples = [
        calibration.Sample(one["index"], one["category"], tuple(one["prompt"]), tuple(one["answer"]))
        for one in read_answers(options.answers)
    ]
    right = {one.index: costs.hits(lm, one, made.order, sizes).tolist() for one in samples}
    counted_alone = counts.ranking(made.tally, made.must, made.rows)
    counted = int(made.tally.sum()), int((made.tally > 0).sum())
    print(f"kept by {counted[0]:,} tokens, {counted[1]:,} of them different; {len(samples)} answers judge")
    whole = made.rows
    for category, group in [*calibration.by_category(samples), ("all", samples)]:
        tally = counts.count((one.answer for one in group), made.target.rows)
        covered = counts.covered(made.order, tally)
        alone = counts.covered(counted_alone, tally)
        print(f"{category} ({int(tally.sum()):,} tokens)")
        lengths = {
            size: costs.acceptance_length((right[one.index][at] for one in group), options.draft_tokens)
            for at, size in enumerate(sizes)
        }
        gains = {
            size: costs.mbsu(length, made.draft, made.target, size, options.draft_tokens)
            for size, length in lengths.items()
        }
        for size in reversed(sizes):
            print(
                f"  {size:>8,} rows: coverage {float(covered[size - 1]):.4f} ({float(alone[size - 1]):.4f} by "
                f"counts alone), mean acceptance length "
                f"{lengths[size]:.3f} ({lengths[size] / lengths[whole]:.4f} x), MBSU {gains[size]:.3f} "
                f"({gains[size] / gains[whole]:.3f} x)"
            )


CHECKS = {"head": head, "step": step, "answers": answers, "cut": cut, "write": write, "count": count}

if __name__ == "__main__":
    main()

"""What cheap drafts cost and gain: step times, acceptance against the unquantised draft, and end to end.

    python benchmarks/cheap.py steps|acceptance|speedup [--pair smollm2-135m] [--profile self-int4]
        [--k 2 3 4 5] [--new-tokens 64] [--prompts FILE.jsonl] [--count 8] [--start 0]

`steps`: one token behind 256, each form of the profile's draft; `acceptance`: mean acceptance length at the first
k, each form over the bf16 draft; `speedup`: tokens a second over plain decoding, prefill included, for each k.
Compared things take turns in one process and share the target. Run it with everything else idle, with models on
disk; `--start` and `--count` cut the prompts into pieces (`--count` of them at even steps, from `--start` on).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from foundation import PROMPTS, geometric_mean, ours, session

FORMS = ("generic bf16", "bf16", "int8", "int4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("check", choices=list(CHECKS))
    parser.add_argument("--pair", default="smollm2-135m")
    parser.add_argument("--profile", default="self-int4")
    parser.add_argument("--k", type=int, nargs="+", default=[2, 3, 4, 5])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--prompts", type=Path, help="Spec-Bench's format; default: eight of our own")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--start", type=int, default=0)
    options = parser.parse_args()
    CHECKS[options.check](options)


def prompts(options: argparse.Namespace) -> list[tuple[str, str]]:
    lines = PROMPTS
    if options.prompts:
        questions = [json.loads(line) for line in options.prompts.read_text(encoding="utf-8").splitlines()]
        lines = [(question["category"], question["turns"][0]) for question in questions]
    step = len(lines) // options.count
    return lines[options.start : options.start + step * options.count : step]


def drafts(options: argparse.Namespace, opened: Any) -> dict[str, Any]:
    """The draft in every form, from its weights as they were loaded."""
    from foundation import pull
    from specctl.models.cheap import cheapened
    from specctl.models.load import load

    lm = opened.target
    if not opened.profile.drafter.drafts_itself:
        folder = pull(options.pair)[1]
        assert folder is not None
        lm = load(folder, name="draft", native=True)
    forms = {"generic bf16": lm}
    for scheme in ("bf16", "int8", "int4"):
        if scheme in options.forms:
            begun = time.perf_counter()
            forms[scheme] = cheapened(lm, None if scheme == "bf16" else scheme)[0]
            print(f"{scheme}: made in {time.perf_counter() - begun:.1f} s", flush=True)
    return forms


def check_steps(options: argparse.Namespace) -> None:
    opened = session(options.pair, options.profile)
    forms = {"target, plain": opened.target, **drafts(options, opened)}
    caches, times = {}, {name: [] for name in forms}
    for name, lm in forms.items():
        cache = caches[name] = lm.new_cache()
        lm.prefill(cache, cache.admit(), range(1000, 1256))
    for turn in range(11):
        for name, lm in forms.items():
            for _ in range(3):
                begun = time.perf_counter()
                lm.forward(caches[name], [[77]], range(1))
                times[name] += [time.perf_counter() - begun] if turn else []
    base, target = (statistics.median(times[name]) for name in ("generic bf16", "target, plain"))
    for name in forms:
        step = statistics.median(times[name])
        low, high = min(times[name]) * 1e3, max(times[name]) * 1e3
        print(
            f"{name:<16} {step * 1e3:6.1f} ms ({low:.1f}–{high:.1f})   x generic bf16 {step / base:.3f}   "
            f"x target {step / target:.3f}"
        )


def check_acceptance(options: argparse.Namespace) -> None:
    opened = session(options.pair, options.profile)
    forms = drafts(options, opened)
    lengths: dict[str, list[float]] = {name: [] for name in forms}
    for _, prompt in prompts(options):
        for name, lm in forms.items():
            one = with_k(replace(opened, draft=lm), options.k[0])
            _, rounds, answer = ours(one, prompt, options.new_tokens)
            lengths[name].append(len(answer) / rounds)
    base = statistics.fmean(lengths["generic bf16"])
    for name, some in lengths.items():
        mean = statistics.fmean(some)
        print(
            f"{name:<16} tokens a round {mean:.3f} ({min(some):.2f}–{max(some):.2f})   x bf16 {mean / base:.3f}"
        )


def check_speedup(options: argparse.Namespace) -> None:
    drafting = session(options.pair, options.profile)
    plain = replace(drafting, profile=session_profile("plain"), draft=None)
    runs = {"plain": plain, **{f"k={k}": with_k(drafting, k) for k in options.k}}
    for one in runs.values():
        ours(one, PROMPTS[0][1], 8)
    ratios: dict[str, dict[str, list[float]]] = {name: {} for name in runs}
    lengths: dict[str, list[float]] = {name: [] for name in runs}
    for number, (category, prompt) in enumerate(prompts(options)):
        names = list(runs)
        rates, answers = {}, {}
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds, rounds, answers[name] = ours(runs[name], prompt, options.new_tokens)
            rates[name] = len(answers[name]) / seconds
            lengths[name].append(len(answers[name]) / rounds)
        assert all(answer == answers["plain"] for answer in answers.values()), "the output is plain's"
        for name in names[1:]:
            ratios[name].setdefault(category, []).append(rates[name] / rates["plain"])
        said = ", ".join(f"{name} {rates[name] / rates['plain']:.2f}" for name in names[1:])
        print(f"  {category:<16} {said}   plain {rates['plain']:.1f} tokens/s", flush=True)
    for name in list(runs)[1:]:
        per = {category: geometric_mean(some) for category, some in ratios[name].items()}
        every = [ratio for some in ratios[name].values() for ratio in some]
        worst = min(per, key=lambda category: per[category])
        print(
            f"{name}: {geometric_mean(every):.3f} x plain, worst category {per[worst]:.2f} ({worst}), "
            f"tokens a round {statistics.fmean(lengths[name]):.2f}; "
            + ", ".join(f"{category} {ratio:.2f}" for category, ratio in per.items())
        )


def session_profile(name: str) -> Any:
    from specctl.profile import read

    return read.load(name)


def with_k(opened: Any, k: int) -> Any:
    from specctl.profile import override

    return replace(opened, profile=override.merge(opened.profile, {"drafter.draft_tokens": k}))


CHECKS = {"steps": check_steps, "acceptance": check_acceptance, "speedup": check_speedup}

if __name__ == "__main__":
    main()

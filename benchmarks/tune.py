"""`specctl tune` against an exhaustive sweep: what its choice is worth, what it took, and how well it foretold.

    python benchmarks/tune.py PAIR PROMPTS.jsonl [--count 6] [--tokens 32] [--every 1] [--results FILE.json]

Tunes on the first prompts of PROMPTS (kinds in turns) as the command does, then runs every setting of its grid on
the same prompts, in turns with plain decoding, prompt by prompt. Prints the best setting of the sweep, the share of
its speed that tune's choice reaches in the sweep (goal: 97 %), tune's time over the sweep's (goal: 1/10; loading is
in neither, measuring costs is in tune's), and predicted against measured over all settings (goal: median error 5 %,
worst 15 %). `--every 3` sweeps each third setting and tune's choice only. Run it with everything else idle.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from specctl.bench import runner, suites
from specctl.bench.profiles import ProfileContestant
from specctl.bench.runner import Plan
from specctl.bench.settings import Setting
from specctl.bench.summary import Summary, summarise
from specctl.bench.tune import Tuning, tune
from specctl.cli import lineup
from specctl.cli.tune import sources
from specctl.profile import override, read
from specctl.session import Request, Session


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("pair")
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--budget", type=float, default=300)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    groups = suites.groups(suites.read(options.prompts), 1)
    prompts = [group.prompts[0] for group in groups[: options.count]]
    base = override.merge(read.load("auto"), {"pair": options.pair})
    longest = max((prompt.text for prompt in prompts), key=len)
    profiles = [lineup.plain(base), *sources(base, None)]
    opened = lineup.open_all(profiles, longest, 1, offline=True, unasked=False, quiet=True)
    sessions = [one.session for one in opened]
    tuning = tune(sessions, prompts, options.tokens, options.budget, told=lambda text: print(f"  {text}"))
    chosen = tuning.best()
    swept = [
        one for number, one in enumerate(tuning.settings) if number % options.every == 0 or one is chosen
    ]
    measured, seconds = sweep(sessions[0], swept, prompts, options.tokens)
    found = report(tuning, chosen, swept, measured, seconds)
    print(json.dumps(found["figures"], indent=1))
    if options.results:
        options.results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def sweep(
    plain: Session, settings: list[Setting], prompts: list[Any], tokens: int
) -> tuple[dict[str, Summary], float]:
    """Every setting on every prompt, plain decoding first in the first turn."""

    def requests(group: suites.Group) -> list[Request]:
        prompt = group.prompts[0]
        return [Request(plain.encode(prompt.text, system=None, raw=prompt.raw), tokens)]

    everybody = [ProfileContestant(plain), *(ProfileContestant(one.session()) for one in settings)]
    plan = Plan(suites.groups(prompts, 1), requests)
    begun = time.perf_counter()
    trials = []
    for number, some in enumerate(runner.run(everybody, plan), start=1):
        trials += some
        print(f"  swept {len(everybody)} settings on prompt {number} of {len(prompts)}", flush=True)
    seconds = time.perf_counter() - begun
    return {one.contestant: one for one in summarise(trials, {}, plain.profile.name)}, seconds


def report(
    tuning: Tuning, chosen: Setting | None, swept: list[Setting], measured: dict[str, Summary], seconds: float
) -> dict[str, Any]:
    rows = [
        {
            "setting": one.profile.name,
            "predicted": one.predicted,
            "measured": measured[one.profile.name].speedup.mean,
            "equal": measured[one.profile.name].equal,
        }
        for one in swept
    ]
    best = max(rows, key=lambda row: row["measured"])
    reached = measured[chosen.profile.name].speedup.mean if chosen else 1.0
    errors = [abs(row["predicted"] / row["measured"] - 1) for row in rows]
    figures = {
        "settings": len(rows),
        "best": best["setting"],
        "best_speedup": best["measured"],
        "chosen": chosen.profile.name if chosen else "plain decoding",
        "chosen_speedup": reached,
        "share_of_best": reached / max(best["measured"], 1.0),
        "tune_s": tuning.seconds,
        "sweep_s": seconds,
        "share_of_time": tuning.seconds / seconds,
        "median_error": statistics.median(errors),
        "worst_error": max(errors),
    }
    return {"figures": figures, "settings": rows}


if __name__ == "__main__":
    main()

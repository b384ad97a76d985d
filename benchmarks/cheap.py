"""What cheap drafts cost and gain: step times, acceptance against the unquantised draft, and end to end.

    python benchmarks/cheap.py steps|speedup|load [--pair smollm2-135m] [--profile self-int4] [--trim DIR]
        [--k 2 3 4 5] [--new-tokens 64] [--prompts FILE.jsonl] [--count 8] [--start 0]
    python benchmarks/cheap.py acceptance|settings --answers FILE.jsonl [--forms bf16 int4] [--k 1 2 3 4 5]
        [--target-ms 1:188 4:200 8:236 16:321] [--step-ms 24]

`steps`: one token behind 256, each form of the profile's draft. `load`: opening a session, drafts made against
drafts stored (`specctl pull --quantize`). `speedup`: tokens a second over plain decoding, prefill included.
`acceptance`: mean acceptance length at each k, each form over the first. `settings`: every k and
`min_confidence`, simulated with the step times given. These two count: they need answers of the target
(`calibration.jsonl` of `specctl trim`: token ids of prompt and answer, a category), and may share the machine.
Compared things take turns in one process and share the target. Run the others with everything else idle, with
models on disk; `--start` and `--count` cut the prompts into pieces (`--count` of them, from `--start` on).
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
    parser.add_argument("--trim", type=Path, help="a trimmed head for the draft")
    parser.add_argument("--answers", type=Path, help="lines with ids: prompt, answer, and category")
    parser.add_argument("--target-ms", nargs="+", default=["1:188", "4:200", "8:236", "16:321"])
    parser.add_argument("--step-ms", type=float, default=24.0)
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

    lm, folder = opened.target, None
    if not opened.profile.drafter.drafts_itself:
        folder = pull(options.pair)[1]
        assert folder is not None
        lm = load(folder, name="draft", native=True)
    if options.trim is not None:
        from specctl.models import trimmed

        source = folder if not opened.profile.drafter.drafts_itself else pull(options.pair)[0]
        lm = trimmed.trimmed(lm, trimmed.read(options.trim, lm, source, opened.target.vocab_size))
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


def check_load(options: argparse.Namespace) -> None:
    """Opening a session, with stored drafts looked for and not."""
    from specctl.models import cheap

    find = cheap.find
    for turn in range(3):
        for name, look in (("made", lambda *_: (None, None)), ("as it is", find)):
            cheap.find = look
            begun = time.perf_counter()
            opened = session(options.pair, options.profile)
            seconds = time.perf_counter() - begun
            begun = time.perf_counter()
            list(opened.generate([ours_request(opened)]))
            print(
                f"{name:<9} {turn}: opened in {seconds:.2f} s, first answer in {time.perf_counter() - begun:.2f} s"
                f"{' (' + opened.info.draft_note + ')' if opened.info.draft_note else ''}",
                flush=True,
            )
            del opened


def ours_request(opened: Any) -> Any:
    from specctl.session import Request

    return Request(opened.encode("Say hello.", system=None, raw=False), 4)


def answered(options: argparse.Namespace) -> list[tuple[str, list[int], list[int]]]:
    """Category, prompt and answer of the lines chosen."""
    lines = [json.loads(line) for line in options.answers.read_text(encoding="utf-8").splitlines()]
    found = [
        (one.get("category", "file"), one["prompt"], one["answer"]) for one in lines if one.get("answer")
    ]
    found = [one for one in found if one[1]][options.start : options.start + options.count]
    return [(category, prompt, answer[: options.new_tokens]) for category, prompt, answer in found]


def traced(opened: Any, lm: Any, prompt: list[int], answer: list[int]) -> Any:
    """The draft's choice and confidence at each position of an answer, all before it being right."""
    import torch

    from specctl.bench.trace import Trace
    from specctl.models.trimmed import widen
    from specctl.session import Request

    itself = opened.profile.drafter.drafts_itself
    reader = opened.target if itself else lm
    cache, before = reader.new_cache(), len(prompt) - 1
    fed = [prompt[-1], *answer[:-1]]
    cache.admit()
    reader.prefill(cache, 0, [*prompt[:-1], *fed] if itself else prompt[:-1])
    found = []
    for start in range(0, len(fed), 1 if itself else 64):
        chunk = fed[start : start + (1 if itself else 64)]
        cache.truncate(0, before + start)
        slot = slice(before + start, before + start + 1)
        kept = [[tensor[0, :, slot].clone() for tensor in layer.tensors()] for layer in cache.slot_layers]
        found.append(widen(lm.forward(cache, [chunk], range(1))[0], lm.kept, opened.target.vocab_size))
        for layer, tensors in zip(cache.slot_layers, kept if itself else [], strict=False):
            for tensor, own in zip(layer.tensors(), tensors, strict=True):
                tensor[0, :, slot] = own
        cache.lengths[0] = before + start + len(chunk)
        if itself:
            cache.lengths[0] = before + len(fed)
    best = torch.cat([logits.float().softmax(dim=-1).max(dim=-1).values for logits in found]).tolist()
    tokens = torch.cat([logits.argmax(dim=-1) for logits in found]).tolist()
    return Trace(Request(tuple(prompt), len(answer)), tuple(answer), tuple(tokens), tuple(best))


def played(opened: Any, trace: Any, costs: Any, k: int, least: float | None = None) -> Any:
    from specctl.bench import predict
    from specctl.profile.drafters import SelfParams

    # Whoever drafts, nobody's reading of the prompt counts here: plain decoding reads it as well.
    params = SelfParams(method="self", draft_tokens=k, min_confidence=least)
    return predict.rounds(opened, params, trace, costs)


def flat(options: argparse.Namespace) -> Any:
    from specctl.models.costs import Costs, Curve

    points = {int(q): float(ms) / 1e3 for q, ms in (one.split(":") for one in options.target_ms)}
    step = options.step_ms / 1e3
    return Costs(Curve({1: points}, 0.0), Curve({1: {1: step, 2: 1.1 * step}}, 0.0))


def traces_of(options: argparse.Namespace) -> tuple[Any, dict[str, list[tuple[str, Any]]]]:
    """The session, and for each form of the draft the categories and traces of all answers."""
    opened = session(options.pair, options.profile)
    forms = {name: lm for name, lm in drafts(options, opened).items() if name in options.forms}
    traces: dict[str, list[tuple[str, Any]]] = {name: [] for name in forms}
    for number, (category, prompt, answer) in enumerate(answered(options), start=1):
        for name, lm in forms.items():
            traces[name].append((category, traced(opened, lm, prompt, answer)))
        print(f"  answer {number}: {category}, {len(answer)} tokens", flush=True)
    return opened, traces


def check_acceptance(options: argparse.Namespace) -> None:
    opened, traces = traces_of(options)
    costs = flat(options)
    for k in options.k:
        base = None
        for name, some in traces.items():
            tokens = sum(len(trace.answer) for _, trace in some)
            length = tokens / sum(len(played(opened, trace, costs, k)) for _, trace in some)
            base = base or length
            print(f"k={k} {name:<13} mean acceptance length {length:.3f}   x first {length / base:.3f}")


def check_settings(options: argparse.Namespace) -> None:
    from specctl.bench import simulate

    opened, traces = traces_of(options)
    costs = flat(options)
    for name, some in traces.items():
        table = []
        for k in options.k:
            for least in (None, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
                ratios: dict[str, list[float]] = {}
                for category, trace in some:
                    seconds = simulate.seconds(played(opened, trace, costs, k, least), 1, costs)
                    plain = len(trace.answer) * costs.target.seconds(1)
                    ratios.setdefault(category, []).append(plain / seconds)
                per = {category: geometric_mean(found) for category, found in ratios.items()}
                every = geometric_mean([one for found in ratios.values() for one in found])
                worst = min(per, key=lambda category: per[category])
                table.append((every, per[worst], worst, k, least))
        for every, low, worst, k, least in sorted(table, reverse=True, key=lambda row: row[0]):
            print(f"{name:<13} k={k} min_confidence={least}: {every:.3f} x plain, worst {low:.2f} ({worst})")


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


CHECKS = {
    "steps": check_steps,
    "load": check_load,
    "acceptance": check_acceptance,
    "settings": check_settings,
    "speedup": check_speedup,
}

if __name__ == "__main__":
    main()

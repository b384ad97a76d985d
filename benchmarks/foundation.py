"""What the foundation costs and gains, each figure beside the target it should reach.

    python benchmarks/foundation.py [CHECK ...] [--repeats 3] [--new-tokens 64]
        [--prompts FILE.jsonl] [--count 24]

CHECK: help, first-token, overhead, numerics, memory, ngram, ngram-qwen, draft-model, speedup, speedup-qwen
(default: all). Run it with everything else idle. Compared things take turns in one process, prompt by prompt,
after a warm-up; printed are medians with their range, ratios are geometric means over prompts. Models that are
missing are pulled first (SmolLM2-135M; for the Qwen checks the two Qwen2.5-Coder, 1.6 GB to fetch).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

SMALL, QWEN = "smollm2-135m", "qwen2.5-coder-1.5b"
PROMPTS = [
    ("coding", "Write a Python function that merges two sorted lists into one sorted list."),
    ("coding", "Write a SQL query that finds the three customers with the most orders, and explain it."),
    ("math", "A train covers 180 km in 2.5 hours, then 90 km in 1.5 hours. What is its average speed?"),
    ("math", "Solve 3x + 7 = 31 step by step, then check the result by putting it back into the equation."),
    ("writing", "Write a short letter to a neighbour, asking to borrow a ladder over the weekend."),
    ("writing", "Describe a harbour in the early morning, in one paragraph."),
    ("qa", "Why does the moon always show the same side to the earth?"),
    ("qa", "What is the difference between a virus and a bacterium? Name an example of each."),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=", ".join(CHECKS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--prompts", type=Path, help="Spec-Bench's format; default: eight of our own")
    parser.add_argument("--count", type=int, default=24, help="prompts taken from FILE, at even steps")
    options = parser.parse_args()
    unknown = set(options.checks) - set(CHECKS)
    if unknown:
        parser.error(f"unknown check {unknown.pop()}; known: {', '.join(CHECKS)}")
    if options.prompts:
        lines = [json.loads(line) for line in options.prompts.read_text(encoding="utf-8").splitlines()]
        lines = [lines[i * len(lines) // options.count] for i in range(options.count)]
        PROMPTS[:] = [(line["category"], line["turns"][0]) for line in lines]
    import torch
    import transformers

    print(
        f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, transformers {transformers.__version__}"
    )
    for name in options.checks or CHECKS:
        CHECKS[name](options)


def show(what: str, figure: str, target: str) -> None:
    print(f"{what:<58} {figure:<34} target {target}", flush=True)


def spread(values: list[float], unit: str = "", digits: int = 2) -> str:
    middle = statistics.median(values)
    return f"{middle:.{digits}f}{unit} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(math.log(value) for value in values))


# Start-up: whole processes, from outside.


def check_help(options: argparse.Namespace) -> None:
    command = [sys.executable, "-m", "specctl", "--help"]
    times = []
    for _ in range(options.repeats * 3 + 1):
        begun = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - begun)
    listing = (
        "import sys, runpy\n"
        "sys.argv = ['specctl', '--help']\n"
        "try: runpy.run_module('specctl', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'textual'} & set(sys.modules)), file=sys.stderr)"
    )
    loaded = subprocess.run([sys.executable, "-c", listing], check=True, capture_output=True, text=True)
    show("specctl --help", spread(times[1:], " s"), "<= 0.3 s")
    show("  of torch, transformers, textual it imports", loaded.stderr.strip(), "[]")


def check_first_token(options: argparse.Namespace) -> None:
    pull(SMALL)
    command = [sys.executable, "-m", "specctl", "run", "Why is the sky blue?", "--jsonl", "-n", "8"]
    times = []
    for _ in range(options.repeats + 1):
        begun = time.perf_counter()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if json.loads(line)["event"] == "emitted":
                    times.append(time.perf_counter() - begun)
                    break
            process.stdout.read()
    show("start to first token, default pair on disk", spread(times[1:], " s"), "<= 6 s")


def check_memory(options: argparse.Namespace) -> None:
    pair = pull(SMALL)
    program = (
        "import sys, runpy\n"
        "sys.argv = ['specctl', 'run', 'Why is the sky blue?', '-n', '64', '-q', '--profile', 'default']\n"
        "try: runpy.run_module('specctl', run_name='__main__')\n"
        "except SystemExit: pass\n"
        # Not ru_maxrss: that begins with what the parent process held.
        "print(*[line for line in open('/proc/self/status') if line.startswith('VmHWM')], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    peak = int(done.stderr.split()[-2]) / 1024
    weights = sum(file.stat().st_size for file in pair[0].glob("*.safetensors")) / 2**20
    show(
        "peak memory beyond the weights, default pair", f"{peak - weights:.0f} MB of {peak:.0f}", "<= 700 MB"
    )


# In-process comparisons.


def pull(pair: str) -> tuple[Path, Path | None]:
    from specctl.store.fetch import fetch_pair
    from specctl.store.progress import SilentProgress

    fetched = fetch_pair(pair, offline=False, progress=SilentProgress())
    return fetched.target, fetched.draft


def session(pair: str, profile: str, **overrides: Any) -> Any:
    from specctl.profile import override, read
    from specctl.session import open_session

    merged = override.merge(read.load(profile), {"pair": pair, **overrides})
    target, draft = pull(pair)
    return open_session(merged, target, draft, target_name=pair, draft_name="draft")


def ours(opened: Any, prompt: str, new_tokens: int) -> tuple[float, int, list[int]]:
    """Seconds, prefill included; forwards of the target; the answer's ids."""
    from specctl.events import Emitted, Timed
    from specctl.session import Request

    ids = opened.encode(prompt, system=None, raw=False)
    answer: list[int] = []
    rounds = 0
    begun = time.perf_counter()
    for event in opened.generate([Request(ids, new_tokens)]):
        rounds += isinstance(event, Timed)
        if isinstance(event, Emitted):
            answer += event.tokens
    return time.perf_counter() - begun, rounds, answer


def theirs(model: Any, opened: Any, prompt: str, new_tokens: int, **how: Any) -> tuple[float, int, list[int]]:
    """transformers' own generate on the same ids."""
    import torch

    ids = opened.encode(prompt, system=None, raw=False)
    begun = time.perf_counter()
    out = model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)).long(), do_sample=False,
        max_new_tokens=new_tokens, repetition_penalty=1.0, **how,
    )  # fmt: skip
    return time.perf_counter() - begun, 0, out[0, len(ids) :].tolist()


def duel(
    options: argparse.Namespace, what: str, target: str, a: Callable[..., Any], b: Callable[..., Any]
) -> None:
    """a against b in turns: how many times as many tokens a second a makes."""
    ratios: dict[str, list[float]] = {}
    rates: tuple[list[float], list[float]] = ([], [])
    a(PROMPTS[0][1], 8)
    b(PROMPTS[0][1], 8)
    for category, prompt in PROMPTS:
        per_side: tuple[list[float], list[float]] = ([], [])
        for repeat in range(options.repeats):
            for side in (0, 1) if repeat % 2 else (1, 0):
                seconds, _, answer = (a, b)[side](prompt, options.new_tokens)
                per_side[side].append(len(answer) / seconds)
        for side in (0, 1):
            rates[side].append(statistics.median(per_side[side]))
        ratios.setdefault(category, []).append(rates[0][-1] / rates[1][-1])
    everything = [ratio for some in ratios.values() for ratio in some]
    show(what, f"{geometric_mean(everything):.3f} ({min(everything):.2f}–{max(everything):.2f})", target)
    print(
        "  by category: " + ", ".join(f"{name} {geometric_mean(some):.2f}" for name, some in ratios.items())
    )
    print(f"  tokens/s: {spread(rates[0], digits=1)} against {spread(rates[1], digits=1)}", flush=True)


def check_overhead(options: argparse.Namespace) -> None:
    from specctl.models.lm import LM

    opened = {name: session(SMALL, name) for name in ("plain", "ngram")}
    inside = 0.0
    run = LM._run

    def timed(self: LM, *args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        begun = time.perf_counter()
        out = run(self, *args, **kwargs)
        inside += time.perf_counter() - begun
        return out

    LM._run = timed  # type: ignore[method-assign]
    for name, one in opened.items():
        shares = []
        for _, prompt in PROMPTS:
            inside = 0.0
            seconds, _, _ = ours(one, prompt, options.new_tokens)
            shares.append(100 * (1 - inside / seconds))
        show(f"loop overhead, {name}", spread(shares, " %"), "<= 5 %")
    LM._run = run  # type: ignore[method-assign]


def check_numerics(options: argparse.Namespace) -> None:
    invariant, native = session(SMALL, "plain"), session(SMALL, "plain", numerics="native")
    duel(
        options, "invariant against native, plain, SmolLM2", ">= 0.95 x",
        lambda prompt, n: ours(invariant, prompt, n), lambda prompt, n: ours(native, prompt, n),
    )  # fmt: skip


class Dictation:
    """Makes two copies of a model write the same answer: what transformers' plain generate says.

    Left alone, each follows its own rounding away from plain decoding's text, and the one that happens to begin
    repeating itself is fast. A hook lifts the answer's next token above all others, in any forward, for both alike;
    it counts the forwards too.
    """

    def __init__(self, opened: Any, model: Any) -> None:
        self._opened, self._model = opened, model
        self._known: dict[tuple[str, int], list[int]] = {}
        self._side, self._prompt = 0, 0
        self._answer: Any = None
        self.tokens, self.forwards = [0, 0], [0, 0]
        for module in (opened.target.packed or opened.target.module, model):
            module.register_forward_hook(self._hook, with_kwargs=True)

    def run(self, side: int, prompt: str, n: int, decode: Callable[[], tuple[float, int, list[int]]]) -> Any:
        import torch

        if (prompt, n) not in self._known:
            self._answer = None
            self._known[prompt, n] = theirs(self._model, self._opened, prompt, n)[2]
        expected = self._known[prompt, n]
        self._side, self._answer = side, torch.tensor(expected)
        self._prompt = len(self._opened.encode(prompt, system=None, raw=False))
        result = decode()
        if result[2] != expected:
            raise SystemExit(f"side {side} did not write what it was told after {prompt!r}")
        self.tokens[side] += len(expected)
        return result

    def _hook(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if self._answer is None:
            return
        self.forwards[self._side] += 1
        logits = output.logits
        at = kwargs["position_ids"][0, -logits.shape[1] :] + 1 - self._prompt
        mine = ((at >= 0) & (at < len(self._answer))).nonzero()[:, 0]
        logits[0, mine, self._answer[at[mine]]] = 1e4


def _ngram(options: argparse.Namespace, pair: str, name: str) -> None:
    opened = session(pair, "ngram")
    model = peer(pull(pair)[0])
    how = {"prompt_lookup_num_tokens": 10}  # as its documentation shows
    text = Dictation(opened, model)
    duel(
        options, f"ngram against transformers' prompt lookup, {name}", ">= 1.05 x",
        lambda prompt, n: text.run(0, prompt, n, lambda: ours(opened, prompt, n)),
        lambda prompt, n: text.run(1, prompt, n, lambda: theirs(model, opened, prompt, n, **how)),
    )  # fmt: skip
    mean = [tokens / forwards for tokens, forwards in zip(text.tokens, text.forwards, strict=True)]
    print(f"  tokens a forward, the prompt's included: {mean[0]:.2f} against {mean[1]:.2f}", flush=True)


def check_ngram(options: argparse.Namespace) -> None:
    _ngram(options, SMALL, "SmolLM2")


def check_ngram_qwen(options: argparse.Namespace) -> None:
    _ngram(options, QWEN, "Qwen 1.5B")


def check_draft_model(options: argparse.Namespace) -> None:
    opened = session(QWEN, "draft-model", **{"drafter.draft_tokens": 5})
    target, draft = pull(QWEN)
    assert draft is not None
    model, assistant = peer(target), peer(draft)
    for each in (model, assistant):
        each.generation_config.num_assistant_tokens = 5
        each.generation_config.num_assistant_tokens_schedule = "constant"
        each.generation_config.assistant_confidence_threshold = 0.0
    duel(
        options, "draft-model k=5 against transformers' assisted, Qwen pair", ">= 1.05 x",
        lambda prompt, n: ours(opened, prompt, n),
        lambda prompt, n: theirs(model, opened, prompt, n, assistant_model=assistant),
    )  # fmt: skip


def _speedup(options: argparse.Namespace, pair: str, profile: str, name: str) -> None:
    """Against the best plain decoding of this runtime: native numerics."""
    opened, plain = session(pair, profile), session(pair, "plain", numerics="native")
    duel(
        options, f"{profile} against plain decoding, {name}", "(reported)",
        lambda prompt, n: ours(opened, prompt, n), lambda prompt, n: ours(plain, prompt, n),
    )  # fmt: skip


def check_speedup(options: argparse.Namespace) -> None:
    _speedup(options, SMALL, "default", "SmolLM2")


def check_speedup_qwen(options: argparse.Namespace) -> None:
    _speedup(options, QWEN, "draft-model", "Qwen pair")
    _speedup(options, QWEN, "ngram", "Qwen 1.5B")


def peer(path: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()


CHECKS: dict[str, Callable[[argparse.Namespace], None]] = {
    "help": check_help,
    "first-token": check_first_token,
    "overhead": check_overhead,
    "numerics": check_numerics,
    "memory": check_memory,
    "ngram": check_ngram,
    "ngram-qwen": check_ngram_qwen,
    "draft-model": check_draft_model,
    "speedup": check_speedup,
    "speedup-qwen": check_speedup_qwen,
}

if __name__ == "__main__":
    main()

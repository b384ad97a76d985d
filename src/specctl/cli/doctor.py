"""`specctl doctor`: what this machine can give, and whether drafting pays on it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from specctl.cli import console, options
from specctl.cli.progress import size

if TYPE_CHECKING:
    from specctl.bench.doctor import Diagnosis

EXAMPLES = """Examples:

specctl doctor

specctl doctor --pair qwen2.5-coder-1.5b --json"""

_PROMPTS, _TOKENS = 4, 32


def doctor(
    ctx: typer.Context,
    pair: options.PairName = None,
    target: options.Target = None,
    draft: options.Draft = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    offline: options.Offline = False,
    pull: options.Pull = False,
    as_json: options.Json = False,
) -> None:
    """Measure machine and pair: what a forward costs, whether drafting pays, and what would help most.

    Takes about a minute for a small pair; what a forward costs is measured anew and remembered.
    """
    from specctl.bench import doctor as examining
    from specctl.bench import suites, trace
    from specctl.cli import lineup
    from specctl.cli.status import StatusLine
    from specctl.models import costs
    from specctl.profile import override, read
    from specctl.session import Request

    prompts = suites.of_each_kind(suites.builtin(), 1)[::2][:_PROMPTS]
    profile = override.merge(read.load("auto"), {**options.typed(ctx), "max_new_tokens": _TOKENS})
    longest = max((prompt.text for prompt in prompts), key=len)
    opened = lineup.open_all([profile], longest, 1, offline=offline, unasked=pull, quiet=as_json)[0]
    session = opened.session
    status = StatusLine(under_text=False)
    live = console.is_live(sys.stderr) and not as_json
    try:
        if live:
            status.show("measuring what forwards cost")
        known = costs.anew(session.target, session.draft)
        if live:
            status.show("recording what the draft gets right")
        ids = [session.encode(prompt.text, system=None, raw=False) for prompt in prompts]
        traces = [trace.record(session, Request(one, _TOKENS)) for one in ids]
        found = examining.diagnose(session, traces, known)
    finally:
        status.hide()
    if as_json:
        console.document(found.to_json())
        return
    for line in _lines(found, " and ".join(model.name for model in opened.choice.models)):
        console.line(line)


def _lines(found: Diagnosis, models: str) -> Iterator[str]:
    facts = found.machine
    yield (
        f"machine     {facts['cpu'] or facts['machine']}, {facts['threads']} of {facts['cpus']} threads, "
        f"{facts['cpu_capability']}, {size(facts['memory_bytes'])} memory, "
        f"GPU: {', '.join(facts['gpus']) or 'none'}"
    )
    yield (
        f"speed       {found.bandwidth_bytes_s / 1e9:.1f} GB/s from memory; "
        f"bfloat16 products {found.bf16_faster:.1f} × as fast as float32"
    )
    yield f"models      {models}: {size(found.weights_bytes)} of weights, {found.dtype}"
    held = (
        "hold here: drafting cannot change the text" if found.numerics == "invariant" else "do not hold here"
    )
    yield f"numerics    invariant ones {held}"
    curve = ", ".join(f"{tokens}: {ms:.0f}" for tokens, ms in found.curve().items())
    filled = f"; filled up to {found.fewest_rows} rows, that is fastest" if found.fewest_rows > 1 else ""
    yield f"forward     ms of the target by tokens: {curve}{filled}"
    if found.costs.draft is not None:
        yield f"draft       {1e3 * found.costs.draft.seconds(1):.0f} ms a step"
    needed = (
        "no draft length gains" if found.break_even is None else f"pays from {found.break_even:.0%} right on"
    )
    right = "not measured" if found.acceptance is None else f"{found.acceptance:.0%} right"
    yield f"acceptance  single draft tokens: {right}; drafting {needed}"
    yield f"expected    {min(found.expected):.2f} to {max(found.expected):.2f} × plain decoding, by `auto`"
    for number, advice in enumerate(found.advice, start=1):
        yield f"{number}. {advice}"

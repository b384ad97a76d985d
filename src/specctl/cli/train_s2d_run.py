"""What `specctl train s2d` does once it is clear what is wanted: answers, training, files; or fitted thresholds."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from specctl.cli import console, train_data, train_states
from specctl.cli.interrupt import Interrupt
from specctl.cli.status import StatusLine
from specctl.errors import RequestError
from specctl.models import costs, sorted_draft
from specctl.models.cheap import cheapened
from specctl.models.lm import LM
from specctl.models.sorted_draft import Shape
from specctl.models.trained import fingerprint, write_card
from specctl.training import thresholds
from specctl.training.conversations import Conversation
from specctl.training.kangaroo import frequent_tokens
from specctl.training.loop import Ended, Evaluated, Settings, Split, Stepped, Trainer
from specctl.training.sorted import Loss, Sorted
from specctl.training.thresholds import Prices

if TYPE_CHECKING:
    from specctl.session import Session

_BLOCK = 64
"""Conversations asked for at a time."""

_FEWEST = 20
_REPEATS = 15


@dataclass(frozen=True, slots=True)
class Wish:
    """`tokens`: prompts and answers together; `rank` None: whole layers are trained; `vocabulary` 0: all of it."""

    data: str
    tokens: int
    batch_size: int | None
    depths: tuple[int, ...]
    rank: int | None
    loss: Loss
    vocabulary: int
    settings: Settings


def train(session: Session, wish: Wish, output: Path, *, as_json: bool, quiet: bool) -> None:
    """A sorted draft of the session's target in `output`, whenever it ends. Raises RequestError."""
    with Interrupt() as interrupt:
        view = _View(quiet=quiet or as_json)
        try:
            texts = _texts(session, wish, output, interrupt.asked, view)
            ended, card = _trained(session, wish, texts, output, interrupt.asked, view)
        finally:
            view.status.hide()
    if as_json:
        console.document(
            {"schema": 1, "path": str(output), "ended": ended.reason, "step": ended.step, **card}
        )
    else:
        console.line(f"sorted draft of {session.info.target} in {output}, held out:")
        for depth, one in zip(wish.depths, card["held_out"], strict=True):
            told = f"top-1 {one['top1']:.1%}, acceptance {one['acceptance']:.1%}, loss {one['loss']:.3f}"
            console.line(f"  depth {depth}: {told}")
    train_states.leave_if(ended.reason == "cancelled")


def _texts(
    session: Session, wish: Wish, folder: Path, cancelled: Callable[[], bool], view: _View
) -> list[Conversation]:
    """Conversations with an answer, until they hold the tokens wished for. Raises RequestError, typer.Exit."""
    seed = wish.settings.seed
    source = train_data.find(
        session, wish.data, folder, seed=seed, batch_size=wish.batch_size, cancelled=cancelled
    )
    found: list[Conversation] = []
    held = start = 0
    while held < wish.tokens and (source.count is None or start < source.count) and not cancelled():
        block = range(start, start + _BLOCK if source.count is None else min(start + _BLOCK, source.count))
        some = sorted(source.get(block), key=lambda one: one.index)
        room = session.target.context_length
        found += [
            one for one in some if one.answer and one.prompt and len(one.prompt) + len(one.answer) <= room
        ]
        held = sum(len(one.prompt) + len(one.answer) for one in found)
        start = block.stop
        view.collected(len(found), held, wish.tokens)
    train_states.leave_if(cancelled())
    if len(found) < _FEWEST:
        raise RequestError(
            f"{len(found)} conversations are too few to learn from",
            hint="take more: `--tokens`, or more prompts",
        )
    return found


def _trained(
    session: Session,
    wish: Wish,
    texts: Sequence[Conversation],
    output: Path,
    cancelled: Callable[[], bool],
    view: _View,
) -> tuple[Ended, dict[str, Any]]:
    lm, shape = session.target, Shape(wish.depths, wish.rank)
    split = Split([len(one.prompt) + len(one.answer) for one in texts])
    kept = None
    if 0 < wish.vocabulary < lm.vocab_size:
        answers = (texts[number].answer for number in split.train)
        kept = frequent_tokens(answers, wish.vocabulary, sorted(session.eos))
    objective = Sorted(lm, shape, kept, texts, wish.loss, wish.settings.seed)
    about = json.dumps(["s2d", fingerprint(lm), asdict(shape)])
    trainer = Trainer(objective, split, wish.settings, output, about)
    trainer.resume()
    ended = Ended(trainer.step, "done")
    for event in trainer.run(cancelled):
        if isinstance(event, Stepped):
            view.stepped(event, wish.settings.steps)
        elif isinstance(event, Evaluated):
            view.evaluated(objective, wish.depths)
        else:
            ended = event
    with torch.no_grad():
        objective.module.load_state_dict(trainer.best)
        objective.measure(split.held_out)
    card = {
        "held_out": [
            {"depth": depth, **asdict(one)}
            for depth, one in zip(wish.depths, objective.by_depth, strict=True)
        ],
        "trained": {
            "loss": wish.loss,
            "steps": trainer.step,
            "answer_tokens": sum(len(texts[number].answer) for number in split.train),
            "data": wish.data,
            **asdict(wish.settings),
        },
        "command": shlex.join(["specctl", *sys.argv[1:]]),
    }
    sorted_draft.write(output, lm, trainer.best, shape, kept, card)
    return ended, card


# Thresholds ------------------------------------------------------------------------------------------------------


def fit(
    session: Session, base: LM, wish: Wish, draft_tokens: int, folder: Path, *, as_json: bool, quiet: bool
) -> None:
    """Writes the session's target and its thresholds into the card of the sorted draft in `folder`.

    `base`: the model it was cut from. Raises RequestError, ModelFileError.
    """
    card = sorted_draft.read_card(folder)
    target = session.target
    weights, kept = sorted_draft.read(folder, base)
    draft, _ = cheapened(weights.merged(base, kept), "int4")
    draft.exits = tuple((depth, 0.0) for depth in weights.shape.depths)
    with Interrupt() as interrupt:
        view = _View(quiet=quiet or as_json)
        try:
            beside = folder / f"answers-{fingerprint(target)[:12]}"
            texts = _texts(session, wish, beside, interrupt.asked, view)
            heard = [thresholds.listen(draft, one) for one in texts]
            prices = _prices(target, draft, draft_tokens)
        finally:
            view.status.hide()
    found = thresholds.fit(heard, prices, draft_tokens)
    agreement = torch.cat([one.right for one in heard], dim=1).double().mean(dim=1).tolist()
    entry = {
        "name": session.info.target,
        "thresholds": list(found.thresholds),
        "agreement": agreement,
        "answer_tokens": sum(len(one.answer) for one in texts),
        "draft_tokens": draft_tokens,
        "promised": {"speedup": found.speedup, "static": list(found.static), "exits": list(found.exits)},
        "prices_s": asdict(prices),
    }
    card["targets"][fingerprint(target)] = entry
    write_card(folder, card)
    if as_json:
        console.document({"schema": 1, "path": str(folder), **entry})
        return
    console.line(f"thresholds of {folder} for {session.info.target}: {', '.join(map(str, found.thresholds))}")
    shares = zip(weights.shape.depths, agreement, found.exits, found.static, strict=True)
    for depth, right, share, alone in shares:
        console.line(f"  depth {depth}: right {right:.1%}, answers {share:.1%}, alone {alone:.2f} x plain")
    console.line(f"  promised {found.speedup:.2f} x plain here")


def _prices(target: LM, draft: LM, k: int) -> Prices:
    """Medians on this machine, behind some context."""
    cache = draft.new_cache()
    cache.admit()
    draft.prefill(cache, 0, [1] * 128)
    state = torch.zeros(1, 1, int(draft.config.hidden_size), dtype=draft.dtype, device=draft.device)
    segments = tuple(
        _seconds(partial(draft.segment, cache, state if low else [[1]], range(1), low, high))
        for low, high in pairwise([0, *(depth for depth, _ in draft.exits)])
    )
    curve = costs.curve(target)
    read_out = _seconds(partial(draft.read_out, state))
    return Prices(segments, read_out, curve.seconds(k + 1), curve.seconds(1))


def _seconds(call: Callable[[], Any]) -> float:
    call()
    seconds = []
    for _ in range(_REPEATS):
        begun = perf_counter()
        call()
        seconds.append(perf_counter() - begun)
    return median(seconds)


class _View:
    """One status line, redrawn: what is being done, how well, how long it will take."""

    def __init__(self, *, quiet: bool) -> None:
        self.status = StatusLine(under_text=False)
        self._live = console.is_live(sys.stderr) and not quiet
        self._last = ""
        self._rate = 0.0

    def collected(self, conversations: int, tokens: int, wanted: int) -> None:
        self._show(f"{conversations} conversations · {tokens:,} of {wanted:,} tokens")

    def stepped(self, event: Stepped, steps: int) -> None:
        rate = event.tokens / event.seconds
        self._rate = rate if not self._rate else 0.95 * self._rate + 0.05 * rate
        left = round((steps - event.step) * event.seconds)
        self._show(
            f"step {event.step}/{steps} · loss {event.loss:.3f} · {self._rate:,.0f} tokens/s"
            f" · ETA {left // 60}:{left % 60:02}{self._last}"
        )

    def evaluated(self, objective: Sorted, depths: Sequence[int]) -> None:
        pairs = zip(depths, objective.by_depth, strict=True)
        self._last = " · top-1 " + ", ".join(f"{one.top1:.1%} at {depth}" for depth, one in pairs)

    def _show(self, text: str) -> None:
        if self._live:
            self.status.show(text)

"""Bugs to plant in what came after the list of sixty, and the small runs in which they show.

Streams, a copy that drafts in the target's cache, rows that rest, a drafter that chooses, drafts made ahead,
prompts read while others decode, padded rows, rows that are filled up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from typing import Any
from unittest.mock import patch

from methods import COPY, adapter_lm, maker
from planted import DEGRADED, STATE, TOKENS, plant
from scenes import HOT, K, Verdicts, draft_lm, greedy, subject, watched
from toys import scripted

from fakes import ask, flat_costs
from specctl.decode import newcomers
from specctl.decode import target as target_module
from specctl.decode.policy import Plan, Source
from specctl.drafters import auto
from specctl.equivalence import reference
from specctl.equivalence.greedy import verify_greedy
from specctl.models import lm as lm_module
from specctl.models.lm import LM
from specctl.models.streams import Streams
from streaming import random_cells


@cache
def streaming() -> LM:
    """Two tokens of three are said by streams, so nothing of a round goes through the draft model."""
    return replace(draft_lm(), streams=Streams(draft_lm(), random_cells(), None))


def streams() -> Verdicts:
    """Two rows and one alone: they lack unequal numbers of tokens when they are caught up with."""
    return watched(subject(draft=streaming()), ask(3, 14))


def copy() -> Verdicts:
    return watched(subject(maker(COPY), draft=replace(adapter_lm(), twin=True)), ask(3, 12))


def resting() -> Verdicts:
    """Drafts that cost so much that a row rests after the first one that is not kept."""
    return watched(subject(maker("kangaroo", flat_costs(1.0)), draft=adapter_lm()), ask(3, 24))


def ahead() -> Verdicts:
    """Rows that leave in different rounds, with drafts made ahead for those that stay."""
    asked = [replace(one, max_new_tokens=new) for one, new in zip(ask(3), (5, 16, 14), strict=True)]
    return watched(subject(maker("mirror")), asked, batch_size=3)


def in_turns(rows: Any, costs: Any, most: int) -> Plan:
    """Rows in turn: lookup, where it has found something, and the model."""
    sources = [
        Source.LOOKUP if row.lookup and (row.context + slot) % 2 else Source.MODEL
        for slot, row in enumerate(rows)
    ]
    return Plan(sources, [min(K, row.budget) for row in rows])


def chosen() -> Verdicts:
    with patch.object(auto, "choose", in_turns):
        return watched(subject(maker("auto")), ask(4, 14), batch_size=4)


def chosen_and_drawn() -> Verdicts:
    with patch.object(auto, "choose", in_turns):
        one = subject(maker("auto"), law=HOT, accept="coupled")
        return watched(one, ask(4, 14), batch_size=4)


@contextmanager
def small_chunks() -> Iterator[None]:
    """Prompts are read by chunks as wide as all other blocks."""
    with ExitStack() as patches:
        for module in (newcomers, target_module, lm_module, reference):
            patches.enter_context(patch.object(module, "PREFILL_CHUNK", K + 1))
        yield


def in_chunks() -> Verdicts:
    """Long prompts, read a chunk a round while others decode."""
    with small_chunks():
        return greedy(subject(), ask(4, 8), batch_size=2)


def padded() -> Verdicts:
    asked = ask(4, 12)
    one = scripted("coin", asked)
    one = replace(one, rules=replace(one.rules, schedule="eqspec"))
    reports = verify_greedy(one, asked, batch_size=3, noise=None, audit=1.0)
    return frozenset(report.verdict for report in reports)


NEWER_SCENES: dict[str, Callable[[], Verdicts]] = {
    "streams": streams,
    "copy": copy,
    "resting": resting,
    "ahead": ahead,
    "chosen": chosen,
    "chosen-and-drawn": chosen_and_drawn,
    "in-chunks": in_chunks,
    "padded": padded,
}

_KANGAROO_SEEN = "drafters.kangaroo:Kangaroo.observe"
_MODEL = "drafters.draft_model:DraftModel"

NEWER = [
    plant("n1", "streamed tokens count as read", "streams", DEGRADED,
           (f"{_MODEL}.observe", "min(n, self._fed)", "n")),
    plant("n2", "a stream goes on from a padded column", "streams", DEGRADED,
           (f"{_MODEL}._forward", "states[at]", "states[:, -1]")),
    plant("n3", "verification goes on from the states of a copy", "copy", STATE | TOKENS,
           ("drafters.kangaroo:Kangaroo.draft", "if self._copied:", "if False:")),
    plant("n4", "states of a copy kept as the target's", "copy", DEGRADED,
           (_KANGAROO_SEEN, "0 if self._copied else min(n + 1, self._steps)", "min(n + 1, self._steps)")),
    plant("n5", "tokens committed while a row rests are never read", "resting", DEGRADED,
           (_KANGAROO_SEEN, "states[slot, seen : n + 1]", "states[slot, seen : (n + 1) * bool(self._steps)]")),
    plant("n6", "the model takes what was looked up for its own", "chosen", DEGRADED,
           ("drafters.auto:Auto.observe", "self._model.observe(rows, scored, own)",
            "self._model.observe(rows, scored, accepted)")),
    plant("n7", "looked-up tokens with the model's law", "chosen-and-drawn", DEGRADED,
           ("drafters.auto:_laws", "if found:", "if False:")),
    plant("n8", "a draft made ahead for another token of the target's", "ahead", DEGRADED,
           ("mirror.writer:Writer.take", "one.key == verdict", "verdict and one.key[0] == verdict[0]")),
    plant("n9", "a prompt read aside is adopted without its first layer", "in-chunks", STATE | TOKENS,
           ("models.cache:SlotCache.adopt", "zip(self.slot_layers, other.slot_layers, strict=True)",
            "zip(self.slot_layers[1:], other.slot_layers[1:], strict=True)")),
    plant("n10", "the last token of a chunk is read twice", "in-chunks", STATE | TOKENS,
           ("decode.target:Target.read", "reading.left[:PREFILL_CHUNK], reading.left[PREFILL_CHUNK:]",
            "reading.left[:4], reading.left[3:]")),
    plant("n11", "keys padded without their values", "padded", STATE | TOKENS,
           ("models.cache:SlotLayer.shift", "in self.tensors()", "in self.tensors()[:1]")),
    plant("n12", "logits read off a dummy row", "draft-model", STATE | TOKENS,
           ("models.lm:LM.forward", "cast(Tensor, out.logits)[:, :q]", "cast(Tensor, out.logits)[:, -q:]")),
]  # fmt: skip

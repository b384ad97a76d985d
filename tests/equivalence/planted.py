"""Planted bugs: the engine's own source with one thing wrong, by the numbers of the list we hold ourselves to.

An edit names a function and the words in it that are replaced; words that are no longer there fail loudly, so a
plant cannot rot into a test of nothing. Nothing of this is in the shipped code.
"""

from __future__ import annotations

import __future__  # isort: skip
import importlib
import inspect
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from specctl.decode.accept import ACCEPTORS
from specctl.equivalence.report import Verdict
from specctl.models.lm import LM

Found = frozenset[Verdict]
STRUCTURE = frozenset({Verdict.STRUCTURE})
STATE = frozenset({Verdict.STATE})
TOKENS = frozenset({Verdict.DIVERGED})
LAW = frozenset({Verdict.DISTRIBUTION})
DEGRADED = frozenset({Verdict.DRAFT_DEGRADED})


@dataclass(frozen=True)
class Edit:
    """`where` is `module:function` or `module:Class.method` below `specctl`; `old` stands there exactly once."""

    where: str
    old: str
    new: str

    def apply(self, patch: pytest.MonkeyPatch) -> None:
        module_name, _, path = self.where.partition(":")
        module = importlib.import_module(f"specctl.{module_name}")
        owner: Any = module
        *outer, name = path.split(".")
        for one in outer:
            owner = getattr(owner, one)
        original = inspect.getattr_static(owner, name)
        source = textwrap.dedent(inspect.getsource(original))
        assert source.count(self.old) == 1, f"{self.where} no longer says {self.old!r} once"
        names: dict[str, Any] = {}
        code = compile(
            source.replace(self.old, self.new),
            f"<planted {self.where}>",
            "exec",
            flags=__future__.annotations.compiler_flag,
        )
        exec(code, {**vars(module), **HELPERS}, names)  # the edited source of our own function
        broken = names[name]
        patch.setattr(owner, name, broken)
        if owner is module:
            _replace_imports(patch, original, broken)


def _replace_imports(patch: pytest.MonkeyPatch, original: object, broken: object) -> None:
    """Wherever the function was imported by name, the reference decoder included."""
    for name, module in list(sys.modules.items()):
        if name.startswith("specctl."):
            for key, value in list(vars(module).items()):
                if value is original:
                    patch.setattr(module, key, broken)
    for key, value in list(ACCEPTORS.items()):
        if value is original:
            patch.setitem(ACCEPTORS, key, broken)


@dataclass(frozen=True)
class Plant:
    """`scene` is where it has to be seen, `expected` the verdicts of which the run must show one."""

    number: str
    bug: str
    edits: tuple[Edit, ...]
    scene: str
    expected: Found

    def __str__(self) -> str:
        return f"planted-{self.number}-{self.bug.replace(' ', '-')}"

    def apply(self, patch: pytest.MonkeyPatch) -> None:
        _State.rejected = False
        for edit in self.edits:
            edit.apply(patch)


# What some bugs need to know -----------------------------------------------------------------------------------


class _State:
    rejected = False


def _shifted(
    lm: LM, cache: Any, tokens: Any, rows: Any, shift: Callable[[torch.Tensor], torch.Tensor]
) -> Any:
    """A forward of the verified block with other positions; every other forward is right."""
    from specctl.models import lm as module

    right = module.geometry

    def geometry(*args: Any) -> Any:
        positions, mask = right(*args)
        return shift(positions), mask

    module.geometry = geometry  # type: ignore[assignment]
    try:
        return lm.forward(cache, tokens, rows)
    finally:
        module.geometry = right


def _wider(lm: LM, cache: Any, tokens: Any, rows: Any) -> Any:
    """A forward whose sliding window holds one token too many."""
    lm.config.sliding_window += 1
    try:
        return lm.forward(cache, tokens, rows)
    finally:
        lm.config.sliding_window -= 1


HELPERS: dict[str, Any] = {"State": _State, "shifted": _shifted, "wider": _wider}

_FORWARD = "self.lm.forward(self.cache, tokens, batch)"
_SCORE = "decode.target:Target.score"
_COMMIT = "decode.target:Target.commit"
_ROUND = "decode.loop:_round"
_FINISH = "decode.finish:finish"
_REJECTION = "decode.accept:rejection"
_KEEP = "decode.accept:_keep_while_equal"
_DRAFTED = "decode.sampling:Sampler.draft_tokens"
_DRAW = "return self.draws.sample(q, at, Stream.TARGET if self.coupled else Stream.DRAFT), q"
_LAW = "p = sampler.law.probabilities(scores)"
_RESIDUAL = "left = (law - q).clamp(min=0)"
_OBSERVE = "drafters.draft_model:DraftModel.observe"
_CATCH_UP = "drafters.draft_model:DraftModel._catch_up"
_LACKING = "row.ids[self._cache.lengths[slot] :] if active[slot] else row.ids[-1:]"
_COMMITTED = "self.cache.commit(slot, n)"


def plant(number: str, bug: str, scene: str, expected: Found, *edits: tuple[str, str, str]) -> Plant:
    return Plant(number, bug, tuple(Edit(*edit) for edit in edits), scene, expected)


PLANTS = [
    # Target cache and positions
    plant(
        "1", "positions of the block one too high", "draft-model", STATE | TOKENS,
        (_SCORE, _FORWARD, "shifted(self.lm, self.cache, tokens, batch, lambda at: at + 1)"),
    ),
    plant(
        "2", "positions restart after a rollback", "draft-model", STATE | TOKENS,
        (_COMMIT, _COMMITTED, f"State.rejected |= n < self.cache.window.q; {_COMMITTED}"),
        (
            _SCORE, _FORWARD,
            "shifted(self.lm, self.cache, tokens, batch, lambda at: at - at[:, :1] * State.rejected)",
        ),
    ),
    plant("3", "target cache not cropped", "draft-model", STATE,
           (_COMMIT, _COMMITTED, "self.cache.commit(slot, self.cache.window.q)")),
    plant("4", "target cache cropped one too few", "draft-model", STATE,
           (_COMMIT, _COMMITTED, "self.cache.commit(slot, n + (n < self.cache.window.q))")),
    plant("5", "target cache cropped one too many", "draft-model", STATE,
           (_COMMIT, _COMMITTED, "self.cache.commit(slot, max(n - 1, 1))")),
    # Draft cache: greedy output stays right
    plant("6", "draft cache not cropped", "fidelity", DEGRADED,
           (_OBSERVE, "min(n, self._fed)", "self._fed"), (_CATCH_UP, _LACKING, "row.ids[-1:]")),
    plant("7", "draft lacks the last accepted token", "fidelity", DEGRADED,
           (_CATCH_UP, _LACKING, "row.ids[-1:]")),
    plant("8", "draft rewound two too many", "fidelity", DEGRADED,
           (_OBSERVE, "min(n, self._fed)", "max(min(n, self._fed) - 2, 0)"),
           (_CATCH_UP, _LACKING, "row.ids[-1:]")),
    # Accepting
    plant("9", "bonus dropped on full acceptance", "right", STRUCTURE,
           (_FINISH, "return Ending(len(block), None)", "return Ending(min(len(block), 3), None)")),
    plant("10", "bonus from the row before", "draft-model", TOKENS,
           (_KEEP, "tokens.gather(1, accepted[:, None])",
            "tokens.gather(1, accepted[:, None].sub(1).clamp(min=0))")),
    plant("11", "target compared with the next slot", "draft-model", TOKENS,
           (_KEEP, "(x == tokens[:, :-1])", "(x == tokens[:, 1:])")),
    plant("12", "accepts behind a rejection", "coin", TOKENS,
           ("decode.accept:_prefix_length", "kept.long().cumprod(dim=1).sum(dim=1)", "kept.long().sum(dim=1)")),
    plant("13", "accepts one more than matched", "draft-model", TOKENS,
           (_KEEP, "return Verdict(accepted,", "return Verdict((accepted + 1).minimum(proposed.sum(1)),")),
    # The sampling law
    plant("14", "residual is p", "enumerated", LAW, (_REJECTION, _RESIDUAL, "left = law.clone()")),
    plant("15", "residual not clamped", "enumerated", LAW, (_REJECTION, _RESIDUAL, "left = (law - q).abs()")),
    plant("16", "inverted ratio", "enumerated", LAW, (_REJECTION, "px / qx", "qx / px")),
    plant("17", "argmax drafted and scored by softmax", "sampled", LAW,
           (_DRAFTED, _DRAW, "return q.argmax(dim=-1), q")),
    plant("18", "q before temperature and top-k", "sampled", LAW,
           (_DRAFTED, _DRAW, f"{_DRAW[:-1]} scores.softmax(dim=-1)")),
    plant("19", "drawn in bf16 and reported in full", "sampled", DEGRADED,
           (_DRAFTED, "self.draws.sample(q, at,", "self.draws.sample(q.bfloat16(), at,")),
    plant("17b", "argmax drafted and scored by softmax", "coupled", DEGRADED,
           (_DRAFTED, _DRAW, "return q.argmax(dim=-1), q")),
    plant("20", "one number for coin and residual", "joint", LAW,
           ("decode.noise:KeyedDraws._seeded", "int(stream)", "min(int(stream), 2)")),
    plant("21", "seeded again every round", "joint", LAW,
           ("decode.noise:KeyedDraws._seeded", "{place.position}", "")),
    plant("22", "temperature and top-k on the draft only", "sampled", LAW,
           (_REJECTION, _LAW, "p = scores.softmax(dim=-1)")),
    plant("23", "sampled request verified greedily", "sampled", LAW,
           (_REJECTION, "n, slots, _ = scores.shape", "return greedy(scores, draft, rows, sampler)")),
    plant(
        "24", "top-k on the last slot only", "sampled", LAW,
        (_REJECTION, _LAW, f"{_LAW}; p = torch.cat([(scores[:, :-1] / 3).softmax(-1), p[:, -1:]], 1)"),
    ),
    plant("44", "map of a trimmed head shifted by one", "trimmed", DEGRADED,
           ("models.trimmed:widen", "index_copy_(-1, kept, logits)",
            "index_copy_(-1, (kept + 1) % vocab_size, logits)")),
    plant("44b", "trimmed rows taken for the first ids", "trimmed", DEGRADED,
           ("models.trimmed:widen", "if kept is None:", "if True:")),
    plant("46", "a trimmed head without the end of sequence", "trimmed", DEGRADED,
           ("models.trimmed:cut", "    head: Any", "    ids = ids[:-1]\n    head: Any")),
    plant("45", "tokens outside the kept set have a little q", "told-a-little", LAW,
           (_REJECTION, _RESIDUAL, "left = (law - q.clamp(min=1e-9)).clamp(min=0)")),
    plant("59", "q that is no number accepted", "told-nan", LAW,
           (_REJECTION, "torch.where(qx > 0, px / qx, 0)", "torch.nan_to_num(px / qx, nan=1.0)")),
    # Penalties
    plant("25", "penalty blind to the block", "penalty", TOKENS,
           ("decode.sampling:Law.scores", "draft[: scores.shape[1] - 1]", "draft[:0]")),
    plant("26", "penalty counts rejected drafts", "penalty", TOKENS,
           ("decode.loop:_judge", "[row.ids for row in live]",
            "[row.ids + x for row, x in zip(live, draft.tokens, strict=True)]")),
    plant("27", "penalty knows the last token only", "penalty", TOKENS,
           ("decode.loop:_judge", "[row.ids for row in live]",
            "[[*row.request.prompt, row.ids[-1]] for row in live]")),
    # Ends
    plant("29", "end of sequence inside a block ignored", "ends", STRUCTURE,
           (_FINISH, "token in limits.eos", "(token in limits.eos and n == len(block))")),
    plant("30", "bonus behind the end of sequence", "ends", STRUCTURE,
           (_FINISH, 'return Ending(n, "stop")', 'return Ending(min(n + 1, len(block)), "stop")')),
    plant("31", "second end of sequence ignored", "ends", STRUCTURE,
           (_FINISH, "token in limits.eos", "token == min(limits.eos, default=-1)")),
    plant("32", "stop string across tokens missed", "stops", STRUCTURE,
           ("decode.finish:_completes_stop", "tokens[-tail:]", "tokens[-1:]")),
    plant("32b", "stop string across blocks missed", "stops", STRUCTURE,
           (_FINISH, "[*generated, *block[:n]]", "block[:n]")),
    plant("33", "text cut at the stop but not the ids", "stops", STRUCTURE,
           (_FINISH, "or _completes_stop([*generated, *block[:n]], limits.stop, render)", "")),
    plant("34", "cap exceeded by the block", "over-long", STRUCTURE,
           (_FINISH, "if length >= limits.max_new_tokens:",
            "if length >= limits.max_new_tokens and n == len(block):")),
    plant(
        "35", "cap wins over an earlier stop", "ends", STRUCTURE,
        (_FINISH, "for n, token in enumerate(block, start=1):",
         "most = limits.max_new_tokens - len(generated)\n    if len(block) >= most:\n"
         '        return Ending(most, "length")\n    for n, token in enumerate(block, start=1):'),
    ),
    # Ragged batches
    plant("36", "a row sees one slot too far", "draft-model", STATE | TOKENS,
           ("models.lm:geometry", "full = _additive(distance >= 0, dtype)",
            "full = _additive(distance >= -1, dtype)")),
    plant("38", "positions of the longest row for all", "batch", STATE | TOKENS,
           ("models.lm:geometry", "start = torch.tensor(window.starts, device=device)[:, None]",
            "start = torch.full((len(window.starts), 1), max(window.starts), device=device)")),
    plant("39", "keys moved without their values", "batch", STATE,
           ("models.cache:SlotCache.release", "in layer.tensors()", "in layer.tensors()[:1]")),
    plant("39b", "first layer moved alone", "batch", STATE,
           ("models.cache:SlotCache.release", "in self.slot_layers", "in self.slot_layers[:1]")),
    plant("40", "neighbours shift when a row is done", "batch", STATE | TOKENS | STRUCTURE,
           ("decode.loop:_leave", "live[slot] = live[-1]\n            live.pop()", "del live[slot]")),
    plant("41", "rows of unequal lengths written as one group", "batch", STATE | TOKENS,
           ("models.cache:SlotLayer.update", "start = window.common_start", "start = window.starts[0]")),
    plant("42", "results by slot and not by request", "batch", STRUCTURE,
           (_ROUND, "Emitted(row.index,", "Emitted(slot,")),
    plant("43", "an empty draft misaligns the rows", "uneven", TOKENS | STATE | STRUCTURE,
           ("decode.draft:Draft.padded", "for row in self.tokens",
            "for row in sorted(self.tokens, key=lambda x: not x)")),
    # Vocabularies, windows, ties, counters
    plant("47", "logits cut to the vocabulary of the draft", "draft-model", STATE | TOKENS,
           (_SCORE, _FORWARD, f"{_FORWARD}[..., :40]")),
    plant("50", "window one too wide for blocks", "window", STATE | TOKENS,
           (_SCORE, _FORWARD, "wider(self.lm, self.cache, tokens, batch)")),
    plant("52", "draft goes on past its context", "short-draft", DEGRADED | STRUCTURE,
           ("drafters.draft_model:DraftModel._room", ", context - len(row.ids)", "")),
    plant("53", "ties go to the highest id", "ties", TOKENS,
           ("decode.accept:greedy", "scores.argmax(dim=-1)",
            "scores.shape[-1] - 1 - scores.flip(-1).argmax(dim=-1)")),
    plant("54", "what was drafted when a turn was broken off counts as said", "turns", STATE | TOKENS,
           ("session:Session.reply", "        elif isinstance(event, Emitted):\n",
            '        if event.kind == "drafted":\n'
            "            self.kept = Kept(target.cache, [*ids, *event.tokens])\n"
            "        elif isinstance(event, Emitted):\n            self.kept = Kept(target.cache, ids)\n")),
    plant("55", "a prefix is reused with one rejected token", "turns", STATE | TOKENS,
           ("decode.target:Target.admit", "self.cache.commit(row, shared)",
            "self.cache.commit(row, shared + bool(shared))")),
    plant("56", "speculation silently off", "vacuous", DEGRADED | STRUCTURE,
           ("decode.loop:_budget", "return max(", "return 0 * max(")),
    plant("56b", "nothing drafted behind a whole draft", "fidelity", DEGRADED,
           ("drafters.draft_model:DraftModel.draft", "active = [most > 0 for",
            "active = [most > 0 and self._fed < 2 for")),
    plant("57", "a rejected token shown as accepted", "draft-model", STRUCTURE,
           (_ROUND, "len(draft.tokens[slot]), accepted[slot], bonus[slot])",
            "len(draft.tokens[slot]), min(accepted[slot] + 1, len(draft.tokens[slot])), bonus[slot])")),
    plant("58", "the drafter's probabilities told as the target's", "told-chances", STRUCTURE,
           (_ROUND, "Verified(row.index, number, now, *verdict, p=p[slot])",
            "Verified(row.index, number, now, *verdict, p=q[slot])")),
    plant("58b", "probabilities of the next slot", "told-chances", STRUCTURE,
           ("decode.chances:_picked", "probs[:, :k]", "probs[:, -k:]")),
    plant("60", "acceptance rate over k even for short drafts", "uneven", STRUCTURE,
           ("decode.stats:Stats.add", "self.drafted += event.drafted", "self.drafted += 3")),
]  # fmt: skip

INAPPLICABLE = {
    "28": "there is no least length of an answer",
    "37": "padding is a number of slots (`SlotCache.pads`), never found by token id",
    "48": "the law covers every row of the head, padded ones too, in plain decoding as in speculation",
    "49": "sliding layers keep every slot and are masked; comes with caches that evict",
    "51": "models with recurrent state are refused",
}
"""Bugs of the list that cannot be planted today, each with the reason."""

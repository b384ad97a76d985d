"""Changes that are different and right must stay green, or the verifier would be noise."""

from __future__ import annotations

import pytest
from planted import Edit
from scenes import SCENES, prepare

from specctl.equivalence.report import Verdict

_REJECTION = "decode.accept:rejection"
_KEEP = "decode.accept:_keep_while_equal"
_CATCH_UP = "drafters.draft_model:DraftModel._catch_up"

NEUTRAL: dict[str, tuple[Edit, tuple[str, ...]]] = {
    "argmax-of-a-copy": (
        Edit("decode.accept:greedy", "scores.argmax", "scores.contiguous().clone().argmax"),
        ("coin", "ties"),
    ),
    "argmax-as-first-maximum": (
        Edit(
            "decode.accept:greedy",
            "scores.argmax(dim=-1)",
            "(scores == scores.amax(-1, keepdim=True)).float().argmax(-1)",
        ),
        ("coin", "ties"),
    ),
    "prefix-by-minimum": (
        Edit(
            "decode.accept:_prefix_length", "kept.long().cumprod(dim=1)", "kept.long().cummin(dim=1).values"
        ),
        ("coin", "over-long"),
    ),
    "bonus-by-index": (
        Edit(
            _KEEP,
            "tokens.gather(1, accepted[:, None])[:, 0]",
            "torch.stack([row[n] for row, n in zip(tokens, accepted)])",
        ),
        ("batch",),
    ),
    "residual-normalised": (
        Edit(
            _REJECTION,
            "left = (law - q).clamp(min=0)",
            "left = (law - q).clamp(min=0); left = left / left.sum(-1, keepdim=True).clamp(min=1e-300)",
        ),
        ("enumerated", "told-a-little"),
    ),
    "residual-by-maximum": (
        Edit(_REJECTION, "(law - q).clamp(min=0)", "law.maximum(q) - q"),
        ("enumerated", "told-nan"),
    ),
    "ratio-not-clamped": (Edit(_REJECTION, ".clamp(max=1)", ""), ("joint",)),
    "penalty-by-reciprocal-sign": (
        Edit("decode.sampling:Law.scores", "scores > 0,", "scores >= 0,"),
        ("penalty",),
    ),
    "scores-shifted": (
        Edit("decode.sampling:Law.scores", "return scores\n", "return scores - 3.0\n"),
        ("coin", "sampled"),
    ),
    "softmax-by-hand": (
        Edit(
            "decode.sampling:Law.probabilities", "scores.softmax(dim=-1)", "scores.log_softmax(dim=-1).exp()"
        ),
        ("sampled", "coupled"),
    ),
    "padding-with-another-token": (
        Edit("decode.draft:Draft.padded", "[0] * (width - len(row))", "[7] * (width - len(row))"),
        ("uneven", "batch"),
    ),
    "dummies-of-another-token": (
        Edit("models.lm:LM._padded", "[row[-1]] * missing", "[9] * missing"),
        ("draft-model", "batch"),
    ),
    "smaller-drafts": (
        Edit("decode.loop:_budget", "- 1, 0)", "- 2, 0)"),
        ("draft-model", "batch", "sampled"),
    ),
    "last-request-first": (
        Edit(
            "decode.newcomers:Newcomers.__init__",
            "deque(enumerate(requests))",
            "deque(reversed(list(enumerate(requests))))",
        ),
        ("batch", "uneven"),
    ),
    "one-row-at-a-time": (
        Edit("decode.loop:decode", "(rules.batch_size, rules.window)", "(1, rules.window)"),
        ("batch",),
    ),
    "junk-zeroed-at-once": (
        Edit(
            "models.cache:SlotCache.commit",
            "self.lengths[row] += n",
            "self.lengths[row] += n; self._zero(row, self.lengths[row], self.capacity)",
        ),
        ("draft-model", "batch"),
    ),
    "writes-by-index-always": (
        Edit("models.cache:SlotLayer.update", "if start is not None:", "if False:"),
        ("draft-model", "batch"),
    ),
    "cache-grown-step-by-step": (
        Edit("decode.target:Target.__init__", "capacity + lm.columns(1, 1)", "1"),
        ("draft-model", "batch"),
    ),
    "released-rows-swapped-by-copy": (
        Edit("models.cache:SlotCache.release", "tensor[last, :, :end]", "tensor[last, :, :end].clone()"),
        ("batch",),
    ),
    "draft-fed-again-from-one-token-before": (
        Edit(
            "drafters.draft_model:DraftModel.observe",
            "min(n, self._fed)",
            "max(min(n, self._fed) - 1, 0)",
        ),
        ("draft-model", "fidelity"),
    ),
    "draft-always-prefilled-apart": (
        Edit(_CATCH_UP, "len(lacking) > _CATCH_UP", "len(lacking) > 1"),
        ("draft-model", "fidelity"),
    ),
    "draft-rebuilt-each-round": (
        Edit(_CATCH_UP, "missing = []", "missing = []; self._cache.lengths = [0] * len(rows)"),
        ("fidelity",),
    ),
    "limits-asked-in-another-order": (
        Edit("decode.finish:finish", "if length >= limits.room:", "if limits.room <= length:"),
        ("ends", "stops"),
    ),
    "stop-sought-in-the-whole-answer": (
        Edit("decode.finish:_completes_stop", "tokens[-tail:]", "tokens"),
        ("stops",),
    ),
    "mask-by-comparison": (
        Edit("models.lm:geometry", "_additive(distance >= 0, dtype)", "_additive(~(distance < 0), dtype)"),
        ("draft-model", "window"),
    ),
}


@pytest.mark.parametrize("name", list(NEUTRAL))
def test_a_neutral_change_stays_green(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    edit, scenes = NEUTRAL[name]
    prepare()
    edit.apply(monkeypatch)
    for scene in scenes:
        assert SCENES[scene]() == {Verdict.EXACT}, scene


def test_there_are_twenty_at_least() -> None:
    assert len(NEUTRAL) >= 20

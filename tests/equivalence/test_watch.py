"""Caches are rebuilt in the shapes they were written in: bits that depend on shapes are not to look like a bug."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fakes import ask, render, tiny_module
from specctl.decode.accept import greedy
from specctl.decode.draft import Parts
from specctl.decode.loop import Rules, decode
from specctl.decode.sampling import Law, Sampler
from specctl.decode.target import Target
from specctl.drafters.kangaroo import Kangaroo
from specctl.equivalence import watch
from specctl.equivalence.watch import Watched
from specctl.models.adapter import Adapter, Shape, readout
from specctl.models.cache import SlotCache
from specctl.models.lm import LM
from specctl.profile.drafters import KangarooParams


class ShapeSensitive(LM):
    """As kernels do, only that here it is sure to show: a position's bits depend on the columns beside it."""

    def _run(
        self, module: nn.Module, cache: SlotCache, rows: range, q: int, *rest: Any, **inputs: Any
    ) -> Any:
        ids = inputs.pop("input_ids", None)
        if isinstance(ids, Tensor):
            embed: Any = self.module.get_input_embeddings()  # type: ignore[operator]
            inputs["inputs_embeds"] = embed(ids) * (1 + q / 1024)
        return super()._run(module, cache, rows, q, *rest, **inputs)


def problems() -> dict[int, Any]:
    """Of two rows that Kangaroo drafts for, every round rebuilt."""
    lm = ShapeSensitive(tiny_module(), "toy")
    adapter = Adapter(lm, Shape(2, "layer")).double().eval()
    settings = KangarooParams(method="kangaroo", min_confidence=0.2, rests=False)
    sampler = Sampler.keyed(Law())
    drafter = Kangaroo(settings, Parts(lm, readout(lm, adapter), sampler, frozenset()))
    target = Target(lm, slots=2, capacity=64, captures=drafter.needs)
    watched = Watched(target, Law(), audit=1.0)
    rules = Rules(greedy, sampler, frozenset(), lm.context_length, render, batch_size=2)
    for _ in decode(watched, drafter, ask(2, 12), rules):  # type: ignore[arg-type]
        pass
    assert sum(watched.audited.values()) > 10
    return watched.problems


def test_layers_that_ran_while_drafting_are_rebuilt_token_by_token() -> None:
    assert not problems()


def test_in_one_block_they_would_seem_to_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    copied = watch._copy
    monkeypatch.setattr(watch, "_copy", lambda cache, rows, columns, drafted: copied(cache, rows, columns, 0))
    assert set(problems()) == {0, 1}


def test_a_wrong_cache_is_still_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    commit = SlotCache.commit

    def off_by_a_bit(cache: SlotCache, row: int, n: int) -> None:
        commit(cache, row, n)
        for layer in cache.slot_layers[:1]:
            for tensor in layer.tensors():
                tensor[row, :, cache.lengths[row] - 1] += torch.finfo(tensor.dtype).eps

    monkeypatch.setattr(SlotCache, "commit", off_by_a_bit)
    assert problems()

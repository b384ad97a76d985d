"""The model once more in a wider dtype, without any cache: what a near-tie is measured against."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from specctl.decode.sampling import Law
from specctl.models.cache import SlotCache
from specctl.models.lm import LM
from specctl.models.quantize import widened
from specctl.models.trimmed import widen


class Rescorer:
    """A copy of a 16-bit model in float32, of others in float64, made when it is first needed."""

    def __init__(self, lm: LM) -> None:
        self._lm = lm
        self._wide: nn.Module | None = None

    @torch.no_grad()
    def logits(self, ids: Sequence[int], last: int = 1) -> Tensor:
        """`[last, vocab]`: behind each of the last tokens of `ids`. transformers' own attention and masks."""
        tokens = torch.tensor([list(ids)], device=self._lm.device)
        result: Tensor = self._module()(tokens, use_cache=False, logits_to_keep=last).logits[0]
        return result

    def scores(self, ids: Sequence[int], law: Law, context: SlotCache | None = None) -> Tensor:
        """`[vocab]`: what the law makes of the logits behind `ids`; -inf for what a trimmed head cannot say.

        `context` holds states of the first ids, which another model has read; it is widened and written into.
        """
        logits = self.logits(ids) if context is None else self._behind(context, ids)
        logits = widen(logits, self._lm.kept, self._lm.vocab_size)
        return law.scores(logits[None], [ids], [[]])[0, 0]

    def _behind(self, context: SlotCache, ids: Sequence[int]) -> Tensor:
        """`[1, vocab]` behind `ids`, of which the context's only row holds the first."""
        wide = LM(self._module(), self._lm.name)
        for layer in context.slot_layers:
            if layer.keys is not None and layer.values is not None:
                layer.keys, layer.values = layer.keys.to(wide.dtype), layer.values.to(wide.dtype)
        return wide.forward(context, [ids[context.lengths[0] :]], range(1))[0, -1:]

    def _module(self) -> nn.Module:
        if self._wide is None:
            self._wide = self._copy()
        return self._wide

    def _copy(self) -> nn.Module:
        narrow = torch.finfo(self._lm.dtype).bits == 16
        module = widened(self._lm.module) if narrow else copy.deepcopy(self._lm.module).double()
        setter = getattr(module, "set_attn_implementation", None)  # transformers leaves it untyped
        if setter is not None:
            setter("eager")
        return module


def with_adapter(draft: LM, below: SlotCache, states: Tensor | None) -> SlotCache:
    """What a draft with an adapter has read, in one cache: the target's slots, the only row of `below`, for its
    first layers, and for the adapter what it makes of the target's `states` `[1, tokens, H]`, if there are any."""
    cache = draft.new_cache()
    cache.reserve(1, below.capacity)
    row = cache.admit()
    if states is not None:
        draft.segment(cache, states, range(1), draft.reads, draft.n_layers)
    for layer, given in zip(cache.slot_layers[: draft.reads], below.slot_layers, strict=False):
        layer.keys, layer.values = given.keys, given.values
        layer.is_initialized = given.is_initialized
    cache.commit(row, below.lengths[0])
    return cache

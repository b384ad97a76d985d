"""The model once more in a wider dtype, without any cache: what a near-tie is measured against."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from specctl.decode.sampling import Law
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
        if self._wide is None:
            self._wide = self._copy()
        tokens = torch.tensor([list(ids)], device=self._lm.device)
        result: Tensor = self._wide(tokens, use_cache=False, logits_to_keep=last).logits[0]
        return result

    def scores(self, ids: Sequence[int], law: Law) -> Tensor:
        """`[vocab]`: what the law makes of the logits behind `ids`; -inf for what a trimmed head cannot say."""
        logits = widen(self.logits(ids), self._lm.kept, self._lm.vocab_size)
        return law.scores(logits[None], [ids], [[]])[0, 0]

    def _copy(self) -> nn.Module:
        narrow = torch.finfo(self._lm.dtype).bits == 16
        module = widened(self._lm.module) if narrow else copy.deepcopy(self._lm.module).double()
        setter = getattr(module, "set_attn_implementation", None)  # transformers leaves it untyped
        if setter is not None:
            setter("eager")
        return module

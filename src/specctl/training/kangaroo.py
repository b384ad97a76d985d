"""Kangaroo's objective: the adapter learns the target's own next-token law at the same position.

Soft cross-entropy over answer tokens, everything but the adapter frozen (arXiv:2404.18911, section 3.1). With a
trimmed head both laws are over the kept tokens, renormalised. The target's law is worked out once a sample, and the
head's products are two a position: one for the logits, one for the gradient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from specctl.models import adapter as adapters
from specctl.models.adapter import Adapter, Shape
from specctl.models.cache import Window
from specctl.models.lm import LM, geometry
from specctl.models.views import segment
from specctl.training.loop import Figures, Settings
from specctl.training.shards import Sample, Shards

SETTINGS = Settings(steps=1000, batch=16, learning_rate=0.01, warmup=30, optimiser="muon")
"""What has learnt most in few steps."""

_CHUNK = 256
"""Positions whose logits are alive at once."""

_ROOM = 1_500_000_000
"""Bytes for what is known about the target's law from one epoch to the next."""


class Kangaroo:
    """An adapter in training. Products run in the target's dtype, weights and sums in at least float32."""

    def __init__(self, lm: LM, shape: Shape, kept: Tensor | None, shards: Shards) -> None:
        self._wide = torch.promote_types(lm.dtype, torch.float32)
        self.adapter = Adapter(lm, shape).to(lm.device, self._wide).train()
        self.adapter.requires_grad_(True)
        self.module: nn.Module = self.adapter
        self.kept = kept
        whole = adapters.readout(lm, self.adapter, kept)
        above = segment(whole.module, shape.depth, None)
        self._base: Any = getattr(above, str(lm.module.base_model_prefix))
        self._head = cast(nn.Linear, whole.module.get_output_embeddings()).weight.detach()  # type: ignore[operator]
        self._lm, self._shards, self._depth = lm, shards, shape.depth
        self._scale = float(getattr(lm.config, "logits_scaling", None) or 1)
        self._cap: float | None = getattr(lm.config, "final_logit_softcapping", None)
        self._centres: dict[int, Tensor] = {}
        self._room = _ROOM

    def loss(self, samples: Sequence[int]) -> tuple[Tensor, int]:
        some = [self._shards.sample(number, [self._depth]) for number in samples]
        mine = self._hidden(some)
        if self._cap is not None:
            law, logits = self._logits(self._last(some)).softmax(-1), self._logits(mine)
            return -(law * logits.log_softmax(-1)).sum(-1).mean(), len(mine)
        centres = torch.cat([self._centre(n, one) for n, one in zip(samples, some, strict=True)])
        loss: Tensor = CrossEntropy.apply(mine, centres, self._head, self._scale)  # type: ignore[no-untyped-call]
        return loss, len(mine)

    def measure(self, samples: Sequence[int]) -> Figures:
        equal = acceptance = loss = 0.0
        n = 0
        for number in samples:
            some = [self._shards.sample(number, [self._depth])]
            mine, theirs = self._logits(self._hidden(some)), self._logits(self._last(some))
            p, q = theirs.softmax(-1), mine.log_softmax(-1)
            equal += float((mine.argmax(-1) == theirs.argmax(-1)).sum())
            acceptance += float(torch.minimum(p, q.exp()).sum())
            loss -= float((p * q).sum())
            n += len(mine)
        return Figures(equal / n, acceptance / n, loss / n)

    def _hidden(self, samples: Sequence[Sample]) -> Tensor:
        """The adapter's states `[positions, H]` where tokens of an answer are predicted, before the head."""
        longest = max(len(sample.last) for sample in samples)
        states = torch.stack(
            [pad(one.hidden[self._depth], (0, 0, 0, longest - len(one.last))) for one in samples]
        ).to(self._lm.device, self._wide)
        none = (0,) * len(samples)
        window = Window(0, len(samples), none, longest, none)
        positions, mask = geometry(self._base.config, window, self._wide, self._lm.device)
        narrow = self._lm.dtype
        with torch.autocast(self._lm.device.type, narrow, enabled=narrow in (torch.bfloat16, torch.float16)):
            out = self._base(
                inputs_embeds=states, attention_mask=mask, position_ids=positions, use_cache=False
            )
        hidden = out.last_hidden_state
        return torch.cat([hidden[row, one.answer : len(one.last)] for row, one in enumerate(samples)])

    def _last(self, samples: Sequence[Sample]) -> Tensor:
        return torch.cat([one.last[one.answer :] for one in samples]).to(self._lm.device)

    def _logits(self, hidden: Tensor) -> Tensor:
        """Logits at least in float32, with the scale and the cap some families put on theirs."""
        logits = linear(hidden.to(self._head.dtype), self._head).to(self._wide) / self._scale
        return logits if self._cap is None else torch.tanh(logits / self._cap) * self._cap

    def _centre(self, number: int, sample: Sample) -> Tensor:
        """The mean of the head's rows under the target's law, `[positions, H]`.

        It is all the loss needs of that law: sum of p(v) z(v) = h · sum of p(v) W(v). One sample at a time, so that
        its bits do not depend on the batch it is first met in.
        """
        if number not in self._centres:
            law = self._logits(self._last([sample])).softmax(-1)
            centre = law.to(self._head.dtype) @ self._head
            self._room -= centre.nbytes
            if self._room < 0:
                return centre
            self._centres[number] = centre
        return self._centres[number]


class CrossEntropy(torch.autograd.Function):
    """The mean over positions of -sum p log softmax(z), z = hidden · headᵀ / scale, with p given by its `_centre`.

    The gradient is made on the way, chunk by chunk: logits of a whole batch are never held.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, centres: Tensor, head: Tensor, scale: float) -> Tensor:
        total = hidden.new_zeros(())
        gradient = torch.empty_like(hidden)
        for start in range(0, len(hidden), _CHUNK):
            part = slice(start, start + _CHUNK)
            logits = linear(hidden[part].to(head.dtype), head).to(hidden.dtype).div_(scale)
            most = logits.amax(-1, keepdim=True)
            weights = logits.sub_(most).exp_()
            mass = weights.sum(-1, keepdim=True)
            wanted = centres[part].to(hidden.dtype)
            total += (mass.log() + most).sum() - (hidden[part] * wanted).sum() / scale
            mean = (weights.div_(mass).to(head.dtype) @ head).to(hidden.dtype)
            gradient[part] = (mean - wanted) / (scale * len(hidden))
        ctx.save_for_backward(gradient)
        return total / len(hidden)

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer, None, None, None


def frequent_tokens(texts: Iterable[Sequence[int]], most: int, always: Iterable[int]) -> Tensor:
    """The `most` commonest ids, `always` among them, ascending; ties go to the lower id."""
    counts = Counter(token for text in texts for token in text)
    first = list(dict.fromkeys(always))
    rest = sorted(counts.keys() - set(first), key=lambda token: (-counts[token], token))
    return torch.tensor(sorted([*first, *rest][:most]))

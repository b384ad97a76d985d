"""Kangaroo's objective: the adapter learns the target's own next-token law at the same position.

Soft cross-entropy over answer tokens, everything but the adapter frozen (arXiv:2404.18911, section 3.1). With a
trimmed head both laws are over the kept tokens, renormalised.
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
from specctl.training.loop import Figures
from specctl.training.shards import Shards


class Kangaroo:
    """An adapter in training. The head's products run in the target's dtype, the adapter's in at least float32."""

    def __init__(self, lm: LM, shape: Shape, kept: Tensor | None, shards: Shards) -> None:
        wide = torch.promote_types(lm.dtype, torch.float32)
        self.adapter = Adapter(lm, shape).to(lm.device, wide).train()
        self.adapter.requires_grad_(True)
        self.module: nn.Module = self.adapter
        self.kept = kept
        whole = adapters.readout(lm, self.adapter, kept)
        self._base: Any = getattr(whole.module, str(lm.module.base_model_prefix))
        self._head = cast(nn.Linear, whole.module.get_output_embeddings()).weight.detach()  # type: ignore[operator]
        self._lm, self._shards, self._depth = lm, shards, shape.depth

    def loss(self, samples: Sequence[int]) -> tuple[Tensor, int]:
        mine, theirs = self._logits(samples)
        return -(theirs.softmax(-1) * mine.log_softmax(-1)).sum(-1).mean(), len(mine)

    def measure(self, samples: Sequence[int]) -> Figures:
        equal = acceptance = loss = 0.0
        n = 0
        for start in range(0, len(samples), 4):
            mine, theirs = self._logits(samples[start : start + 4])
            p, q = theirs.softmax(-1), mine.log_softmax(-1)
            equal += float((mine.argmax(-1) == theirs.argmax(-1)).sum())
            acceptance += float(torch.minimum(p, q.exp()).sum())
            loss -= float((p * q).sum())
            n += len(mine)
        return Figures(equal / n, acceptance / n, loss / n)

    def _logits(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The adapter's and the target's logits `[positions, head]` where tokens of an answer are predicted."""
        samples = [self._shards.sample(number, [self._depth]) for number in numbers]
        longest = max(len(sample.last) for sample in samples)
        wide = next(self.adapter.parameters()).dtype
        states = torch.stack(
            [pad(one.hidden[self._depth], (0, 0, 0, longest - len(one.last))) for one in samples]
        ).to(self._lm.device, wide)
        none = (0,) * len(samples)
        window = Window(0, len(samples), none, longest, none)
        positions, mask = geometry(self._base.config, window, wide, self._lm.device)
        out = self._base(inputs_embeds=states, attention_mask=mask, position_ids=positions, use_cache=False)
        hidden = out.last_hidden_state
        mine = torch.cat([hidden[row, one.answer : len(one.last)] for row, one in enumerate(samples)])
        theirs = torch.cat([one.last[one.answer :] for one in samples]).to(self._lm.device)
        return self._read_out(mine), self._read_out(theirs)

    def _read_out(self, hidden: Tensor) -> Tensor:
        """Logits at least in float32, with the scale and the cap some families put on theirs."""
        logits = linear(hidden.to(self._head.dtype), self._head)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        config = self._lm.config
        logits = logits / (getattr(config, "logits_scaling", None) or 1)
        cap = getattr(config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap


def frequent_tokens(texts: Iterable[Sequence[int]], most: int, always: Iterable[int]) -> Tensor:
    """The `most` commonest ids, `always` among them, ascending; ties go to the lower id."""
    counts = Counter(token for text in texts for token in text)
    first = list(dict.fromkeys(always))
    rest = sorted(counts.keys() - set(first), key=lambda token: (-counts[token], token))
    return torch.tensor(sorted([*first, *rest][:most]))

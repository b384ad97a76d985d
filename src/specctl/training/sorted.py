"""S2D's objective: sorted fine-tuning. Every depth learns the next token, in one forward, with equal weight.

`ce` is the paper's: cross-entropy with the tokens of the answer; those a trimmed head lacks are left out. `distil`:
with the law of the base, worked out once a sample. Source: S2D (arXiv:2407.01955), section 3.2; Kavehzadeh et al.,
"Sorted LLaMA" (arXiv:2309.08968).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from specctl.models import views
from specctl.models.cache import Window
from specctl.models.lm import LM, geometry
from specctl.models.sorted_draft import Shape, SortedDraft
from specctl.training.conversations import Conversation
from specctl.training.kangaroo import CrossEntropy
from specctl.training.loop import Figures

Loss = Literal["ce", "distil"]

_MEASURED = 64
"""Held-out samples that are measured, at most: an evaluation should be short beside the steps between two."""

_ROOM = 1_500_000_000
"""Bytes for what is known about the base's law from one epoch to the next."""


class Sorted:
    """A sorted draft in training. Products run in the base's dtype, weights and sums in at least float32.

    Sample numbers are places in `texts`. `by_depth` are the figures of the last `measure`.
    """

    def __init__(
        self,
        base: LM,
        shape: Shape,
        kept: Tensor | None,
        texts: Sequence[Conversation],
        loss: Loss = "ce",
        seed: int = 0,
    ) -> None:
        self.draft = SortedDraft(base, shape, seed=seed).train()
        self.module: nn.Module = self.draft
        self.by_depth: list[Figures] = []
        self._base, self._texts, self._distils = base, texts, loss == "distil"
        self._wide = torch.promote_types(base.dtype, torch.float32)
        lm = self.draft.as_lm(base, kept)
        bounds = [0, *shape.depths]
        self._parts: list[Any] = [views.segment(lm.module, start, stop) for start, stop in pairwise(bounds)]
        self._head = cast(nn.Linear, lm.module.get_output_embeddings()).weight.detach()  # type: ignore[operator]
        self._scale = float(getattr(base.config, "logits_scaling", None) or 1)
        self._cap: float | None = getattr(base.config, "final_logit_softcapping", None)
        ids = torch.arange(base.vocab_size) if kept is None else kept
        self._places = torch.full((base.vocab_size,), -1)
        self._places[ids] = torch.arange(len(ids))
        self._centres: dict[int, Tensor] = {}
        self._room = _ROOM

    @property
    def lengths(self) -> list[int]:
        return [len(one.prompt) + len(one.answer) - 1 for one in self._texts]

    def loss(self, samples: Sequence[int]) -> tuple[Tensor, int]:
        labels = self._labels(samples)
        said = torch.ones_like(labels, dtype=torch.bool) if self._distils else labels >= 0
        if self._distils:
            centres = torch.cat([self._centre(number) for number in samples])
        else:
            centres = self._head[labels[said]]
        losses = []
        for hidden in self._hidden(samples):
            if self._cap is not None:  # no linear read-out: the short way does not hold
                losses.append(self._capped(hidden[said], samples, labels[said]))
            else:
                losses.append(CrossEntropy.apply(hidden[said], centres, self._head, self._scale))  # type: ignore[no-untyped-call]
        return torch.stack(losses).mean(), int(said.sum())

    def measure(self, samples: Sequence[int]) -> Figures:
        """Means over the depths; the loss is that of the answer's own tokens, whatever is trained on."""
        sums = [[0.0, 0.0, 0.0] for _ in self._parts]
        n = labelled = 0
        for number in samples[:_MEASURED]:
            labels = self._labels([number])
            p = self._law(number)
            for total, hidden in zip(sums, self._hidden([number]), strict=True):
                logits = self._logits(hidden)
                total[0] += float((p.argmax(-1) == logits.argmax(-1)).sum())
                total[1] += float(torch.minimum(p, logits.softmax(-1)).sum())
                total[2] += float(cross_entropy(logits, labels, ignore_index=-1, reduction="sum"))
            n += len(labels)
            labelled += int((labels >= 0).sum())
        self.by_depth = [Figures(top1 / n, kept / n, loss / labelled) for top1, kept, loss in sums]
        means = zip(*([one.top1, one.acceptance, one.loss] for one in self.by_depth), strict=True)
        return Figures(*(sum(values) / len(values) for values in means))

    def _labels(self, samples: Sequence[int]) -> Tensor:
        """The answers' tokens `[positions]` as rows of the head, -1 for those it lacks."""
        tokens = [token for number in samples for token in self._texts[number].answer]
        return self._places[torch.tensor(tokens)].to(self._base.device)

    def _hidden(self, samples: Sequence[int]) -> Iterator[Tensor]:
        """States `[positions, H]` where tokens of an answer are predicted, behind the norm, depth by depth."""
        texts = [self._texts[number] for number in samples]
        inputs = [[*one.prompt, *one.answer[:-1]] for one in texts]
        longest = max(map(len, inputs))
        ids = torch.tensor([one + [0] * (longest - len(one)) for one in inputs], device=self._base.device)
        answering = [
            row * longest + at
            for row, one in enumerate(texts)
            for at in range(len(one.prompt) - 1, len(inputs[row]))
        ]
        where = torch.tensor(answering, device=ids.device)
        none = (0,) * len(texts)
        window = Window(0, len(texts), none, longest, none)
        positions, mask = geometry(self._base.config, window, self._wide, ids.device)
        states = self._parts[0].embed_tokens(ids).to(self._wide)
        for part in self._parts:
            with self._narrow():
                out = part(inputs_embeds=states, attention_mask=mask, position_ids=positions, use_cache=False)
                states = out.last_hidden_state
                hidden = self.draft.norm(states.flatten(0, 1)[where])
            yield hidden

    def _narrow(self) -> torch.autocast:
        narrow = self._base.dtype
        half = narrow in (torch.bfloat16, torch.float16)
        return torch.autocast(self._base.device.type, narrow if half else torch.bfloat16, enabled=half)

    @torch.no_grad()
    def _law(self, number: int) -> Tensor:
        """The whole base's law `[positions, head]` where tokens of the answer are predicted."""
        one = self._texts[number]
        ids = torch.tensor([[*one.prompt, *one.answer[:-1]]], device=self._base.device)
        window = Window(0, 1, (0,), ids.shape[1], (0,))
        positions, mask = geometry(self._base.config, window, self._base.dtype, ids.device)
        inner: Any = getattr(self._base.module, str(self._base.module.base_model_prefix))
        out = inner(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
        return self._logits(out.last_hidden_state[0, len(one.prompt) - 1 :]).softmax(-1)

    def _centre(self, number: int) -> Tensor:
        """The mean of the head's rows under the base's law, `[positions, H]`: all the loss needs of it."""
        if number not in self._centres:
            centre = self._law(number).to(self._head.dtype) @ self._head
            self._room -= centre.nbytes
            if self._room < 0:
                return centre
            self._centres[number] = centre
        return self._centres[number]

    def _capped(self, hidden: Tensor, samples: Sequence[int], labels: Tensor) -> Tensor:
        wanted = torch.cat([self._law(number) for number in samples]) if self._distils else labels
        return cross_entropy(self._logits(hidden), wanted)

    def _logits(self, hidden: Tensor) -> Tensor:
        """At least in float32, with the scale and the cap some families put on theirs."""
        logits = linear(hidden.to(self._head.dtype), self._head).to(self._wide) / self._scale
        return logits if self._cap is None else torch.tanh(logits / self._cap) * self._cap

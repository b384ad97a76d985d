"""S2D's objective: sorted fine-tuning. Every depth learns the next token, in one forward, with equal weight.

`ce` is the paper's: cross-entropy with the tokens of the answer. `distil`: soft cross-entropy with the law of the
model that wrote the answers (here the base). Source: S2D (arXiv:2407.01955), section 3.2; Valipour et al.,
"Sorted LLaMA" (arXiv:2309.08968).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from specctl.models import views
from specctl.models.cache import Window
from specctl.models.lm import LM, geometry
from specctl.models.sorted_draft import Shape, SortedDraft
from specctl.training.conversations import Conversation
from specctl.training.loop import Figures

Loss = Literal["ce", "distil"]
_AT_ONCE = 4
_IGNORED = -100


class Sorted:
    """A sorted draft in training. Products run in the base's dtype, sums and trained weights in at least float32.

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
        self._parts: list[Any] = [
            views.segment(lm.module, start, stop) for start, stop in zip(bounds, bounds[1:], strict=False)
        ]
        self._head = cast(nn.Linear, lm.module.get_output_embeddings()).weight.detach()  # type: ignore[operator]
        self._places = torch.full((base.vocab_size,), _IGNORED, device=base.device)
        ids = torch.arange(base.vocab_size, device=base.device) if kept is None else kept.to(base.device)
        self._places[ids] = torch.arange(len(ids), device=base.device)
        self._known: dict[int, Tensor] = {}

    @property
    def lengths(self) -> list[int]:
        return [len(one.prompt) + len(one.answer) - 1 for one in self._texts]

    def loss(self, samples: Sequence[int]) -> tuple[Tensor, int]:
        labels = self._labels(samples)
        wanted = labels
        if self._distils:
            wanted = self._read_out(torch.cat([self._states_of_base(number) for number in samples])).softmax(-1)
        losses = [cross_entropy(logits, wanted, ignore_index=_IGNORED) for logits in self._logits(samples)]
        return torch.stack(losses).mean(), len(labels)

    def measure(self, samples: Sequence[int]) -> Figures:
        """Means over the depths; the loss is that of the answer's own tokens, whatever is trained on."""
        sums = [[0.0, 0.0, 0.0] for _ in self._parts]
        n = labelled = 0
        for start in range(0, len(samples), _AT_ONCE):
            some = samples[start : start + _AT_ONCE]
            labels = self._labels(some)
            p = self._read_out(torch.cat([self._remembered(number) for number in some])).softmax(-1)
            for total, logits in zip(sums, self._logits(some), strict=True):
                total[0] += float((p.argmax(-1) == logits.argmax(-1)).sum())
                total[1] += float(torch.minimum(p, logits.softmax(-1)).sum())
                total[2] += float(cross_entropy(logits, labels, ignore_index=_IGNORED, reduction="sum"))
            n += len(labels)
            labelled += int((labels != _IGNORED).sum())
        self.by_depth = [Figures(top1 / n, kept / n, loss / labelled) for top1, kept, loss in sums]
        means = zip(*([one.top1, one.acceptance, one.loss] for one in self.by_depth), strict=True)
        return Figures(*(sum(values) / len(values) for values in means))

    def _labels(self, samples: Sequence[int]) -> Tensor:
        """The answers' tokens `[positions]` as rows of the head; those it lacks are ignored."""
        tokens = [token for number in samples for token in self._texts[number].answer]
        return self._places[torch.tensor(tokens, device=self._places.device)]

    def _logits(self, samples: Sequence[int]) -> Iterator[Tensor]:
        """A depth's logits `[positions, head]` where tokens of an answer are predicted, depth by depth."""
        texts = [self._texts[number] for number in samples]
        inputs = [[*one.prompt, *one.answer[:-1]] for one in texts]
        longest = max(map(len, inputs))
        ids = torch.tensor([one + [0] * (longest - len(one)) for one in inputs], device=self._base.device)
        where = torch.tensor(
            [
                row * longest + at
                for row, one in enumerate(texts)
                for at in range(len(one.prompt) - 1, len(inputs[row]))
            ],
            device=ids.device,
        )
        none = (0,) * len(texts)
        positions, mask = geometry(
            self._parts[0].config, Window(0, len(texts), none, longest, none), self._wide, ids.device
        )
        states = self._parts[0].embed_tokens(ids).to(self._wide)
        for part in self._parts:
            with self._narrow():
                states = part(
                    inputs_embeds=states, attention_mask=mask, position_ids=positions, use_cache=False
                ).last_hidden_state
                answering = self.draft.norm(states.flatten(0, 1)[where])
            yield self._read_out(answering)

    def _narrow(self) -> torch.autocast:
        return torch.autocast(
            self._base.device.type, torch.bfloat16, enabled=self._base.dtype == torch.bfloat16
        )

    def _remembered(self, number: int) -> Tensor:
        if number not in self._known:
            self._known[number] = self._states_of_base(number)
        return self._known[number]

    @torch.no_grad()
    def _states_of_base(self, number: int) -> Tensor:
        """The whole base's states `[positions, H]` behind its norm, where tokens of the answer are predicted."""
        one = self._texts[number]
        ids = torch.tensor([[*one.prompt, *one.answer[:-1]]], device=self._base.device)
        positions, mask = geometry(
            self._base.config, Window(0, 1, (0,), ids.shape[1], (0,)), self._base.dtype, ids.device
        )
        inner: Any = getattr(self._base.module, str(self._base.module.base_model_prefix))
        out = inner(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
        return cast(Tensor, out.last_hidden_state[0, len(one.prompt) - 1 :])

    def _read_out(self, hidden: Tensor) -> Tensor:
        """Logits at least in float32, with the scale and the cap some families put on theirs."""
        logits = linear(hidden.to(self._head.dtype), self._head).to(self._wide)
        logits = logits / (getattr(self._base.config, "logits_scaling", None) or 1)
        cap = getattr(self._base.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

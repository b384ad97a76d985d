"""Small stand-ins: tiny random transformers models, scripted drafters, and a runner for both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from specctl.decode.accept import ACCEPTORS
from specctl.decode.draft import Draft, Drafter, Parts, Request, Row, Scored, midway, share_cache
from specctl.decode.loop import Rules, decode
from specctl.decode.sampling import Law, Sampler
from specctl.decode.target import Target
from specctl.drafters.draft_model import DraftModel
from specctl.drafters.ngram import Ngram
from specctl.events import Emitted, Event, Finished
from specctl.models import attention
from specctl.models.cache import SlotCache
from specctl.models.costs import Costs, Curve
from specctl.models.lm import LM
from specctl.profile.drafters import DraftModelParams, NgramParams

# Forwards this small gain nothing from a second thread, and on a busy machine they wait for it.
torch.set_num_threads(1)

VOCAB = 48
N_NEW = 24

KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 8},
    "gemma2": {
        "sliding_window": 8,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 1.5,  # small enough for these models to feel it
    },
    "gemma3_text": {
        "sliding_window": 8,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    },
    "phi3": {"sliding_window": 8, "pad_token_id": 0},
    "olmo2": {},
    "granite": {
        "pad_token_id": 0,
        "embedding_multiplier": 2.0,
        "logits_scaling": 4.0,
        "attention_multiplier": 0.2,
    },
    "glm": {"head_dim": 16, "pad_token_id": 0},
    "glm4": {"head_dim": 16, "pad_token_id": 0},
    "smollm3": {"pad_token_id": 0, "no_rope_layer_interval": 2},
}


def tiny_module(
    kind: str = "llama",
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    native: bool = False,
    **changes: Any,
) -> Any:
    """A random 4-layer model; weights are scaled up so that margins dwarf rounding."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,  # tied, a small model repeats its last token whatever came before
    }
    config = AutoConfig.for_model(kind, **{**settings, **KINDS[kind], **changes})
    torch.manual_seed(seed)
    module = AutoModelForCausalLM.from_config(
        config, attn_implementation="eager" if native else attention.register()
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                scale = 1.0 if "embed" in name or "lm_head" in name else 0.25
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return module.to(dtype).eval()


def tiny_lm(kind: str = "llama", seed: int = 0, **changes: Any) -> LM:
    return LM(tiny_module(kind, seed, **changes), f"tiny-{kind}")


@cache
def shared_lm(kind: str = "llama", seed: int = 0) -> LM:
    """One model for all tests that do not change it."""
    return tiny_lm(kind, seed)


@cache
def noisy_lm(kind: str = "llama", seed: int = 0, noise: float = 0.05) -> LM:
    """A draft model for `shared_lm`: its weights, disturbed, so that it is right now and then."""
    module = tiny_module(kind, seed)
    generator = torch.Generator().manual_seed(99)
    with torch.no_grad():
        for parameter in module.parameters():
            disturbance = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(disturbance * noise * parameter.std().nan_to_num())
    return LM(module, "noisy")


def prompts(n: int, seed: int = 0, lengths: Sequence[int] = (5, 12, 1, 9, 17, 3)) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        tuple(torch.randint(3, VOCAB, (lengths[i % len(lengths)],), generator=generator).tolist())
        for i in range(n)
    ]


def ask(n: int, new: int = 24, **changes: Any) -> list[Request]:
    """Requests of mixed prompt lengths, one token among them, with seeds of their own."""
    return [replace(Request(prompt, new, seed=i), **changes) for i, prompt in enumerate(prompts(n))]


@cache
def plain_tokens(
    kind: str = "llama",
    seed: int = 0,
    n: int = 5,
    new: int = 24,
    law: Law | None = None,
    accept: str = "greedy",
) -> tuple[tuple[int, ...], ...]:
    """What plain decoding says to `ask(n, new)`, one row at a time; computed once."""
    tokens, _, _ = run(shared_lm(kind, seed), None, ask(n, new), law=law, accept=accept)
    return tuple(tuple(row) for row in tokens)


def draft_model(
    target: LM,
    draft: LM,
    *,
    law: Law | None = None,
    accept: str = "greedy",
    eos: frozenset[int] = frozenset(),
    **params: Any,
) -> DraftModel:
    sampler = Sampler.keyed(law or Law(), coupled=accept == "coupled")
    settings = DraftModelParams(method="draft-model", **{"draft_tokens": 4, **params})
    return DraftModel(settings, Parts(target, draft, sampler, eos, flat_costs(), 3))


def ngram(
    eos: frozenset[int] = frozenset(), *, law: Law | None = None, accept: str = "greedy", **params: Any
) -> Ngram:
    sampler = Sampler.keyed(law or Law(), coupled=accept == "coupled")
    parts = Parts(shared_lm(), None, sampler, eos, flat_costs(), 3)
    return Ngram(NgramParams(method="ngram", **{"min_ngram": 1, **params}), parts)


def flat_costs(draft: float = 0.1) -> Costs:
    """A target that takes a second a forward and a little for each token, a draft model that takes `draft`."""
    return Costs(Curve({1: {1: 1.0, 65: 1.64}}, 0.1), Curve({1: {1: draft, 65: draft * 2}}, draft / 10))


def run(
    lm: LM,
    drafter: Drafter | None,
    requests: Sequence[Request],
    *,
    batch_size: int = 1,
    schedule: str = "ragged",
    window: int = 4,
    accept: str = "greedy",
    law: Law | None = None,
    eos: frozenset[int] = frozenset(),
    target: Target | None = None,
    on_event: Callable[[Event], None] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    probabilities: bool = False,
) -> tuple[list[list[int]], list[str], list[Event]]:
    """Decode; returns each request's tokens, its finish reason, and all events."""
    sampler = Sampler.keyed(law or Law(), coupled=accept == "coupled")
    drafter = drafter or Nothing()
    longest = max(len(one.prompt) + one.max_new_tokens for one in requests)
    target = target or Target(lm, slots=batch_size, capacity=longest, captures=frozenset(drafter.needs))
    rules = replace(
        run_rules(lm, accept, sampler, eos),
        batch_size=batch_size,
        schedule=schedule,
        window=window,
        probabilities=probabilities,
    )
    events: list[Event] = []
    for event in decode(target, drafter, requests, rules, cancelled=cancelled):
        events.append(event)
        if on_event:
            on_event(event)
    tokens: list[list[int]] = [[] for _ in requests]
    reasons = [""] * len(requests)
    for event in events:
        if isinstance(event, Emitted):
            tokens[event.row] += event.tokens
        elif isinstance(event, Finished):
            reasons[event.row] = event.reason
    return tokens, reasons, events


def run_rules(lm: LM, accept: str, sampler: Sampler, eos: frozenset[int] = frozenset()) -> Rules:
    """The rules `run` decodes by, one row at a time."""
    return Rules(ACCEPTORS[accept], sampler, eos, lm.context_length, render)


def render(tokens: Sequence[int]) -> str:
    """Two letters a token: `aa`, `ab`, … so that stop strings can cross tokens."""
    return "".join(chr(97 + token // 8) + chr(97 + token % 8) for token in tokens)


def decode_alone(module: Any, prompt: Sequence[int], n: int) -> list[int]:
    """Greedy decoding by whole forwards, no cache, transformers' own attention: it shares no code with ours."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(n):
            ids.append(int(module(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


class Scripted:
    """A drafter that a test writes: `plan(row, position, right)` gives the token for an absolute position.

    `right` is the token the target will choose there (from `answers`), None past their end.
    """

    needs: frozenset[int] = frozenset()

    def __init__(
        self,
        answers: Sequence[Sequence[int]],
        k: int,
        plan: Callable[[int, int, int | None], int | None],
        *,
        over_budget: bool = False,
    ) -> None:
        self._answers, self._k, self._plan, self._over = answers, k, plan, over_budget

    def begin(self, row: Row, hidden: dict[int, Tensor]) -> None: ...

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        rooms = [self._k] * len(rows) if self._over else budget
        return Draft([self._one(row, room) for row, room in zip(rows, rooms, strict=True)])

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None: ...

    def swap(self, one: int, other: int) -> None: ...

    def drop(self, slot: int) -> None: ...

    def _one(self, row: Row, most: int) -> list[int]:
        tokens: list[int] = []
        answer = self._answers[row.index]
        done = len(row.generated)
        while len(tokens) < min(self._k, most):
            at = done + len(tokens)
            token = self._plan(row.index, at, answer[at] if at < len(answer) else None)
            if token is None:
                break
            tokens.append(token)
        return tokens


class Spy:
    """A drafter that another one does the work for. `rows` are the loop's own live rows, at any time."""

    def __init__(self, drafter: Drafter) -> None:
        self.drafter = drafter
        self.needs = frozenset(drafter.needs)
        self.midway = midway(drafter)
        self.rows: Sequence[Row] = []
        self.log: list[tuple[list[list[int]], Draft]] = []  # what rows had committed, and what was drafted

    def share(self, cache: SlotCache) -> None:
        share_cache(self.drafter, cache)

    def begin(self, row: Row, hidden: dict[int, Tensor]) -> None:
        self.drafter.begin(row, hidden)

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        self.rows = rows
        draft = self.drafter.draft(rows, budget)
        self.log.append(([list(row.ids) for row in rows], draft))
        return draft

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        self.drafter.observe(rows, scored, accepted)

    def swap(self, one: int, other: int) -> None:
        self.drafter.swap(one, other)

    def drop(self, slot: int) -> None:
        self.drafter.drop(slot)


class Nothing(Scripted):
    def __init__(self) -> None:
        super().__init__([], 0, lambda *_: None)

    def _one(self, row: Row, most: int) -> list[int]:
        return []


def wrong(right: int | None) -> int:
    return 3 if right is None else 3 + (right - 3 + 1) % (VOCAB - 3)


SCRIPTS = [
    "always-right",
    "never-right",
    "right-until-2",
    "coin",
    "end-pusher",
    "empty",
    "uneven",
    "over-long",
]


def scripts(answers: Sequence[Sequence[int]], k: int, eos: int = 2) -> dict[str, Scripted]:
    """The scripted drafters: one for every branch of accepting."""

    def coin(row: int, at: int, right: int | None) -> int:
        return (right or 3) if (row * 7919 + at * 104729) % 5 < 3 else wrong(right)

    return {
        "always-right": Scripted(answers, k, lambda row, at, right: right if right is not None else 3),
        "never-right": Scripted(answers, k, lambda row, at, right: wrong(right)),
        "right-until-2": Scripted(
            answers, k, lambda row, at, right: (right or 3) if at % (k + 1) < 2 else wrong(right)
        ),
        "coin": Scripted(answers, k, coin),
        "end-pusher": Scripted(answers, k, lambda row, at, right: eos),
        "empty": Scripted(answers, k, lambda row, at, right: None),
        "uneven": Scripted(
            answers, k, lambda row, at, right: coin(row, at, right) if (row + at) % 3 else None
        ),
        "over-long": Scripted(answers, k, coin, over_budget=True),
    }

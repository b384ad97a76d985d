"""Kangaroo: exact output whatever the adapter is worth, and every draft kept when it is perfect by construction."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fakes import Spy, ask, flat_costs, noisy_lm, plain_tokens, prompts, run, shared_lm, tiny_lm, tiny_module
from specctl import paths
from specctl.decode.draft import Parts, Row, Scored
from specctl.decode.sampling import Law, Sampler
from specctl.decode.target import Target
from specctl.drafters.kangaroo import Kangaroo
from specctl.equivalence.rescore import with_adapter
from specctl.errors import MissingError, ModelFileError, RequestError
from specctl.events import Verified
from specctl.models import adapter as adapters
from specctl.models.adapter import Adapter, Shape
from specctl.models.cheap import cheapened
from specctl.models.costs import Costs
from specctl.models.lm import LM
from specctl.models.quantize.scheme import BufferedLinear
from specctl.profile.drafters import KangarooParams

HOT = Law(temperature=1.0)
SHAPE = Shape(2, "attention")


def drafter(
    lm: LM,
    *,
    shape: Shape = SHAPE,
    kept: torch.Tensor | None = None,
    law: Law | None = None,
    accept: str = "greedy",
    eos: frozenset[int] = frozenset(),
    adapter: Adapter | None = None,
    copied: LM | None = None,
    costs: Costs | None = None,
    **params: Any,
) -> Kangaroo:
    """`copied`: a model with the adapter behind its first layers, which draft instead of the target's."""
    sampler = Sampler.keyed(law or Law(), coupled=accept == "coupled")
    adapter = adapter or Adapter(lm, shape).double().eval()
    settings = KangarooParams(
        method="kangaroo", **{"draft_tokens": 4, "min_confidence": 0.0, "rests": False, **params}
    )
    draft = copied or adapters.readout(lm, adapter, kept)
    return Kangaroo(settings, Parts(lm, draft, sampler, eos, costs or flat_costs()))


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("confidence", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("draft_tokens", [1, 2, 6])
def test_output_is_plain_decodings(draft_tokens: int, confidence: float, batch_size: int) -> None:
    one = Spy(drafter(shared_lm(), draft_tokens=draft_tokens, min_confidence=confidence))
    tokens, _, _ = run(shared_lm(), one, ask(5), batch_size=batch_size)
    assert [tuple(row) for row in tokens] == list(plain_tokens())
    longest = max(draft.longest for _, draft in one.log)
    assert longest == (1 if confidence == 1.0 else draft_tokens)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_row_whose_drafts_are_not_kept_is_left_alone(batch_size: int) -> None:
    """Each row for itself: others go on drafting, and its answer stays what it is."""
    asked = ask(3, 40)
    rounds = {}
    for rests in (False, True):
        one = Spy(drafter(shared_lm(), rests=rests, costs=flat_costs(0.2)))
        rounds[rests], _, _ = run(shared_lm(), one, asked, batch_size=batch_size)
        drafted = [len(tokens) for _, draft in one.log for tokens in draft.tokens]
        assert (drafted.count(0) > len(drafted) // 2) == rests
    assert rounds[True] == rounds[False]


def test_the_cheaper_a_draft_the_longer_it_is_asked() -> None:
    asked = []
    for cost in (0.0, 0.1, 0.4, 0.9):
        one = Spy(drafter(shared_lm(), rests=True, costs=flat_costs(cost)))
        run(shared_lm(), one, ask(3, 40))
        asked.append(sum(bool(tokens) for _, draft in one.log for tokens in draft.tokens))
    assert asked[0] > asked[1] > asked[2] >= asked[3] > 0


@pytest.mark.parametrize("block", ["layer", "two-layers"])
@pytest.mark.parametrize("kind", ["qwen3", "mistral", "gemma2", "gemma3_text", "olmo2"])
def test_other_families(kind: str, block: Any) -> None:
    one = drafter(shared_lm(kind), shape=Shape(3, block))
    tokens, _, _ = run(shared_lm(kind), one, ask(5), batch_size=2)
    assert [tuple(row) for row in tokens] == list(plain_tokens(kind))


@pytest.mark.parametrize("row_floor", [2, 4])
def test_dummy_rows_change_nothing(row_floor: int) -> None:
    lm = LM(shared_lm().module, "floored", row_floor=row_floor)
    tokens, _, _ = run(lm, drafter(lm), ask(5), batch_size=3)
    assert [tuple(row) for row in tokens] == list(plain_tokens())


def test_a_trimmed_head_drafts_kept_tokens_only() -> None:
    kept = torch.arange(0, 48, 3)
    one = Spy(drafter(shared_lm(), kept=kept))
    tokens, _, _ = run(shared_lm(), one, ask(5), batch_size=2)
    assert [tuple(row) for row in tokens] == list(plain_tokens())
    assert {token % 3 for _, draft in one.log for row in draft.tokens for token in row} == {0}


def test_coupled_samples_are_plain_samplings() -> None:
    one = drafter(shared_lm(), law=HOT, accept="coupled")
    tokens, _, _ = run(shared_lm(), one, ask(5), batch_size=3, law=HOT, accept="coupled")
    assert [tuple(row) for row in tokens] == list(plain_tokens(law=HOT, accept="coupled"))


# With a copy of the first layers --------------------------------------------------------------------------------


def copy_of(lm: LM, *, fused: bool = False, kept: torch.Tensor | None = None) -> LM:
    """The first two layers of `lm` and an adapter for `shared_lm` behind them."""
    adapter = Adapter(shared_lm(), Shape(2, "layer")).double().eval()
    whole = replace(adapters.readout(lm, adapter, kept), twin=True)
    return cheapened(whole, None)[0] if fused else whole


def unexpected(spy: Spy, draft: LM) -> tuple[int, int]:
    """Drafted tokens that copy and adapter do not say behind the target's own states, of how many."""
    wrong = compared = 0
    for committed, drafted in spy.log:
        for ids, tokens in zip(committed, drafted.tokens, strict=True):
            target = Target(shared_lm(), slots=1, capacity=len(ids), captures=frozenset({draft.reads}))
            hidden = target.admit(ids)
            context = with_adapter(draft, target.cache, hidden.get(draft.reads))
            said = draft.forward(context, [[ids[-1], *tokens]], range(1))[0].argmax(dim=-1).tolist()
            wrong += sum(token != right for token, right in zip(tokens, said, strict=False))
            compared += len(tokens)
    return wrong, compared


def stale(batch_size: int, schedule: str = "ragged", caps: Sequence[int] = (16,) * 5, **params: Any) -> int:
    draft = copy_of(noisy_lm())
    spy = Spy(drafter(shared_lm(), copied=draft, **params))
    asked = [replace(one, max_new_tokens=cap) for one, cap in zip(ask(5), caps, strict=True)]
    tokens, _, _ = run(shared_lm(), spy, asked, batch_size=batch_size, schedule=schedule)
    plain = plain_tokens(new=16)
    assert [tuple(row) for row in tokens] == [one[:cap] for one, cap in zip(plain, caps, strict=True)]
    wrong, compared = unexpected(spy, draft)
    assert compared > 20
    return wrong


@pytest.mark.parametrize("schedule", ["ragged", "eqspec", "exspec"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_copy_drafts_behind_the_targets_own_states(batch_size: int, schedule: str) -> None:
    """Rounds of all lengths, rows that leave, swap and are padded."""
    assert stale(batch_size, schedule, (3, 16, 9, 5, 12)) == 0


@pytest.mark.parametrize("rests", [False, True])
def test_states_of_rounds_without_a_draft_are_not_lost(rests: bool) -> None:
    assert stale(2, rests=rests, min_confidence=0.3) == 0


def stale_states(self: Kangaroo, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
    """The adapter keeps what the copy made of the tokens that were kept."""
    for slot, n in enumerate(accepted):
        seen = min(n + 1, self._steps)
        self._cache.commit(slot, seen)
        self._pending[slot].extend(scored.hidden[self._depth][slot, seen : n + 1])


def lost_states(self: Kangaroo, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
    for slot, n in enumerate(accepted):
        self._pending[slot].extend(scored.hidden[self._depth][slot, 1 : n + 1])


@pytest.mark.parametrize("bug", [stale_states, lost_states])
def test_planted_wrong_states_are_seen(bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kangaroo, "observe", bug)
    assert stale(3) > 0


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_copy_in_the_same_weights_drafts_the_same(batch_size: int, fused: bool) -> None:
    """Tokens, laws and all: where they come from is the only difference."""
    logs = []
    for copied in (None, copy_of(shared_lm(), fused=fused)):
        one = drafter(shared_lm(), shape=Shape(2, "layer"), copied=copied, law=HOT, draft_tokens=3)
        spy = Spy(one)
        run(shared_lm(), spy, ask(5), batch_size=batch_size, law=HOT, accept="rejection")
        logs.append(spy.log)
    shared, copies = logs
    assert [draft.tokens for _, draft in shared] == [draft.tokens for _, draft in copies]
    for (_, one), (_, other) in zip(shared, copies, strict=True):
        assert (one.hidden is None, other.hidden is None) == (False, True)
        assert (one.q is None) == (other.q is None)
        assert one.q is None or other.q is None or torch.allclose(one.q, other.q)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("fused", [False, True])
def test_coupled_samples_with_a_copy_are_plain_samplings(batch_size: int, fused: bool) -> None:
    kept = torch.arange(0, 48, 2)
    one = drafter(
        shared_lm(), copied=copy_of(noisy_lm(), fused=fused, kept=kept), law=HOT, accept="coupled", rests=True
    )
    tokens, _, _ = run(shared_lm(), one, ask(5), batch_size=batch_size, law=HOT, accept="coupled")
    assert [tuple(row) for row in tokens] == list(plain_tokens(law=HOT, accept="coupled"))


def test_a_quantised_copy_shares_nothing_that_is_quantised() -> None:
    lm = LM(tiny_module(dtype=torch.bfloat16), "toy")
    adapter = Adapter(lm, Shape(2, "layer")).bfloat16().eval()
    before = {name: tensor.clone() for name, tensor in lm.module.state_dict().items()}
    draft, _ = cheapened(replace(adapters.readout(lm, adapter), twin=True), "int4")
    assert (draft.reads, draft.twin, draft.n_layers, draft.row_floor) == (2, True, 3, 1)
    assert any(isinstance(one, BufferedLinear) for one in draft.module.modules())
    asked = ask(3)
    tokens, _, _ = run(lm, drafter(lm, copied=draft, rests=True), asked, batch_size=1)
    assert tokens == run(lm, None, asked)[0]
    assert all(torch.equal(before[name], tensor) for name, tensor in lm.module.state_dict().items())


# The perfect adapter ---------------------------------------------------------------------------------------------


def shallow_lm(depth: int) -> LM:
    """A model whose layers from `depth` on add nothing: the state after them is the last one."""
    module = tiny_module()
    with torch.no_grad():
        for layer in module.model.layers[depth:]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return LM(module, "shallow")


def perfect(lm: LM, depth: int, block: Any = "attention") -> Adapter:
    """Adds nothing either, and has the target's own norm."""
    adapter = Adapter(lm, Shape(depth, block)).double().eval()
    with torch.no_grad():
        for layer in adapter.layers():
            layer.self_attn.o_proj.weight.zero_()
            if block != "attention":
                layer.mlp.down_proj.weight.zero_()
    return adapter


class Checked(Spy):
    """Checks the cache identities each round: target s, adapter and what is pending s."""

    lagged = 0

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        super().observe(rows, scored, accepted)
        inner: Any = self.drafter
        for slot, row in enumerate(rows):
            pending = len(inner._pending[slot])
            committed = inner._cache.lengths[slot] + pending
            assert committed == inner._shared.lengths[slot] == len(row.ids) - 1
            self.lagged += pending == 1


@pytest.mark.parametrize(
    ("k", "block"), [(1, "attention"), (3, "attention"), (6, "layer"), (3, "two-layers")]
)
def test_a_perfect_adapters_drafts_are_all_kept(k: int, block: str) -> None:
    lm = shallow_lm(2)
    one = Checked(drafter(lm, adapter=perfect(lm, 2, block), draft_tokens=k))
    rounds = 4
    asked = ask(3, (k + 1) * rounds)
    tokens, _, events = run(lm, one, asked, batch_size=2)
    plain, _, _ = run(lm, None, asked)
    assert tokens == plain
    verdicts = [event for event in events if isinstance(event, Verified)]
    assert len(verdicts) == 3 * rounds
    assert all(event.accepted == event.drafted == k for event in verdicts)
    assert one.lagged > 3


def test_planted_forgotten_lag_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that never reaches the adapter puts all later ones at wrong places."""

    def forgetful(self: Kangaroo, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        for slot, n in enumerate(accepted):
            self._cache.commit(slot, min(n + 1, self._steps))

    lm = shallow_lm(2)
    one = Checked(drafter(lm, adapter=perfect(lm, 2), draft_tokens=3))
    monkeypatch.setattr(Kangaroo, "observe", forgetful)
    with pytest.raises(AssertionError):
        run(lm, one, ask(1, 12))


def test_nothing_is_drafted_behind_the_end_of_sequence() -> None:
    lm = shallow_lm(2)
    answer = run(lm, None, ask(1, 12))[0][0]
    eos = frozenset({answer[2]})
    one = Spy(drafter(lm, adapter=perfect(lm, 2), draft_tokens=6, eos=eos))
    tokens, reasons, _ = run(lm, one, ask(1, 12), eos=eos)
    assert tokens[0] == answer[: answer.index(answer[2]) + 1]
    assert reasons == ["stop"]
    assert len(one.log) == 1


def test_first_layers_never_run_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm()
    one = drafter(lm, draft_tokens=3)
    calls: list[str] = []
    monkeypatch.setattr(LM, "forward", lambda *passed, **named: calls.append("whole"))
    target = Target(lm, slots=1, capacity=64, captures=one.needs)
    tokens, _, _ = run(lm, one, ask(1, 12), target=target)
    assert len(tokens[0]) == 12
    assert not calls


# Files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", ["attention", "layer", "two-layers"])
def test_an_adapter_comes_back_as_it_was(tmp_path: Path, block: Any) -> None:
    lm = tiny_lm()
    made = Adapter(lm, Shape(2, block)).double()
    adapters.write(tmp_path, lm, made.state_dict(), made.shape, torch.tensor([3, 5, 9]), {})
    read, kept = adapters.read(tmp_path, lm)
    assert read.shape == made.shape
    assert kept is not None
    assert kept.tolist() == [3, 5, 9]
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), read.parameters(), strict=True))


def test_the_wrong_target_is_refused(tmp_path: Path) -> None:
    lm, other = tiny_lm(), tiny_lm(seed=1)
    made = Adapter(lm, Shape(2, "layer"))
    adapters.write(tmp_path, lm, made.state_dict(), made.shape, None, {})
    with pytest.raises(ModelFileError, match="another model"):
        adapters.read(tmp_path, other)
    wider = copy.copy(lm)
    wider.module = copy.deepcopy(lm.module).float()
    adapters.read(tmp_path, wider)  # the same weights in another format


def test_files_that_are_no_adapter_are_refused(tmp_path: Path) -> None:
    lm = tiny_lm()
    with pytest.raises(ModelFileError, match="has no"):
        adapters.read(tmp_path, lm)
    made = Adapter(lm, Shape(2, "layer"))
    for kept in ([5, 3], [3, 48], []):
        adapters.write(tmp_path, lm, made.state_dict(), made.shape, torch.tensor(kept), {})
        with pytest.raises(ModelFileError, match="keeps tokens"):
            adapters.read(tmp_path, lm)
    tensors = dict(list(made.state_dict().items())[1:])
    adapters.write(tmp_path, lm, tensors, made.shape, None, {})
    with pytest.raises(ModelFileError, match="does not fit"):
        adapters.read(tmp_path, lm)


def test_exits_outside_the_model_are_refused() -> None:
    for depth in (0, 4):
        with pytest.raises(RequestError, match="not inside"):
            Adapter(shared_lm(), Shape(depth, "layer"))


def test_none_is_shipped_for_unknown_weights() -> None:
    with pytest.raises(MissingError, match="is shipped"):
        adapters.shipped(shared_lm(), copied=False)


def test_a_copy_gets_the_adapter_behind_more_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = shared_lm()
    for depth in (1, 3):
        made = Adapter(lm, Shape(depth, "layer"))
        card = {"depth": depth}
        adapters.write(tmp_path / f"kangaroo/at-{depth}", lm, made.state_dict(), made.shape, None, card)
    monkeypatch.setattr(paths, "shipped_weights_dir", lambda: tmp_path)
    assert [adapters.shipped(lm, copied=copied).name for copied in (False, True)] == ["at-1", "at-3"]


def test_prompts_of_one_token() -> None:
    assert 1 in {len(one) for one in prompts(5)}  # what the tests above rely on

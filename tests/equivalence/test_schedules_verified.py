"""The verifier covers each schedule: clean ones are exact bit for bit, a broken realignment is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from toys import scripted

from fakes import ask
from specctl.decode import newcomers, target
from specctl.equivalence.report import SequenceReport, Verdict
from specctl.equivalence.verify import verify_greedy
from specctl.models import attention, lm
from specctl.models.cache import SlotCache, SlotLayer

SCHEDULES = ["ragged", "eqspec", "exspec"]


def verified(schedule: str, batch_size: int = 3) -> list[SequenceReport]:
    """bf16, nothing tolerated, every round's caches rebuilt."""
    asked = ask(6, 16)
    subject = scripted("coin", asked)
    rules = replace(subject.rules, schedule=schedule, window=5)
    return verify_greedy(replace(subject, rules=rules), asked, batch_size=batch_size, noise=None, audit=1.0)


@pytest.mark.parametrize("batch_size", [2, 4])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_is_exact(schedule: str, batch_size: int) -> None:
    for report in verified(schedule, batch_size):
        assert report.problems == ()
        assert report.verdict is Verdict.EXACT
        assert report.audited_rounds == report.rounds > 0


@pytest.mark.parametrize("schedule", ["ragged", "exspec"])
def test_prompts_that_were_read_while_others_decode_are_exact(
    schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (newcomers, target, lm):
        monkeypatch.setattr(module, "PREFILL_CHUNK", 4)
    for report in verified(schedule, 2):
        assert report.verdict is Verdict.EXACT


def positions_of_columns(*arguments: Any) -> Any:
    positions, mask = geometry(*arguments)
    return positions + torch.tensor(arguments[1].pads)[:, None], mask


def one_too_far(layer: SlotLayer, old: Sequence[int], new: Sequence[int], width: int) -> None:
    shift(layer, [pad + 1 for pad in old], new, width)


geometry, shift = lm.geometry, SlotLayer.shift


@pytest.mark.parametrize("schedule", ["eqspec", "exspec"])
@pytest.mark.parametrize(
    ("place", "broken"),
    [
        ((lm, "geometry"), positions_of_columns),
        ((SlotLayer, "shift"), lambda *_: None),
        ((SlotLayer, "shift"), one_too_far),
    ],
    ids=["planted-no-positions", "planted-not-shifted", "planted-one-too-far"],
)
def test_a_broken_realignment_is_found(
    place: tuple[Any, str], broken: Any, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = scripted("coin", ask(6, 16))
    assert asked
    monkeypatch.setattr(*place, broken)
    assert any(report.verdict is not Verdict.EXACT for report in verified(schedule))


def test_rows_that_change_places_without_their_caches_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SlotCache, "swap", lambda *_: None)
    assert any(report.verdict is not Verdict.EXACT for report in verified("exspec"))


def test_padding_does_not_change_a_bit() -> None:
    """bf16: a row behind padding has the bits it has without; read together with its padding it would not."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).bfloat16()

    query, key, value = noise(1, 4, 2, 16), noise(1, 2, 600, 16), noise(1, 2, 600, 16)
    mask = torch.zeros(1, 1, 2, 600, dtype=torch.bfloat16)
    alone, _ = attention.plain_attention(torch.nn.Module(), query, key, value, mask)
    differs = False
    for pad in (1, 7, 100):
        wide_key, wide_value = (torch.cat([noise(1, 2, pad, 16), each], dim=2) for each in (key, value))
        hidden = torch.full((1, 1, 2, pad), torch.finfo(torch.bfloat16).min, dtype=torch.bfloat16)
        wide_mask = torch.cat([hidden, mask], dim=3)
        given = torch.nn.Module(), query, wide_key, wide_value, wide_mask
        padded, _ = attention.plain_attention(*given, pads=(pad,))
        assert torch.equal(padded, alone)
        together, _ = attention.plain_attention(*given)
        differs |= not torch.equal(together, alone)
    assert differs, "nothing would be lost by reading the padding here"

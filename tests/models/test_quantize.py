"""Quantised layers: the numbers they hold, the shapes they refuse, and what they share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fakes import tiny_module
from specctl.models.kernels.build import built
from specctl.models.quantize import Maker, replaced, widened
from specctl.models.quantize.forms import form_of
from specctl.models.quantize.int4 import Int4Linear
from specctl.models.quantize.int4_dot import Int4Dot
from specctl.models.quantize.int8 import Int8Linear
from specctl.models.quantize.packed import PackedLinear
from specctl.models.quantize.scheme import GROUP, CheapLinear

INT4: list[type[CheapLinear]] = [Int4Linear] if built() is None else [Int4Linear, Int4Dot]
FORMS: list[type[CheapLinear]] = [Int8Linear, *INT4, PackedLinear]
CPU = torch.device("cpu")


def weight(rows: int = 48, columns: int = 64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator).to(torch.bfloat16)


def step(form: type[CheapLinear], wide: Tensor) -> Tensor:
    """Half of the distance between two levels: the most a weight may move by rounding, `[N, K]`."""
    if form is Int4Linear:
        groups = wide.unflatten(1, (-1, GROUP))
        half = (groups.amax(-1, keepdim=True) - groups.amin(-1, keepdim=True)) / 30
        return half.expand_as(groups).flatten(1)
    if form is Int8Linear:
        return (wide.abs().amax(1, keepdim=True) / 254).expand_as(wide)
    return torch.zeros_like(wide)


@pytest.mark.parametrize("form", [Int8Linear, Int4Linear, PackedLinear])
def test_a_weight_moves_by_half_a_level_at_most(form: type[CheapLinear]) -> None:
    """Scale and zero are rounded to bf16: 1/256 of the largest value on top."""
    given = weight()
    assert form.fits(given)
    moved = (form(given, None).dense() - given.float()).abs()
    slack = given.float().abs().amax() / 256 if form is not PackedLinear else 0
    assert bool((moved <= step(form, given.float()) + slack).all())


@pytest.mark.parametrize("form", [Int8Linear, Int4Linear])
def test_planted_levels_off_by_one_are_seen(form: type[CheapLinear], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "round_", lambda self: self.floor_().add_(2))
    given = weight()
    moved = (form(given, None).dense() - given.float()).abs()
    monkeypatch.undo()
    assert not bool((moved <= step(form, given.float()) + given.float().abs().amax() / 256).all())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 2)])
def test_the_product_is_that_of_the_dense_weight(
    form: type[CheapLinear], biased: bool, shape: tuple[int, int]
) -> None:
    bias = weight(1, 48, seed=1)[0] if biased else None
    layer = form(weight(), bias)
    x = weight(shape[0] * shape[1], 64, seed=2).view(*shape, 64)
    assert torch.allclose(layer(x).float(), layer.wide()(x.float()), rtol=0.02, atol=0.1)


@pytest.mark.parametrize("form", [Int8Linear, *INT4])
def test_zeros_stay_zeros(form: type[CheapLinear]) -> None:
    assert float(form(torch.zeros(16, 64, dtype=torch.bfloat16), None).dense().abs().max()) == 0


def test_the_head_is_quantised_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [form(weight(144), None).dense() for form in (Int8Linear, Int4Linear)]
    for module in ("int8", "int4"):
        monkeypatch.setattr(f"specctl.models.quantize.{module}.ROWS_AT_ONCE", 64)
    pieces = [form(weight(144), None).dense() for form in (Int8Linear, Int4Linear)]
    assert all(torch.equal(one, other) for one, other in zip(whole, pieces, strict=True))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (weight(48, 72), "72 columns are no multiple of 32"),
        (weight(24, 64), "24 rows are no multiple of 16"),
        (weight().float(), "float32"),
        (weight().to("meta"), "another device"),
    ],
    ids=["columns", "rows", "dtype", "device"],
)
def test_what_the_operators_do_not_take_stays_and_is_said(given: Tensor, why: str) -> None:
    make = Maker("int4")
    assert type(make(given, None)) is nn.Linear, why
    assert isinstance(make(weight(), None), form_of("int4", CPU))
    shape = f"{given.shape[0]}x{given.shape[1]}"
    assert make.note is not None
    assert make.note.startswith("1 of 2 layers of the draft are not in `int4`: ")
    assert shape in make.note


def test_nothing_is_said_where_nothing_was_asked_for() -> None:
    make = Maker(None)
    make(weight().float(), None)
    assert make.note is None


def model(**changes: Any) -> Any:
    return tiny_module(dtype=torch.bfloat16, intermediate_size=64, **changes)


@pytest.mark.parametrize("tied", [True, False])
def test_a_replaced_module_shares_all_but_its_linear_layers(tied: bool) -> None:
    module = model(tie_word_embeddings=tied)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    other: Any = replaced(module, Maker("int4"))
    assert other.model.embed_tokens.weight is module.model.embed_tokens.weight
    assert other.model.norm.weight is module.model.norm.weight
    assert isinstance(other.lm_head, form_of("int4", CPU))
    assert not any(type(one) is nn.Linear for one in other.modules())
    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert isinstance(module.lm_head, nn.Linear)


@pytest.mark.parametrize("scheme", ["int8", "int4", None])
def test_widened_computes_the_same_up_to_rounding(scheme: Any) -> None:
    module: Any = replaced(model(native=True), Maker(scheme))
    ids = torch.tensor([[5, 9, 4, 7]])
    with torch.no_grad():
        narrow = module(ids, use_cache=False).logits
        wide: Any = widened(module)
        exact = wide(ids, use_cache=False).logits
    assert exact.dtype == torch.float32
    assert not any(isinstance(one, CheapLinear) for one in wide.modules())
    assert float((narrow - exact).abs().max()) < 0.1 * float(exact.abs().max())

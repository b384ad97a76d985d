"""The start-up self-test: it sees numerics that depend on shape, and is run once a machine and model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fakes import ask, run, scripts, tiny_module
from specctl.models import numerics
from specctl.models.lm import LM
from specctl.models.numerics import FLOORS, holds, invariant_floor


@pytest.fixture(scope="module")
def bf16() -> LM:
    """Wide enough for bfloat16 kernels to be chosen by shape, as in a real model."""
    module = tiny_module(
        dtype=torch.bfloat16,
        hidden_size=128,
        intermediate_size=256,
        max_position_embeddings=2048,
        vocab_size=512,
    )
    return LM(module, "tiny-bf16")


@pytest.fixture(scope="module")
def other() -> LM:
    return LM(tiny_module(dtype=torch.float32, num_hidden_layers=1), "tiny-other")


@pytest.fixture
def cache_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPECCTL_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "numerics.json"


def test_a_floor_is_found_that_holds_or_none_is_claimed(bf16: LM, cache_file: Path) -> None:
    """Machines differ; what is claimed must be so: the floor holds, smaller ones do not."""
    floor = invariant_floor(bf16)
    assert floor in (*FLOORS, None)
    for smaller in FLOORS:
        if floor is not None and smaller > floor:
            break
        assert holds(bf16, smaller) is (smaller == floor)


def test_where_the_floor_holds_bf16_output_is_plain_at_any_draft_and_batch(
    bf16: LM, cache_file: Path
) -> None:
    floor = invariant_floor(bf16)
    if floor is None:
        pytest.skip("this machine's kernels are not shape-invariant in bfloat16")
    lm = LM(bf16.module, bf16.name, row_floor=floor)
    plain, _, _ = run(lm, None, ask(4, 16))
    for name in ("coin", "always-right", "uneven"):
        tokens, _, _ = run(lm, scripts(plain, 5)[name], ask(4, 16), batch_size=3)
        assert tokens == plain, name


@pytest.mark.parametrize(("axis", "limit"), [(0, 1), (1, 12)], ids=["planted-rows", "planted-columns"])
def test_planted_dependence_on_shape_is_seen(
    axis: int, limit: int, bf16: LM, cache_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits that carry the number of rows, or of columns, in their last bits."""
    forward = LM.forward

    def shaped(lm: LM, cache: Any, tokens: Any, rows: range, **options: Any) -> torch.Tensor:
        logits = forward(lm, cache, tokens, rows, **options)
        size = (len(rows), max(len(tokens[0]), lm.row_floor))[axis]
        return logits * (1 + 2**-7 * (size > limit))

    monkeypatch.setattr(LM, "forward", shaped)
    assert not any(holds(bf16, floor) for floor in FLOORS)
    assert invariant_floor(bf16) is None


def test_planted_leftover_columns_are_seen(
    bf16: LM, cache_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels work in blocks of rows; what is left over behind the last block takes another path."""
    forward = LM.forward

    def blocked(lm: LM, cache: Any, tokens: Any, rows: range, **options: Any) -> torch.Tensor:
        logits = forward(lm, cache, tokens, rows, **options)
        columns = max(len(tokens[0]), lm.row_floor)
        leftover = torch.arange(logits.shape[1]) >= columns // 4 * 4
        return logits * (1 + 2**-7 * (leftover & (columns > 4)))[:, None]

    monkeypatch.setattr(LM, "forward", blocked)
    assert not any(holds(bf16, floor) for floor in FLOORS)


def test_planted_single_row_kernel_needs_a_floor(
    bf16: LM, cache_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real case: a lone row takes another kernel. With the dummy row behind it the test passes again."""
    if invariant_floor(bf16) is None:
        pytest.skip("nothing holds here to begin with")
    run_module = LM._run

    def lonely(lm: LM, module: Any, cache: Any, rows: range, q: int, *options: Any, **inputs: Any) -> Any:
        out = run_module(lm, module, cache, rows, q, *options, **inputs)
        if len(rows) * q == 1:
            out.logits = out.logits * (1 + 2**-7)
        return out

    monkeypatch.setattr(LM, "_run", lonely)
    assert not holds(bf16, 1)
    assert any(holds(bf16, floor) for floor in FLOORS)


# Remembered -----------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stands in for the measurement: floor 4 holds; returns the floors tried."""
    tried: list[int] = []

    def fake(lm: LM, floor: int) -> bool:
        tried.append(floor)
        return floor >= 4

    monkeypatch.setattr(numerics, "holds", fake)
    return tried


def test_the_result_is_remembered(bf16: LM, cache_file: Path, measured: list[int]) -> None:
    assert invariant_floor(bf16) == 4
    assert measured == [2, 4]
    assert invariant_floor(bf16) == 4
    assert measured == [2, 4], "the second time the file is asked"
    assert list(json.loads(cache_file.read_text()).values()) == [4]


def test_none_is_remembered_too(bf16: LM, cache_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    monkeypatch.setattr(numerics, "holds", lambda lm, floor: bool(tried.append(floor)))
    assert invariant_floor(bf16) is None
    assert invariant_floor(bf16) is None
    assert tried == list(FLOORS)


def test_another_model_dtype_or_thread_count_is_measured_anew(
    bf16: LM, other: LM, cache_file: Path, measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    invariant_floor(bf16)
    invariant_floor(other)
    assert measured == [2, 4] * 2
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    invariant_floor(bf16)
    assert measured == [2, 4] * 3
    assert len(json.loads(cache_file.read_text())) == 3


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"null", b"\xff\xfe", b'"text"'], ids=str)
def test_a_broken_file_is_ignored_and_replaced(
    content: bytes, bf16: LM, cache_file: Path, measured: list[int]
) -> None:
    cache_file.parent.mkdir()
    cache_file.write_bytes(content)
    assert invariant_floor(bf16) == 4
    assert list(json.loads(cache_file.read_text()).values()) == [4]


@pytest.mark.parametrize("value", ["4", 0, -2, 10**9, True, [4], 2.5], ids=str)
def test_a_lying_file_is_ignored(value: object, bf16: LM, cache_file: Path, measured: list[int]) -> None:
    invariant_floor(bf16)
    known = dict.fromkeys(json.loads(cache_file.read_text()), value)
    cache_file.write_text(json.dumps(known))
    assert invariant_floor(bf16) == 4
    assert measured == [2, 4] * 2


def test_a_folder_that_cannot_be_written_is_no_error(
    bf16: LM, tmp_path: Path, measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SPECCTL_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert invariant_floor(bf16) == 4
    assert invariant_floor(bf16) == 4
    assert measured == [2, 4] * 2

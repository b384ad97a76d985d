"""Memory of mapped weights is given back, and what was written in it is not lost."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from specctl.models import mapped

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def of_file(path: Path) -> nn.Module:
    """A layer whose weight lies in a mapped file, 4 MB long."""
    values = torch.arange(1024 * 1024, dtype=torch.float32).view(1024, 1024)
    save_file({"weight": values}, path)
    with path.open("rb+") as file:
        os.fsync(file.fileno())  # pages that are yet to be written count as dirty
    storage = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
    header = path.stat().st_size - values.numel() * 4
    layer = nn.Linear(1024, 1024, bias=False, device="meta")
    weight = torch.tensor([], dtype=torch.float32).set_(storage, header // 4, (1024, 1024))  # type: ignore[call-overload]
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


def resident(layer: nn.Module) -> int:
    """Kilobytes of the file's mapping in memory."""
    first = next(layer.parameters()).data_ptr()
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        span = line.split()[0]
        if "-" in span and ":" not in span:
            start, end = (int(one, 16) for one in span.split("-"))
            inside = start <= first < end
        elif inside and span == "Rss:":
            return int(line.split()[1])
    raise AssertionError("not mapped")


def test_what_was_read_is_given_back_and_read_again(tmp_path: Path) -> None:
    layer = of_file(tmp_path / "a.safetensors")
    before = float(layer.weight.double().sum())  # type: ignore[operator]
    assert resident(layer) > 3000
    mapped.release(layer)
    assert resident(layer) < 100
    assert float(layer.weight.double().sum()) == before  # type: ignore[operator]


def test_a_weight_that_was_written_is_kept(tmp_path: Path) -> None:
    layer = of_file(tmp_path / "a.safetensors")
    layer.weight[5, 5] = -7.0  # type: ignore[index, operator]
    mapped.release(layer)
    assert float(layer.weight[5, 5]) == -7.0  # type: ignore[index, arg-type]


def test_planted_forgetting_of_what_was_written_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "clean_areas", lambda: [(0, 2**63)])
    with pytest.raises(AssertionError):
        test_a_weight_that_was_written_is_kept(tmp_path)


def test_other_memory_is_left_alone() -> None:
    layer = nn.Linear(1024, 1024)
    before = layer.weight.detach().clone()
    mapped.release(layer)
    assert torch.equal(layer.weight, before)

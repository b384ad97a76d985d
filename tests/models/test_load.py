"""Which device and which number format: what `auto` means, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from specctl.errors import MachineError, RequestError
from specctl.models.load import pick_device, pick_dtype


def test_devices() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(RequestError, match="unknown device `warp`"):
        pick_device("warp")
    if not torch.cuda.is_available():
        with pytest.raises(MachineError, match="device `cuda:7` is not available here"):
            pick_device("cuda:7")


@pytest.mark.parametrize(
    ("config", "wanted", "dtype"),
    [
        ({"dtype": "bfloat16"}, "auto", torch.bfloat16),
        ({"torch_dtype": "bfloat16"}, "auto", torch.bfloat16),
        ({"dtype": "float16"}, "auto", torch.float32),
        ({"dtype": None}, "auto", torch.float32),
        ({}, "auto", torch.float32),
        ({"dtype": "bfloat16"}, "float64", torch.float64),
        ({"dtype": "bfloat16"}, "float16", torch.float16),
    ],
)
def test_dtypes(config: dict[str, Any], wanted: str, dtype: torch.dtype, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert pick_dtype(wanted, tmp_path, torch.device("cpu")) == dtype


@pytest.mark.parametrize("name", ["int8", "load", "float8_e4m3fn", "nonsense"])
def test_dtypes_nobody_computes_in_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"dtype": name}))
    for wanted in ("auto", name):
        with pytest.raises(RequestError, match=f"dtype `{name}` is not supported"):
            pick_dtype(wanted, tmp_path, torch.device("cpu"))

"""`--quantize` of `pull` and `trim`: stored once, used at every start, seen by `models`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cli_harness import Cli
from torch import Tensor, nn

from fake_tokenizers import SPECIAL, byte_tokenizer
from fakes import tiny_module
from specctl.models.quantize import Maker
from specctl.store import vocabulary
from specctl.trim.calibration import Calibration, Sample, Settings

TOKENIZER = byte_tokenizer(["the ", "sky"])
END = TOKENIZER.convert_tokens_to_ids(SPECIAL[2])
PROFILE = """schema: 1
about: a test
target: {target}
drafter: {{method: self, draft_tokens: 3}}
max_new_tokens: 6
{draft}"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    rows = -(-len(TOKENIZER) // 16) * 16
    module = tiny_module(
        dtype=torch.bfloat16,
        native=True,
        vocab_size=rows,
        eos_token_id=END,
        intermediate_size=64,
        num_hidden_layers=2,
    )
    module.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def drafting(tmp_path: Path, model: Path, draft: str = "") -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(PROFILE.format(target=model, draft=draft))
    return str(path)


def not_quantising(monkeypatch: pytest.MonkeyPatch) -> None:
    make = Maker.__call__

    def made(self: Maker, weight: Tensor, bias: Tensor | None) -> nn.Module:
        assert self.scheme is None, "it was quantised at load"
        return make(self, weight, bias)

    monkeypatch.setattr(Maker, "__call__", made)


def test_pull_stores_a_draft_that_runs_use(
    cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = drafting(tmp_path, model)
    before = cli("run", "-p", profile, "-q", "sky")
    planned = json.loads(cli("pull", str(model), "--quantize", "int4", "--dry-run", "--json").out)
    assert [one["cached"] for one in planned["files"] if one["name"] == "tiny.int4"] == [False]
    assert cli("models").out.count("tiny.int4") == 0, "a dry run stores nothing"
    made = json.loads(cli("pull", str(model), "--quantize", "int4", "--json").out)
    path = Path(made["quantized"][f"{model}.int4"])
    assert path.is_file()
    planned = json.loads(cli("pull", str(model), "--quantize", "int4", "--dry-run", "--json").out)
    assert [one["cached"] for one in planned["files"] if one["name"] == "tiny.int4"] == [True]
    assert "tiny.int4" in cli("models").out
    with monkeypatch.context() as patch:
        not_quantising(patch)
        after = cli("run", "-p", profile, "-q", "sky")
    assert (after.code, after.out) == (before.code, before.out)
    assert cli("models", "rm", "tiny.int4").code == 0
    assert not path.exists()


def test_a_stale_draft_is_said_and_made_anew(cli: Cli, model: Path, tmp_path: Path) -> None:
    profile = drafting(tmp_path, model)
    made = json.loads(cli("pull", str(model), "--quantize", "int4", "--json").out)
    path = Path(made["quantized"][f"{model}.int4"])
    path.write_bytes(path.read_bytes().replace(b"specctl-quantized-1", b"specctl-quantized-0"))
    done = cli("run", "-p", profile, "sky")
    assert done.code == 0
    assert "is not a stored draft of this version" in done.err


def test_trim_stores_the_trimmed_head_too(
    cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trim = tmp_path / "trim"
    settings = Settings(str(model), vocabulary.fingerprint(model), "answers of the target", "self", 192, 0)
    answers = [Sample(i, "prose", (1, 2), (40 + i, 41, END)) for i in range(5)]
    Calibration(trim, settings).extend(answers, lambda _: None)
    command = ("trim", "--target", str(model), "--count", "5", "--size", "64", "-o", str(trim))
    assert cli(*command, "--quantize", "int4", "-q").code == 0
    assert (trim / "int4.safetensors").is_file()
    profile = drafting(tmp_path, model, f"draft: {{trim: {trim}}}\n")
    with monkeypatch.context() as patch:
        not_quantising(patch)
        used = cli("run", "-p", profile, "-q", "sky")
    plain = cli("run", "-p", "plain", "--target", str(model), "-n", "6", "-q", "sky")
    assert (used.code, used.out) == (plain.code, plain.out)
    assert cli(*command, "--force", "-q").code == 0
    assert not (trim / "int4.safetensors").exists(), "it belongs to the rows that were there"


def test_a_scheme_nobody_knows_is_refused(cli: Cli, model: Path) -> None:
    done = cli("pull", str(model), "--quantize", "int3")
    assert done.code != 0
    assert "int3" in done.err

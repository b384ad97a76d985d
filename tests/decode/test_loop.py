"""The loop's one promise: whatever is drafted, the output is plain decoding's."""

from __future__ import annotations

import pytest
from fakes import KINDS, Nothing, decode_alone, prompts, run, scripts, tiny_lm, tiny_module

from specctl.decode.draft import Request

N_NEW = 24
SCRIPTS = ["always-right", "never-right", "right-until-2", "coin", "end-pusher", "empty", "uneven", "over-long"]


def requests(n: int, new: int = N_NEW) -> list[Request]:
    return [Request(prompt, new, seed=i) for i, prompt in enumerate(prompts(n))]


@pytest.mark.parametrize("kind", list(KINDS))
def test_plain_decoding_equals_cacheless_transformers(kind: str) -> None:
    """Past sliding windows (8) and in ragged batches, for each supported model type."""
    lm = tiny_lm(kind)
    asked = requests(4)
    expected = [decode_alone(tiny_module(kind, native=True), one.prompt, N_NEW) for one in asked]
    assert len({tuple(answer) for answer in expected}) == len(asked), "the model says the same to everything"
    for batch_size in (1, 3):
        tokens, reasons, _ = run(lm, Nothing(), asked, batch_size=batch_size)
        assert tokens == expected
        assert reasons == ["length"] * 4


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_any_draft_gives_the_plain_output(script: str, kind: str, batch_size: int) -> None:
    lm = tiny_lm(kind, seed=1)
    asked = requests(5)
    plain, _, _ = run(lm, None, asked)
    for k in (1, 4):
        drafter = scripts(plain, k)[script]
        tokens, reasons, _ = run(lm, drafter, asked, batch_size=batch_size)
        assert tokens == plain
        assert set(reasons) == {"length"}

"""The oracle itself: against whole forwards of transformers, and against plain decoding by the loop."""

from __future__ import annotations

import pytest
import torch
from toys import scripted, toy_lm

from fakes import ask, decode_alone, run, tiny_lm, tiny_module
from specctl.decode.draft import Request
from specctl.decode.sampling import Law
from specctl.equivalence.reference import decode_plainly
from specctl.equivalence.sight import look


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text"])
def test_it_is_cacheless_transformers(kind: str) -> None:
    rules = scripted("empty", ask(1)).rules
    for request in ask(3):
        answer = decode_plainly(tiny_lm(kind), request, rules)
        assert answer.tokens == decode_alone(tiny_module(kind, native=True), request.prompt, 24)
        assert answer.reason == "length"


def test_it_ends_where_an_answer_ends() -> None:
    request = ask(1)[0]
    plain, _, _ = run(toy_lm(), None, [request])
    rules = scripted("empty", [request], eos=frozenset({plain[0][5]})).rules
    answer = decode_plainly(toy_lm(), request, rules)
    assert answer.tokens == plain[0][: plain[0].index(plain[0][5]) + 1]
    assert answer.reason == "stop"


def test_it_judges_every_token_of_a_sequence_it_follows() -> None:
    """Behind a wrong token its own choice is made from the wrong prefix: plain decoding's from there."""
    request = ask(1)[0]
    rules = scripted("empty", [request]).rules
    free = decode_plainly(toy_lm(), request, rules).tokens
    wrong = [*free[:3], (free[3] + 1) % 48, *free[4:]]
    followed = decode_plainly(toy_lm(), request, rules, follow=wrong).tokens
    assert followed[:4] == free[:4]
    behind = Request((*request.prompt, *wrong[:4]), 1)
    assert followed[4] == decode_plainly(toy_lm(), behind, rules).tokens[0]


def test_ties_go_to_the_lowest_id() -> None:
    lm = tiny_lm()
    with torch.no_grad():
        head = lm.module.lm_head.weight
        head.copy_(head[:1].expand_as(head))
    rules = scripted("empty", ask(1)).rules
    assert set(decode_plainly(lm, ask(1)[0], rules).tokens) == {0}


def test_coupled_sampling_is_the_loops_plain_sampling() -> None:
    law = Law(1.0, top_k=20)
    asked = ask(3)
    rules = scripted("empty", asked, law=law, accept="coupled").rules
    plain, _, _ = run(toy_lm(), None, asked, law=law, accept="coupled")
    assert [decode_plainly(toy_lm(), one, rules).tokens for one in asked] == plain


def test_a_sight_tells_any_changed_bit() -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    nudged = logits.clone()
    nudged[7] = torch.nextafter(nudged[7], torch.tensor(9.0))
    assert look(logits, logits).digest == look(logits.clone(), logits).digest
    assert look(logits, logits).digest != look(nudged, nudged).digest
    sight = look(logits, logits)
    first, second = list(sight.best)[:2]
    assert sight.margin == pytest.approx(float(logits[first] - logits[second]))
    assert sight.gap(first, int(logits.argmin())) is None

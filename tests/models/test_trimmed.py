"""Trimmed heads: whatever is kept, output is plain; and no other map than the right one is taken."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from fake_tokenizers import byte_tokenizer
from fakes import VOCAB, Spy, ask, draft_model, noisy_lm, plain_tokens, run, shared_lm, tiny_lm, tiny_module
from specctl.decode.sampling import Law
from specctl.errors import ModelFileError
from specctl.models import trimmed
from specctl.models.lm import LM
from specctl.models.load import load
from specctl.store import vocabulary
from specctl.trim import source, write

EOS = 2
WARM = Law(0.8, top_k=20, top_p=0.9, min_p=0.01, repetition_penalty=1.1)


def kept(lm: LM, ids: Collection[int]) -> LM:
    return trimmed.trimmed(lm, cut(lm, torch.tensor(sorted(ids))))


def cut(lm: LM, ids: Tensor) -> trimmed.Head:
    return trimmed.Head(ids, lm.module.lm_head.weight.detach()[ids])  # type: ignore[union-attr, index]


def drafts(draft: LM, law: Law, accept: str, batch_size: int = 2) -> tuple[list[list[int]], list[list[int]]]:
    """Output, and every drafted block."""
    spy = Spy(draft_model(shared_lm(), draft, law=law, accept=accept))
    tokens, _, _ = run(shared_lm(), spy, ask(3, 8), batch_size=batch_size, law=law, accept=accept)
    return tokens, [block for _, draft in spy.log for block in draft.tokens]


few_ids = st.sets(st.integers(0, VOCAB - 1), min_size=5, max_size=5).map(lambda ids: ids | {EOS})


@given(ids=few_ids)
@settings(max_examples=4, deadline=None)
@pytest.mark.parametrize(("law", "accept"), [(Law(), "greedy"), (WARM, "coupled")], ids=["greedy", "coupled"])
def test_any_kept_set_gives_plain_output(law: Law, accept: str, ids: set[int]) -> None:
    tokens, blocks = drafts(kept(noisy_lm(), ids), law, accept)
    assert tokens == [list(row) for row in plain_tokens(n=3, new=8, law=law, accept=accept)]
    assert {token for block in blocks for token in block} <= ids


def test_all_kept_is_untrimmed_drafting_bit_for_bit() -> None:
    for law, accept in ((Law(), "greedy"), (WARM, "coupled"), (WARM, "rejection")):
        logs = []
        for draft in (noisy_lm(), kept(noisy_lm(), range(VOCAB))):
            spy = Spy(draft_model(shared_lm(), draft, law=law, accept=accept))
            run(shared_lm(), spy, ask(3, 8), batch_size=3, law=law, accept=accept)
            logs.append(spy.log)
        for (_, one), (_, other) in zip(*logs, strict=True):
            assert one.tokens == other.tokens
            assert (one.q is None) == (other.q is None) == (law.greedy or not one.longest)
            assert one.q is None or other.q is None or torch.equal(one.q, other.q)


def test_a_map_that_is_off_by_one_drafts_other_tokens_and_still_changes_nothing() -> None:
    """The planted bug is in speed, not in output: only the check on loading sees it."""
    wrong = kept(noisy_lm(), range(VOCAB - 1))
    assert wrong.kept is not None
    wrong.kept += 1
    tokens, blocks = drafts(wrong, Law(), "greedy")
    assert tokens == [list(row) for row in plain_tokens(n=3, new=8)]
    assert blocks != drafts(kept(noisy_lm(), range(VOCAB - 1)), Law(), "greedy")[1]


@cache
def coupled_acceptance(ids: frozenset[int], shift: int) -> float:
    """Share of a self-draft's tokens accepted, `shift` misplaces its logits in the vocabulary."""
    lm = kept(shared_lm(), ids)
    assert lm.kept is not None
    lm.kept = (lm.kept + shift) % VOCAB
    law = Law(1.0)
    spy = Spy(draft_model(shared_lm(), lm, law=law, accept="coupled"))
    right = run(shared_lm(), None, ask(6, 20), law=law, accept="coupled")[0]
    tokens, _, events = run(shared_lm(), spy, ask(6, 20), law=law, accept="coupled")
    assert tokens == right
    verified = [event for event in events if event.kind == "verified"]
    return sum(one.accepted for one in verified) / sum(one.drafted for one in verified)


def test_coupled_noise_is_that_of_the_whole_vocabulary() -> None:
    """A target drafting for itself is right where its token is kept: the noise belongs to ids, not to rows."""
    upper = frozenset(range(8, VOCAB))
    assert coupled_acceptance(upper, 0) > 0.5
    assert coupled_acceptance(upper, -8) < 0.3


def test_greedy_acceptance_of_a_self_draft_is_coverage() -> None:
    """One drafted token a round: accepted exactly where the target's token is kept."""
    ids = set(range(0, VOCAB, 2))
    drafter = draft_model(shared_lm(), kept(shared_lm(), ids), draft_tokens=1)
    _, _, events = run(shared_lm(), drafter, ask(5, 24))
    done = [0] * 5
    outcomes = []
    for verdict, emitted in pairwise(events):
        if verdict.kind == "verified":
            assert emitted.kind == "emitted"
            if verdict.drafted:
                covered = plain_tokens()[verdict.row][done[verdict.row]] in ids
                outcomes.append((verdict.accepted == 1, covered))
            done[verdict.row] += len(emitted.tokens)
    assert all(accepted == covered for accepted, covered in outcomes)
    assert {accepted for accepted, _ in outcomes} == {True, False}


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_widened_logits_are_the_kept_ones_and_nothing_else(data: st.DataObject) -> None:
    vocab = data.draw(st.integers(2, 40))
    ids = torch.tensor(sorted(data.draw(st.sets(st.integers(0, vocab - 1), min_size=1))))
    logits = torch.randn(2, len(ids))
    wide = trimmed.widen(logits, ids, vocab)
    assert torch.equal(wide[:, ids], logits)
    others = torch.ones(vocab, dtype=torch.bool)
    others[ids] = False
    assert bool((wide[:, others] == float("-inf")).all())
    assert torch.equal(wide.argmax(-1), ids[logits.argmax(-1)])
    torch.testing.assert_close(wide.softmax(-1)[:, ids], logits.softmax(-1))


@pytest.mark.parametrize("kind", ["llama", "gemma2", "granite", "phi3"])
def test_logits_are_those_of_the_whole_head(kind: str) -> None:
    """Soft caps and scalings behind the head included; the source keeps its own head, views included."""
    whole = tiny_lm(kind)
    ids = torch.tensor([1, 2, 5, 40])
    few = trimmed.trimmed(whole, cut(whole, ids))
    for lm, columns in ((whole, slice(None)), (few, ids)):
        slots = lm.new_cache()
        slots.admit()
        logits = lm.forward(slots, [[3, 4, 5]], range(1))
        if lm is whole:
            expected = logits
        else:
            torch.testing.assert_close(logits, expected[..., columns])
            if kind != "llama":
                continue
            hidden = lm.segment(slots, [[3, 4, 5]], range(1), 0, 2)
            assert torch.equal(lm.segment(slots, hidden, range(1), 2, None), logits)
    assert whole.kept is None


# On disk --------------------------------------------------------------------------------------------------------

TOKENIZER = byte_tokenizer(["the ", "sky"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trimmed") / "model"
    module = tiny_module(
        dtype=torch.bfloat16, native=True, vocab_size=len(TOKENIZER), tie_word_embeddings=True
    )
    module.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def save(model: Path, folder: Path, ids: Tensor) -> Path:
    head = source.rows(source.find(model), ids)
    write.write(folder, head, tokenizer=vocabulary.fingerprint(model), facts={"coverage": "{}"})
    return folder


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    return save(model, tmp_path / "trim", torch.tensor([0, 3, 9, 200]))


def read(folder: Path, model: Path, dtype: str = "auto") -> tuple[LM, trimmed.Head]:
    lm = load(model, name="small", dtype=dtype)
    return lm, trimmed.read(folder, lm, model, len(TOKENIZER))


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_rows_are_bit_equal_and_the_input_embedding_stays_whole(
    folder: Path, model: Path, dtype: str
) -> None:
    lm, head = read(folder, model, dtype)
    embedding = lm.module.get_input_embeddings().weight.detach().clone()  # type: ignore[operator]
    assert torch.equal(head.weight.to(lm.dtype), embedding[head.ids])
    few = trimmed.trimmed(lm, head)
    assert torch.equal(few.module.get_input_embeddings().weight, embedding)  # type: ignore[operator]
    slots, again = few.new_cache(), few.new_cache()
    slots.admit(), again.admit()
    memory = trimmed.trimmed(lm, cut(lm, head.ids))
    logits = few.forward(slots, [[5, 6]], range(1))
    assert logits.shape == (1, 2, 4)
    assert torch.equal(logits, memory.forward(again, [[5, 6]], range(1)))


def rewrite(folder: Path, change: Callable[[dict[str, Tensor], dict[str, str]], None]) -> None:
    from safetensors import safe_open

    path = folder / trimmed.FILE
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        facts = dict(file.metadata())
    change(tensors, facts)
    save_file(tensors, path, metadata=facts)


def without_map(tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    del tensors["ids"]


def shifted(tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    tensors["ids"] = tensors["ids"] + 1


def resigned(tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    """Shifted, and its digest made again: only the rows can tell."""
    shifted(tensors, facts)
    facts["map"] = trimmed.map_digest(tensors["ids"], facts["tokenizer"])


def zeroed(tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    tensors["ids"] = torch.zeros_like(tensors["ids"])
    facts["map"] = trimmed.map_digest(tensors["ids"], facts["tokenizer"])


def foreign(tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    facts["tokenizer"] = "0" * 64
    facts["map"] = trimmed.map_digest(tensors["ids"], facts["tokenizer"])


def nameless(tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    facts.clear()


def cut_short(tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    tensors["weight"] = tensors["weight"][1:].contiguous()


def other_rows(tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    tensors["weight"] = tensors["weight"].clone()
    tensors["weight"][2, 3] += 0.5


BROKEN = {
    without_map: "lacks the map",
    shifted: "was changed after",
    resigned: "other rows",
    zeroed: "not ascending",
    foreign: "another tokenizer",
    nameless: "not a trimmed head of this version",
    cut_short: "shape",
    other_rows: "other rows",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_missing_foreign_or_shifted_map_is_refused(
    broken: Callable[..., None], folder: Path, model: Path
) -> None:
    rewrite(folder, lambda tensors, facts: None)
    read(folder, model)
    rewrite(folder, broken)
    with pytest.raises(ModelFileError, match=BROKEN[broken]):
        read(folder, model)


def test_what_is_no_trimmed_head_is_refused(tmp_path: Path, model: Path) -> None:
    with pytest.raises(ModelFileError, match="there is no file"):
        read(tmp_path, model)
    (tmp_path / trimmed.FILE).write_bytes(b"\x10")
    with pytest.raises(ModelFileError, match="cut off"):
        read(tmp_path, model)


def test_another_model_of_the_same_tokenizer_is_refused(folder: Path, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    module = tiny_module(
        seed=1, dtype=torch.bfloat16, native=True, vocab_size=len(TOKENIZER), tie_word_embeddings=True
    )
    module.save_pretrained(other)
    TOKENIZER.save_pretrained(other)
    with pytest.raises(ModelFileError, match="other rows"):
        read(folder, other)


def test_tokens_the_target_lacks_are_refused(folder: Path, model: Path) -> None:
    lm = load(model, name="small")
    with pytest.raises(ModelFileError, match="the target does not have"):
        trimmed.read(folder, lm, model, 200)

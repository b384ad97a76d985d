"""Conversations a model writes itself: its own turns, the same ones by index, and none that were cut short."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fake_tokenizers import SPECIAL, byte_tokenizer
from fakes import tiny_module
from specctl.errors import RequestError
from specctl.profile.schema import Profile
from specctl.session import Session, open_session
from specctl.training import conversations
from specctl.training.conversations import Conversation, Lengths, answered, self_written, user_opening

TOKENIZER = byte_tokenizer(["the ", "sky", " is ", "blue"])
START, END = (TOKENIZER.convert_tokens_to_ids(name) for name in SPECIAL[1:])
SHORT = Lengths(prompt=6, answer=9)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("model")
    changes = {"vocab_size": len(TOKENIZER), "eos_token_id": END, "num_hidden_layers": 2}
    tiny_module(dtype=torch.float32, native=True, **changes).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    fields = {
        "schema": 1,
        "about": "a test",
        "target": "here",
        "drafter": {"method": "ngram"},
        "name": "test",
    }
    profile = Profile.model_validate({**fields, "dtype": "float64", "numerics": "native"})
    return open_session(profile, folder, None, target_name="tiny", draft_name=None)


def write(session: Session, *indices: int, batch_size: int = 3, seed: int = 0) -> dict[int, Conversation]:
    found = self_written(session, indices, seed=seed, lengths=SHORT, batch_size=batch_size)
    return {one.index: one for one in found}


def test_the_users_turn_is_opened_and_nothing_more(session: Session) -> None:
    opening = user_opening(session)
    assert list(opening) == [START, *TOKENIZER("user\n", add_special_tokens=False).input_ids]


def test_a_conversation_is_a_function_of_seed_and_index(session: Session) -> None:
    all_at_once = write(session, *range(8))
    assert write(session, 5, 2, batch_size=1) == {index: all_at_once[index] for index in (5, 2)}
    assert len({one.prompt for one in all_at_once.values()}) == len(all_at_once) > 4
    assert write(session, *range(8), seed=1).items().isdisjoint(all_at_once.items())


def test_planted_keys_by_place_in_the_call_are_seen(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run would write its first conversations again."""
    all_at_once = write(session, *range(4))
    places: dict[int, int] = {}
    keyed = conversations._key
    monkeypatch.setattr(
        conversations,
        "_key",
        lambda seed, index, what: keyed(seed, places.setdefault(index, len(places)), what),
    )
    assert write(session, 3, 2) != {index: all_at_once[index] for index in (3, 2)}


def test_both_turns_have_their_shape(session: Session) -> None:
    opening = user_opening(session)
    closing = session.encode("x", system=None, raw=False)[len(opening) + 1 :]
    for one in write(session, *range(6)).values():
        assert one.prompt[: len(opening)] == opening
        assert one.prompt[-len(closing) :] == closing
        assert 0 < len(one.answer) <= SHORT.answer
        assert END not in one.answer[:-1]


def test_answers_are_the_targets_by_the_profile(session: Session) -> None:
    """Greedy here, so they are plain decoding's, whatever drafts."""
    written = write(session, *range(3))
    plain = replace(
        session, profile=session.profile.model_validate({**_fields(session), "drafter": {"method": "none"}})
    )
    prompts = {one.index: one.prompt for one in written.values()}
    again = {one.index: one for one in answered(plain, prompts, max_new_tokens=SHORT.answer)}
    assert again == written


def _fields(session: Session) -> dict[str, object]:
    return session.profile.model_dump(by_alias=True)


def test_cancelled_answers_are_left_out(session: Session) -> None:
    prompts = {index: session.encode("hello", system=None, raw=False) for index in range(4)}
    asked = iter([False] * 4 + [True] * 99)
    assert list(answered(session, prompts, max_new_tokens=50, cancelled=lambda: next(asked))) == []


def test_nothing_to_do_is_done(session: Session) -> None:
    assert write(session) == {}
    assert list(answered(session, {})) == []


@pytest.mark.parametrize("template", [None, "{{ messages[0].content }}"], ids=["none", "opens-nothing"])
def test_a_model_that_cannot_be_asked_is_refused(session: Session, template: str | None) -> None:
    bare = replace(session, tokenizer=byte_tokenizer(chat_template=template))
    with pytest.raises(RequestError, match="cannot write prompts of its own"):
        write(bare, 0)

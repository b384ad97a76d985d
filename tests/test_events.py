"""A recorded stream replays: every event survives its way through JSON."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specctl import events
from specctl.events import Drafted, Event, Started, from_json, to_json

_text = st.text(st.characters(codec="utf-8"), max_size=20)
_number = st.integers(0, 2**63 - 1)
_tokens = st.lists(st.integers(0, 200_000), max_size=5).map(tuple)
_STRATEGIES: dict[str, st.SearchStrategy[Any]] = {
    "int": _number,
    "str": _text,
    "bool": st.booleans(),
    "float": st.floats(0, 1e6),
    "str | None": st.none() | _text,
    "bool | None": st.none() | st.booleans(),
    "float | None": st.none() | st.floats(0, 1e6),
    "tuple[tuple[int, int], ...]": st.lists(st.tuples(_number, _number), max_size=5).map(tuple),
    "tuple[int, ...]": _tokens,
    "tuple[float, ...]": st.lists(st.floats(0, 1), max_size=5).map(tuple),
    "tuple[str, ...]": st.lists(_text, max_size=5).map(tuple),
    "dict[str, Any]": st.dictionaries(_text, st.none() | _number | _text, max_size=3),
}


def _any_of(kind: type) -> st.SearchStrategy[Any]:
    return st.builds(kind, **{field.name: _STRATEGIES[str(field.type)] for field in fields(kind)})


@given(st.one_of([_any_of(kind) for kind in get_args(Event)]))
def test_every_event_survives_json(event: Event) -> None:
    line = json.dumps(to_json(event), ensure_ascii=True)
    again = from_json(json.loads(line))
    assert again == event
    assert type(again) is type(event)
    assert hash(again) == hash(event) if not isinstance(event, Started) else True
    assert line.isascii()


def test_the_kinds_are_distinct() -> None:
    kinds = [kind.kind for kind in get_args(Event)]
    assert len(set(kinds)) == len(kinds) == 9


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"event": "applause"},
        {"event": "drafted"},
        {"event": "drafted", "row": 0, "round": 1, "t_ns": 0, "tokens": [], "extra": 1},
    ],
)
def test_what_is_no_event_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="event"):
        from_json(data)


def test_a_right_event_is_not_refused() -> None:
    data = {"event": "drafted", "row": 0, "round": 1, "t_ns": 0, "tokens": [5]}
    assert from_json(data) == Drafted(0, 1, 0, (5,))


def test_documents_carry_a_version() -> None:
    assert events.SCHEMA == 1
    assert "schema" in {field.name for field in fields(Started)}

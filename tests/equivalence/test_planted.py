"""Every planted bug is found, by the right kind of verdict; the same scenes are clean without it."""

from __future__ import annotations

import pytest
from newer import NEWER, NEWER_SCENES
from planted import INAPPLICABLE, PLANTS, Edit, Plant
from scenes import SCENES, prepare

from specctl.equivalence.report import Verdict

LISTED = {str(number) for number in range(1, 61)}
ALL_SCENES = {**SCENES, **NEWER_SCENES}


@pytest.mark.parametrize("scene", list(ALL_SCENES))
def test_the_right_engine_is_clean(scene: str) -> None:
    assert ALL_SCENES[scene]() == {Verdict.EXACT}


@pytest.mark.parametrize("plant", [*PLANTS, *NEWER], ids=str)
def test_a_bug_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare()
    plant.apply(monkeypatch)
    found = ALL_SCENES[plant.scene]()
    assert found & plant.expected, found


def test_every_bug_of_the_list_is_planted_or_explained() -> None:
    planted = {plant.number.rstrip("b") for plant in PLANTS}
    assert planted | set(INAPPLICABLE) == LISTED
    assert not planted & set(INAPPLICABLE)


def test_an_edit_of_words_that_are_gone_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="no longer says"):
        Edit("decode.finish:finish", "words never written", "").apply(monkeypatch)

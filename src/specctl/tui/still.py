"""Widgets that seldom change beside others that change all the time."""

from __future__ import annotations

from textual.containers import Horizontal
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget


class Still(Widget):
    """Keeps the rows it was drawn as: whatever changes on a screen, Textual asks every widget there for its own.

    Named after the class it is mixed into: Textual takes the style sheet of the first one only.
    """

    _kept: tuple[Region, list[Strip]] | None = None

    def render_lines(self, crop: Region) -> list[Strip]:
        if self._kept is None or self._kept[0] != crop:
            self._kept = crop, super().render_lines(crop)
        return self._kept[1]

    def _set_dirty(self, *regions: Region) -> None:
        self._kept = None
        super()._set_dirty(*regions)

    def notify_style_update(self) -> None:
        self._kept = None
        super().notify_style_update()


class Unseen(Widget):
    """Draws nothing: what is in it does, and beside that one sees what is behind."""

    def render_lines(self, crop: Region) -> list[Strip]:
        return []


class Body(Horizontal, Unseen):
    """What a screen is about, between its first line and its last ones."""

"""What a slash command may become while it is typed."""

from __future__ import annotations

from textual.widgets import OptionList

from specctl.cli.safe_text import safe_line


class Hints(OptionList):
    """Open while there is something to complete. Nothing is marked until one goes to it."""

    can_focus = False

    def __init__(self) -> None:
        super().__init__(id="hints", markup=False)
        self._found: list[str] = []

    def show(self, found: list[tuple[str, str]]) -> None:
        """Lines the prompt may become, each with what it does."""
        self._found = [safe_line(line) for line, _ in found]
        width = max(map(len, self._found), default=0)
        self.clear_options()
        self.add_options(
            [f"{line:<{width}}  {help_}" for line, (_, help_) in zip(self._found, found, strict=True)]
        )
        self.highlighted = None
        self.set_class(bool(found), "open")

    def close(self) -> None:
        self.show([])

    @property
    def is_open(self) -> bool:
        return bool(self._found)

    def move(self, by: int) -> None:
        before = self.highlighted if self.highlighted is not None else min(-by, 0)
        self.highlighted = (before + by) % len(self._found)

    def chosen(self, otherwise: int | None = None) -> str | None:
        """The marked line, or the one at `otherwise`."""
        at = self.highlighted if self.highlighted is not None else otherwise
        return self._found[at] if self._found and at is not None else None

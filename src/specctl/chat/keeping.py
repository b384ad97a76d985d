"""A chat's own file: made with its first answer, only appended to after that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from specctl.chat import recording
from specctl.chat.conversation import Conversation
from specctl.errors import SpecctlError
from specctl.profile.schema import Profile, effective


class Keeper:
    """`path` None keeps nothing, and so it is once the file could not be written: `complain` is told."""

    def __init__(self, path: Path | None, complain: Callable[[str], None]) -> None:
        self.path = path
        self._complain = complain
        self._begun = False

    def keep_last(self, talked: Conversation, profile: Profile) -> None:
        """The exchange that just ended; with the first one, all that stands before it."""
        if talked.last is None:
            return
        if self._begun:
            self.add(recording.exchange_lines(talked.last))
        else:
            self._begun = True
            self.add(whole(talked, profile))

    def add(self, lines: Iterable[dict[str, Any]]) -> None:
        """Further lines of a file that was begun."""
        if self.path is None or not self._begun:
            return
        try:
            recording.append(self.path, lines)
        except SpecctlError as error:
            self.path = None
            self._complain(error.message)

    def begin_anew(self) -> None:
        """What follows is another conversation, for a file of its own."""
        if self.path is not None:
            self.path = recording.new_path()
        self._begun = False


def whole(talked: Conversation, profile: Profile) -> Iterator[dict[str, Any]]:
    """A conversation as the lines of a file."""
    yield recording.header(effective(profile), profile.name)
    yield {"system": talked.system}
    for one in talked.exchanges:
        yield from recording.exchange_lines(one)
    yield {"left_out": talked.left_out}

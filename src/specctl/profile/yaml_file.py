"""A careful YAML reader for files people write: line numbers for every value, and nothing surprising.

Plain `safe_load` still expands aliases (billion laughs), keeps the last of two equal keys, recurses as deep
as the file asks, and reads `no` as false and `010` as eight. Here aliases, anchors and tags are refused, two
equal keys are a problem, depth and size are bounded, and plain scalars follow YAML 1.2's core schema.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml

from specctl.errors import ProfileError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20

Where = tuple[str | int, ...]

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?((\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}


class Problem(NamedTuple):
    """`line` counts from 1; `where` is the way to the value from the top of the document."""

    line: int
    where: Where
    what: str


@dataclass(slots=True)
class Document:
    """`lines` has the line of every key (and list item) by its path; the root is `()`."""

    value: Any = None
    lines: dict[Where, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line_of(self, where: Where) -> int:
        """The line of `where`, or of the nearest thing around it that the file does contain."""
        while where and where not in self.lines:
            where = where[:-1]
        return self.lines.get(where, 1)


class _Refused(Exception):
    """Reading cannot go on: what follows would not mean what it seems to mean."""


def read(path: Path) -> Document:
    """Reads `path`; problems of its content are in the document, not raised.

    Raises ProfileError if the file cannot be read as text at all.
    """
    try:
        if not path.is_file():
            raise ProfileError(f"`{path}` is not a file" if path.exists() else f"there is no file `{path}`")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ProfileError(f"cannot read `{path}`: {error.strerror or error}") from None
    except ValueError as error:
        raise ProfileError(f"cannot read `{path}`: {error}") from None
    if len(data) > MAX_BYTES:
        return Document(problems=[Problem(1, (), f"is larger than {MAX_BYTES // 1024} KB")])
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return Document(problems=[Problem(1, (), "starts with a byte order mark; save it as plain UTF-8")])
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Document(problems=[Problem(line, (), f"is not UTF-8 (byte {data[error.start]:#04x})")])
    return parse(text)


def parse(text: str) -> Document:
    """Never raises for what is in `text`: see `problems`. After a fatal one `value` is None."""
    document = Document()
    builder = _Builder(document)
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            builder.take(event)
    except _Refused:
        document.value = None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        document.problems.append(Problem(mark.line + 1 if mark else 1, (), f"is not valid YAML: {what}"))
        document.value = None
    except yaml.YAMLError as error:
        position = getattr(error, "position", 0)
        what = getattr(error, "reason", str(error))
        line = text.count("\n", 0, position) + 1
        document.problems.append(Problem(line, (), f"is not valid YAML: {what}"))
        document.value = None
    return document


class _Builder:
    """Builds plain values from parser events on a stack of its own, so that depth costs no recursion."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.open: list[tuple[Any, Where]] = []
        self.key: list[str | None] = []
        self.documents = 0

    def take(self, event: yaml.Event) -> None:
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self._refuse(line, (), "holds more than one document")
        elif isinstance(event, yaml.AliasEvent):
            self._refuse(line, self._where(), "uses a YAML alias; write the value out")
        elif isinstance(event, yaml.CollectionEndEvent):
            self.open.pop()
            self.key.pop()
        elif isinstance(event, yaml.NodeEvent):
            self._node(event, line)

    def _node(self, event: yaml.NodeEvent, line: int) -> None:
        if event.anchor is not None:
            self._refuse(line, self._where(), "uses a YAML anchor; write the value out")
        if getattr(event, "tag", None) not in (None, "!"):
            self._refuse(line, self._where(), "uses a YAML tag; plain values only")
        if self.open and isinstance(self.open[-1][0], dict) and self.key[-1] is None:
            self._take_key(event, line)
            return
        if isinstance(event, yaml.ScalarEvent):
            self._put(self._scalar(event, line), line)
            return
        if len(self.open) >= MAX_DEPTH:
            self._refuse(line, self._where(), f"is nested more than {MAX_DEPTH} levels deep")
        value: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
        where = self._put(value, line)
        self.open.append((value, where))
        self.key.append(None)

    def _take_key(self, event: yaml.NodeEvent, line: int) -> None:
        if not isinstance(event, yaml.ScalarEvent):
            self._refuse(line, self._where(), "has a key that is not text")
        mapping, where = self.open[-1]
        key: str = event.value
        if key in mapping:
            first = self.document.lines[(*where, key)]
            self.document.problems.append(
                Problem(line, (*where, key), f"is given twice (first on line {first})")
            )
        self.key[-1] = key
        self.document.lines.setdefault((*where, key), line)

    def _put(self, value: Any, line: int) -> Where:
        where = self._where()
        self.document.lines.setdefault(where, line)
        if not self.open:
            self.document.value = value
            return where
        container = self.open[-1][0]
        if isinstance(container, dict):
            container.setdefault(self.key[-1], value)
            self.key[-1] = None
        else:
            container.append(value)
        return where

    def _where(self) -> Where:
        if not self.open:
            return ()
        container, where = self.open[-1]
        step = self.key[-1] if isinstance(container, dict) else len(container)
        return where if step is None else (*where, step)

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> Any:
        text = event.value
        if not event.implicit[0]:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INT.fullmatch(text) and len(text) <= 30:
            return int(text)
        if _FLOAT.fullmatch(text):
            number = float(text)
            if math.isfinite(number):
                return number
            self.document.problems.append(Problem(line, self._where(), f"`{text[:30]}` is too large"))
        elif _NOT_FINITE.fullmatch(text):
            self.document.problems.append(Problem(line, self._where(), f"`{text}` is not a finite number"))
        return text

    def _refuse(self, line: int, where: Where, what: str) -> NoReturn:
        self.document.problems.append(Problem(line, where, what))
        raise _Refused

"""A profile from its file, or every problem the file has."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from specctl.errors import ProfileError
from specctl.profile import yaml_file
from specctl.profile.files import Found, find
from specctl.profile.problems import explain
from specctl.profile.schema import Profile


def load(name_or_path: str) -> Profile:
    """Raises ProfileError that names every problem of the file with its line."""
    found = find(name_or_path)
    profile, problems = _read(found)
    if profile is None:
        raise ProfileError("; ".join(problems), hint="docs/profiles.md explains every field")
    return profile


def check(found: Found) -> list[str]:
    """Every problem of a profile as `file:line: path: what`; empty if it can be used."""
    return _read(found)[1]


def _read(found: Found) -> tuple[Profile | None, list[str]]:
    document = yaml_file.read(found.path)
    problems = list(document.problems)
    profile: Profile | None = None
    if not problems or document.value is not None:
        value = document.value
        if not isinstance(value, dict):
            problems.append(yaml_file.Problem(1, (), "must hold `key: value` lines"))
        elif "name" in value:
            line = document.line_of(("name",))
            problems.append(
                yaml_file.Problem(line, ("name",), "is not a known key; the file name is the name")
            )
        if isinstance(value, dict):
            fields = {key: entry for key, entry in value.items() if key != "name"}
            try:
                profile = Profile.model_validate({**fields, "name": found.name})
            except ValidationError as error:
                known = {problem.where for problem in problems}
                problems += [
                    yaml_file.Problem(document.line_of(where), where, what)
                    for where, what in explain(error, Profile)
                    if where not in known
                ]
    lines = [_line(found.path, problem) for problem in sorted(problems, key=lambda one: one.line)]
    return (None if lines else profile), lines


def _line(path: Path, problem: yaml_file.Problem) -> str:
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in problem.where).lstrip(
        "."
    )
    return f"{path}:{problem.line}: " + (f"{where[:200]}: " if where else "") + problem.what

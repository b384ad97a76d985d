"""A profile as the text of a file."""

from __future__ import annotations

import yaml

from specctl.profile.schema import Profile


def text(profile: Profile) -> str:
    """What differs from the defaults, as YAML that `read.load` takes back."""
    fields = profile.model_dump(by_alias=True, exclude={"name"}, exclude_defaults=True)
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=110)

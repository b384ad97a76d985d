"""The user's own settings of the chat: `chat.yaml` in the config folder. Nothing is written by asking."""

from __future__ import annotations

from pydantic import Field, ValidationError

from specctl import paths
from specctl.errors import RequestError
from specctl.profile import yaml_file
from specctl.profile.drafters import Part


class ChatConfig(Part):
    theme: str = Field(default="textual-dark", description="one of Textual's themes")
    keymap: dict[str, str] = Field(default={}, description="keys by binding id, such as `stop: ctrl+x`")
    save: bool = Field(default=True, description="keep every chat for `--resume`")


def load() -> ChatConfig:
    """Raises RequestError that names what is wrong with the file."""
    path = paths.config_dir() / "chat.yaml"
    if not path.exists():
        return ChatConfig()
    document = yaml_file.read(path)
    if document.problems:
        raise RequestError(f"`{path}` line {document.problems[0].line}: {document.problems[0].what}")
    try:
        return ChatConfig.model_validate(document.value or {})
    except ValidationError as error:
        said = "; ".join(f"`{'.'.join(map(str, one['loc']))}`: {one['msg']}" for one in error.errors())
        raise RequestError(f"`{path}`: {said}") from None

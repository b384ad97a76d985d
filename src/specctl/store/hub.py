"""Models from the hub, in the hub client's own cache: safetensors, JSON and tokenizer files only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from specctl.errors import MachineError, MissingError, ModelFileError
from specctl.store import files, watch
from specctl.store.progress import Progress, bar
from specctl.store.registry import HubSource

_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]
# Subfolders hold other formats; `consolidated` is the same weights again under the publisher's names.
_IGNORED = ["*/*", "consolidated*", "*.py"]
_TIMEOUT_S = 8.0
# ValueError: a page that is not JSON. RuntimeError: the hub's transfer library.
_NO_CONNECTION = (ConnectionError, TimeoutError, ValueError, RuntimeError)
_TRUE = ("1", "ON", "YES", "TRUE")


class HubUnreachable(MissingError):
    """No connection: another source may still have the model."""


@dataclass(frozen=True, slots=True)
class HubFile:
    name: str
    bytes: int
    cached: bool


def is_offline() -> bool:
    """Whether the environment forbids the network, by the hub client's own variables."""
    return any(
        os.environ.get(name, "").upper() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def cache_folder() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def find(source: HubSource) -> Path | None:
    """The cached snapshot, without any network; None unless every file is there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            source.repo,
            revision=source.revision,
            local_files_only=True,
            allow_patterns=_PATTERNS,
            ignore_patterns=_IGNORED,
        )
    except LocalEntryNotFoundError:
        return None
    path = Path(folder)
    return path if (path / "config.json").exists() and _has_all_weights(path) else None


def listing(source: HubSource) -> list[HubFile]:
    """The files of a repository that would be pulled. Raises HubUnreachable, MissingError, ModelFileError."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

    with _typed_errors(source):
        info = HfApi().model_info(
            source.repo, revision=source.revision, files_metadata=True, timeout=_TIMEOUT_S
        )
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    names = list(filter_repo_objects(sizes, allow_patterns=_PATTERNS, ignore_patterns=_IGNORED))
    if not any(name.endswith(".safetensors") for name in names):
        raise ModelFileError(
            f"`{source.repo}` has no safetensors weights",
            hint="specctl does not open pickled weights (.bin); take a revision that has safetensors, often "
            f"`{source.repo}@refs/pr/1`, or another repository",
        )
    return [
        HubFile(
            name,
            sizes[name],
            isinstance(try_to_load_from_cache(source.repo, name, revision=info.sha), str),
        )
        for name in sorted(names)
    ]


def fetch(source: HubSource, progress: Progress) -> Path:
    """Pull what is missing into the hub's cache; the snapshot's folder.

    Raises HubUnreachable, MissingError, ModelFileError, MachineError.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    missing = sum(file.bytes for file in listing(source) if not file.cached)
    files.ensure_space(cache_folder(), missing, source.repo)
    repository = cache_folder() / f"models--{source.repo.replace('/', '--')}"
    disable_progress_bars()
    shown = bar(progress, f"{source.repo} from the hub", missing)
    with shown, _typed_errors(source), watch.growth(repository, progress, missing):
        folder = snapshot_download(
            source.repo,
            revision=source.revision,
            allow_patterns=_PATTERNS,
            ignore_patterns=_IGNORED,
            etag_timeout=_TIMEOUT_S,
        )
    return Path(folder)


def _has_all_weights(folder: Path) -> bool:
    """Whether the shards are complete. The client knows only for snapshots whose file list it kept."""
    from specctl.store import strict_json

    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return (folder / "model.safetensors").exists()
    shards = strict_json.loads(index.read_bytes(), index.name).get("weight_map")
    return isinstance(shards, dict) and all((folder / str(name)).exists() for name in shards.values())


@contextlib.contextmanager
def _typed_errors(source: HubSource) -> Iterator[None]:
    """The hub client's errors, turned into ours in this one place."""
    from huggingface_hub import errors

    again = f"then run `specctl pull {source.repo}`"
    try:
        yield
    except errors.GatedRepoError:
        raise MissingError(
            f"`{source.repo}` is gated",
            hint=f"accept its licence at https://huggingface.co/{source.repo}, run `hf auth login`, {again}",
        ) from None
    except errors.RevisionNotFoundError:
        raise MissingError(f"`{source.repo}` has no revision `{source.revision}`") from None
    except errors.RepositoryNotFoundError:
        raise MissingError(
            f"the hub has no model `{source.repo}`, or it is private",
            hint=f"check the spelling; if it is private, run `hf auth login`, {again}",
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        raise HubUnreachable(
            f"the hub answered {status} for `{source.repo}`", hint=f"wait, {again}"
        ) from None
    # `HTTPError` is the base of the HTTP library's own errors, whichever that library is.
    except (*_NO_CONNECTION, errors.LocalEntryNotFoundError, errors.HTTPError) as error:  # type: ignore[attr-defined]
        raise HubUnreachable(
            f"no connection to the hub for `{source.repo}` ({type(error).__name__})",
            hint=f"check the connection, {again}",
        ) from None
    except OSError as error:
        raise MachineError(
            f"cannot write to the hub's cache `{cache_folder()}`: {error.strerror or error}"
        ) from error

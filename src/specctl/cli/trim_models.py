"""The models `specctl trim` works with: found at once, loaded only when something has to be generated or timed."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specctl.cli import console, log, ready
from specctl.cli.choice import Choice
from specctl.cli.memory import out_of_memory
from specctl.cli.status import StatusLine
from specctl.profile import override, read
from specctl.profile.schema import Profile, effective
from specctl.store import fetch

if TYPE_CHECKING:
    from specctl.models.quantize import Scheme
    from specctl.session import Session


@dataclass(slots=True)
class Models:
    """`draft` is the target itself where there is no draft model: then the head is one for self-drafting."""

    profile: Profile
    choice: Choice
    target: Path
    draft: Path
    quantize: Scheme | None
    quiet: bool
    _session: Session | None = None

    @classmethod
    def choose(cls, typed: dict[str, Any], *, offline: bool, unasked: bool, quiet: bool) -> Models:
        """Typed models, by profile field, or those of profile `draft-model`; fetched where missing."""
        named = typed.pop("draft", None)
        base = read.load("draft-model")
        models = {} if "target" in typed or "pair" in typed else {"pair": base.pair}
        profile = override.merge(read.load("plain"), {**models, **typed})
        pair = fetch.resolve(profile.pair or profile.target or "")
        choice = Choice(profile.pair, pair.target, fetch.resolve(named).target if named else pair.draft)
        folders = ready.find_or_fetch(choice, offline=offline, unasked=unasked, quiet=quiet)
        log.noise_to_file()
        target, draft = folders
        return cls(profile, choice, target, draft or target, base.quantize if draft else None, quiet)

    @property
    def separate(self) -> bool:
        """Whether another model than the target drafts."""
        return self.choice.draft is not None

    def session(self, draft_tokens: int) -> Session:
        """Target and draft, loaded once; it drafts with the whole head."""
        if self._session is None:
            self._session = self._open(self._drafting(draft_tokens), self.choice, (self.target, self.draft))
        return self._session

    def writer(self, by: str, draft_tokens: int) -> Session:
        """Decodes plainly by the target or the draft."""
        if by == "draft" and self.separate:
            assert self.choice.draft is not None
            return self._open(self.profile, Choice(None, self.choice.draft, None), (self.draft, None))
        return replace(self.session(draft_tokens), profile=self.profile)

    def store(self, trim: Path, quantize: Scheme) -> None:
        """Keep the draft, and its head trimmed to `trim`, in fewer bits. Raises as `cheap.stored_path` does."""
        from specctl.models import cheap, trimmed
        from specctl.models.load import load

        model = self.choice.draft or self.choice.target
        lm = load(self.draft, name=model.name, device="cpu", native=True)
        cheap.stored_path(lm, quantize)
        head = trimmed.read(trim, lm, self.draft, lm.vocab_size)
        cheap.store_head(trimmed.trimmed(lm, head), quantize, trim)

    def _drafting(self, draft_tokens: int) -> Profile:
        """A target without a draft model drafts for itself."""
        method = "draft-model" if self.separate else "self"
        draft = {"model": str(self.draft) if self.separate else None, "quantize": self.quantize}
        changes = {"drafter": {"method": method, "draft_tokens": draft_tokens}, "draft": draft}
        return override.recorded({**effective(self.profile), **changes}, self.profile.name)

    def _open(self, profile: Profile, choice: Choice, folders: tuple[Path, Path | None]) -> Session:
        status = StatusLine(under_text=False)
        if console.is_live(sys.stderr) and not self.quiet:
            status.show("loading " + " and ".join(model.name for model in choice.models))
        try:
            with out_of_memory(profile, choice):
                return ready.open_session(profile, choice, folders, "")
        finally:
            status.hide()

"""The first start: which pair, how large it is, and whether it is on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Footer, OptionList, Static
from textual.widgets.option_list import Option

from specctl.chat.engine import Offer
from specctl.cli.safe_text import safe_line
from specctl.tui import look


class Picker(ModalScreen[str | None]):
    """Ends with a pair's name, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "Not now", id="picker.leave")]

    def __init__(self, offers: Sequence[Offer], wanted: str | None) -> None:
        super().__init__()
        self._offers = offers
        self._wanted = wanted

    def compose(self) -> ComposeResult:
        with Vertical(id="picker"):
            yield Static(
                "Which models shall it be? Enter chooses, and fetches what is not on disk.", markup=False
            )
            yield OptionList(*map(_option, self._offers), id="offers", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        names = [offer.name for offer in self._offers]
        chosen = self.query_one(OptionList)
        chosen.focus()
        chosen.highlighted = names.index(self._wanted) if self._wanted in names else 0

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option.id)


def _option(offer: Offer) -> Option:
    state = "on disk" if offer.on_disk else "to fetch"
    head = f"{safe_line(offer.name):<24} {_size(offer.bytes):>12}  {state}\n"
    return Option(Content.assemble((head, "bold"), (safe_line(offer.about), look.QUIET)), id=offer.name)


def _size(n_bytes: int | None) -> str:
    if n_bytes is None:
        return "size unknown"
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"

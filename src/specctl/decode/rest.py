"""When to leave a drafter alone: in a row where its drafts are not kept, asking costs more than it brings.

Judged by committed tokens alone, before anything is drawn, so that sampled output keeps its law.
"""

from __future__ import annotations

from dataclasses import dataclass

_WORTH = 0.15
"""Where costs are not known: an adapter behind a tenth of the layers, on a CPU."""

_NEW = 0.15
"""Weight of the last round asked among those before."""

_LONGEST = 32


@dataclass(slots=True)
class Rest:
    """One row's: how often the first drafted token was kept, and for how many rounds not to ask.

    `worth`: what drafting and verifying a token takes, in plain rounds (`Costs.drafted`); kept less often than
    that, drafts cost more than they bring. It then rests for four rounds, and for twice as many each time it is
    still wrong.

    >>> rest = Rest()
    >>> asked = ""
    >>> for _ in range(30):
    ...     asked += "x" if rest.over() else "-"
    ...     rest.learn(kept=0)
    >>> asked
    'xxxxxxxx----x--------x--------'
    """

    worth: float = _WORTH
    kept: float = 0.5
    left: int = 0
    next: int = 4
    asked: bool = False

    def over(self) -> bool:
        """Whether to ask in this round."""
        self.asked = self.left == 0
        self.left = max(self.left - 1, 0)
        return self.asked

    def learn(self, kept: int) -> None:
        """How many drafted tokens of the round were kept."""
        if not self.asked:
            return
        self.kept += _NEW * ((kept > 0) - self.kept)
        if self.kept >= self.worth:
            self.next = 4
        elif not kept:
            self.left, self.next = self.next, min(2 * self.next, _LONGEST)

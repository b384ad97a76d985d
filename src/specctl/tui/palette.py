"""The slash commands in the command palette."""

from __future__ import annotations

from functools import partial

from textual.command import DiscoveryHit, Hit, Hits, Provider

from specctl.tui import commands


class SlashCommands(Provider):
    """Those that need no argument run at once; the others are put into the prompt."""

    async def discover(self) -> Hits:
        for name, command in commands.COMMANDS.items():
            yield DiscoveryHit(name, partial(self._choose, name), help=command.help)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for name, command in commands.COMMANDS.items():
            score = matcher.match(f"{name} {command.help}")
            if score > 0:
                yield Hit(score, matcher.highlight(name), partial(self._choose, name), help=command.help)

    async def _choose(self, name: str) -> None:
        from specctl.tui.chat import ChatScreen
        from specctl.tui.prompt import Prompt

        screen = self.screen
        if not isinstance(screen, ChatScreen):
            return
        if commands.COMMANDS[name].hint:
            screen.query_one(Prompt).fill(f"{name} ")
        else:
            await commands.run(screen, name)

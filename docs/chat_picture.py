"""The chat as an SVG picture, drawn from a recording.

python docs/chat_picture.py src/specctl/chat/demo.jsonl > docs/chat.svg
python docs/chat_picture.py run.jsonl "Why is the sky blue?" > docs/chat.svg    # what `run --jsonl` wrote
"""

import asyncio
import re
import sys
from pathlib import Path

from specctl.chat import recording
from specctl.chat.config import ChatConfig
from specctl.tui.app import Workbench
from specctl.tui.replay import ReplayScreen


async def main() -> None:
    found = recording.read(Path(sys.argv[1]))
    if len(sys.argv) > 2:
        found.conversation.exchanges[0].user = sys.argv[2]
    screen = ReplayScreen(found)
    app = Workbench(lambda: screen, ChatConfig())
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.pause(0.5)
        await pilot.press("pageup")
        await pilot.pause(0.5)
        svg = app.export_screenshot(title="specctl chat")
    sys.stdout.write(re.sub(r"terminal-\d+", "specctl-chat", svg))


if __name__ == "__main__":
    asyncio.run(main())

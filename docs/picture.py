"""A terminal's output as an SVG picture.

FORCE_COLOR=1 specctl run --show-draft … 2>&1 >/dev/null | python docs/picture.py "specctl run …" > docs/run.svg
"""

import io
import sys

from rich.console import Console
from rich.text import Text


def main() -> None:
    console = Console(record=True, width=96, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(sys.stdin.read()))
    sys.stdout.write(console.export_svg(title=sys.argv[1], unique_id="specctl"))


if __name__ == "__main__":
    main()

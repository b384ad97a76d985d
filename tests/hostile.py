"""Texts that would command a terminal, break markup or break Markdown, each in several surroundings."""

from __future__ import annotations

import re

_BARE = [
    "\x1b]52;c;ZXZpbA==\x07",
    "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "\x1b]0;title\x07",
    "\x1bP+q544e\x1b\\",
    "\x1b_apc\x1b\\",
    "\x1b^pm\x1b\\",
    "\x1b[6n",
    "\x1b[2J\x1b[H",
    "\x1b[10A\x1b[31mred",
    "\x1b[?1049h",
    "\x1bc",
    "\x1b]unterminated",
    "\x1b",
    "\x9b2J",
    "\x9d0;title\x9c",
    "\x90q\x9c",
    "\r\x08\x08over",
    "\x0e\x0f\x07\x00",
    "safe\u202eexe.txt",
    "\u2066\u2067\u2068\u2069\u200b",
    "[bold red]x[/] [/no] [unclosed",
    "[@click=app.quit]quit[/] $text-error",
    "{}%s\\x1b é漢\u2028字",
]
_AROUND = [
    "{}",
    "**{}**",
    "`{}`",
    "\n```{}\n{}\n```\n",
    "[{}](http://e)",
    "[x](http://{})",
    "![{}]({})",
    "\n# {}\n",
    "\n- {}\n",
    "\n| {} |\n|---|\n| {} |\n",
    "<b>{}</b>",
]
PAYLOADS = [around.replace("{}", bare) for around in _AROUND for bare in _BARE]
COMMANDS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u2028\u202a-\u202e\u2066-\u2069]")
"""What must not reach a terminal but by our own styles; a tab is drawn as blanks."""

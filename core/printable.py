"""Text of data and of models, made harmless for a terminal, a log or a table.

An escape sequence in the name of a video could hide an error or rewrite the screen, and an
override of the writing direction could show other words than a file holds.
"""

from __future__ import annotations

import re

# Control characters, separators of lines and paragraphs, marks of the writing direction, lone
# surrogates, and invisible tags. Joiners stay: scripts and emoji need them.
_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_BREAKS = re.compile(r"[\n\t]")


def printable(text: object, lines: bool = True) -> str:
    r"""Return a text with every control character written out, such as \x1b.

    Args:
        lines: Keep line breaks and tabs; otherwise they are written out too.
    """
    shown = _HARMFUL.sub(_written_out, str(text))
    return shown if lines else _BREAKS.sub(_written_out, shown)


def _written_out(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")

"""Prompts as the release of Wan cleans them before its tokeniser: one line of well-formed text, single spaces.

The release repairs text with ftfy. The steps of it that change well-formed text are here: forms of width, ligatures and
curly quotes become plain ones, control characters go. Text that was decoded wrongly is left as it is.
"""

from __future__ import annotations

import html
import re
import unicodedata

_LINE_BREAKS = re.compile("\r\n|[\r\u2028\u2029]")
_TERMINAL_ESCAPES = re.compile("\x1b\\[[0-9;]*[a-zA-Z]")
_CONTROLS = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]")
_WINDOWS = {code: bytes([code]).decode("windows-1252", "ignore") or chr(code) for code in range(0x80, 0xA0)}
"""Control characters that stand for what Windows wrote there."""
_COMPATIBLE = re.compile("[\u0132\u0133\u0149\u01c4-\u01cc\u01f1-\u01f3\u3000\uff01-\uffef\ufb00-\ufb06]")
"""Ligatures, and full or half width forms: those whose compatible form says the same."""
_SINGLE_QUOTES = re.compile("[\u02bc\u2018-\u201b]")
_DOUBLE_QUOTES = re.compile("[\u201c-\u201f]")
_SURROGATES = re.compile("[\ud800-\udfff]")


def clean_prompt(text: str) -> str:
    """Return a prompt as the release's tokeniser gets it: HTML entities read, plain forms, single spaces, stripped."""
    repaired = _plain(text)
    return re.sub(r"\s+", " ", html.unescape(html.unescape(repaired)).strip()).strip()


def _plain(text: str) -> str:
    text = text if "<" in text else html.unescape(text)
    text = _TERMINAL_ESCAPES.sub("", text).translate(_WINDOWS)
    text = _COMPATIBLE.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    text = _DOUBLE_QUOTES.sub('"', _SINGLE_QUOTES.sub("'", text))
    text = _SURROGATES.sub("\ufffd", _LINE_BREAKS.sub("\n", text))
    return unicodedata.normalize("NFC", _CONTROLS.sub("", text))

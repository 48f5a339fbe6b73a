"""What no output may hold: all that moves a cursor, hides text or turns its direction."""

from __future__ import annotations

import re

RAW = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)

"""One colour for each kind of change, the same in SEG, preview and PDF.

The hues are those of Okabe and Ito (Color Universal Design, 2008), which readers with a colour
vision deficiency can tell apart, brightened where they would drown in a grey image.
"""

from __future__ import annotations

from collections.abc import Mapping

from operators.messages import Change

CHANGE_COLOURS: Mapping[Change, tuple[int, int, int]] = {
    "baseline": (0, 205, 225),
    "new": (255, 70, 20),
    "enlarging": (240, 165, 0),
    "stable": (86, 180, 233),
    "shrinking": (0, 190, 140),
    "resolved": (225, 225, 225),
    "merged": (230, 130, 190),
    "split": (170, 130, 255),
}
"""sRGB, 0 to 255."""

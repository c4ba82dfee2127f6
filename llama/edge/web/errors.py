"""What a page is refused with, besides the errors that every screen knows."""

from __future__ import annotations


class Conflict(Exception):
    """What was asked for does not fit what is so now; the message says why."""

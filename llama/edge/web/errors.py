"""Errors of the page's requests, besides the errors that all screens share."""

from __future__ import annotations


class Conflict(Exception):
    """A request that does not fit the current state. The message says why."""

"""The partners' products (being written)."""

from __future__ import annotations


class Catalogue:
    """To come."""

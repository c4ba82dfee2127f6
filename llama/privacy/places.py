"""What places look like: post codes.

Knows nothing about: values, tags, sheets.
"""

from __future__ import annotations

POSTCODE_UK = r"[A-Z]{1,2}\d[A-Z\d]?\s?\d[A-Z]{2}"

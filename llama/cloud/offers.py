"""From a reply to offers (being written)."""

from __future__ import annotations

from llama import wire
from llama.cloud.catalogue import Catalogue
from llama.sheets import Sheet


def offers_for(text: str, sheet: Sheet | None, catalogue: Catalogue, vendor: str | None) -> tuple[wire.Offer, ...]:
    """To come."""
    return ()

"""Variants of declared values, and the search for them in a text: one class for each kind of value.

A value is declared by its field. So it needs no detection, only recognition: in any case, Unicode form, punctuation and
digit grouping. The field also tells the kind of value, and so its other written forms. A new kind is a class, and a
line in :data:`KINDS`.

Knows nothing about: tags, sheets, which text is whose.
"""

from __future__ import annotations

from collections.abc import Mapping

from llama.privacy.variants.addresses import AddressVariants
from llama.privacy.variants.amounts import AmountVariants
from llama.privacy.variants.dates import DateVariants
from llama.privacy.variants.names import NameVariants
from llama.privacy.variants.numbers import NumberVariants, PhoneVariants
from llama.privacy.variants.online import EmailVariants, LinkVariants
from llama.privacy.variants.organisations import OrganisationVariants
from llama.privacy.variants.unknown import UnknownVariants
from llama.privacy.variants.variants import Options, Variants, WholeVariants
from llama.privacy.variants.words import WordVariants

__all__ = ["KINDS", "Options", "Variants", "WholeVariants"]

KINDS: Mapping[str, type[Variants]] = {
    "NAME": NameVariants,
    "CHILD": NameVariants,
    "PHONE": PhoneVariants,
    "EMAIL": EmailVariants,
    "URL": LinkVariants,
    "ID": NumberVariants,
    "CARD": NumberVariants,
    "ACCOUNT": NumberVariants,
    "FINANCE": AmountVariants,
    "DATE": DateVariants,
    "ADDRESS": AddressVariants,
    "ORG": OrganisationVariants,
    "HEALTH": WordVariants,
    "RELIGION": WordVariants,
    "ORIENTATION": WordVariants,
    "RECORD": WordVariants,
    "GENETIC": WordVariants,
    "BIOMETRIC": WordVariants,
    "PRIVATE": UnknownVariants,
}
"""The class for each kind of tag. A value of any other kind is sought as it is written."""

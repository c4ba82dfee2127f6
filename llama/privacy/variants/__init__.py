"""All ways in which a declared value can be written, and where a text writes it: a class for each kind of value.

A value is declared by its field, so it needs no detection, only recognition: whatever the case, the Unicode form, the
punctuation and the digit groups. The field also says what kind of value it is, and so in which other ways it is
written. A new kind is a class, and a line in :data:`KINDS`.

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
"""By the kind of tag; any other is looked for as it is written."""

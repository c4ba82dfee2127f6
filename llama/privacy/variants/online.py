"""Mail addresses and links."""

from __future__ import annotations

import itertools
import re

from llama.privacy.normalised import compact
from llama.privacy.variants.variants import Variants, Written


class EmailVariants(Variants):
    """*sari@example.com*: also with its signs in words, *sari [at] example dot com*."""

    def spell(self, value: Written) -> None:
        """Look for the address with each of its signs as a sign or a word."""
        self.spell_numbers(value.text)
        self.letters.add(value.words)
        local, _, domain = value.text.partition("@")
        locals_ = {compact(local), compact(local.replace(".", " dot "))}
        domains = {compact(domain), compact(domain.replace(".", " dot "))}
        for parts in itertools.product(locals_, ("", "at"), domains):
            self.letters.add(["".join(parts)])


class LinkVariants(Variants):
    """*https://www.instagram.com/kopi.hitamku*: also without its beginning, and the account's name alone."""

    def spell(self, value: Written) -> None:
        """Look for the link, without its scheme, and for what stands last in it."""
        self.spell_numbers(value.text)
        self.letters.add(value.words)
        address = re.sub(r"^(?:https?://)?(?:www\.)?", "", value.text.casefold()).rstrip("/")
        for part in {address, address.rpartition("/")[2]}:
            self.letters.add([compact(part)])

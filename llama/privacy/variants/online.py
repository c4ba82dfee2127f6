"""Mail addresses and links."""

from __future__ import annotations

import itertools
import re

from llama.privacy.normalised import compact
from llama.privacy.variants.letters import LetterForms
from llama.privacy.variants.variants import DeclaredText, Variants, declared_text
from llama.privacy.variants.words import is_common
from llama.privacy.word_lists import known_words
from llama.privacy.words import MAILBOXES, PUBLIC_HOSTS

_NAME = 5  # least letters and digits of a mail address's local part that is sought
_LABEL = 6  # least letters of a domain's own label


class EmailVariants(Variants):
    """*sari@kopi-abadi.example*: *sari [at] kopi-abadi dot example*; the local part; the domain.

    The local part often is the person's name, so its tag is a name's.
    """

    def spell(self, value: DeclaredText) -> None:
        """Add the address with each of its signs as a sign or a word, and both its halves."""
        self.spell_numbers(value.text)
        self.letters.add(value.words)
        local, _, domain = value.text.partition("@")
        locals_ = {compact(local), compact(local.replace(".", " dot "))}
        domains = {compact(domain), compact(domain.replace(".", " dot "))}
        for parts in itertools.product(locals_, ("", "at"), domains):
            self.letters.add(["".join(parts)])
        if not self.options.exact:
            name = LetterForms()
            if len(compact(local)) >= _NAME and not compact(local).isdigit() and compact(local) not in MAILBOXES:
                name.add(declared_text(local).words, together=_are_everybodys(local))
            self.derived += [("NAME", name), ("URL", _of_domain(domain))]

    def spell_number(self, number: str) -> None:
        """Add a number only if it is a long one: a year in a mail address is no secret."""
        if len(number) >= 6:
            super().spell_number(number)


class LinkVariants(Variants):
    """*https://www.instagram.com/kopi.hitamku*: also without its beginning, the account's name alone, an own domain."""

    def spell(self, value: DeclaredText) -> None:
        """Add the link, the link without its scheme, and its last part."""
        self.spell_numbers(value.text)
        self.letters.add(value.words, together=_are_everybodys(value.text))
        address = re.sub(r"^(?:https?://)?(?:www\.)?", "", value.text.casefold()).rstrip("/")
        for part in {address, address.rpartition("/")[2].lstrip("@~")}:
            if part not in PUBLIC_HOSTS:
                self.letters.add([compact(part)], together=_are_everybodys(part))
        host = address.partition("/")[0]
        if "." in host and not host.startswith("@") and not self.options.exact:
            self.derived.append(("URL", _of_domain(host)))


def _are_everybodys(text: str) -> bool:
    """Return whether the words run together in a name are ordinary, so that they reveal nothing with spaces between."""
    return all(word in known_words() or is_common(word) or len(word) < 5 for word in declared_text(text).words)


def _of_domain(domain: str) -> LetterForms:
    """Return a finder of a domain and its own label, unless the host is public."""
    forms = LetterForms()
    domain = domain.casefold().strip().strip(".")
    labels = domain.split(".")
    if domain in PUBLIC_HOSTS or len(labels) < 2 or any(domain.endswith("." + host) for host in PUBLIC_HOSTS):
        return forms
    forms.add([compact(label) for label in labels])
    own = labels[-3] if len(labels) > 2 and len(labels[-2]) <= 3 else labels[-2]  # kopi in kopi.co.id
    forms.add([compact(own), *map(compact, labels[labels.index(own) + 1 :])])
    if len(compact(own)) >= _LABEL and compact(own) not in known_words():
        forms.add(declared_text(own).words)
    return forms

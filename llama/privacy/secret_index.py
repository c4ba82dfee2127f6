"""Every way to write every secret, and where a text does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llama.privacy.normalised import NormalisedText, compact
from llama.privacy.profile import text_of
from llama.privacy.secret import Secret
from llama.privacy.variants import KINDS, Variants, WholeVariants


@dataclass(frozen=True, order=True)
class Found:
    """``text[start:end]`` writes ``secrets[index]``."""

    start: int
    end: int
    index: int


class SecretIndex:
    """All secrets of a session, each with its variants; grows by :meth:`add`, never shrinks.

    A mail address's local part is a secret of its own: it often is the person's name, and should have a name's tag.
    """

    def __init__(self) -> None:
        self.secrets: list[Secret] = []
        self._variants: list[tuple[int, Variants]] = []

    def add(
        self, secret: Secret, not_secret: Sequence[str] = (), *, exact: bool = False, only_whole: bool = False,
        sought: bool = True,
    ) -> int:  # fmt: skip
        """Look for this value too, and give its index.

        Args:
            secret: the value.
            not_secret: words that are sent anyway, such as an address's city.
            exact: only as it is written, by case too: for values that nobody declared.
            only_whole: not by its parts, which are secrets of their own.
            sought: otherwise it only has an index.
        """
        index = len(self.secrets)
        self.secrets.append(secret)
        if sought:
            kind = WholeVariants if only_whole else KINDS.get(secret.tag, Variants)
            self._variants.append((index, kind(secret, not_secret, exact=exact)))
        if secret.tag == "EMAIL" and not exact:
            local = re.sub(r"[\W_]+", " ", text_of(secret.value).partition("@")[0]).strip()
            if len(compact(local)) >= 5:
                derived = Secret(secret.field, "NAME", local, derived=True)
                self.secrets.append(derived)
                self._variants.append((index + 1, KINDS["PRIVATE"](Secret(secret.field, "PRIVATE", local))))
        return index

    def find(self, text: str | NormalisedText) -> list[Found]:
        """Give all places where a secret is written, by position; they may overlap."""
        view = NormalisedText(text) if isinstance(text, str) else text
        return sorted({Found(start, end, i) for i, each in self._variants for start, end in each.find(view)})

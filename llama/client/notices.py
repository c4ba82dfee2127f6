"""Notices on stderr for programs that poll a cloud: no answer comes, or answers come again."""

from __future__ import annotations

import contextlib
import re
import sys

from llama.client.wording import CHECK_KEYS, GIVE_KEYS
from llama.errors import CloudUnreachable
from llama.keys import LinkKeys
from llama.text.printable import one_line


class Notices:
    """Notices of one program. Each outage is reported once.

    Args:
        program: name of the program, which begins each line.
        address: the cloud's address.
        follow: the program polls until the cloud answers, without a limit.
        keys: the keys of the connection, if any.
    """

    def __init__(self, program: str, address: str, *, follow: bool, keys: LinkKeys | None) -> None:
        self._program, self._address, self._follow, self._keys = program, address, follow, keys
        self._in_trouble = False

    def silence(self, words: str) -> None:
        """Report a notice of the link. Pass this as the link's ``on_notice``."""
        if self._follow:  # the program never gives up, so no error will say what to check
            words = re.sub(r" \(giving up after \S+ s\)", "", words)
            if not words.startswith("the cloud "):  # these notices say that it lives, or is busy
                look_at = GIVE_KEYS if self._keys is None else f"check {CHECK_KEYS}"
                words = f"no answer from {self._address}; trying until one comes; {look_at}"
        self._trouble(words)

    def refusal(self, words: str) -> None:
        """Report that the cloud refused for now, and asks to be asked later."""
        self._trouble(f"{words}; trying again")

    def unreachable(self, error: CloudUnreachable) -> None:
        """Report a failed attempt, if no notice came before, as for a host name that cannot be resolved."""
        self._trouble(f"{error}; trying until it answers")

    def answer(self) -> None:
        """Report an answer, if an outage was reported before."""
        if self._in_trouble:
            self._in_trouble = False
            self.tell(f"{self._address} answers again")

    def _trouble(self, words: str) -> None:
        if not self._in_trouble:
            self._in_trouble = True
            self.tell(words)

    def tell(self, words: str) -> None:
        """Print a line of this program on stderr."""
        if sys.stderr is not None:  # print would use stdout instead
            said = one_line(f"{self._program}: {words}")
            with contextlib.suppress(OSError):  # the reader of stderr is gone
                print(said, file=sys.stderr, flush=True)

"""What a program that asks a cloud again and again says on stderr: when it gets no answer, and when it does again."""

from __future__ import annotations

import contextlib
import re
import sys

from llama.client.wording import CHECK_KEYS, GIVE_KEYS
from llama.errors import CloudUnreachable
from llama.keys import LinkKeys
from llama.text.printable import one_line


class Notices:
    """Said once each time.

    Args:
        program: whose lines they are.
        address: the cloud's.
        follow: it is asked until it answers, however long that takes.
        keys: what it is asked with.
    """

    def __init__(self, program: str, address: str, *, follow: bool, keys: LinkKeys | None) -> None:
        self._program, self._address, self._follow, self._keys = program, address, follow, keys
        self._in_trouble = False

    def silence(self, words: str) -> None:
        """The link's ``on_notice``."""
        if self._follow:  # it is never given up, nor does it come to the error that would say what to look at
            words = re.sub(r" \(giving up after \S+ s\)", "", words)
            if not words.startswith("the cloud "):  # which lives, or is busy
                look_at = GIVE_KEYS if self._keys is None else f"check {CHECK_KEYS}"
                words = f"no answer from {self._address}; asking until it comes; {look_at}"
        self._trouble(words)

    def refusal(self, words: str) -> None:
        """It asks to be asked later."""
        self._trouble(f"{words}; asking again")

    def unreachable(self, error: CloudUnreachable) -> None:
        """It was given up for now; said where nothing was before, as of a name that nobody knows."""
        self._trouble(f"{error}; asking until it answers")

    def answer(self) -> None:
        """There is one."""
        if self._in_trouble:
            self._in_trouble = False
            self.tell(f"{self._address} answers again")

    def _trouble(self, words: str) -> None:
        if not self._in_trouble:
            self._in_trouble = True
            self.tell(words)

    def tell(self, words: str) -> None:
        """A line of the program's own."""
        if sys.stderr is not None:  # print would take stdout instead
            said = one_line(f"{self._program}: {words}")
            with contextlib.suppress(OSError):  # nobody holds it any more
                print(said, file=sys.stderr, flush=True)

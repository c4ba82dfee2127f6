"""Whether a reply repeats the provider's own system prompt, word for word, at length.

A third party's sheet is wrapped in that prompt, and a model can be made to recite it. Best effort: a reply that says
the same in other words, in another language or letter by letter is not recognised.

Knows nothing about: deliveries, sheets.
"""

from __future__ import annotations

import re
import unicodedata

from llama.tokenizer import Tokenizer

WINDOW = 8  # consecutive tokens of the system prompt
MIN_LETTERS = 4  # a window with fewer is a rule or a bullet; compared as it stands


class SystemPrompt:
    """The provider's system prompt, to be recognised.

    Args:
        text: the prompt; an empty one, or one of fewer than :data:`WINDOW` tokens, is never recognised.
        tokenizer: the model's.
    """

    def __init__(self, text: str, tokenizer: Tokenizer) -> None:
        ids = tokenizer.encode(text, bos=False, eos=False)
        windows = dict.fromkeys(
            tokenizer.decode(ids[i : i + WINDOW]).strip("\ufffd") for i in range(len(ids) - WINDOW + 1)
        )  # a window may begin or end inside a character
        self._in_words = [words for w in windows if len((words := in_words(w)).replace(" ", "")) >= MIN_LETTERS]
        self._as_it_stands = [w for w in windows if len(in_words(w).replace(" ", "")) < MIN_LETTERS and w.strip()]

    def is_quoted_in(self, text: str, known: str) -> bool:
        """Whether ``text`` has the words of any :data:`WINDOW` consecutive tokens, whatever their case and punctuation.

        Args:
            text: a reply.
            known: what its reader has written, whose words tell them nothing new. (Nor may it be otherwise: who sends a
                guess could learn from a reply that is withheld that the guess was right.)
        """
        words, known_words = in_words(text), in_words(known)
        return any(w in words and w not in known_words for w in self._in_words) or any(
            w in text and w not in known for w in self._as_it_stands
        )


def in_words(text: str) -> str:
    """Words in lower case with one space in between, and nothing else."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))

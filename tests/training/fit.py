"""Fit the entity recogniser to labelled texts, and write ``llama/privacy/data/entities.crfsuite``.

    python -m tests.training.fit

Variations are drawn with seeds: the same texts, lexicon and patterns give the same file.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pycrfsuite

from llama.command import run
from llama.privacy.lexicon import UNKNOWN, Entry, all_entries, entry, plain
from llama.privacy.normalised import NormalisedText
from llama.privacy.recognisers import pattern_hits_in
from llama.privacy.recognisers.entities import MODEL, OTHER
from llama.privacy.recognisers.entity_features import Token, features_of, tokens_of
from tests.labelled_texts import texts_in

# The kinds of the labels in the texts, by the recogniser's kinds.
KINDS = {
    "full": "NAME", "given": "NAME", "address": "ADDRESS", "phone": "PHONE", "email": "EMAIL", "handle": "URL",
    "id": "ID", "plate": "ID", "account": "ACCOUNT", "date": "DATE", "employer": "ORG", "school": "ORG",
    "health": "HEALTH", "creed": "RELIGION", "income": "FINANCE", "age": "AGE", "public": "PUBLIC", "unsure": "UNSURE",
}  # fmt: skip
_LETTERS = re.compile(r"[^\W\d_]+")
_RENAMED = 1  # variations with other names
Span = tuple[int, int, str]


def texts_of(directory: Path) -> Iterator[tuple[str, list[Span]]]:
    """Yield each text of a directory's files, and its labelled stretches with the recogniser's kinds."""
    for file in sorted(directory.glob("*.txt")):
        for each in texts_in(file):
            yield each.text, [(value.start, value.end, KINDS[value.kind]) for value in each.values]


def labels_of(tokens: Sequence[Token], spans: Sequence[Span]) -> list[str]:
    """Return the label of each token: ``B-KIND`` for the first of a stretch, ``I-KIND`` for the others, ``O``."""
    labels = []
    begun = set[int]()
    for token in tokens:
        i = next((i for i, (start, end, _) in enumerate(spans) if start < token.end and token.start < end), None)
        if i is None:
            labels.append(OTHER)
        else:
            labels.append(f"{'I' if i in begun else 'B'}-{spans[i][2]}")
            begun.add(i)
    return labels


class Variations:
    """Variations of a labelled text: dictated, with names in small letters, and with other names in place of its own.

    A name is replaced by one that the lexicon knows as well: of the same classes and frequency. A name that it does not
    know is replaced by another such name of the texts.

    Args:
        texts: all texts, from which unknown names are taken.
    """

    def __init__(self, texts: Sequence[tuple[str, list[Span]]]) -> None:
        self._alike = defaultdict[Entry, list[str]](list)
        for word, known in all_entries().items():
            if known.given or known.surname:
                self._alike[known].append(word)
        unknown = {
            plain(word)
            for text, spans in texts
            for start, end, kind in spans
            if kind == "NAME"
            for word in _LETTERS.findall(text[start:end])
        }
        self._alike[UNKNOWN] = sorted(word for word in unknown if entry(word) is UNKNOWN)

    def of(self, text: str, spans: list[Span], seed: int) -> Iterator[tuple[str, list[Span]]]:
        """Yield the text as it is, and its variations."""
        dice = random.Random(seed)
        yield text, spans
        yield _lowered(text, spans)
        for _ in range(_RENAMED):
            names = dict[str, str]()
            renamed = _replaced(text, spans, partial(self._renamed, names=names, dice=dice))
            yield renamed if dice.random() < 0.5 else _lowered(*renamed)
        yield _replaced(text, spans, lambda word: word.lower() if dice.random() < 0.7 else word)

    def _renamed(self, word: str, names: dict[str, str], dice: random.Random) -> str:
        same = plain(word)
        if same not in names:
            alike = self._alike.get(entry(same))
            names[same] = dice.choice(alike) if alike and len(same) > 1 else same
        new = names[same]
        return new.upper() if word.isupper() and len(word) > 1 else new.capitalize() if word[0].isupper() else new


def _lowered(text: str, spans: list[Span]) -> tuple[str, list[Span]]:
    lower = "".join(low if len(low := c.lower()) == 1 else c for c in text)
    return lower, spans


def _replaced(text: str, spans: list[Span], new_word: Callable[[str], str]) -> tuple[str, list[Span]]:
    """Replace each word of the names of a text, and return the text with its moved stretches."""
    pieces, moved, position, length = list[str](), list[Span](), 0, 0
    for start, end, kind in spans:
        before, value = text[position:start], text[start:end]
        if kind == "NAME":
            value = _LETTERS.sub(lambda m: new_word(m[0]), value)
        pieces += [before, value]
        length += len(before)
        moved.append((length, length + len(value), kind))
        length += len(value)
        position = end
    return "".join([*pieces, text[position:]]), moved


def main(texts: str = "tests/data/undeclared/open,tests/data/undeclared/training", output: str = str(MODEL)) -> None:
    """Fit and write the recogniser.

    Args:
        texts: directories of labelled texts, with commas between them.
        output: the file to write.
    """
    trainer = pycrfsuite.Trainer(verbose=False)
    found = [text for directory in texts.split(",") for text in texts_of(Path(directory))]
    variations = Variations(found)
    for seed, (text, spans) in enumerate(found):
        for each, marked in variations.of(text, spans, seed):
            tokens = tokens_of(each, pattern_hits_in(NormalisedText(each)))
            if tokens:
                trainer.append(features_of(tokens), labels_of(tokens, marked))
    trainer.set_params(
        {"c1": 0.1, "c2": 0.05, "max_iterations": 120, "feature.minfreq": 2, "feature.possible_transitions": True}
    )
    trainer.train(output)
    print(f"{output}: {Path(output).stat().st_size:,} bytes")


if __name__ == "__main__":
    run(main)

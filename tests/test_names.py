"""One word for one thing: no word that only this project would know, and no class name twice.

Each word here once named a piece of machinery. What the field calls that piece stands beside it.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = sorted([*ROOT.glob("*.py"), *(ROOT / "llama").rglob("*.py")])
# CHANGELOG.md is not among them: it says what things were called before.
TEXTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "llama").rglob("*.html")),
    *sorted((ROOT / "llama").rglob("*.js")),
    *sorted((ROOT / "llama").rglob("*.css")),
]
INSTEAD = {
    "admission": "auth, authenticator",
    "bell": "wake-up socket",
    "clerk": "run finisher",
    "door": "router, socket",
    "doorkeeper": "middleware",
    "errand": "control request",
    "fate": "outcome",
    "lookout": "health poller",
    "patience": "timeout",
    "rope": "wake-up socket",
    "shelf": "sheet publisher",
    "sitting": "controller",
    "surplus": "what is over a limit",
    "tally": "histogram, count",
}
PHRASES = {
    "recorded decoding": "CUDA graphs",
    "hang up": "disconnect",
    "hung up": "disconnected",
    "sign of life": "heartbeat",
    "signs of life": "heartbeats",
    "shared beginnings": "shared prefixes",
}
# In prose "batching" is the field's word, and "budgets" may be people's money.
IDENTIFIERS_ONLY = {
    "batching": "scheduler",
    "budgets": "rate limiter",
    "openings": "prefixes",
    "beginnings": "prefixes",
    "told": "logged, reported, notified",
}
# Rotary position embedding: beside these words, or alone where a checkpoint's own fields are read.
ROTARY = {"theta", "scaling", "scaled", "factor", "factors", "freqs", "type", "parameters", "use"}
ROTARY_FILES = "llama/checkpoint/"


def words_of(identifier: str) -> list[str]:
    """Split ``_keep_theDoor`` into its words, in lower case."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)]


def singular(word: str) -> str:
    return re.sub("(?<=shel)ves$", "f", word).removesuffix("s")


def in_identifier(identifier: str, *, rotary: bool = False) -> list[str]:
    """Those words of an identifier that are not the field's."""
    words = words_of(identifier)
    found = [word for word in words if word in IDENTIFIERS_ONLY]
    found += [word for word in words if word in INSTEAD or singular(word) in INSTEAD]
    found += [phrase for phrase in PHRASES if phrase in " ".join(words)]
    if "rope" in found and (rotary or set(words) & ROTARY):
        found.remove("rope")
    return found


def in_text(text: str, *, rotary: bool = False) -> list[str]:
    """Those words and phrases of a text that are not the field's; ``rope_theta`` and ``rope.freqs`` are none."""
    words = re.findall(r"(?<![\w.])[A-Za-z]+(?!\w|\.\w)", text)
    found = [word.lower() for word in words if {word.lower(), singular(word.lower())} & INSTEAD.keys()]
    spaced = " ".join(text.lower().split())
    found += [phrase for phrase in PHRASES if re.search(rf"\b{phrase}\b", spaced)]
    return [word for word in found if not (rotary and word == "rope")]


def identifiers_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """All names that a module gives or uses, with their lines."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        for field in ("id", "attr", "name", "arg", "asname", "module"):
            name = getattr(node, field, None)
            if isinstance(name, str):
                yield line, name


def strings_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """All string constants that are not docstrings, with their lines."""
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def wrong_in_source(source: str, path: str) -> list[str]:
    """Each word that is not the field's: as ``PATH:LINE: word in NAME OR TEXT``."""
    tree, rotary = ast.parse(source), path.startswith(ROTARY_FILES)
    found = [
        f"{path}:{line}: {word} in {name}"
        for line, name in identifiers_of(tree)
        for word in in_identifier(name, rotary=rotary)
    ]
    found += [
        f"{path}:{line}: {word} in {text[:60]!r}"
        for line, text in strings_of(tree)
        for word in in_text(text, rotary=rotary)
    ]
    return found + [f"{path}: {word}" for word in in_identifier(Path(path).stem)]


def repeated_classes(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Names of classes that stand for several, a leading underscore left away, with where they stand."""
    where = defaultdict[str, list[str]](list)
    for path, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                where[node.name.lstrip("_")].append(f"{path}:{node.lineno}")
    return {name: places for name, places in where.items() if len(places) > 1}


# ---- the product


@pytest.mark.parametrize("file", PRODUCT, ids=lambda file: str(file.relative_to(ROOT)))
def test_identifiers_and_sentences_have_the_fields_words(file: Path) -> None:
    """In every module, and in every string of it that is not a docstring."""
    wrong = wrong_in_source(file.read_text(), file.relative_to(ROOT).as_posix())
    assert not wrong, wrong


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_documents_and_the_page_have_the_fields_words(file: Path) -> None:
    """Also the scripts and the styles, with their comments."""
    wrong = in_text(file.read_text(), rotary=file.parent.name == "docs" or file.name == "README.md")
    assert not wrong, wrong


def test_no_two_classes_have_one_name() -> None:
    """Anywhere in the product; a leading underscore makes no other name."""
    assert not repeated_classes({str(file.relative_to(ROOT)): file.read_text() for file in PRODUCT})


# ---- the checks themselves


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("def _keep_the_door(): ...", "door"),
        ("class Doorkeeper: ...", "doorkeeper"),
        ("from llama.cloud.bell import ring", "bell"),
        ("x.told = 1", "told"),
        ("f(patience_s=1)", "patience"),
        ("def f(shelves): ...", "shelves"),
        ("import numpy as rope", "rope"),
        ("wake_by_rope = 1", "rope"),
        ("class Batching: ...", "batching"),
        ("class RecordedDecoding: ...", "recorded decoding"),
        ("print('the clerk is busy')", "clerk"),
        ("raise ValueError(f'{n} errands wait')", "errands"),
        ("x = 'it is hung up on'", "hung up"),
        ("x = {'fate': 1}", "fate"),
    ],
)
def test_a_word_that_is_not_the_fields_is_found(source: str, word: str) -> None:
    """In a name, a keyword, an import, an attribute, a string, and a part of an f-string."""
    (wrong,) = wrong_in_source(source, "llama/x.py")
    assert wrong.startswith("llama/x.py:1: ") and f" {word} in " in wrong


@pytest.mark.parametrize(
    "source",
    [
        '"""Behind this door."""',
        "def f():\n    '''Wait with patience.'''",
        "rope_theta = use_scaled_rope = 1",
        "indoor, belly = 1, 2  # a door",
        "x = 'rope_theta, rope.freqs and llama.rope.scaling'",
        "x = 'continuous batching, and the person is told'",
    ],
)
def test_what_is_no_such_word_is_not_found(source: str) -> None:
    """Docstrings, comments, rotary position embedding, and other words that have one of these in them."""
    assert wrong_in_source(source, "llama/x.py") == []


def test_the_name_of_a_file_is_looked_at_and_rotary_names_only_in_checkpoints() -> None:
    assert wrong_in_source("", "llama/cloud/clerk.py") == ["llama/cloud/clerk.py: clerk"]
    assert wrong_in_source("rope = 1", "llama/checkpoint/x.py") == []
    assert wrong_in_source("rope = 1", "llama/cloud/x.py") == ["llama/cloud/x.py:1: rope in rope"]


def test_a_text_is_looked_at_across_its_lines() -> None:
    assert in_text("It gives no sign\nof life at the Door, with rope_theta.") == ["door", "sign of life"]


def test_a_class_name_that_stands_twice_is_found() -> None:
    one, other = "class _Run: ...", "def f():\n    class Run: ..."
    assert repeated_classes({"a.py": one, "b.py": other}) == {"Run": ["a.py:1", "b.py:2"]}
    assert repeated_classes({"a.py": one, "b.py": "class Runs: ..."}) == {}

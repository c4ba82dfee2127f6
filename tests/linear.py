"""How much work a text makes, and texts that make as much as they can: made from the patterns that read them.

A regular expression that takes a time that grows with the square of a text nearly matches in many places, and gives up
late in each. So the texts are a match's pieces, again and again, between two others.

Work is counted where that is possible: calls in Python, which are the same each time. What a regular expression does
cannot be counted; there, the processor's time of two lengths is compared.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from types import ModuleType
from typing import Any

import regex

import llama

# Made by who splits a checkpoint, not by a peer; or read from the vocabulary's file.
_NO_TEXT = ("llama.checkpoint",)
_METHODS = frozenset({"compile", "sub", "split", "findall", "finditer", "search", "match", "fullmatch"})
_ALPHABET = "aAzZ09 \t\n.,-–/'’:;()[]{}<>_@#éİ|*&+=\"\u0300"


@dataclass(frozen=True)
class Named:
    """A pattern of the program, and where it is."""

    name: str
    pattern: re.Pattern[str] | regex.Pattern[str]


def calls_in(do: Callable[[], object]) -> int:
    """Count the calls that Python makes, those into C included."""
    count = 0

    def note(frame: object, event: str, arg: object) -> None:
        nonlocal count
        count += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        do()
    finally:
        sys.setprofile(before)
    return count


def seconds_of(do: Callable[[], object], times: int) -> float:
    """Measure the processor's seconds of the quickest of so many."""
    quickest = float("inf")
    for _ in range(times):
        began = time.thread_time()
        do()
        quickest = min(quickest, time.thread_time() - began)
    return quickest


def growth(do: Callable[[str], object], text: Callable[[int], str], length: int) -> float:
    """Give how much longer a text of four times the length takes: 4 is linear, 16 the square.

    A window of some hundred characters, such as of a repeat with a bound, grows with a short text: then longer ones are
    compared, too.
    """
    ratio = growth_at(do, text, length)
    return ratio if ratio < MOST else growth_at(do, text, 4 * length)


def growth_at(do: Callable[[str], object], text: Callable[[int], str], length: int) -> float:
    """The same at this length only."""
    short, long = text(length), text(4 * length)
    for times in (1, 3):  # what is disturbed once is measured again
        seconds = seconds_of(lambda: do(long), times)
        if seconds < LEAST_S:
            return 0.0
        ratio = seconds / max(1e-9, seconds_of(lambda: do(short), times))
        if ratio < MOST:
            break
    return ratio


LEAST_S = 1e-3  # what takes less is not compared: the clock is too coarse
MOST = 9.0  # of growth; between 4 and 16


# ---- the program's patterns


def modules() -> Iterator[ModuleType]:
    """Give every module that may read a text."""
    for each in pkgutil.walk_packages(llama.__path__, "llama."):
        if not each.name.startswith(_NO_TEXT):
            yield importlib.import_module(each.name)


def patterns() -> tuple[list[Named], set[str]]:
    """Give every regular expression of the program once, and where one is made that cannot be told from outside."""
    found: dict[tuple[str, int], Named] = {}
    hidden = set[str]()
    for module in modules():
        named = [(n, v) for n, v in vars(module).items() if not n.startswith("__")]
        for each in (one for name, value in named for one in _within(value, f"{module.__name__}.{name}")):
            found.setdefault((each.pattern.pattern, each.pattern.flags), each)
        for call in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(call, ast.Call) and _makes_a_pattern(call):
                try:
                    written = [_value(part, module) for part in _choices(call.args[0])]
                except NameError:
                    hidden.add(f"{module.__name__}: {ast.unparse(call.args[0])}")
                    continue
                library = regex if ast.unparse(call.func).startswith("regex.") else re
                for one in (library.compile(each) for each in written if isinstance(each, str)):
                    found.setdefault((one.pattern, one.flags), Named(f"{module.__name__}:{call.lineno}", one))
    return list(found.values()), hidden


def _within(value: object, name: str, depth: int = 0) -> Iterator[Named]:
    """Give the patterns in a value, also those of what it is made of."""
    if isinstance(value, re.Pattern | regex.Pattern):
        if isinstance(value.pattern, str):
            yield Named(name, value)
    elif depth < 6:
        parts: list[tuple[object, object]] = []
        if isinstance(value, list | tuple | set | frozenset) and len(value) < 300:
            parts = list(enumerate(value))
        elif isinstance(value, dict) and len(value) < 300:
            parts = list(value.items())
        elif hasattr(value, "__dict__") and type(value).__module__.startswith("llama"):
            parts = list(vars(value).items())
        for key, part in parts:
            yield from _within(part, f"{name}.{key}", depth + 1)


def _makes_a_pattern(node: ast.Call) -> bool:
    return (
        isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in ("re", "regex")
        and node.func.attr in _METHODS
    )


def _choices(node: ast.expr) -> list[ast.expr]:
    return [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node]


def _value(node: ast.expr, module: ModuleType) -> object:
    return eval(compile(ast.Expression(node), "pattern", "eval"), vars(module))


# ---- texts that nearly match


@dataclass(frozen=True)
class Attack:
    """``before``, as many of ``again`` as there is room for, ``after``."""

    before: str
    again: str
    after: str

    def of(self, length: int) -> str:
        """The text of about that length."""
        return self.before + self.again * (length // len(self.again) + 1) + self.after


def attacks(pattern: re.Pattern[str] | regex.Pattern[str], count: int, seed: int = 0) -> Iterator[Attack]:
    """Give texts made of pieces of what a pattern matches."""
    draw = random.Random(f"{seed} {pattern.pattern}")
    try:
        tree = parser.parse(pattern.pattern, pattern.flags if isinstance(pattern, re.Pattern) else 0)
    except re.error:  # what only ``regex`` knows
        tree = None
    for body in _repeated(tree) if tree is not None else ():  # each of its repeats, which nothing follows
        for before in ("", _matching(tree, draw)):
            yield Attack(before, _matching(body, draw) or "a", "\0")
    for _ in range(count):
        one, other = (_matching(tree, draw) if tree is not None else _anything(draw) for _ in range(2))
        i, j = sorted((draw.randint(0, len(one)), draw.randint(0, len(one))))
        again = draw.choice(
            [one, one[:i], one[i:], one[i:j], one + draw.choice(" ,\nx1"), one[:i] + other[j:], one[i : i + 1]]
        )
        yield Attack(
            draw.choice(["", one, other, one[:j]]), again[:60] or draw.choice(_ALPHABET),
            draw.choice(["", "\0", "!", "x", "1", other]),
        )  # fmt: skip


def _repeated(items: Any) -> Iterator[Any]:
    """Give what a pattern repeats as often as it likes."""
    for code, value in items:
        if code in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
            if value[1] > 20:
                yield value[2]
            yield from _repeated(value[2])
        elif code is codes.BRANCH:
            for branch in value[1]:
                yield from _repeated(branch)
        elif code is codes.SUBPATTERN:
            yield from _repeated(value[3])
        elif code is codes.ATOMIC_GROUP:
            yield from _repeated(value)
        elif code in (codes.ASSERT, codes.ASSERT_NOT):
            yield from _repeated(value[1])


def _anything(draw: random.Random) -> str:
    pieces = ["[", "NAME", "_", "1", "]", " ", "a", "\u0300" * 3, "(", ":", "http", "\n", "-", "<", ".", "x", "@"]
    return "".join(draw.choice(pieces) for _ in range(draw.randint(1, 6)))


def _matching(items: Any, draw: random.Random) -> str:
    return "".join(_piece(code, value, draw) for code, value in items)


def _piece(code: Any, value: Any, draw: random.Random) -> str:
    match code:
        case codes.LITERAL:
            return chr(value)
        case codes.NOT_LITERAL:
            return draw.choice(_ALPHABET.replace(chr(value), ""))
        case codes.ANY:
            return draw.choice("aA1 .")
        case codes.IN:
            return _of_class(value, draw)
        case codes.BRANCH:
            return _matching(draw.choice(value[1]), draw)
        case codes.SUBPATTERN:
            return _matching(value[3], draw)
        case codes.ATOMIC_GROUP:
            return _matching(value, draw)
        case codes.MAX_REPEAT | codes.MIN_REPEAT | codes.POSSESSIVE_REPEAT:
            least, most, items = value
            count = min(draw.choice([least, least + 1, draw.randint(0, 4)]), int(most), 6)
            return "".join(_matching(items, draw) for _ in range(max(count, min(least, 6))))
        case codes.ASSERT:
            return _matching(value[1], draw) if draw.random() < 0.3 else ""
        case codes.GROUPREF:
            return draw.choice(" -/.")
    return ""  # what only looks around


def _of_class(members: Any, draw: random.Random) -> str:
    """Draw a sign of a class: one of the alphabet, or one that the class names."""
    compiled = parser.SubPattern(parser.State(), [(codes.IN, members)])
    one = re._compiler.compile(compiled)  # type: ignore[attr-defined]
    signs = [c for c in _ALPHABET if one.match(c)]
    for code, value in members:
        if code is codes.LITERAL and members[0][0] is not codes.NEGATE:
            signs.append(chr(value))
        elif code is codes.RANGE and members[0][0] is not codes.NEGATE:
            signs.append(chr(draw.randint(*value)))
    return draw.choice(signs or ["a"])

"""Proof that a chat template writes the same text as ``llama3`` or ``chatml`` (``llama.chat``).

The proof has two parts. First, the template's syntax only joins texts and contents, strips them, and tests roles and
positions, so its output cannot depend on the words of a content. Second, it writes the same text for dialogues of every
order of roles up to four messages, with contents chosen to trigger its conditions.

Knows nothing about: files, ids.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence

import jinja2
from jinja2 import nodes

from llama.chat import NATIVE_FORMATS, Message
from llama.rendering import CannotRender, render
from llama.template_format import ChatTemplate
from llama.template_program import environment

MAX_SYSTEM_CHARACTERS = 64 << 10

_ROLES = ("system", "user", "assistant")
# Texts that a comparison may use: roles. A comparison with any other text could depend on a content.
_ROLE_NAMES = frozenset({*_ROLES, "tool", "ipython", "role", "content"})
_FILTERS = frozenset({"trim"})
_METHODS = frozenset({"strip"})
_FUNCTIONS = frozenset({"raise_exception", "namespace"})
_TESTS = frozenset({"defined", "undefined", "none", "true", "false", "string", "mapping", "iterable"})
_LARGEST_NUMBER = 3  # largest number in a comparison; the tried dialogues have up to five messages


def texts_of(name: str) -> tuple[str, str, str]:
    """Return a native format's beginning of a dialogue, its form of a turn, and its opening of a reply."""
    made = NATIVE_FORMATS[name]
    return made.begins, made.turn, made.opens_reply


def own_tokens(name: str) -> set[str]:
    """Return the special tokens of a native format."""
    return {token for text in texts_of(name) for token in re.findall(r"<\|\w+\|>", text)}


NATIVE_TOKENS = {token for name in NATIVE_FORMATS for token in own_tokens(name)}


def writable(special: Collection[str]) -> list[str]:
    """Return the native formats whose tokens are all special and whose text cannot form any other special token.

    Neither the text alone nor its border with a content may form one.
    """
    found = list[str]()
    for name in NATIVE_FORMATS:
        begin, turn, opened = texts_of(name)
        own = own_tokens(name)
        others = set(special) - own
        texts = [begin, opened, *(turn.format(role=role, content="") for role in _ROLES)]
        before = [turn.format(role=role, content="\0").partition("\0")[0] for role in _ROLES]
        after = turn.partition("{content}")[2]
        crosses = any(
            any(text.endswith(token[:length]) for text in before) or after.startswith(token[-length:])
            for token in others
            for length in range(1, len(token))
        )
        if own <= set(special) and not crosses and not any(token in text for token in others for text in texts):
            found.append(name)
    return found


def native_equal(template: ChatTemplate, bare: str, natives: Sequence[str]) -> tuple[str, str | None] | None:
    """Return ``llama3`` or ``chatml`` and the model's default system message if the template provably writes that.

    Args:
        template: the checkpoint's template.
        bare: its text for the single user message ``q``.
        natives: the candidate formats.
    """
    constants = _constants_if_simple(template)
    if constants is None:
        return None
    for name in natives:
        begin, turn, opened = texts_of(name)
        ending = turn.format(role="user", content="q") + opened
        if not (bare.startswith(begin) and bare.endswith(ending)):
            continue
        own = bare[len(begin) : len(bare) - len(ending)]
        system = re.fullmatch(re.escape(turn.format(role="system", content="\0")).replace("\0", "(.*)"), own, re.S)
        if (own and system is None) or (system is not None and len(system[1]) > MAX_SYSTEM_CHARACTERS):
            continue
        default_system = system[1] if system is not None else None
        dialogs = [*_probes(constants)]
        try:
            written = render(template.source, dialogs, template.variables)
        except CannotRender:
            return None
        if all(text == _spelled(name, dialog, default_system) for text, dialog in zip(written, dialogs, strict=True)):
            return name, default_system
    return None


def _spelled(name: str, dialog: Sequence[Mapping[str, str]], default_system: str | None) -> str:
    messages = [Message(each["role"], each["content"]) for each in dialog]
    if default_system is not None and messages[0].role != "system":
        messages.insert(0, Message("system", default_system))
    return NATIVE_FORMATS[name].written(messages)[0]


def _constants_if_simple(template: ChatTemplate) -> list[str] | None:
    """Return the template's text constants if its syntax cannot make the output depend on a content; else None."""
    try:
        tree = environment().parse(template.source)
    except (jinja2.TemplateError, RecursionError):
        return None
    unknown = (
        nodes.Mod,
        nodes.Mul,
        nodes.Sub,
        nodes.Div,
        nodes.FloorDiv,
        nodes.Pow,
        nodes.Dict,
        nodes.Macro,
        nodes.Include,
        nodes.Import,
        nodes.FromImport,
        nodes.Extends,
        nodes.ScopedEvalContextModifier,
        nodes.EvalContextModifier,
    )
    simple = (
        all(node.name in _FILTERS and not (node.args or node.kwargs) for node in tree.find_all(nodes.Filter))
        and all(node.name in _TESTS for node in tree.find_all(nodes.Test))
        and all(_is_simple_call(node) for node in tree.find_all(nodes.Call))
        and all(_is_simple_comparison(node) for node in tree.find_all(nodes.Compare))
        and all(map(_is_simple_item, tree.find_all(nodes.Getitem)))
        and all(map(_is_simple_sum, tree.find_all(nodes.Add)))
        and all(node.ctx == "load" or node.name not in _FUNCTIONS for node in tree.find_all(nodes.Name))
        and all(_is_all_but_first(node.node) for node in tree.find_all(nodes.Assign) if _is_messages(node.target))
        and not any(_binds_messages(node.target) for node in tree.find_all(nodes.For))
        and next(tree.find_all(unknown), None) is None
    )
    return [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)] if simple else None


def _is_messages(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == "messages"


def _binds_messages(target: nodes.Node) -> bool:
    return _is_messages(target) or any(map(_is_messages, target.find_all(nodes.Name)))


def _is_all_but_first(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice) and _is_messages(node.node)


def _is_simple_item(node: nodes.Getitem) -> bool:
    """Return whether it is ``messages[0]``, ``messages[-1]``, ``messages[1:]`` or ``m['role']``.

    A single character or a part of a content is not simple.
    """
    if isinstance(node.arg, nodes.Slice):
        start, whole = node.arg.start, node.arg.stop is None and node.arg.step is None
        return whole and _is_messages(node.node) and isinstance(start, nodes.Const) and start.value in (0, 1)
    arg = node.arg.node if isinstance(node.arg, nodes.Neg) else node.arg
    if not isinstance(arg, nodes.Const):
        return False
    return isinstance(arg.value, str) or (_is_messages(node.node) and arg.value in (0, 1))


def _is_simple_sum(node: nodes.Add) -> bool:
    """Return whether a sum adds texts only, not numbers."""
    sides = [side for side in (node.left, node.right) if isinstance(side, nodes.Const)]
    return all(isinstance(side.value, str) for side in sides)


def _is_simple_call(node: nodes.Call) -> bool:
    if isinstance(node.node, nodes.Name):
        return node.node.name in _FUNCTIONS
    # `{% generation %}` is a call of its extension
    return isinstance(node.node, nodes.ExtensionAttribute) or (
        isinstance(node.node, nodes.Getattr) and node.node.attr in _METHODS and not (node.args or node.kwargs)
    )


def _is_simple_comparison(node: nodes.Compare) -> bool:
    """Return whether it compares with roles or small numbers only, and does not search a content."""
    sides = [node.expr, *(operand.expr for operand in node.ops)]
    constants = [side.value for side in sides if isinstance(side, nodes.Const)]
    return (
        len(constants) > 0
        and len(node.ops) == 1
        and not any(isinstance(side, nodes.BinExpr | nodes.Concat | nodes.CondExpr) for side in sides)
        and not any(isinstance(value, float) for value in constants)
        and all(operand.op in ("eq", "ne") for operand in node.ops)
        and all(value in _ROLE_NAMES for value in constants if isinstance(value, str))
        and all(value <= _LARGEST_NUMBER for value in constants if isinstance(value, int))
    )


def _probes(constants: Sequence[str]) -> Iterator[list[dict[str, str]]]:
    """Yield dialogues of every order of roles up to four messages, with contents of all kinds."""
    contents = ["", " ", "a", " b ", "\n\nc\n", "\u200bd", "e  f\n g", *_ROLES, *dict.fromkeys(constants)]
    turn = itertools.cycle(contents)
    for length in (1, 2, 3, 4):
        for roles in itertools.product(_ROLES, repeat=length):
            yield [{"role": role, "content": next(turn)} for role in roles]
    for content in contents:
        yield [{"role": role, "content": content} for role in ("system", "user", "assistant", "user")]
        yield [{"role": role, "content": content} for role in ("user", "assistant", "user", "assistant", "user")]

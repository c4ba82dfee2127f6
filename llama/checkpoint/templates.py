"""Which chat format a checkpoint has: found out from its chat template.

A template is somebody's program. Where it provably writes what ``llama3`` or ``chatml`` (``llama.chat``) write, that
format is taken, because it costs nothing; else the template itself is (``llama.template_format``). The proof has two
parts. By its syntax the template only joins texts and contents, strips them, and asks for roles and places: nothing
could depend on what a content says. And it writes the same for dialogues of every order of roles up to four messages,
with contents that try what it could ask for.

Knows nothing about: files, ids.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import jinja2
from jinja2 import nodes

from llama.chat import NATIVE_FORMATS, TEMPLATE
from llama.errors import TokenizerError
from llama.files import quoted
from llama.rendering import MAX_TEMPLATE_BYTES, CannotRender, render, render_any
from llama.template_format import MAX_VARIABLE_CHARACTERS, MAX_VARIABLES, ChatTemplate
from llama.template_program import environment

MAX_SYSTEM_CHARACTERS = 64 << 10
FORMATS = (*NATIVE_FORMATS, TEMPLATE)

_ROLES = ("system", "user", "assistant")
# What may be compared with: roles, and numbers of messages. Whoever compares with another text looks into contents.
_ROLE_NAMES = frozenset({*_ROLES, "tool", "ipython", "role", "content"})
_FILTERS = frozenset({"trim"})
_METHODS = frozenset({"strip"})
_FUNCTIONS = frozenset({"raise_exception", "namespace"})
_TESTS = frozenset({"defined", "undefined", "none", "true", "false", "string", "mapping", "iterable"})
_LARGEST_NUMBER = 3  # to compare with; the dialogues that are tried have up to five messages
_WRITTEN = {
    "chatml": ("<|im_start|>{role}\n{content}<|im_end|>\n", "<|im_start|>assistant\n", ""),
    "llama3": (
        "<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|begin_of_text|>",
    ),
}


@dataclass(frozen=True)
class Choice:
    """What the dialogues of a checkpoint are written in.

    Attributes:
        chat_format: ``llama3``, ``chatml`` or ``template``.
        default_system: the model's own system message, of the first two; or None.
        template: of the third.
        around: what it writes around and between contents.
        after_answer: what it writes directly behind an assistant's content.
    """

    chat_format: str
    default_system: str | None = None
    template: ChatTemplate | None = None
    around: str = ""
    after_answer: str = ""


def choose(
    template: ChatTemplate | None, special: Collection[str], asked: str | None, flagged: bool, where: str
) -> Choice:
    """The chat format of a checkpoint.

    Args:
        template: the checkpoint's, if it has one.
        special: texts of its added tokens.
        asked: what the command line says, or None.
        flagged: some of these are words, or have flags, which ``llama3`` and ``chatml`` know nothing of.
        where: the checkpoint, for errors.

    Raises:
        TokenizerError: the template cannot be rendered, or there is none and the tokens are of no known format; or what
            is asked for does not exist.
    """
    if asked is not None and asked not in FORMATS:
        raise TokenizerError(f"--chat_format must be one of {', '.join(FORMATS)}, not {quoted(asked)}")
    if asked == TEMPLATE and template is None:
        raise TokenizerError(f"{where}: --chat_format template, but the checkpoint has no chat template; leave it out")
    if asked in NATIVE_FORMATS:
        return _native_choice(asked)
    if template is None:
        return _native_choice(_by_tokens(special, where))
    if len(template.source) > MAX_TEMPLATE_BYTES:
        raise TokenizerError(f"{where}: its chat template is longer than {MAX_TEMPLATE_BYTES >> 10} KiB, as no "
                             f"model's is; --chat_format llama3 or chatml goes without it")  # fmt: skip
    try:
        return _by_template(template, [] if asked == TEMPLATE or flagged else _writable(special))
    except CannotRender as err:
        raise TokenizerError(f"{where}: its chat template cannot be rendered ({err}); mend it, or say "
                             f"--chat_format llama3 or chatml to go without it") from None  # fmt: skip


def _native_choice(name: str, default_system: str | None = None) -> Choice:
    turn, opened, begin = _WRITTEN[name]
    return Choice(name, default_system, around=begin + turn + opened)


def _by_tokens(special: Collection[str], where: str) -> str:
    if "<|im_start|>" in special:
        return "chatml"
    if "<|start_header_id|>" in special:
        return "llama3"
    raise TokenizerError(f"{where}: it has no chat template, and its special tokens are of no known format; use a "
                         f"version of the model that is made for dialogues")  # fmt: skip


def _writable(special: Collection[str]) -> list[str]:
    """The formats written here whose own tokens are special ones, where no other can come out of what they write.

    Neither out of that alone, nor out of its border with a content.
    """
    found = list[str]()
    for name, (turn, opened, begin) in _WRITTEN.items():
        texts = [begin, opened, *(turn.format(role=role, content="") for role in _ROLES)]
        own = {token for text in texts for token in re.findall(r"<\|\w+\|>", text)}
        others = set(special) - own
        before, after = (
            [turn.format(role=role, content="\0").partition("\0")[0] for role in _ROLES],
            turn.partition("{content}")[2],
        )
        crosses = any(
            any(text.endswith(token[:length]) for text in before) or after.startswith(token[-length:])
            for token in others for length in range(1, len(token))
        )  # fmt: skip
        if own <= set(special) and not crosses and not any(token in text for token in others for text in texts):
            found.append(name)
    return found


def _by_template(template: ChatTemplate, natives: Sequence[str]) -> Choice:
    question = {"role": "user", "content": "q"}
    (bare,) = render(template.source, [[question]], template.variables)
    if natives and (native := _native(template, bare, natives)) is not None:
        return native
    around, after = _structure(template)
    return Choice(TEMPLATE, None, template, around, after)


def _native(template: ChatTemplate, bare: str, natives: Sequence[str]) -> Choice | None:
    """``llama3`` or ``chatml``, where the template provably writes it."""
    constants = _constants_if_simple(template)
    if constants is None:
        return None
    for name in natives:
        turn, opened, begin = _WRITTEN[name]
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
            return _native_choice(name, default_system)
    return None


def _spelled(name: str, dialog: Sequence[Mapping[str, str]], default_system: str | None) -> str:
    turn, opened, begin = _WRITTEN[name]
    messages = [*dialog]
    if default_system is not None and dialog[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": default_system})
    contents = [m["content"].strip() if name == "llama3" else m["content"] for m in messages]
    turns = (turn.format(role=m["role"], content=c) for m, c in zip(messages, contents, strict=True))
    return begin + "".join(turns) + opened


def _constants_if_simple(template: ChatTemplate) -> list[str] | None:
    """The texts in a template, if by its syntax nothing that it does can depend on what a content says; else None."""
    try:
        tree = environment().parse(template.source)
    except (jinja2.TemplateError, RecursionError):
        return None
    unknown = (
        nodes.Mod, nodes.Mul, nodes.Sub, nodes.Div, nodes.FloorDiv, nodes.Pow, nodes.Dict, nodes.Macro, nodes.Include,
        nodes.Import, nodes.FromImport, nodes.Extends, nodes.ScopedEvalContextModifier, nodes.EvalContextModifier,
    )  # fmt: skip
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
    """``messages[0]``, ``messages[-1]``, ``messages[1:]``, ``m['role']``; not a content's character, nor a window."""
    if isinstance(node.arg, nodes.Slice):
        start, whole = node.arg.start, node.arg.stop is None and node.arg.step is None
        return whole and _is_messages(node.node) and isinstance(start, nodes.Const) and start.value in (0, 1)
    arg = node.arg.node if isinstance(node.arg, nodes.Neg) else node.arg
    if not isinstance(arg, nodes.Const):
        return False
    return isinstance(arg.value, str) or (_is_messages(node.node) and arg.value in (0, 1))


def _is_simple_sum(node: nodes.Add) -> bool:
    """Of texts; numbers are not counted with."""
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
    """Contents are not compared with texts other than roles, nor searched."""
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
    """Dialogues of every order of roles up to four messages, and contents of all kinds."""
    contents = ["", " ", "a", " b ", "\n\nc\n", "\u200bd", "e  f\n g", *_ROLES, *dict.fromkeys(constants)]
    turn = itertools.cycle(contents)
    for length in (1, 2, 3, 4):
        for roles in itertools.product(_ROLES, repeat=length):
            yield [{"role": role, "content": next(turn)} for role in roles]
    for content in contents:
        yield [{"role": role, "content": content} for role in ("system", "user", "assistant", "user")]
        yield [{"role": role, "content": content} for role in ("user", "assistant", "user", "assistant", "user")]


def _structure(template: ChatTemplate) -> tuple[str, str]:
    """What a template writes around contents, and what directly behind an assistant's; nothing, where it refuses both.

    The way in which a reply is opened does not count, if the template writes answers: a content in which that stands
    cannot end itself by it.
    """
    marks, turns = ["\uf8f0", "\uf8f1", "\uf8f2", "\uf8f3"], ["system", "user", "assistant", "user"]
    orders = [turns, turns[1:], turns[:3], turns[1:3], turns[:2], turns[1:2]]
    dialogs = [[{"role": role, "content": mark} for role, mark in zip(o, marks, strict=False)] for o in orders]
    opened = render_any(template.source, dialogs, template.variables, opens_reply=True)
    closed = render_any(template.source, dialogs, template.variables, opens_reply=False)
    answered = any(text and "assistant" in order for order, text in zip(orders, closed, strict=True))
    texts = [text or "" for text in (closed if answered else opened)]
    split = [re.split(f"[{''.join(marks)}]", text) for text in texts]
    # Some open a reply in any case: what they write last may be that, and what ends a message stands between others.
    opens_always = answered and closed == opened and any(len(pieces) > 2 for pieces in split)
    around = [piece for pieces in split for piece in (pieces[:-1] if opens_always else pieces)]
    ends = (
        text.partition(marks[order.index("assistant")])[2]
        for order, text in zip(orders, texts, strict=True)
        if "assistant" in order and marks[order.index("assistant")] in text
    )
    after = next(ends, "")
    return "\n".join(around), after


def template_variables(texts: Mapping[str, str], template: str, where: str) -> dict[str, str]:
    """Those that a template mentions, found to be of a sensible size.

    Raises:
        TokenizerError: names one that is not.
    """
    mentioned = {name: text for name, text in texts.items() if name in template}
    if len(mentioned) > MAX_VARIABLES:
        raise TokenizerError(f"{where}: its chat template names {len(mentioned)} tokens; supported are {MAX_VARIABLES}")
    for name, text in mentioned.items():
        if len(text) > MAX_VARIABLE_CHARACTERS:
            raise TokenizerError(f"{where}: its {name} has {len(text)} characters; supported are "
                                 f"{MAX_VARIABLE_CHARACTERS}")  # fmt: skip
    return mentioned

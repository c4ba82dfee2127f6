"""Command lines: an argparse parser checks the flags of a ``main``, then python-fire calls it with their values.

python-fire alone runs the function before it rejects an unknown flag, and guesses types from text (``--title 42`` would
arrive as an int). The parser here is built from the function's signature, so nothing runs unless every flag is known
and has a value of its declared type. Each flag's help is the flag's line in the docstring's ``Args``.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import fire

from llama.errors import UsageError
from llama.process_end import LEAST_DESCRIPTORS, check_descriptors, exit_codes

_TRUE, _FALSE = {"true", "1", "yes"}, {"false", "0", "no"}
_NEVER_SUGGESTED = {"insecure"}  # a typing error must not lead to a flag that removes a protection
_KINDS = {str: "text", int: "whole number", float: "number", bool: "switch"}
_METAVARS = {str: "TEXT", int: "N", float: "NUMBER"}
_ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n        .*)*)", re.MULTILINE)
_DASHES = "\0--"  # stands for the value "--", which argparse drops before Python 3.13; no argument can have a NUL


def run(
    main: Callable[..., None],
    argv: Sequence[str] | None = None,
    *,
    usage: str = "",
    descriptors: int = LEAST_DESCRIPTORS,
) -> None:
    """Call ``main`` with the flags of ``argv`` (this process's own by default), and exit the process on an error.

    Args:
        main: the program; its parameters are its flags.
        argv: words of the command line.
        usage: the required words in the usage line of ``--help``, where they have a shorter form than the flags.
        descriptors: files and sockets that the program needs at least.

    Raises:
        SystemExit: see ``llama.process_end`` for the codes. After success the function returns.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    with exit_codes():
        if {"--help", "-h"} & set(argv):
            print(help_text(main, usage), end="", flush=True)
            sys.exit(0)
        check_descriptors(descriptors)
        values = check_flags(main, argv)
        checked = {name: lambda _, value=value: value for name, value in values.items()}
        words = [f"--{name}={value}" for name, value in values.items()]  # one word each, which python-fire keeps whole
        fire.Fire(fire.decorators.SetParseFns(**checked)(main), command=words)


@dataclass(frozen=True)
class Flag:
    """A parameter of a ``main``.

    Attributes:
        name: without dashes.
        type: str, int, float or bool; ``X | None`` counts as X.
        default: None where the program works the value out, or where the flag is required.
        required: it has no default.
        about: its help.
    """

    name: str
    type: type
    default: Any
    required: bool
    about: str

    @property
    def kind(self) -> str:
        """The type in words."""
        return _KINDS[self.type]

    @property
    def default_text(self) -> str:
        """The default for help and pages; empty where there is none, or a switch is off."""
        if self.type is bool:
            return "on" if self.default else ""
        return "" if self.default is None else str(self.default).removesuffix(".0")

    def parse(self, text: str) -> Any:
        """Return the value that a text on the command line stands for.

        Raises:
            UsageError: it is not of the flag's type.
        """
        text = text.removeprefix(_DASHES[0])
        if self.type is bool:
            if text.lower() in _TRUE | _FALSE:
                return text.lower() in _TRUE
            raise UsageError(f"--{self.name} is a switch: give true or false (got '{text}')")
        try:
            return self.type(text)
        except ValueError:
            raise UsageError(f"--{self.name} must be a {self.kind} (got '{text}')") from None


def flags_of(main: Callable[..., None]) -> list[Flag]:
    """Return the flags of a ``main`` in their order."""
    about = {name: " ".join(text.split()) for name, text in _ARGUMENT.findall(_docstring(main)[1])}
    hints, flags = get_type_hints(main), list[Flag]()
    for name, parameter in inspect.signature(main).parameters.items():
        hint, required = hints[name], parameter.default is parameter.empty
        if typing.get_origin(hint) in (types.UnionType, typing.Union):
            hint = next(each for each in get_args(hint) if each is not type(None))
        flags.append(Flag(name, hint, None if required else parameter.default, required, about.get(name, "")))
    return flags


def check_flags(main: Callable[..., None], argv: Sequence[str]) -> dict[str, Any]:
    """Return the values that ``argv`` gives to the parameters of ``main``.

    Raises:
        UsageError: an unknown flag (with the nearest known one), a missing value or one of another type, a flag given
            twice, a word that belongs to no flag, or a required flag that is missing.
    """
    parser, options = _parser(main)
    return vars(parser.parse_args(_joined(options, argv)))


def help_text(main: Callable[..., None], usage: str = "") -> str:
    """Return the text of ``--help``, as wide as the terminal."""
    return _parser(main, usage)[0].format_help()


def summary_of(main: Callable[..., None]) -> str:
    """Return the docstring of ``main`` above its ``Args``, in one paragraph."""
    return " ".join(_docstring(main)[0].split())


def usage_line(main: Callable[..., None], program: str, usage: str = "") -> str:
    """Return the command that starts a program, with its required flags or ``usage`` in their place."""
    needed = usage or " ".join(f"--{flag.name} {flag.name.upper()}" for flag in flags_of(main) if flag.required)
    return " ".join(filter(None, ("python", program, needed, "[flags]")))


def _docstring(main: Callable[..., None]) -> tuple[str, str]:
    """Return what stands above ``Args:`` in the docstring, and what stands below."""
    above, _, below = (inspect.getdoc(main) or "").partition("\n\nArgs:\n")
    return above, below


class _Parser(argparse.ArgumentParser):
    """A parser that raises its errors."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message.removeprefix('argument ')}; --help lists all flags")


class _Once(argparse.Action):
    """Store a flag's value, or its constant where it takes none; refuse a second one."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Set the value."""
        if hasattr(namespace, self.dest):
            raise UsageError(f"--{self.dest} is given twice")
        setattr(namespace, self.dest, self.const if self.nargs == 0 else values)


def _parser(main: Callable[..., None], usage: str = "") -> tuple[argparse.ArgumentParser, dict[str, argparse.Action]]:
    """Build the parser of the flags of ``main``; also return each spelling with its action."""
    parser = _Parser(
        usage=usage_line(main, _program(), usage),
        description=summary_of(main),
        argument_default=argparse.SUPPRESS,
        add_help=False,
        allow_abbrev=False,
    )
    group = parser.add_argument_group("flags")
    actions = list[argparse.Action]()
    for flag in flags_of(main):
        option, default = f"--{flag.name}", f" (default: {flag.default_text})" if flag.default_text else ""
        about: dict[str, Any] = {"action": _Once, "dest": flag.name, "help": (flag.about + default).replace("%", "%%")}
        if flag.type is bool:
            actions.append(group.add_argument(option, nargs="?", const=True, type=flag.parse, metavar="BOOL", **about))
            off = (f"--no{flag.name}", f"--no_{flag.name}")
            about["help"] = f"Switch --{flag.name} off." if flag.default else argparse.SUPPRESS
            actions.append(group.add_argument(*off, nargs=0, const=False, **about))
        else:
            metavar = _METAVARS[flag.type]
            actions.append(
                group.add_argument(option, required=flag.required, type=flag.parse, metavar=metavar, **about)
            )
    group.add_argument("-h", "--help", action="help", help="Print this, and exit.")
    return parser, {spelling: action for action in actions for spelling in action.option_strings}


def _joined(options: Mapping[str, argparse.Action], argv: Sequence[str]) -> list[str]:
    """Join each flag with its value into one word, so that a value may begin with a dash.

    Args:
        options: the flags, by each of their spellings.
        argv: the command line. A flag's name may have dashes for underscores.

    Raises:
        UsageError: an unknown flag, or a word that belongs to no flag.
    """
    joined, words = list[str](), list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or word == "--":
            raise UsageError(f"'{word}' belongs to no flag; write --name value")
        name, equals, value = word[2:].partition("=")
        option = f"--{name.replace('-', '_')}"
        if option not in options:
            raise UsageError(f"unknown flag {option}; {_hint(option[2:], [a.dest for a in options.values()])}")
        if not equals and options[option].nargs != 0 and words and not words[0].startswith("--"):
            equals, value = "=", words.pop(0)
        joined.append(f"{option}{equals}{_DASHES if value == '--' else value}")
    return joined


def _hint(name: str, known: Sequence[str]) -> str:
    """Return the flag that was probably meant, or all flags."""
    known = list(dict.fromkeys(known))
    suggested = [flag for flag in known if flag not in _NEVER_SUGGESTED]
    nearest = [flag for flag in suggested if flag.startswith(name)] or difflib.get_close_matches(name, suggested, n=1)
    return f"did you mean --{nearest[0]}?" if nearest else f"the flags are {', '.join(f'--{flag}' for flag in known)}"


def _program() -> str:
    """Return what this process was started as: ``edge_main.py``, or ``-m llama.vendor``."""
    module = sys.modules["__main__"].__spec__  # None for a program that is a file
    if module is not None and module.origin == sys.argv[0]:
        return f"-m {module.name.removesuffix('.__main__')}"
    return Path(sys.argv[0]).name

"""Program that renders a chat template; ``rendering`` starts it.

It reads a request from standard input, ``{"template": "…", "variables": {"bos_token": "…", …}, "dialogs": [[{"role": …,
"content": …}, …], …], "characters": …, "memory": …, "any": false}``, and writes ``{"texts": ["…", …]}``
(with ``any``, null for a dialogue that fails) or ``{"error": "TypeOfIt"}``.
It imports no other module of the package, and few others: it must start and finish in a tenth of a second.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace


class CannotSay(Exception):
    """The template refuses the dialogue (``raise_exception``)."""


def main(seconds: float) -> None:
    """Answer the single request, within ``seconds`` of CPU time."""
    request = json.loads(sys.stdin.buffer.read())  # UTF-8 in any locale
    limits = {
        resource.RLIMIT_CPU: math.ceil(2 * seconds + sum(resource.getrusage(resource.RUSAGE_SELF)[:2])),
        resource.RLIMIT_AS: request["memory"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
    }
    for what, most in limits.items():
        with contextlib.suppress(ValueError, OSError):  # the limit is lower already, or the system lacks it
            resource.setrlimit(what, (most, most))
    signal.setitimer(signal.ITIMER_PROF, seconds)  # ends the process; RLIMIT_CPU counts whole seconds only
    try:
        template = environment().from_string(request["template"])
        texts = list[str | None]()
        for dialog in request["dialogs"]:
            try:
                texts.append(_text(template, {**request["variables"], "messages": dialog}, request["characters"]))
            except Exception:
                if not request["any"]:
                    raise
                texts.append(None)
        answer: dict[str, Any] = {"texts": texts}
    except BaseException as err:  # a third party's program may raise anything
        answer = {"error": type(err).__name__}
    json.dump(answer, sys.stdout)


def environment() -> ImmutableSandboxedEnvironment:
    """Return the environment that templates expect, as transformers sets it up (``utils/chat_template_utils.py``)."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = _tojson
    made.globals |= {"raise_exception": _refuse, "strftime_now": _strftime_now, "namespace": _Namespace}
    return made


class _Generation(Extension):
    """Jinja tag ``{% generation %} … {% endgeneration %}``: marks an answer for training; renders its content."""

    tags = {"generation"}  # noqa: RUF012 -- jinja declares it this way

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    def _said(self, caller: Callable[[], str]) -> str:
        return caller()


class _Namespace(Namespace):
    """jinja's namespace without names that begin with an underscore, which lead into the interpreter."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # a template may use the name `self`
        self, rest = args[0], args[1:]
        names = dict(*rest, **kwargs)
        for name in names:
            _check_name(name)
        Namespace.__init__(self, names)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _refuse(message: object = "") -> NoReturn:
    raise CannotSay


def _text(template: jinja2.Template, variables: dict[str, Any], characters: int) -> str:
    pieces, length = list[str](), 0
    for piece in template.generate(**{"tools": None, "documents": None, **variables}):
        length += len(piece)
        if length > characters:
            raise OverflowError
        pieces.append(piece)
    return "".join(pieces)


if __name__ == "__main__":
    main(float(sys.argv[1]))

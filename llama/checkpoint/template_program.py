"""Renders a chat template as a program of its own; ``rendering`` starts it.

Reads a request from standard input, ``{"template": "…", "dialogs": [[{"role": …, "content": …}, …], …]}``, and writes
``{"texts": ["…", …]}`` or ``{"error": "TypeOfIt"}``. Imports nothing of the package, and little else: it is to be
started and over in a tenth of a second.
"""

from __future__ import annotations

import contextlib
import json
import math
import resource
import signal
import sys
from typing import Any, NoReturn

from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY_BYTES = 256 << 20  # of addresses; 30 MiB of them are Python's and jinja's own
TEXT_CHARACTERS = 128 << 10


def main(seconds: float) -> None:
    """Answer the one request, in that much computing time."""
    request = json.load(sys.stdin)
    limits = {
        resource.RLIMIT_CPU: math.ceil(2 * seconds + sum(resource.getrusage(resource.RUSAGE_SELF)[:2])),
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
    }
    for what, most in limits.items():
        with contextlib.suppress(ValueError, OSError):  # less is allowed already, or the system has no such limit
            resource.setrlimit(what, (most, most))
    signal.setitimer(signal.ITIMER_PROF, seconds)  # ends the process; the limit above counts whole seconds only
    try:
        answer: dict[str, Any] = {"texts": _texts(request["template"], request["dialogs"])}
    except BaseException as err:  # a foreign program may raise anything
        answer = {"error": type(err).__name__}
    json.dump(answer, sys.stdout)


def _texts(source: str, dialogs: list[list[dict[str, str]]]) -> list[str]:
    def refuse(message: str) -> NoReturn:
        raise ValueError(message)

    # As transformers sets it up (`utils/chat_template_utils.py`), for which templates are written.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    template = environment.from_string(source)
    texts = []
    for dialog in dialogs:
        text, length = list[str](), 0
        for piece in template.generate(messages=dialog, add_generation_prompt=True):
            length += len(piece)
            if length > TEXT_CHARACTERS:
                raise OverflowError
            text.append(piece)
        texts.append("".join(text))
    return texts


if __name__ == "__main__":
    main(float(sys.argv[1]))

"""What the person sees: the sanitised prompt, the reply as it streams, who saw what, and one line of timing.

Prompt, reply and table go to stdout; notices and timing go to stderr. ``plain`` leaves the reply alone on stdout, for
pipes. Text is shown as text: never as markup, and without control characters, which could rewrite the screen.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import msgspec
from rich import box
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from llama.chat import Message
from llama.generation import Reply, Timing
from llama.privacy.policy import SEES, Kind, Party, view
from llama.privacy.restoring import printable

_WIDTH = 100  # where there is no screen to ask
_CELL_CHARS = 100


class Terminal:
    """The two streams; knows whether the reply, on a screen that shows both, has stopped in the middle of a line."""

    def __init__(self, *, plain: bool = True) -> None:
        self.plain = plain
        self._in_a_line = self._prompt_shown = False

    def show_text(self, text: str) -> None:
        """A piece of the reply, at once, without control and escape characters."""
        _write(printable(text))
        if text:
            self._in_a_line = not text.endswith("\n")

    def notice(self, text: str) -> None:
        """A line for the person, on stderr."""
        text = printable(text)
        if self._in_a_line and sys.stdout.isatty() and sys.stderr.isatty():
            text = "\n" + text
            self._in_a_line = False
        print(text, file=sys.stderr, flush=True)

    @staticmethod
    def has_keyboard() -> bool:
        """Whether somebody is there to answer."""
        return sys.stdin.isatty()

    def ask(self, question: str) -> bool | None:
        """The person's yes or no; None where no keyboard is."""
        if not self.has_keyboard():
            return None
        print(printable(question), end=" [y/N] ", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().casefold() in ("y", "yes", "ya")

    def show_prompt(self, dialog: Sequence[Message], tags: Mapping[str, str]) -> None:
        """The sanitised prompt, before it runs, and what its tags stand for; once."""
        if self.plain or self._prompt_shown:
            return
        self._prompt_shown = True
        text = Text()
        for i, message in enumerate(dialog):
            text.append(f"{'' if i == 0 else chr(10)}{message.role}  ", style="dim")
            text.append_text(_with_tags(message.content, tags))
        self._render(Panel(text, title="the most the provider could learn", title_align="left", box=box.ROUNDED))
        if tags:
            self._render(Text(f"known here only:  {legend(tags)}"))

    def begin_reply(self) -> None:
        """What follows is the reply."""
        if not self.plain:
            self._render(Rule("reply", align="left", style="dim"))

    def show_views(self, run: Mapping[Kind, str], *, third_party: str, tags: Iterable[str], raw: bool) -> None:
        """Who saw what: a column per party, made from the policy table; ``raw``: of a run that was not sanitised."""
        if self.plain:
            return
        table = Table(box=box.ROUNDED, show_lines=True, expand=True, title="who saw what", title_justify="left")
        table.add_column(Text(""), ratio=2, style="dim")
        heads = {Party.CUSTOMER: "you", Party.PROVIDER: "the provider", Party.THIRD_PARTY: third_party or "third party"}
        views = {party: view(party, run, third_partys_own=bool(third_party)) for party in Party}
        for party in Party:
            table.add_column(Text(heads[party]), ratio=4)
        for kind in run:
            cells = [self._cell(kind, party, views[party], third_party, tags, raw) for party in Party]
            table.add_row(Text(str(kind)), *cells)
        self._render(table)

    @staticmethod
    def _cell(
        kind: Kind, party: Party, held: Mapping[Kind, str], third_party: str, tags: Iterable[str], raw: bool
    ) -> Text:
        if kind is Kind.PROFILE and party is Party.PROVIDER and raw:
            return Text("what the prompt says of it, raw: --sanitise was off")
        if kind not in held:
            nobody = party is Party.THIRD_PARTY and not third_party
            return Text("– (none took part)" if nobody else f"– {SEES[kind][party].says}", style="dim")
        text = " · ".join(line for line in held[kind].splitlines() if line.strip())
        limit = _CELL_CHARS if kind is not Kind.PROFILE else 3 * _CELL_CHARS
        shown = text if len(text) <= limit else f"{text[:limit]}…"
        if kind is Kind.SANITISED_PROMPT and party is not Party.CUSTOMER:
            shown = f"{SEES[kind][party].says}: {shown}"
        return _with_tags(shown, tags)

    def _render(self, what: RenderableType) -> None:
        screen = sys.stdout.isatty()
        out = io.StringIO()
        width = None if screen else _WIDTH
        console = Console(file=out, force_terminal=screen, width=width, markup=False, highlight=False, emoji=False)
        console.print(what)
        if self._in_a_line:
            _write("\n")
            self._in_a_line = False
        _write(out.getvalue())


def _with_tags(text: str, tags: Iterable[str]) -> Text:
    shown = Text(printable(text))
    shown.highlight_words(list(tags), style="bold cyan")
    return shown


def ending(reply: Reply, max_seq_len: int) -> str | None:
    """Why a reply stops where it does, or None where the model has ended it."""
    if reply.stop_reason == "max_gen_len":
        return f"cut off after {len(reply.tokens)} tokens, as --max_gen_len says"
    if reply.stop_reason == "max_seq_len":
        return (
            f"cut off: prompt and reply fill the context of {max_seq_len} tokens; shorten the prompt, or start the "
            f"cloud with a larger --max_seq_len"
        )
    return None


def timing_line(timing: Timing) -> str:
    """Prompt, speed, time to first token, and per token the milliseconds and bytes of each place."""
    line = f"{timing.prompt_tokens} prompt tokens, first token after {timing.time_to_first_token_s:.2f} s"
    if timing.tokens_per_s is None:
        return line
    return (
        f"{line}; {timing.reply_tokens} tokens at {timing.tokens_per_s:.1f} tokens/s; per token: "
        f"device {timing.device_ms_per_token:.1f} ms, network {timing.network_ms_per_token:.1f} ms, "
        f"cloud {timing.cloud_ms_per_token:.1f} ms, {timing.sent_bytes_per_token:.0f} bytes out, "
        f"{timing.received_bytes_per_token:.0f} in"
    )


def show_json(reply: Reply, text: str, restored: int, left: int) -> None:
    """The whole reply as one JSON object on stdout.

    Args:
        reply: as the model gave it, with tags.
        text: the same, restored.
        restored: tags that were put back.
        left: texts of a tag's shape that were not.
    """
    fields: dict[str, Any] = {
        "text": text,
        "text_sent": reply.text,
        "tags_restored": restored,
        "tags_left": left,
        "tokens": reply.tokens,
        "prompt_tokens": reply.prompt_tokens,
        "stop_reason": reply.stop_reason,
        "timing": asdict(reply.timing),
    }
    _write(msgspec.json.encode(fields).decode() + "\n")


def legend(tags: Mapping[str, str]) -> str:
    """What each tag stands for; for the person's own screen."""
    return printable(" · ".join(f"{tag} {' '.join(value.split())}" for tag, value in tags.items()))


def show_dry_run(text: str) -> None:
    """Exactly what would leave the device, as text, on stdout; on a screen, control characters as their numbers."""
    if sys.stdout.isatty():
        text = "".join(c if printable(c) else f"\\x{ord(c):02x}" for c in text)
    _write(text + "\n")


def _write(text: str) -> None:
    """UTF-8 on stdout, at once, whatever the locale says: a reply may hold any character."""
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()

"""What the person sees: the sanitised prompt, the reply as it streams, who saw what, and one line of timing.

Prompt, reply and table go to stdout; notices and timing go to stderr. ``plain`` leaves the reply alone on stdout, for
pipes. Text is shown as text: never as markup, and without control characters, which could rewrite the screen.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import termios
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, TextIO

import msgspec
from rich import box
from rich.console import RenderableType
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from llama import screen
from llama.chat import Message
from llama.disk import write_all
from llama.edge.asking import Answer, copy_in_words
from llama.edge.generation import Reply, Timing
from llama.privacy.policy import SEES, Kind, Party, view
from llama.privacy.tags import AS_ISSUED
from llama.text.money import rupiah
from llama.text.printable import escaped, printable
from llama.wire import Copy, Offer, SheetEntry

_CELL_CHARS = 100


class Terminal:
    """The two streams; knows whether the reply, where both are shown, has stopped in the middle of a line."""

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
        if self._in_a_line and _shown_together():
            text = "\n" + text
            self._in_a_line = False
        print(text, file=sys.stderr, flush=True)

    @staticmethod
    def has_keyboard() -> bool:
        """Whether somebody is there to answer, and sees what is asked."""
        return sys.stdin is not None and sys.stdin.isatty() and _may_be_seen(sys.stderr)

    def ask(self, question: str) -> bool | None:
        """The person's yes or no; None where no keyboard is, or the question cannot be shown.

        What was typed before it was shown is no answer to it.
        """
        if not self.has_keyboard():
            return None
        with suppress(OSError, termios.error):
            termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
        try:
            _show(f"{printable(question)} [y/N] ", sys.stderr)
        except OSError:
            return None
        line = _typed_line(sys.stdin.fileno())
        return None if line is None else line.strip().casefold() in ("y", "yes", "ya")

    def show_prompt(self, dialog: Sequence[Message], tags: Mapping[str, str], *, asking: bool = False) -> None:
        """The sanitised prompt, before it runs, and what its tags stand for; once.

        ``asking``: a question about it follows, on stderr; so it goes there, too, where stdout is not seen.
        """
        elsewhere = asking and (self.plain or not sys.stdout.isatty())
        if (self.plain and not elsewhere) or self._prompt_shown:
            return
        self._prompt_shown = not elsewhere
        text = Text()
        for i, message in enumerate(dialog):
            text.append(f"{'' if i == 0 else chr(10)}{message.role}  ", style="dim")
            text.append_text(_with_tags(message.content, tags))
        parts: list[RenderableType] = [
            Panel(text, title="the most the provider could learn", title_align="left", box=box.ROUNDED)
        ]
        if tags:
            parts.append(Text(f"known here only:  {legend(tags)}"))
        for part in parts:
            if elsewhere:
                print(screen.rendered(part, sys.stderr), end="", file=sys.stderr, flush=True)
            else:
                self._render(part)

    def begin_reply(self) -> None:
        """What follows is the reply."""
        if not self.plain:
            self._render(Rule("reply", align="left", style="dim"))

    def show_answer(
        self, answer: Answer, third_party: str, tags: Mapping[str, str], *, raw: bool, max_seq_len: int
    ) -> None:
        """All that follows the reply.

        Args:
            answer: what came of the prompt.
            third_party: whose sheet it was, or empty.
            tags: issued tags, each with its value.
            raw: it was not sanitised.
            max_seq_len: the cloud's context.
        """
        reply = answer.reply
        self.show_text("\n")
        delivered = reply.copy is Copy.QUEUED
        self.show_views(answer.holdings, third_party=third_party, tags=tags, raw=raw, delivered=delivered)
        self.show_offers(reply.offers)
        if copy := copy_in_words(reply.copy, third_party):
            self.notice(copy)
        if (why := ending(reply, max_seq_len)) is not None:
            self.notice(why)
        if answer.left:
            self.notice(f"tags left as they are in the reply: {answer.left}; this run has not issued them, or they "
                        f"stand in a link, markup or code")  # fmt: skip
        self.notice(timing_line(reply.timing))

    def show_offers(self, offers: Sequence[Offer]) -> None:
        """What the provider has found for the reply."""
        if not self.plain and offers:
            table = Table(box=box.ROUNDED, expand=True, title="matched offers", title_justify="left")
            for head, ratio in (("", 9), ("of", 4), ("price", 3), ("because of", 6)):
                table.add_column(Text(head, style="dim"), ratio=ratio, overflow="fold")
            for offer in offers:
                where = f"\n{offer.url}" if offer.url else ""
                cells = (offer.title, offer.vendor, rupiah(offer.price), ", ".join(offer.matched))
                title, *rest = (Text(printable(cell)) for cell in cells)
                table.add_row(title.append(printable(where), style="dim"), *rest)
            self._render(table)

    def show_views(
        self, run: Mapping[Kind, str], *, third_party: str, tags: Iterable[str], raw: bool, delivered: bool = True
    ) -> None:
        """Who saw what: a column per party, made from the policy table.

        Args:
            run: all that there is of it.
            third_party: whose sheet it was, or empty.
            tags: to be made to stand out.
            raw: it was not sanitised.
            delivered: the third party has its copy.
        """
        if self.plain:
            return
        table = Table(box=box.ROUNDED, show_lines=True, expand=True, title="who saw what", title_justify="left")
        table.add_column(Text(""), ratio=2, style="dim")
        heads = {Party.CUSTOMER: "you", Party.PROVIDER: "the provider", Party.THIRD_PARTY: third_party or "third party"}
        own = bool(third_party)
        views = {party: view(party, run, third_partys_own=own, delivered=delivered) for party in Party}
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
        if kind not in held:
            return Text(f"– {not_held(kind, party, third_party, raw=raw)}", style="dim")
        text = " · ".join(line for line in held[kind].splitlines() if line.strip())
        limit = _CELL_CHARS if kind is not Kind.PROFILE else 3 * _CELL_CHARS
        shown = text if len(text) <= limit else f"{text[:limit]}…"
        if kind is Kind.SANITISED_PROMPT and party is not Party.CUSTOMER:
            shown = f"{SEES[kind][party].says}: {shown}"
        return _with_tags(shown, tags)

    def _render(self, what: RenderableType) -> None:
        if self._in_a_line:
            _write("\n")
            self._in_a_line = False
        _write(screen.rendered(what, sys.stdout))


def not_held(kind: Kind, party: Party, third_party: str, *, raw: bool) -> str:
    """Why a party has nothing of a kind, in a word; ``raw``: of a run that was not sanitised."""
    if kind is Kind.PROFILE and party is Party.PROVIDER and raw:
        return "what the prompt says of it, raw: --sanitise was off"
    if party is Party.THIRD_PARTY and not third_party:
        return "(none took part)"
    return "(not delivered)" if SEES[kind][party].holds else SEES[kind][party].says


def _with_tags(text: str, tags: Iterable[str]) -> Text:
    shown = Text(printable(text))
    issued = frozenset(tags)
    for m in AS_ISSUED.finditer(shown.plain):
        if m[0] in issued:
            shown.stylize("bold cyan", *m.span())
    return shown


def ending(reply: Reply, max_seq_len: int) -> str | None:
    """Why a reply stops where it does, or None where the model has ended it."""
    if reply.stop_reason == "max_gen_len":
        return f"cut off after {len(reply.tokens)} tokens, as the sheet or --max_gen_len says"
    if reply.stop_reason == "max_seq_len" and len(reply.tokens) > len(reply.prompt_tokens):
        return (
            f"cut off: the reply fills the context of {max_seq_len} tokens; give --max_gen_len for a shorter one, or a "
            f"lower --temperature if it wanders"
        )
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


def show_sheets(entries: Sequence[SheetEntry]) -> None:
    """Sheets, a line each: prompt id, title, what they ask for."""
    if not entries:
        print("there are no sheets; a cloud gets them with --sheet_dir", file=sys.stderr)
    width = max((len(entry.prompt_id) for entry in entries), default=0)
    for entry in entries:
        asks = f" (asks for {', '.join(entry.asks_for)})" if entry.asks_for else ""
        _write(printable(f"{entry.prompt_id:{width}}  {entry.title}{asks}").replace("\n", " ") + "\n")


def show_json(answer: Answer) -> None:
    """The whole answer as one JSON object on stdout."""
    reply = answer.reply
    fields: dict[str, Any] = {
        "text": answer.text,
        "text_sent": reply.text,
        "tags_restored": answer.restored,
        "tags_left": answer.left,
        "tokens": reply.tokens,
        "prompt_tokens": reply.prompt_tokens,
        "stop_reason": reply.stop_reason,
        "timing": asdict(reply.timing),
        "offers": reply.offers,
        "copy": reply.copy,
    }
    _write(escaped(msgspec.json.encode(fields).decode()) + "\n")


def legend(tags: Mapping[str, str]) -> str:
    """What each tag stands for; for the person's own screen."""
    return printable(" · ".join(f"{tag} {' '.join(value.split())}" for tag, value in tags.items()))


def show_dry_run(text: str) -> None:
    """Exactly what would leave the device, as text, on stdout; on a screen, control characters as their numbers."""
    if sys.stdout.isatty():
        text = "".join(c if printable(c) else f"\\x{ord(c):02x}" for c in text)
    _write(text + "\n")


def _shown_together() -> bool:
    """Whether both streams go to the same screen, file or pipe."""
    try:
        stdout, stderr = (os.fstat(stream.fileno()) for stream in (sys.stdout, sys.stderr))
    except (OSError, ValueError):  # one of them is no file
        return False
    return (stdout.st_dev, stdout.st_ino) == (stderr.st_dev, stderr.st_ino)


def _may_be_seen(stream: TextIO) -> bool:
    """Whether somebody may read along: what goes into a file, or nowhere, is not seen before it is too late."""
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):  # it is no file
        return True
    return stream.isatty() or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _show(text: str, stream: TextIO) -> None:
    """Write to a stream's own file: the stream itself may drop what cannot be written.

    Raises:
        OSError: not all of it is written.
    """
    stream.flush()
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # it is no file
        stream.write(text)
        return
    write_all(number, text.encode(stream.encoding, "backslashreplace"))


def _typed_line(keyboard: int) -> str | None:
    """What a person types, to the end of the line; None where the terminal is gone.

    Read without Python's buffers, which know no terminal that ends a line with a carriage return (one that a program
    has left raw), or that does not wait (one that a parent has left non-blocking).
    """
    typed = b""
    while not typed.endswith((b"\n", b"\r")):
        try:
            more = os.read(keyboard, 1)
        except BlockingIOError:
            select.select([keyboard], [], [])
            continue
        except OSError:
            return None
        if more in (b"", b"\x03", b"\x04"):  # the end; Ctrl-C and Ctrl-D, where the terminal does not see to them
            return ""
        typed += more
    return typed.decode(errors="replace")


def _write(text: str) -> None:
    """On stdout, at once: UTF-8 whatever the locale says, since a reply may hold any character and is read by programs.

    On a screen it is what that can show, with escapes for what it cannot.
    """
    encoding = sys.stdout.encoding if sys.stdout.isatty() else "utf-8"
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode(encoding, "backslashreplace"))
    sys.stdout.buffer.flush()

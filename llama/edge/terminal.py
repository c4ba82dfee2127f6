"""Terminal output of a run: the sanitised prompt, the streamed reply, who saw what, and one line of timing.

Prompt, reply and table go to stdout. Notices and timing go to stderr. With ``plain``, stdout has only the reply, for
pipes. Text is never markup and has no control characters, which could rewrite the screen.

Knows: streams, tables. Does not know: the order of a run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import msgspec
from rich import box
from rich.console import RenderableType
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from llama import screen
from llama.edge import keyboard, wording
from llama.edge.history import HistoryEntry
from llama.edge.pipeline import Preview, RunResult
from llama.edge.views import ViewCell, Views, views_of
from llama.privacy.policy import DataKind, Party
from llama.privacy.preparing import Prepared
from llama.privacy.review import Mark, MarkKind, pieces_of
from llama.privacy.tags import AS_ISSUED
from llama.text.money import rupiah
from llama.text.printable import escaped, printable
from llama.wire import Offer, SheetEntry

_CELL_CHARS = 100
_STYLES = {MarkKind.TAG: "bold cyan", MarkKind.OPEN: "underline", MarkKind.STAYS: "reverse yellow"}


class Terminal:
    """The two streams. It tracks whether the reply stopped in the middle of a line, for notices on the same screen."""

    def __init__(self, *, plain: bool = True) -> None:
        self.plain = plain
        self._in_a_line = False
        self._shown: Prepared | None = None

    def show_text(self, text: str) -> None:
        """Show a piece of the reply immediately, without control and escape characters."""
        _write(printable(text))
        if text:
            self._in_a_line = not text.endswith("\n")

    def notice(self, text: str) -> None:
        """Show a line for the person on stderr."""
        text = printable(text)
        if self._in_a_line and _shown_together():
            text = "\n" + text
            self._in_a_line = False
        print(text, file=sys.stderr, flush=True)

    @staticmethod
    def has_keyboard() -> bool:
        """Return whether a person can answer here."""
        return keyboard.is_there()

    @staticmethod
    def ask(question: str) -> bool | None:
        """Ask the person. Return the result of ``keyboard.ask``."""
        return keyboard.ask(question)

    @staticmethod
    def ask_line(question: str) -> str | None:
        """Let the person type a line. Return the result of ``keyboard.ask_line``."""
        return keyboard.ask_line(question)

    def show_prompt(self, prepared: Prepared, *, asking: bool = False) -> None:
        """Show the sanitised prompt before it runs, with its marks and the meaning of its tags. Show it only once.

        ``asking``: a question about the prompt follows on stderr. If stdout is not a visible screen, the prompt also
        goes to stderr.
        """
        elsewhere = asking and (self.plain or not sys.stdout.isatty())
        if (self.plain and not elsewhere) or self._shown is prepared:
            return
        if not elsewhere:
            self._shown = prepared
        for part in _prompt(prepared):
            if elsewhere:
                print(screen.rendered(part, sys.stderr), end="", file=sys.stderr, flush=True)
            else:
                self._render(part)

    def begin_reply(self) -> None:
        """Show the heading of the reply."""
        if not self.plain:
            self._render(Rule("reply", align="left", style="dim"))

    def show_result(self, result: RunResult) -> None:
        """Show everything that follows the reply: table, offers, notices, timing."""
        reply, preview = result.reply, result.preview
        self.show_text("\n")
        self._show_views(result.views(), preview.sourced.party, preview.prepared.sanitiser.tags)
        self.show_offers(reply.offers)
        if copy := wording.copy_status(reply.copy, preview.sourced.party):
            self.notice(copy)
        if (why := wording.ending(reply, result.welcome.max_seq_len)) is not None:
            self.notice(why)
        if result.left:
            self.notice(wording.tags_left(result.left))
        self.notice(wording.timing_line(reply.timing))

    def show_offers(self, offers: Sequence[Offer]) -> None:
        """Show the offers that the provider found for the reply."""
        if not self.plain and offers:
            self._render(_offers(offers))

    def show_views(self, run: Mapping[DataKind, str], *, vendor: str, tags: Iterable[str], raw: bool) -> None:
        """Show who saw what, from the policy table. Each party has a column.

        Args:
            run: all data of the run, by kind.
            vendor: the third party that owns the sheet, or empty.
            tags: tags to highlight.
            raw: the run was not sanitised.
        """
        self._show_views(views_of(run, vendor=vendor, raw=raw), vendor, tags)

    def _show_views(self, views: Views, vendor: str, tags: Iterable[str]) -> None:
        if not self.plain:
            self._render(_views(views, vendor, frozenset(tags)))

    def _render(self, what: RenderableType) -> None:
        if self._in_a_line:
            _write("\n")
            self._in_a_line = False
        _write(screen.rendered(what, sys.stdout))


def show_sheets(entries: Sequence[SheetEntry]) -> None:
    """Show one line per sheet: prompt id, title, and the fields that it asks for."""
    if not entries:
        print("there are no sheets; start the cloud with --sheet_dir to add some", file=sys.stderr)
    width = max((len(entry.prompt_id) for entry in entries), default=0)
    for entry in entries:
        asks = f" (asks for {', '.join(entry.asks_for)})" if entry.asks_for else ""
        _write(printable(f"{entry.prompt_id:{width}}  {entry.title}{asks}").replace("\n", " ") + "\n")


def show_history(entries: Sequence[HistoryEntry], file: str, *, as_json: bool) -> None:
    """Show the runs of a history, or write them as one JSON array."""
    if as_json:
        _write(escaped(msgspec.json.encode(entries).decode()) + "\n")
        return
    if not entries:
        print(f"{printable(file)} has no runs", file=sys.stderr)
    for entry in entries:
        _write(screen.rendered(_run(entry), sys.stdout))


def show_json(result: RunResult) -> None:
    """Write the whole result as one JSON object on stdout."""
    reply = result.reply
    fields: dict[str, Any] = {
        "text": result.text,
        "text_sent": reply.text,
        "tags_restored": result.restored,
        "tags_left": result.left,
        "tokens": reply.tokens,
        "prompt_tokens": reply.prompt_tokens,
        "stop_reason": reply.stop_reason,
        "timing": asdict(reply.timing),
        "offers": reply.offers,
        "copy": reply.copy,
        "run_id": result.run_id.hex(),
        "stays": _stays(result.preview),
    }
    _write(escaped(msgspec.json.encode(fields).decode()) + "\n")


def show_dry_run_json(preview: Preview) -> None:
    """Write what would leave as one JSON object on stdout."""
    outgoing = preview.prepared.outgoing
    fields = {
        "text": outgoing.text,
        "prompt_tokens": outgoing.ids,
        "prompt_id": preview.sourced.prompt_id,
        "tags": list(preview.prepared.sanitiser.tags),
        "fields": preview.forms,
        "stays": _stays(preview),
    }
    _write(escaped(msgspec.json.encode(fields).decode()) + "\n")


def _stays(preview: Preview) -> list[dict[str, object]]:
    return [asdict(each) for each in preview.prepared.review.stays]


def show_dry_run(text: str) -> None:
    """Show as text exactly what would leave the device. On a screen, show control characters as their numbers."""
    if sys.stdout.isatty():
        text = "".join(c if printable(c) else f"\\x{ord(c):02x}" for c in text)
    _write(text + "\n")


def _prompt(prepared: Prepared) -> list[RenderableType]:
    text, tags = Text(), prepared.sanitiser.tags
    for i, message in enumerate(prepared.dialog):
        text.append(f"{'' if i == 0 else chr(10)}{message.role}  ", style="dim")
        text.append_text(_marked(message.content, prepared.review.by_message.get(i, ())))
    title = "the most the provider could learn"
    parts: list[RenderableType] = [Panel(text, title=title, title_align="left", box=box.ROUNDED)]
    kinds = {mark.kind for mark in prepared.review.marks}
    if meanings := [meaning for kind, meaning in wording.MARKS.items() if kind in kinds]:
        parts.append(Text(" ".join(meanings), style="dim"))
    if tags:
        parts.append(Text(f"known here only:  {wording.legend(tags)}"))
    return parts


def _marked(content: str, marks: Sequence[Mark]) -> Text:
    text = Text()
    for piece, kinds in pieces_of(content, marks):
        text.append(printable(piece), style=" ".join(_STYLES.get(kind, "") for kind in kinds))
    return text


def _run(entry: HistoryEntry) -> Panel:
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="dim", no_wrap=True)
    lines.add_column(overflow="fold")
    for head, text in wording.history_lines(entry):
        lines.add_row(Text(head), _with_tags(text, frozenset(entry.tags)))
    title = Text(printable(f"{entry.began_at}  {wording.history_title(entry)}"))
    return Panel(lines, title=title, title_align="left", box=box.ROUNDED)


def _offers(offers: Sequence[Offer]) -> Table:
    table = Table(box=box.ROUNDED, expand=True, title="matched offers", title_justify="left")
    for head, ratio in (("", 9), ("of", 4), ("price", 3), ("because of", 6)):
        table.add_column(Text(head, style="dim"), ratio=ratio, overflow="fold")
    for offer in offers:
        link = f"\n{offer.url}" if offer.url else ""
        cells = (offer.title, offer.vendor, rupiah(offer.price), ", ".join(offer.matched))
        title, *rest = (Text(printable(cell)) for cell in cells)
        table.add_row(title.append(printable(link), style="dim"), *rest)
    return table


def _views(views: Views, vendor: str, tags: frozenset[str]) -> Table:
    table = Table(box=box.ROUNDED, show_lines=True, expand=True, title="who saw what", title_justify="left")
    table.add_column(Text(""), ratio=2, style="dim")
    heads = {Party.CUSTOMER: "you", Party.PROVIDER: "the provider", Party.VENDOR: vendor or "third party"}
    for party in Party:
        table.add_column(Text(heads[party]), ratio=4)
    for kind, cells in views.items():
        table.add_row(Text(str(kind)), *(_view(kind, cell, tags) for cell in cells))
    return table


def _view(kind: DataKind, cell: ViewCell, tags: frozenset[str]) -> Text:
    if cell.content is None:
        return Text(f"– {cell.says}", style="dim")
    text = " · ".join(line for line in cell.content.splitlines() if line.strip())
    limit = _CELL_CHARS if kind is not DataKind.PROFILE else 3 * _CELL_CHARS
    shown = text if len(text) <= limit else f"{text[:limit]}…"
    if kind is DataKind.SANITISED_PROMPT and cell.party is not Party.CUSTOMER:
        shown = f"{cell.says}: {shown}"
    return _with_tags(shown, tags)


def _with_tags(text: str, tags: frozenset[str]) -> Text:
    shown = Text(printable(text))
    for m in AS_ISSUED.finditer(shown.plain):
        if m[0] in tags:
            shown.stylize("bold cyan", *m.span())
    return shown


def _shown_together() -> bool:
    """Return whether both streams go to the same screen, file or pipe."""
    try:
        stdout, stderr = (os.fstat(stream.fileno()) for stream in (sys.stdout, sys.stderr))
    except (OSError, ValueError):  # one of them is not a file
        return False
    return (stdout.st_dev, stdout.st_ino) == (stderr.st_dev, stderr.st_ino)


def _write(text: str) -> None:
    """Write to stdout immediately. Use UTF-8 in any locale: a reply can hold any character, and programs read it.

    On a screen, use the screen's encoding, and escape characters that it lacks.
    """
    encoding = sys.stdout.encoding if sys.stdout.isatty() else "utf-8"
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode(encoding, "backslashreplace"))
    sys.stdout.buffer.flush()

"""Sources of prompts: one file, a directory of sheets, or the cloud.

Knows: prompt ids, files, the cloud's two requests for sheets. Does not know: profiles, the model, screens.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

from llama import sheets
from llama.client.link import Link
from llama.edge import wording
from llama.edge.cloud_connector import CloudConnector
from llama.errors import PromptError, ProtocolMismatch
from llama.prompt import SourcedPrompt, read_from_directory, read_prompt, received
from llama.sheets import Sheet
from llama.text.names import is_prompt_id
from llama.wire import FetchSheet, ListSheets, SheetEntry, Sheets, SheetText


class SheetSource:
    """Source of prompts. Without a file or a directory, the source is the cloud's own sheets.

    Args:
        cloud: connector to the cloud, if there is one.
        prompt_file: file of the only prompt.
        sheet_dir: directory of sheets on this machine.
        on_notice: called with the connection's notice of every retry.
    """

    def __init__(
        self,
        cloud: CloudConnector | None,
        *,
        prompt_file: str | None = None,
        sheet_dir: str | None = None,
        on_notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        assert prompt_file is None or sheet_dir is None, "one source"
        assert cloud is not None or prompt_file is not None or sheet_dir is not None, "a source"
        self.cloud, self.prompt_file, self.sheet_dir, self.on_notice = cloud, prompt_file, sheet_dir, on_notice

    @property
    def is_the_cloud(self) -> bool:
        """True if the sheets are the cloud's own."""
        return self.prompt_file is None and self.sheet_dir is None

    def entries(self, check: Callable[[], None] | None = None) -> tuple[SheetEntry, ...]:
        """List all sheets of this source.

        Args:
            check: called several times a second while waiting for the cloud. It may raise to end the wait.

        Raises:
            PromptError, LinkError: the sheets cannot be listed.
        """
        if self.prompt_file is not None:
            sourced = read_prompt(self.prompt_file)
            name = sourced.prompt_id or PurePath(self.prompt_file).name
            if not isinstance(sourced.prompt, Sheet):
                return (SheetEntry(name, wording.OWN_WORDS),)
            return (SheetEntry(name, sourced.prompt.title, sourced.prompt.asks_for),)
        if self.sheet_dir is not None:
            listed = sheets.read_all(self.sheet_dir).sheets.values()
            return tuple(SheetEntry(each.prompt_id, each.sheet.title, each.sheet.asks_for) for each in listed)
        with self._link(check) as link:
            return sheets_of(link)

    def find(self, prompt_id: str, check: Callable[[], None] | None = None) -> SourcedPrompt:
        """Return the sheet with that id. With a ``prompt_file``, return that file's prompt.

        Args:
            prompt_id: ``NAME`` or ``VENDOR/NAME``.
            check: see :meth:`entries`.

        Raises:
            PromptError, LinkError: there is no such sheet, or it cannot be read.
        """
        if self.prompt_file is not None:
            return read_prompt(self.prompt_file)
        if self.sheet_dir is not None:
            return read_from_directory(self.sheet_dir, prompt_id)
        with self._link(check) as link:
            return fetch(link, prompt_id)

    def _link(self, check: Callable[[], None] | None) -> Link:
        assert self.cloud is not None
        return self.cloud.link(self.on_notice, check)


def sheets_of(link: Link) -> tuple[SheetEntry, ...]:
    """Ask the cloud for the list of its sheets. Raises LinkError."""
    reply = link.ask(ListSheets())
    if not isinstance(reply, Sheets):
        raise ProtocolMismatch(f"{link.address} answered ListSheets with another kind of reply")
    return tuple(entry for entry in reply.sheets if is_prompt_id(entry.prompt_id))  # drop invalid ids


def fetch(link: Link, prompt_id: str) -> SourcedPrompt:
    """Ask the cloud for one of its sheets.

    Raises:
        LinkError: the cloud does not answer, or has no such sheet (the message lists the sheets that it has).
        PromptError: the id or the sheet is malformed.
    """
    if not is_prompt_id(prompt_id):
        raise PromptError("a prompt id is NAME or VENDOR/NAME, of a-z, 0-9 and -; --list_sheets lists them")
    reply = link.ask(FetchSheet(prompt_id))
    if not isinstance(reply, SheetText) or reply.prompt_id != prompt_id:
        raise ProtocolMismatch(f"{link.address} answered FetchSheet with another kind of reply")
    return received(prompt_id, reply.text, reply.system, link.address)

"""Third parties' own sheets, written into the provider's directory while the cloud runs.

Each third party has the sub-directory of its name, and nothing of what it sends decides where anything is written:
name and sheet are of a-z, 0-9 and -, and no link is followed. A sheet is checked as at the cloud's start, which reads
it again, and appears under its name whole or not at all.

Knows: the directory. Does not know: keys, who asks, deliveries. One thread uses it, which may wait for a disk.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from llama.disk import fsync_directory, replace_file_in
from llama.errors import PromptError, UsageError
from llama.sheets import SYSTEM_FILE, Listed, SheetDirectory, named, parse_published
from llama.wire import MAX_SHEETS, ErrorCode, Publish, Refused, Withdraw

MAX_SHEETS_EACH = 100  # of one third party


class CurrentSheets:
    """The provider's and the vendors' sheets as they are now; any thread may read, one replaces them as a whole.

    Attributes:
        directory: all of them.
    """

    def __init__(self, directory: SheetDirectory) -> None:
        self.directory = directory

    def listed(self, prompt_id: str) -> Listed | None:
        """Find the sheet of that id, as it is now, if there is one."""
        return self.directory.sheets.get(prompt_id)


class SheetPublisher:
    """The provider's directory, open to vendors.

    Args:
        sheet_dir: where it is.
        directory: what it holds; it has a system prompt, which third parties' sheets are wrapped in.

    Raises:
        UsageError: there is none, or nothing can be written there.
    """

    def __init__(self, sheet_dir: str, directory: SheetDirectory) -> None:
        self.sheet_dir = sheet_dir
        if not directory.system:
            raise UsageError(
                f"--publishing: third parties' sheets are wrapped in the provider's own system prompt; "
                f"--sheet_dir {sheet_dir} has none: write it into {SYSTEM_FILE}"
            )
        if not os.access(sheet_dir, os.W_OK | os.X_OK):
            raise UsageError(
                f"--publishing: this user may not write into --sheet_dir {sheet_dir}; change its mode or "
                f"owner, or where it is mounted to be read only, as a ConfigMap is, copy it to a volume "
                f"that can be written"
            )

    def publish(self, directory: SheetDirectory, request: Publish) -> SheetDirectory:
        """Write a sheet; what the directory then holds.

        Raises:
            Refused: no sheet, or one too many. The text names the place in it, and nothing that stands there.
            OSError: it could not be written, and what was there still is.
        """
        prompt_id = f"{request.vendor}/{request.name}"
        try:
            listed = Listed(prompt_id, request.text, parse_published(request.text, f"sheet {prompt_id}"))
        except PromptError as err:
            raise Refused(ErrorCode.BAD_SHEET, str(err), "mend it, and publish it again") from None
        if prompt_id not in directory.sheets:
            if len(directory.of(request.vendor)) >= MAX_SHEETS_EACH:
                raise Refused(
                    ErrorCode.OUT_OF_RANGE,
                    f"{request.vendor} has {MAX_SHEETS_EACH} sheets, the most of one third party",
                    "withdraw one first",
                )
            if len(directory.sheets) >= MAX_SHEETS:
                raise Refused(
                    ErrorCode.OUT_OF_RANGE,
                    f"this cloud has {MAX_SHEETS} sheets, the most that it lists",
                    "ask the provider to take some away",
                )
        with self._opened(request.vendor) as place:
            # Readable for all, as far as the provider's umask lets it be: it is there to be handed out.
            replace_file_in(place, f"{request.name}.toml", request.text.encode(), 0o644)
            fsync_directory(place)
        return directory.with_sheet(listed)

    def withdraw(self, directory: SheetDirectory, request: Withdraw) -> SheetDirectory:
        """Delete a sheet; what the directory then holds.

        Raises:
            Refused: there is none of that name, with those that there are.
            OSError: it could not be deleted.
        """
        prompt_id = f"{request.vendor}/{request.name}"
        if prompt_id not in directory.sheets:
            names = named(directory.of(request.vendor)) or "none"
            raise Refused(ErrorCode.UNKNOWN_SHEET, f"this cloud has no sheet {prompt_id}", f"it has {names}")
        with self._opened(request.vendor) as place, contextlib.suppress(FileNotFoundError):  # deleted by hand
            os.unlink(f"{request.name}.toml", dir_fd=place)
            fsync_directory(place)
        return directory.without_sheet(prompt_id)

    @contextlib.contextmanager
    def _opened(self, vendor: str) -> Iterator[int]:
        """The third party's sub-directory, made if it is not there."""
        above = os.open(self.sheet_dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(vendor, 0o755, dir_fd=above)
                fsync_directory(above)
            place = os.open(vendor, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
        finally:
            os.close(above)
        try:
            yield place
        finally:
            os.close(place)

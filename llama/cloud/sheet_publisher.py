"""Third parties' sheets, written into the provider's directory while the cloud runs.

Each third party has the sub-directory with its name. No path comes from its data: the names of third parties and sheets
consist of a-z, 0-9 and -, and links are not followed. Checks are those of the cloud's start, which reads the sheet
again. A sheet appears under its name completely or not at all.

Knows: the directory. Does not know: keys, the requesting peer, deliveries. Used by one thread, which may wait for a
disk.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from llama.disk import fsync_directory, replace_file_in
from llama.errors import PromptError, UsageError
from llama.sheets import SYSTEM_FILE, Listed, SheetDirectory, named, parse_published
from llama.wire import MAX_SHEETS, ErrorCode, Publish, Refused, Withdraw

MAX_SHEETS_EACH = 100  # per third party


class CurrentSheets:
    """The provider's and the vendors' current sheets. Any thread may read them; one thread replaces them as a whole.

    Attributes:
        directory: all current sheets.
    """

    def __init__(self, directory: SheetDirectory) -> None:
        self.directory = directory

    def listed(self, prompt_id: str) -> Listed | None:
        """Return the current sheet with that id, or None."""
        return self.directory.sheets.get(prompt_id)


class SheetPublisher:
    """The provider's directory, open to vendors.

    Args:
        sheet_dir: its path.
        directory: its contents, with a system prompt to wrap third parties' sheets in.

    Raises:
        UsageError: there is no system prompt, or the directory is not writable.
    """

    def __init__(self, sheet_dir: str, directory: SheetDirectory) -> None:
        self.sheet_dir = sheet_dir
        if not directory.system:
            raise UsageError(
                f"--publishing requires a system prompt to wrap third parties' sheets in, and "
                f"--sheet_dir {sheet_dir} has none; write it into {SYSTEM_FILE}"
            )
        if not os.access(sheet_dir, os.W_OK | os.X_OK):
            raise UsageError(
                f"--publishing requires a writable --sheet_dir, and {sheet_dir} is not writable for this user; "
                f"change its mode or owner, or copy a read-only mount, such as a ConfigMap, to a writable volume"
            )

    def publish(self, directory: SheetDirectory, request: Publish) -> SheetDirectory:
        """Write a sheet; return the directory's new contents.

        Raises:
            Refused: the sheet is malformed, or exceeds a limit. The message names the location, and quotes nothing.
            OSError: the sheet could not be written, and an existing one is unchanged.
        """
        prompt_id = f"{request.vendor}/{request.name}"
        try:
            listed = Listed(prompt_id, request.text, parse_published(request.text, f"sheet {prompt_id}"))
        except PromptError as err:
            raise Refused(ErrorCode.BAD_SHEET, str(err), "fix it, and publish it again") from None
        if prompt_id not in directory.sheets:
            if len(directory.of(request.vendor)) >= MAX_SHEETS_EACH:
                raise Refused(
                    ErrorCode.OUT_OF_RANGE,
                    f"{request.vendor} already has {MAX_SHEETS_EACH} sheets, the maximum per third party",
                    "withdraw one first",
                )
            if len(directory.sheets) >= MAX_SHEETS:
                raise Refused(
                    ErrorCode.OUT_OF_RANGE,
                    f"this cloud already has {MAX_SHEETS} sheets, the maximum",
                    "ask the provider to remove some",
                )
        with self._opened(request.vendor) as place:
            # World-readable, subject to the umask: sheets are public to devices.
            replace_file_in(place, f"{request.name}.toml", request.text.encode(), 0o644)
            fsync_directory(place)
        return directory.with_sheet(listed)

    def withdraw(self, directory: SheetDirectory, request: Withdraw) -> SheetDirectory:
        """Delete a sheet; return the directory's new contents.

        Raises:
            Refused: there is no such sheet. The advice lists the vendor's sheets.
            OSError: the sheet could not be deleted.
        """
        prompt_id = f"{request.vendor}/{request.name}"
        if prompt_id not in directory.sheets:
            names = named(directory.of(request.vendor)) or "none"
            raise Refused(ErrorCode.UNKNOWN_SHEET, f"this cloud has no sheet {prompt_id}", f"it has {names}")
        with self._opened(request.vendor) as place, contextlib.suppress(FileNotFoundError):  # already deleted by hand
            os.unlink(f"{request.name}.toml", dir_fd=place)
            fsync_directory(place)
        return directory.without_sheet(prompt_id)

    @contextlib.contextmanager
    def _opened(self, vendor: str) -> Iterator[int]:
        """Open the third party's sub-directory; create it if it is not there. Yield its descriptor."""
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

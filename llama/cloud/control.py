"""Answers control requests: the provider's sheets, vendors' deliveries, and vendors' sheets where it takes any.

They need no session, and may have to wait for a disk; one thread uses this, which may.

Knows: sheets, the store of runs. Does not know: sockets, sessions, replies.
"""

from __future__ import annotations

from llama.cloud.deletion_log import DeletionLog
from llama.cloud.event_log import EventLog
from llama.cloud.run_store import RunStore
from llama.cloud.sheet_publisher import CurrentSheets, SheetPublisher
from llama.errors import RecordError
from llama.sheets import named
from llama.wire import (
    Acknowledge,
    Acknowledged,
    Collect,
    Deliveries,
    ErrorCode,
    FetchSheet,
    ListSheets,
    Publish,
    Published,
    Refused,
    Reply,
    SheetEntry,
    Sheets,
    SheetText,
    Withdraw,
    Withdrawn,
)

ControlRequest = ListSheets | FetchSheet | Collect | Acknowledge | Publish | Withdraw


class ControlRequests:
    """Answers the control requests of one cloud.

    Args:
        sheets: the provider's and the vendors'.
        store: where deliveries are kept, if they are.
        publisher: where vendors' sheets are written, if they may publish any.
        deletions: reports rows that the store has deleted early.
        event_log: told what goes wrong.
    """

    def __init__(
        self,
        sheets: CurrentSheets,
        store: RunStore | None,
        publisher: SheetPublisher | None,
        deletions: DeletionLog,
        event_log: EventLog,
    ) -> None:
        self._sheets, self._store, self._publisher = sheets, store, publisher
        self._deletions, self._event_log = deletions, event_log

    def answer(self, request: ControlRequest) -> Reply:
        """Answer a request.

        Raises:
            Refused: there is no such sheet, or nothing that could be collected.
        """
        match request:
            case ListSheets():
                sheets = self._sheets.directory.sheets.values()
                return Sheets(tuple(SheetEntry(s.prompt_id, s.sheet.title, s.sheet.asks_for) for s in sheets))
            case FetchSheet():
                return self._sheet(request.prompt_id)
            case Publish() | Withdraw():
                return self._publish(request)
            case Collect() | Acknowledge():
                return self._outbox(request)

    def _outbox(self, request: Collect | Acknowledge) -> Deliveries | Acknowledged:
        if self._store is None:
            advice = "start it with --sheet_dir and --record_file"
            raise Refused(ErrorCode.NOT_SERVED, "this cloud keeps no deliveries", advice)
        try:
            if isinstance(request, Acknowledge):
                self._store.acknowledge(request.vendor, request.run_ids)
                return Acknowledged()
            deliveries = self._store.collect(request.vendor, request.limit)
            # Or a misspelt name waits for ever; where vendors publish, their keys say who they are.
            if not deliveries and request.vendor not in self._sheets.directory.parties and self._publisher is None:
                message = "this cloud has no sheets of a third party of that name"
                raise Refused(ErrorCode.NOT_SERVED, message, "check how it is written, or ask the provider")
            return Deliveries(deliveries)
        except RecordError as err:
            self._event_log.error("outbox_failed", message=str(err))
            raise Refused(ErrorCode.INTERNAL, "the cloud's outbox cannot be used", "try again later", 5.0) from None
        finally:
            self._deletions.report()

    def _publish(self, request: Publish | Withdraw) -> Published | Withdrawn:
        if self._publisher is None:
            advice = "the provider can start it with --publishing"
            raise Refused(ErrorCode.NOT_SERVED, "this cloud takes no sheets of third parties", advice)
        try:
            if isinstance(request, Publish):
                self._sheets.directory = self._publisher.publish(self._sheets.directory, request)
                self._event_log.info("sheet_published", sheets=len(self._sheets.directory.sheets))
                return Published(f"{request.vendor}/{request.name}")
            self._sheets.directory = self._publisher.withdraw(self._sheets.directory, request)
            self._event_log.info("sheet_withdrawn", sheets=len(self._sheets.directory.sheets))
            return Withdrawn()
        except OSError as err:
            self._event_log.error("publishing_failed", message=f"--sheet_dir cannot be written ({err.strerror})")
            message = "the cloud cannot write into its directory of sheets"
            raise Refused(ErrorCode.INTERNAL, message, "tell the provider") from None

    def _sheet(self, prompt_id: str) -> SheetText:
        listed, directory = self._sheets.listed(prompt_id), self._sheets.directory
        if listed is None:
            names = named(directory.sheets) or "none; start it with --sheet_dir"
            raise Refused(ErrorCode.UNKNOWN_SHEET, "this cloud has no such sheet", f"it has {names}")
        return SheetText(prompt_id, listed.text, directory.system)

"""Replies to control requests: the provider's sheets, vendors' deliveries and sheets, deletion of a device's run.

Control requests need no session. Used by one thread, which may wait for a disk.

Knows: sheets, the run store. Does not know: sockets, sessions, replies of the model.
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
    Forget,
    Forgotten,
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

ControlRequest = ListSheets | FetchSheet | Collect | Acknowledge | Publish | Withdraw | Forget


class ControlRequests:
    """Answers the control requests of one cloud.

    Args:
        sheets: the provider's and the vendors' sheets.
        store: keeps deliveries; None if the cloud keeps none.
        publisher: writes vendors' sheets; None if vendors may not publish.
        deletions: reports rows that the store has deleted early.
        event_log: receives errors.
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

    def answer(self, request: ControlRequest, owner: str = "") -> Reply:
        """Answer a request.

        Args:
            request: the request.
            owner: the public key that it came with; empty without keys.

        Raises:
            Refused: there is no such sheet, or this cloud does not offer the service, or it failed.
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
            case Forget():
                return self._forget(request, owner)

    def _outbox(self, request: Collect | Acknowledge) -> Deliveries | Acknowledged:
        if self._store is None:
            advice = "start it with --sheet_dir and --record_file"
            raise Refused(ErrorCode.NOT_SERVED, "this cloud keeps no deliveries", advice)
        try:
            if isinstance(request, Acknowledge):
                self._store.acknowledge(request.vendor, request.run_ids)
                return Acknowledged()
            deliveries = self._store.collect(request.vendor, request.limit)
            # A misspelt name would wait for ever. Where vendors publish, their keys identify them.
            if not deliveries and request.vendor not in self._sheets.directory.parties and self._publisher is None:
                message = "this cloud has no sheets of a third party with that name"
                raise Refused(ErrorCode.NOT_SERVED, message, "check the spelling, or ask the provider")
            return Deliveries(deliveries)
        except RecordError as err:
            self._event_log.error("outbox_failed", message=str(err))
            raise Refused(ErrorCode.INTERNAL, "the cloud's outbox cannot be used", "try again later", 5.0) from None
        finally:
            self._deletions.report()

    def _forget(self, request: Forget, owner: str) -> Forgotten:
        if self._store is None:
            advice = "what an earlier start of it has recorded, the provider must delete"
            raise Refused(ErrorCode.NOT_SERVED, "this cloud keeps no record of runs", advice)
        try:
            collected = self._store.forget(request.run_id, owner)
        except RecordError as err:
            self._event_log.error("forgetting_failed", message=str(err))
            raise Refused(ErrorCode.INTERNAL, "the cloud's record cannot be written", "try again later", 5.0) from None
        self._event_log.info("run_forgotten")
        return Forgotten(collected)

    def _publish(self, request: Publish | Withdraw) -> Published | Withdrawn:
        if self._publisher is None:
            advice = "the provider can start it with --publishing"
            raise Refused(ErrorCode.NOT_SERVED, "this cloud does not accept third parties' sheets", advice)
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
            message = "the cloud cannot write to its sheet directory"
            raise Refused(ErrorCode.INTERNAL, message, "tell the provider") from None

    def _sheet(self, prompt_id: str) -> SheetText:
        listed, directory = self._sheets.listed(prompt_id), self._sheets.directory
        if listed is None:
            names = named(directory.sheets) or "none; start it with --sheet_dir"
            raise Refused(ErrorCode.UNKNOWN_SHEET, "this cloud has no such sheet", f"it has {names}")
        return SheetText(prompt_id, listed.text, directory.system)

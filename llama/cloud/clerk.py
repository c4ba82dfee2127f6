"""What becomes of a finished run: its text, the offers that fit it, what the provider keeps, what a third party gets.

Also hands out the provider's sheets, and third parties' deliveries, and takes third parties' sheets where the provider
lets it. Which third party a run belongs to follows from the cloud's own directory of sheets as it was when the run was
opened, never from what a device says.

Does not know: sockets, sessions, tensors, who the person is. One thread uses it, which may wait for a disk.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import msgspec

from llama.cloud.catalogue import Catalogue
from llama.cloud.events import Events
from llama.cloud.offers import offers_for
from llama.cloud.publishing import Shelf
from llama.cloud.quoting import SystemPrompt
from llama.cloud.record import Run, RunRecord
from llama.errors import CatalogueError, RecordError
from llama.sheets import Listed, SheetDirectory, named, party_of
from llama.text.dates import utc
from llama.tokenizer import Tokenizer
from llama.wire import (
    Acknowledge,
    Acknowledged,
    Collect,
    Copy,
    Deliveries,
    Delivery,
    ErrorCode,
    FetchSheet,
    Final,
    ListSheets,
    Offer,
    Publish,
    Published,
    Refused,
    Reply,
    SheetEntry,
    Sheets,
    SheetText,
    Usage,
    Withdraw,
    Withdrawn,
)

LEAST_OFFERS = 3  # if there are so many
TELL_S = 60.0  # between two lines that say how many rows were deleted early: a full record deletes one for each run

Errand = ListSheets | FetchSheet | Collect | Acknowledge | Publish | Withdraw
"""Requests that need no session, and may have to wait for a disk."""


@dataclass(frozen=True)
class FinishedRun:
    """What the cloud knows of a run at its end.

    Attributes:
        run_id: 16 bytes, from the device.
        prompt_id: which sheet, as the device says.
        opened_at: seconds since 1970.
        prompt_tokens: tokens of the prompt.
        ids: the reply.
        compute_us: microseconds that it waited for the model.
        owner: the public key that it came with; empty without keys.
        listed: the cloud's own sheet of that id, as it was when the run was opened; None where there was none.
    """

    run_id: bytes
    prompt_id: str
    opened_at: float
    prompt_tokens: int
    ids: list[int] = field(repr=False)
    compute_us: int
    owner: str = field(default="", repr=False)
    listed: Listed | None = field(default=None, repr=False)


class Clerk:
    """Serves one provider.

    Args:
        tokenizer: for the text of replies.
        record: where finished runs and deliveries are kept, if they are; closed by the caller.
        directory: the provider's sheets, if it has any. Third parties' need a ``record`` for their deliveries.
        catalogue: the partners' products, if there are any; closed by the caller.
        shelf: where third parties' sheets are written, if they may publish any; that needs a ``record``, too.
        events: told what goes wrong.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, record: RunRecord | None = None, directory: SheetDirectory | None = None,
        catalogue: Catalogue | None = None, shelf: Shelf | None = None, events: Events | None = None,
    ) -> None:  # fmt: skip
        self.tokenizer, self.record, self.catalogue, self.events = tokenizer, record, catalogue, events or Events()
        self.directory, self.shelf = directory or SheetDirectory({}), shelf  # the former is replaced as a whole
        assert record is not None or not (self.directory.parties or shelf), "third parties' deliveries need a record"
        self._system = SystemPrompt(self.directory.system, tokenizer)
        self._told = {"deliveries_deleted": (0, -math.inf), "runs_deleted": (0, -math.inf)}  # how many, when
        self._told_leaps = 0
        self._tell_of_dropped()

    def listed(self, prompt_id: str) -> Listed | None:
        """The sheet of that id, as it is now, if there is one; any thread may ask."""
        return self.directory.sheets.get(prompt_id)

    def finish(self, run: FinishedRun) -> Final:
        """The reply as text, with offers; written down, with the third party's copy, before it is handed out.

        One without text is nothing to anybody: it has neither offers nor a copy, and is not written down.
        """
        text, listed = self.tokenizer.decode(run.ids), run.listed
        usage = Usage(run.prompt_tokens, len(run.ids), run.compute_us)
        if not text:
            return Final(text, usage)
        offers = self._offers(text, listed) if run.prompt_id else ()  # a person's own words ask for none
        delivery = self._delivery(run, text, offers, listed) if listed is not None and listed.party else None
        copy = Copy.NONE
        if delivery is not None:
            copy = Copy.WITHHELD if delivery.withheld else Copy.QUEUED
        if self.record is not None:
            copy = self._keep(self.record, run, text, offers, copy, delivery)
        return Final(text, usage, offers, copy)

    def do(self, errand: Errand) -> Reply:
        """The answer to a request that needs no session.

        Raises:
            Refused: there is no such sheet, or nothing that could be collected.
        """
        if isinstance(errand, ListSheets):
            sheets = self.directory.sheets.values()
            return Sheets(tuple(SheetEntry(s.prompt_id, s.sheet.title, s.sheet.asks_for) for s in sheets))
        if isinstance(errand, FetchSheet):
            return self._sheet(errand.prompt_id)
        if isinstance(errand, Publish | Withdraw):
            return self._put_on_the_shelf(errand)
        if self.record is None:
            raise Refused(ErrorCode.NOT_SERVED, "this cloud keeps no deliveries",
                          "start it with --sheet_dir and --record_file")  # fmt: skip
        try:
            if isinstance(errand, Collect):
                deliveries = self.record.collect(errand.vendor, errand.limit)
                # Or a misspelt name waits for ever; where third parties publish, their keys say who they are.
                if not deliveries and errand.vendor not in self.directory.parties and self.shelf is None:
                    raise Refused(ErrorCode.NOT_SERVED, "this cloud has no sheets of a third party of that name",
                                  "check how it is written, or ask the provider")  # fmt: skip
                return Deliveries(deliveries)
            self.record.acknowledge(errand.vendor, errand.run_ids)
            return Acknowledged()
        except RecordError as err:
            self.events.error("outbox_failed", message=str(err))
            raise Refused(ErrorCode.INTERNAL, "the cloud's outbox cannot be used", "try again later", 5.0) from None
        finally:
            self._tell_of_dropped()

    def _put_on_the_shelf(self, errand: Publish | Withdraw) -> Published | Withdrawn:
        if self.shelf is None:
            raise Refused(ErrorCode.NOT_SERVED, "this cloud takes no sheets of third parties",
                          "the provider can start it with --publishing")  # fmt: skip
        prompt_id = f"{errand.vendor}/{errand.name}"
        try:
            if isinstance(errand, Publish):
                self.directory = self.shelf.publish(self.directory, errand)
                self.events.info("sheet_published", sheets=len(self.directory.sheets))
                return Published(prompt_id)
            self.directory = self.shelf.withdraw(self.directory, errand)
            self.events.info("sheet_withdrawn", sheets=len(self.directory.sheets))
            return Withdrawn()
        except OSError as err:
            self.events.error("publishing_failed", message=f"--sheet_dir cannot be written ({err.strerror})")
            raise Refused(ErrorCode.INTERNAL, "the cloud cannot write into its directory of sheets",
                          "tell the provider") from None  # fmt: skip

    def _sheet(self, prompt_id: str) -> SheetText:
        listed = self.listed(prompt_id)
        if listed is None:
            names = named(self.directory.sheets) or "none; start it with --sheet_dir"
            raise Refused(ErrorCode.UNKNOWN_SHEET, "this cloud has no such sheet", f"it has {names}")
        return SheetText(prompt_id, listed.text, self.directory.system)

    def _offers(self, text: str, listed: Listed | None) -> tuple[Offer, ...]:
        if self.catalogue is None or (listed is not None and listed.sheet.task == "extract"):
            return ()
        try:
            party = listed.party if listed is not None else ""
            offers = offers_for(text, None if listed is None else listed.sheet, self.catalogue, party or None)
            msgspec.convert(msgspec.to_builtins(offers), tuple[Offer, ...])  # or the device could not read its Final
        except CatalogueError as err:  # the provider's loss, not the device's
            self.events.error("catalogue_failed", message=str(err))
            return ()
        except Exception as err:  # likewise: a file that was damaged while it is open may say anything
            told = f"no offers: the catalogue is damaged ({type(err).__name__}); import it again"
            self.events.error("catalogue_failed", message=told)
            return ()
        # The best for each idea, which come first; more of an idea only where there are few ideas.
        return offers[: max(LEAST_OFFERS, len({offer.item for offer in offers}))]

    def _delivery(self, run: FinishedRun, text: str, offers: tuple[Offer, ...], listed: Listed) -> Delivery:
        delivery = Delivery(run.run_id, run.prompt_id, utc(time.time()), listed.text, text, offers)
        known = "\n".join([listed.text, *listed.sheet.texts])  # TOML may spell words otherwise
        if self._system.is_quoted_in(text, known):  # offers go, too: their matched words are the reply's
            return msgspec.structs.replace(delivery, text="", offers=(), withheld=True)
        return delivery

    def _keep(
        self, record: RunRecord, run: FinishedRun, text: str, offers: tuple[Offer, ...], copy: Copy,
        delivery: Delivery | None,
    ) -> Copy:  # fmt: skip
        """What has become of the third party's copy."""
        row = Run(
            run.run_id, run.prompt_id, utc(run.opened_at), utc(time.time()), run.prompt_tokens, len(run.ids),
            run.compute_us, text, offers, str(copy),
        )  # fmt: skip
        vendor = "" if delivery is None else party_of(delivery.prompt_id)
        try:
            copy = record.finished(row, vendor, delivery, run.owner)
        except RecordError as err:  # the provider's loss, not the device's
            self.events.error("record_failed", message=str(err))
            copy = Copy.NONE if delivery is None else Copy.FAILED
        self._tell_of_dropped()
        return copy

    def close(self) -> None:
        """Tell what is still to be told."""
        self._tell_of_dropped(all_of_it=True)

    def _tell_of_dropped(self, all_of_it: bool = False) -> None:
        if self.record is None:
            return
        if self.record.leaps > self._told_leaps:
            self._told_leaps = self.record.leaps
            self.events.warning(
                "clock_leapt", why="over two days ahead of its last; for a day nothing is deleted as old"
            )
        for event, dropped, why in (
            ("deliveries_deleted", self.record.dropped, "uncollected: too old, too many or too large"),
            ("runs_deleted", self.record.dropped_runs, "too many or too large"),
        ):
            (number, at), now = self._told[event], time.monotonic()
            if dropped > number and (all_of_it or now - at >= TELL_S):
                self._told[event] = dropped, now
                self.events.warning(event, number=dropped - number, why=why)

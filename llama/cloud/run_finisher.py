"""The end of a run: the reply as text, its offers, the provider's row, the vendor's copy.

Does not know: sockets, sessions, tensors, who the person is. Used by one thread, which may wait for a disk.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import msgspec

from llama.cloud.catalogue import Catalogue
from llama.cloud.deletion_log import DeletionLog
from llama.cloud.event_log import EventLog
from llama.cloud.offers import offers_for
from llama.cloud.prompt_leak import SystemPrompt
from llama.cloud.run_store import Run, RunStore
from llama.errors import CatalogueError, RecordError
from llama.sheets import Listed, party_of
from llama.text.dates import utc
from llama.tokenizer import Tokenizer
from llama.wire import Delivery, DeliveryStatus, Final, Offer, Usage

LEAST_OFFERS = 3  # offers per reply, if there are that many


@dataclass(frozen=True)
class FinishedRun:
    """The cloud's data of a run at its end.

    Attributes:
        run_id: 16 bytes, from the device.
        prompt_id: id of the sheet, from the device.
        opened_at: seconds since 1970.
        prompt_tokens: tokens of the prompt.
        ids: token ids of the reply.
        compute_us: microseconds that it waited for the model.
        owner: the public key that it came with; empty without keys.
        listed: the cloud's sheet of that id when the run was opened; None if there was none.
    """

    run_id: bytes
    prompt_id: str
    opened_at: float
    prompt_tokens: int
    ids: list[int] = field(repr=False)
    compute_us: int
    owner: str = field(default="", repr=False)
    listed: Listed | None = field(default=None, repr=False)


class RunFinisher:
    """Finishes the runs of one provider's cloud.

    Args:
        tokenizer: decodes replies.
        system: the provider's system prompt, which vendors must not read.
        store: keeps finished runs and deliveries; None if the cloud keeps none.
        catalogue: the partners' products; None if there are none.
        deletions: reports rows that the store has deleted early.
        event_log: receives errors.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        system: str,
        store: RunStore | None,
        catalogue: Catalogue | None,
        deletions: DeletionLog,
        event_log: EventLog,
    ) -> None:
        self._tokenizer, self._system = tokenizer, SystemPrompt(system, tokenizer)
        self._store, self._catalogue, self._deletions, self._event_log = store, catalogue, deletions, event_log

    def finish(self, run: FinishedRun) -> Final:
        """Return the reply as text, with offers. Run and vendor's copy are written first.

        A reply without text has neither offers nor a copy, and is not written.
        """
        text, listed = self._tokenizer.decode(run.ids), run.listed
        usage = Usage(run.prompt_tokens, len(run.ids), run.compute_us)
        if not text:
            return Final(text, usage)
        offers = self._offers(text, listed) if run.prompt_id else ()  # a person's own prompt gets no offers
        delivery = self._delivery(run, text, offers, listed) if listed is not None and listed.party else None
        copy = DeliveryStatus.NONE
        if delivery is not None:
            copy = DeliveryStatus.WITHHELD if delivery.withheld else DeliveryStatus.QUEUED
        if self._store is not None:
            copy = self._keep(self._store, run, text, offers, copy, delivery)
        return Final(text, usage, offers, copy)

    def _offers(self, text: str, listed: Listed | None) -> tuple[Offer, ...]:
        if self._catalogue is None or (listed is not None and listed.sheet.task == "extract"):
            return ()
        try:
            party = listed.party if listed is not None else ""
            offers = offers_for(text, None if listed is None else listed.sheet, self._catalogue, party or None)
            msgspec.convert(
                msgspec.to_builtins(offers), tuple[Offer, ...]
            )  # otherwise the device could not read its Final
        except CatalogueError as err:  # costs the provider its offers, not the device its reply
            self._event_log.error("catalogue_failed", message=str(err))
            return ()
        except Exception as err:  # likewise: a file damaged while open may contain anything
            problem = f"no offers: the catalogue is damaged ({type(err).__name__}); import it again"
            self._event_log.error("catalogue_failed", message=problem)
            return ()
        # The best for each idea come first. Further ones follow only if there are few ideas.
        return offers[: max(LEAST_OFFERS, len({offer.item for offer in offers}))]

    def _delivery(self, run: FinishedRun, text: str, offers: tuple[Offer, ...], listed: Listed) -> Delivery:
        delivery = Delivery(run.run_id, run.prompt_id, utc(time.time()), listed.text, text, offers)
        known = "\n".join([listed.text, *listed.sheet.texts])  # TOML may escape words
        if self._system.is_quoted_in(text, known):  # the offers are withheld, too: their matched words are the reply's
            return msgspec.structs.replace(delivery, text="", offers=(), withheld=True)
        return delivery

    def _keep(
        self,
        store: RunStore,
        run: FinishedRun,
        text: str,
        offers: tuple[Offer, ...],
        copy: DeliveryStatus,
        delivery: Delivery | None,
    ) -> DeliveryStatus:
        """Write a run; return the status of the vendor's copy."""
        row = Run(
            run_id=run.run_id,
            prompt_id=run.prompt_id,
            opened_at=utc(run.opened_at),
            finished_at=utc(time.time()),
            prompt_tokens=run.prompt_tokens,
            output_tokens=len(run.ids),
            compute_us=run.compute_us,
            text=text,
            offers=offers,
            copy=str(copy),
        )
        vendor = "" if delivery is None else party_of(delivery.prompt_id)
        try:
            copy = store.write(row, vendor, delivery, run.owner)
        except RecordError as err:  # costs the provider its row, not the device its reply
            self._event_log.error("record_failed", message=str(err))
            copy = DeliveryStatus.NONE if delivery is None else DeliveryStatus.FAILED
        self._deletions.report()
        return copy

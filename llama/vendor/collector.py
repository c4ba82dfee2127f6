"""The collector of a third party's copies: collect them from the cloud, store them in a sink, then acknowledge them.

The cloud erases acknowledged copies. So each copy is stored at least once: if this program ends before the cloud gets
the acknowledgement, the cloud delivers the same copy again, with the same ``run_id``.

Knows: ``llama.wire``, the link. Does not know: the place of the stored copies, sheets.
"""

from __future__ import annotations

import json
import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

import msgspec

from llama.client.link import Link
from llama.client.notices import Notices
from llama.errors import CloudRefused, CloudUnreachable, ProtocolMismatch
from llama.wire import Acknowledge, Acknowledged, Collect, Deliveries, Delivery, Reply

REMEMBERED = 100_000  # acknowledged copies since the start, which are not stored again
MOST_AGAIN = 8  # answers in a row with only such copies


class Sink(Protocol):
    """Destination of copies."""

    @property
    def at_once(self) -> int:
        """Maximum number of copies per call of :meth:`store`."""

    @property
    def acknowledges(self) -> bool:
        """True if the cloud may erase the copies that this sink has stored."""

    def store(self, deliveries: Sequence[Delivery]) -> None:
        """Store all copies, and return when they are stored. Raise if they are not."""

    def close(self) -> None:
        """Close the sink. No more copies come."""


def line_of(delivery: Delivery) -> bytes:
    """Return a copy as one line of ASCII JSON. The same copy always gives the same line."""
    fields = msgspec.structs.asdict(delivery)
    fields["run_id"] = delivery.run_id.hex()
    fields["offers"] = [msgspec.structs.asdict(offer) for offer in delivery.offers]
    return json.dumps(fields).encode() + b"\n"


class Collector:
    """Collector of copies from the cloud into ``sink``.

    Args:
        link: the connection to the cloud.
        vendor: the third party whose copies are collected.
        sink: destination of the copies.
        notices: gets the cloud's answers and temporary refusals.
        busy_timeout_s: seconds that the cloud may be busy.
    """

    def __init__(self, link: Link, vendor: str, sink: Sink, notices: Notices, *, busy_timeout_s: float) -> None:
        self.link, self.vendor, self.sink, self.notices, self.busy_timeout_s = (
            link,
            vendor,
            sink,
            notices,
            busy_timeout_s,
        )
        link.waits_when_busy = False  # this class waits itself, with its own limit and notices
        self._stored = tuple[bytes, ...]()  # run ids that are stored and not yet acknowledged
        self._arrived = OrderedDict[bytes, None]()  # run ids that were acknowledged, the latest at the end
        self._answers_without_new = 0  # in a row
        self._greeted = False  # this cloud has this protocol; after a restart it may have another one

    def some(self) -> int:
        """Store the copies of one answer, then acknowledge them if the sink allows it. Return the number of copies.

        Raises:
            CloudUnreachable: no heartbeat. The next call continues where this one stopped, and stores nothing twice.
            CloudRefused, ProtocolMismatch: see ``Link.ask``.
        """
        if not self._greeted:
            self.link.hello()
            self._greeted = True
        try:
            self._acknowledge()
            reply = self._ask(Collect(self.vendor, self.sink.at_once))
            if not isinstance(reply, Deliveries) or len(reply.deliveries) > self.sink.at_once:
                raise ProtocolMismatch(f"{self.link.address} answered Collect with something else")
            run_ids = tuple(delivery.run_id for delivery in reply.deliveries)
            # A cloud that was restored from a back-up may repeat copies. One that repeats for ever would never finish.
            new = [delivery for delivery in reply.deliveries if delivery.run_id not in self._arrived]
            self._answers_without_new = 0 if new or not run_ids else self._answers_without_new + 1
            if self._answers_without_new > MOST_AGAIN:
                raise ProtocolMismatch(f"{self.link.address} repeats copies that were acknowledged; tell the provider")
            if new:
                self.sink.store(new)
            if self.sink.acknowledges:
                self._stored = run_ids
                self._acknowledge()
        except CloudUnreachable:
            self._greeted = False
            raise
        return len(run_ids)

    def _acknowledge(self) -> None:
        if self._stored and not isinstance(self._ask(Acknowledge(self.vendor, self._stored)), Acknowledged):
            raise ProtocolMismatch(f"{self.link.address} answered Acknowledge with another kind of reply")
        self._arrived |= dict.fromkeys(self._stored)
        self._stored = ()
        while len(self._arrived) > REMEMBERED:
            self._arrived.popitem(last=False)

    def _ask(self, request: Collect | Acknowledge) -> Reply:
        """Send a request and return the reply. Repeat it while the cloud is busy."""
        give_up = time.monotonic() + self.busy_timeout_s
        while True:
            try:
                reply = self.link.ask(request)
                self.notices.answer()
                return reply
            except CloudRefused as err:
                hint = err.retry_after_s
                if hint is None or not math.isfinite(hint) or time.monotonic() > give_up:
                    raise
                self.notices.refusal(str(err))
                self.link.pause(min(max(hint, 0.1), 10.0))

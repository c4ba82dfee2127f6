"""A third party's copies on their way from the cloud: collected, stored by a sink, and only then acknowledged.

An acknowledged copy is erased at the cloud. So each is stored at least once: whatever ends this program before the
cloud has the acknowledgement, the cloud hands out the same copy again, with the same ``run_id``.

Knows: ``llama.wire``, the link. Does not know: where copies are stored, what a sheet is.
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

REMEMBERED = 100_000  # acknowledged copies of this start, which are not stored again
MOST_AGAIN = 8  # answers in a row that hold nothing else


class Sink(Protocol):
    """Where copies go."""

    @property
    def at_once(self) -> int:
        """Most copies that it is given at a time."""

    @property
    def acknowledges(self) -> bool:
        """Whether what it has stored may be erased at the cloud."""

    def store(self, deliveries: Sequence[Delivery]) -> None:
        """Returns when all of them are stored, and raises if they are not."""

    def close(self) -> None:
        """Nothing more comes."""


def line_of(delivery: Delivery) -> bytes:
    """A copy as one line of JSON, ASCII only, always the same for the same copy."""
    fields = msgspec.structs.asdict(delivery)
    fields["run_id"] = delivery.run_id.hex()
    fields["offers"] = [msgspec.structs.asdict(offer) for offer in delivery.offers]
    return json.dumps(fields).encode() + b"\n"


class Collector:
    """Copies on their way from the cloud to ``sink``.

    Args:
        link: the connection.
        vendor: whose copies.
        sink: where they go.
        notices: told when the cloud answers, and when it asks to be asked later.
        busy_timeout_s: how long a cloud may say that it is busy.
    """

    def __init__(self, link: Link, vendor: str, sink: Sink, notices: Notices, *, busy_timeout_s: float) -> None:
        self.link, self.vendor, self.sink, self.notices, self.busy_timeout_s = (
            link,
            vendor,
            sink,
            notices,
            busy_timeout_s,
        )
        link.waits_when_busy = False  # done here, for as long as it takes and in this program's words
        self._stored = tuple[bytes, ...]()  # and not yet acknowledged
        self._arrived = OrderedDict[bytes, None]()  # what was acknowledged, the last at the end
        self._answers_without_new = 0  # in a row
        self._greeted = False  # this cloud speaks our protocol; the one that comes after it need not

    def some(self) -> int:
        """Store the copies of one answer, then acknowledge them, if the sink does. How many there were.

        Raises:
            CloudUnreachable: no heartbeat; the next call goes on where this one stopped, and stores nothing twice.
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
            # A cloud that was restored from a back-up may do so; one that goes on would never let this end.
            new = [delivery for delivery in reply.deliveries if delivery.run_id not in self._arrived]
            self._answers_without_new = 0 if new or not run_ids else self._answers_without_new + 1
            if self._answers_without_new > MOST_AGAIN:
                raise ProtocolMismatch(f"{self.link.address} hands out again what was acknowledged; tell the provider")
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
        """The answer, also of a cloud that is busy at first."""
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

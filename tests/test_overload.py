"""Claims about more devices than slots: the cloud serves each in turn or tells it to come back, and none starves.

SOAK=1 uses more devices.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from llama.errors import CloudRefused
from llama.tokenizer import Tokenizer
from llama.wire import Close, Error, ErrorCode, Open, Opened
from tests.devices import converse
from tests.processes import wait_until
from tests.support import Halves, Peer, Served, open_request
from tests.volumes import SOAK

SLOTS = 8 if SOAK else 4
DEVICES, WAITING = 4 * SLOTS, SLOTS  # so that half of the devices have neither a slot nor a place in the queue
PROMPT = [258, 84, 104, 101, 32]


def all_is_free(served: Served) -> bool:
    """Return True if no device has a slot or waits for one, and new devices can take all slots."""
    if not wait_until(lambda: len(served.server.sessions) == len(served.server.sessions.queue) == 0):
        return False
    with served.peer() as peer:
        slots = [served.open(peer, open_request()) for _ in range(SLOTS)]
        return all(peer.refusal(Close(slot, 1)) == "Closed" for slot in slots)


def test_a_storm_is_admitted_in_the_order_of_asking_and_who_is_not_in_line_is_told_when_to_come_back(
    halves: Halves, tokenizer: Tokenizer
) -> None:
    """Slots are freed one by one.

    Each goes to the device that has waited longest; then the next device joins the queue.
    """
    with Served(halves, tokenizer, slots=SLOTS, most_waiting=WAITING) as served, ExitStack() as open_sockets:
        peers = [open_sockets.enter_context(served.peer()) for _ in range(DEVICES)]
        requests = [open_request(len(PROMPT)) for _ in peers]
        line = served.server.sessions.queue
        sessions = dict[int, bytes]()
        for i in range(SLOTS):
            sessions[i] = served.open(peers[i], requests[i])
        asked, waits = list[int](), list[int]()  # in this order; number of slots that others got meanwhile
        admitted = list[int]()

        def asks(i: int) -> bool:
            """Return True if device ``i`` is in the queue now, or False if it is told when to come back."""
            peers[i].send_request(requests[i])
            wait_until(lambda: ("", requests[i].run_id) in line or peers[i].socket.poll(0) > 0, every_s=0.001)
            if ("", requests[i].run_id) in line:
                asked.append(i)
                return True
            reported = peers[i].receive()
            assert isinstance(reported, Error) and (reported.code, reported.retry_after_s) == (ErrorCode.BUSY, 2.0), (
                reported
            )
            return False

        others = list(range(SLOTS, DEVICES))
        random.Random(5).shuffle(others)
        outside = [i for i in others if not asks(i)]
        assert outside == others[WAITING:]
        slots_given = dict.fromkeys(asked, 0)
        while sessions:
            leaving = next(iter(sessions))
            assert peers[leaving].refusal(Close(sessions.pop(leaving), 1)) == "Closed"
            if len(admitted) == len(others):
                continue
            turn = asked[len(admitted)]
            sessions[turn] = opened(peers[turn], requests[turn])
            waits.append(len(admitted) - slots_given[turn])
            admitted.append(turn)
            if outside and asks(outside[0]):
                slots_given[outside.pop(0)] = len(admitted)
        assert admitted == asked == others
        assert max(waits) < WAITING, "each device waits only for those before it in the queue"
        print(f"{DEVICES} devices for {SLOTS} slots, {WAITING} in the queue: the longest wait was {max(waits)} turns")
        assert all_is_free(served)


def opened(peer: Peer, request: Open) -> bytes:
    """Return the session for which a peer has waited in the queue. The peer asks again after each busy reply."""
    while True:
        reply = peer.receive()
        if isinstance(reply, Opened):
            return reply.session
        assert isinstance(reply, Error) and (reply.code, reply.retry_after_s) == (ErrorCode.BUSY, 0.0), reply
        peer.send_request(request)


@pytest.mark.long
def test_devices_that_wait_all_get_their_text_and_the_others_are_refused_at_once(
    halves: Halves, tokenizer: Tokenizer
) -> None:
    """Each device comes three times in a row, so some are told to come back while others come again.

    While all slots are held and the queue is full, impatient devices come. They get no slot and take none from others.
    """
    chance = random.Random(6)
    talks = [
        [([258, *(chance.randrange(32, 127) for _ in range(9))], chance.randrange(1, 12)) for _ in range(3)]
        for _ in range(DEVICES)
    ]
    with Served(halves, tokenizer, slots=SLOTS, most_waiting=WAITING) as served:
        begun, waits = itertools.count(), list[int]()  # number of others that got slots while one waited

        def device(talks: list[tuple[list[int], int]]) -> list[list[int]]:
            said, number = list[list[int]](), 0
            for talk in talks:
                before, requests = number, itertools.count()

                def between_steps(before: int = before, requests: Iterator[int] = requests) -> None:
                    nonlocal number
                    if next(requests) == 0:
                        number = next(begun)
                        waits.append(number - before)

                reply = converse(served.endpoint, halves.edge, tokenizer, *talk, between_steps=between_steps)
                said.append(reply.tokens)
            return said

        with ThreadPoolExecutor(DEVICES) as devices:
            with halves.cloud.held():
                replies = devices.map(device, talks)
                assert wait_until(lambda: len(served.server.sessions) == SLOTS)
                assert wait_until(lambda: len(served.server.sessions.queue) == WAITING)
                for _ in range(SLOTS):
                    with pytest.raises(CloudRefused, match="slots are taken") as refused:
                        converse(served.endpoint, halves.edge, tokenizer, PROMPT, 1, waits_when_busy=False)
                    assert (refused.value.code, refused.value.retry_after_s) == (ErrorCode.BUSY, 2.0)
            assert list(replies) == [[halves.tokens(*talk) for talk in each] for each in talks]
        print(f"{DEVICES} devices for {SLOTS} slots, {WAITING} in the queue, three times each: all got their text; the "
              f"longest wait was {max(waits)} of {3 * DEVICES} turns")  # fmt: skip
        assert all_is_free(served)

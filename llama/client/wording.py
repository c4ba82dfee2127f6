"""The sentences about a cloud that is busy, late, or not to be reached: what is the case, and what to look at.

Knows: the clocks of a request, the state of the connection. Does not know: when any of it is said, sockets, requests.
"""

from __future__ import annotations

from llama.client.connection import Connection
from llama.client.timeouts import Expired, Timeouts
from llama.errors import CloudUnreachable, RequestUnanswered
from llama.text.printable import one_line
from llama.wire import Error

# A cloud says nothing to a key that it does not list, nor can it to one that expects another cloud.
CHECK_KEYS = "that this key is in the cloud's --allow_dir, and that --cloud_key is that cloud's"
GIVE_KEYS = "if that cloud has keys, give --key_file and --cloud_key"  # nor does it to a device without one

FULL = "the cloud is full; waiting for a slot"


def busy(message: str, wait_s: float, give_up_s: float | None) -> str:
    """Say that it is asked again after ``wait_s``, and that it is given up after ``give_up_s`` where that is known."""
    until = "" if give_up_s is None else f" (giving up after {give_up_s:.0f} s)"
    return f"the cloud is busy: {one_line(message)}; asking again in {wait_s:.1f} s{until}"


def busy_for_too_long(reply: Error, timeouts: Timeouts, longer: bool) -> Error:
    """What becomes of its refusal when it has been busy for too long; ``longer``: for as long as a restart may take."""
    flag, seconds = "--deadline", timeouts.deadline_s
    if longer and timeouts.restart_deadline_s > timeouts.deadline_s:
        flag, seconds = "--restart_deadline", timeouts.restart_deadline_s
    message = f"{reply.message}; it was asked again for {seconds:.0f} s"
    return Error(reply.code, message, f"try again later, or wait longer with {flag}", reply.retry_after_s)


def silent(address: str, timeouts: Timeouts) -> str:
    """Say that no heartbeat comes."""
    return (
        f"no answer from {address} for {timeouts.silent_s:.0f} s; asking again "
        f"(giving up after {timeouts.silence_limit_s:.0f} s)"
    )


def unanswered(address: str, timeouts: Timeouts) -> str:
    """Say that it lives, but has not answered yet."""
    return (
        f"the cloud at {address} lives, but has not answered this request for "
        f"{timeouts.unanswered_s:.0f} s; waiting (giving up after {timeouts.unanswered_limit_s:.0f} s)"
    )


def broke(address: str, timeouts: Timeouts) -> str:
    """Say that the connection broke under a request."""
    return (
        f"the connection to {address} broke; asking again as soon as it is back "
        f"(giving up after {timeouts.silence_limit_s:.0f} s)"
    )


def broke_too_often(address: str, times: int) -> CloudUnreachable:
    """The error of a connection that broke so many times."""
    return CloudUnreachable(
        f"the connection to {address} broke {times} times under one request; check what is in between"
    )


def host_unknown(connection: Connection) -> CloudUnreachable:
    """The error of a name that leads nowhere."""
    return CloudUnreachable(f"no way to {connection.address}: {connection.host_problem}")


def timed_out(expired: Expired, timeouts: Timeouts, connection: Connection, *, has_keys: bool) -> CloudUnreachable:
    """The error of a limit that is reached."""
    address = connection.address
    if expired == "unanswered":
        return RequestUnanswered(
            f"the cloud at {address} says that it lives, but has not answered this request for "
            f"{timeouts.unanswered_s:.0f} s; try again later, tell its operator, or wait longer with --deadline"
        )
    if expired == "in_all":
        return RequestUnanswered(
            f"the cloud at {address} has not answered this request for {timeouts.in_all_s:.0f} s, in which it "
            f"went away, came back or was busy again and again; try again later, or tell its operator"
        )
    cure = _cure(timeouts, connection, has_keys)
    return CloudUnreachable(f"no answer from {address} for {timeouts.silent_s:.0f} s{cure}")


def _cure(timeouts: Timeouts, connection: Connection, has_keys: bool) -> str:
    """What may be the reason of a long silence, and what to look at."""
    if connection.host_problem:
        return f": {connection.host_problem}"
    if connection.looks_up_its_host:
        return (
            f": this machine's look-up of the name {connection.host} takes longer; check its name service, or "
            f"give the IP address"
        )
    if timeouts.away and timeouts.restart_deadline_s > timeouts.deadline_s:
        return (
            ", which had answered before; check that cloud_main.py runs there; where it takes longer to start, "
            "give a longer --restart_deadline"
        )
    keys = f"also {CHECK_KEYS}" if has_keys else f"and {GIVE_KEYS}"
    return (
        f"; check that cloud_main.py runs there, that the address is right and that no firewall is in between; {keys}"
    )

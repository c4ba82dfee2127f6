"""The sentences about a cloud that is busy, late or unreachable: the problem, and the things to check.

Knows: the clocks of a request, the state of the connection. Does not know: when a sentence is shown, sockets, requests.
"""

from __future__ import annotations

from llama.client.connection import Connection
from llama.client.timeouts import Expired, Timeouts
from llama.errors import CloudUnreachable, RequestUnanswered
from llama.text.printable import one_line
from llama.wire import Error

# A cloud does not answer a key that it does not list, or a device without a key. It cannot answer a device that expects
# another cloud.
CHECK_KEYS = "that this key is in the cloud's --allow_dir, and that --cloud_key is that cloud's"
GIVE_KEYS = "if that cloud has keys, give --key_file and --cloud_key"

FULL = "the cloud is full; waiting for a slot"


def busy(message: str, wait_s: float, give_up_s: float | None) -> str:
    """Return the notice of a busy cloud, with the wait ``wait_s`` and, if known, the limit ``give_up_s``."""
    until = "" if give_up_s is None else f" (giving up after {give_up_s:.0f} s)"
    return f"the cloud is busy: {one_line(message)}; trying again in {wait_s:.1f} s{until}"


def busy_for_too_long(reply: Error, timeouts: Timeouts, longer: bool) -> Error:
    """Return the refusal of a cloud that was busy for too long. ``longer``: the limit was the restart deadline."""
    flag, seconds = "--deadline", timeouts.deadline_s
    if longer and timeouts.restart_deadline_s > timeouts.deadline_s:
        flag, seconds = "--restart_deadline", timeouts.restart_deadline_s
    message = f"{reply.message}; this program tried for {seconds:.0f} s"
    return Error(reply.code, message, f"try again later, or wait longer with {flag}", reply.retry_after_s)


def silent(address: str, timeouts: Timeouts) -> str:
    """Return the notice that no heartbeat comes."""
    return (
        f"no answer from {address} for {timeouts.silent_s:.0f} s; trying again "
        f"(giving up after {timeouts.silence_limit_s:.0f} s)"
    )


def unanswered(address: str, timeouts: Timeouts) -> str:
    """Return the notice that heartbeats come, but no answer yet."""
    return (
        f"the cloud at {address} lives, but has not answered this request for "
        f"{timeouts.unanswered_s:.0f} s; waiting (giving up after {timeouts.unanswered_limit_s:.0f} s)"
    )


def broke(address: str, timeouts: Timeouts) -> str:
    """Return the notice that the connection broke during a request."""
    return (
        f"the connection to {address} broke; trying again as soon as it is back "
        f"(giving up after {timeouts.silence_limit_s:.0f} s)"
    )


def broke_too_often(address: str, times: int) -> CloudUnreachable:
    """Return the error of a connection that broke ``times`` times."""
    return CloudUnreachable(
        f"the connection to {address} broke {times} times during one request; check the network in between"
    )


def host_unknown(connection: Connection) -> CloudUnreachable:
    """Return the error of a host name that cannot be resolved."""
    return CloudUnreachable(f"cannot reach {connection.address}: {connection.host_problem}")


def timed_out(expired: Expired, timeouts: Timeouts, connection: Connection, *, has_keys: bool) -> CloudUnreachable:
    """Return the error of an expired limit."""
    address = connection.address
    if expired == "unanswered":
        return RequestUnanswered(
            f"the cloud at {address} says that it lives, but has not answered this request for "
            f"{timeouts.unanswered_s:.0f} s; try again later, tell its operator, or wait longer with --deadline"
        )
    if expired == "in_all":
        return RequestUnanswered(
            f"the cloud at {address} has not answered this request for {timeouts.in_all_s:.0f} s; meanwhile it "
            f"went away, came back or was busy again and again; try again later, or tell its operator"
        )
    cure = _cure(timeouts, connection, has_keys)
    return CloudUnreachable(f"no answer from {address} for {timeouts.silent_s:.0f} s{cure}")


def _cure(timeouts: Timeouts, connection: Connection, has_keys: bool) -> str:
    """Return a possible reason of a long silence, and the things to check."""
    if connection.host_problem:
        return f": {connection.host_problem}"
    if connection.looks_up_its_host:
        return (
            f": this machine has not resolved the name {connection.host} yet; check its name service, or "
            f"give the IP address"
        )
    if timeouts.away and timeouts.restart_deadline_s > timeouts.deadline_s:
        return (
            ", which answered before; check that cloud_main.py runs there; if it takes longer to start, "
            "give a longer --restart_deadline"
        )
    keys = f"also {CHECK_KEYS}" if has_keys else f"and {GIVE_KEYS}"
    return (
        f"; check that cloud_main.py runs there, that the address is right and that no firewall is in between; {keys}"
    )

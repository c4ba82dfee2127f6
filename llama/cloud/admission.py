"""Who may speak at the cloud's door: the keys that are listed, each for what its role is there for.

ZeroMQ's CURVE proves who holds which key and encrypts all that follows; during the handshake libzmq asks this module
(by its ZAP protocol, RFC 27) whether a key may come in. That was true then: so each message's key is looked up again.

Knows: keys, roles, the types of requests. Does not know: sessions, text.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import secrets
from dataclasses import dataclass

import zmq
from zmq.utils import z85

from llama.errors import KeysError
from llama.keys import AllowList, Identity, KeyPair
from llama.wire import Acknowledge, Collect, ErrorCode, Hello, Publish, Refused, Request, Status, Withdraw

MAX_SESSIONS_PER_KEY = 4
HANDSHAKE_MS = 10_000  # a peer that has not proved itself by then is dropped
_ZAP = "inproc://zeromq.zap.01"  # fixed by libzmq
_DOMAIN = "cloud"
_MAX_AT_ONCE = 16  # handshakes answered before the door looks after others


@dataclass(frozen=True)
class CloudKeys:
    """The cloud's own keys, and who may speak to it.

    Args:
        own: its pair.
        allowed: who is listed.
        max_sessions: of one key, at a time.
    """

    own: KeyPair
    allowed: AllowList
    max_sessions: int = MAX_SESSIONS_PER_KEY


def new_door(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    """A ROUTER of which nobody can know what it calls the next connection.

    A peer may choose its own id, and libzmq (4.3.5) numbers those that choose none without looking whether that number
    is taken: then it aborts the process. It counts from ``rand()``, which is the same in every process that nobody
    seeded. From a number that nobody knows, whoever holds n connections meets the count once in 2**32 / n new ones.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # no C library of that kind
        ctypes.CDLL(None).srand(ctypes.c_uint(secrets.randbits(32)))
    return context.socket(zmq.ROUTER)


def monitor_of(
    door: zmq.Socket[bytes], context: zmq.Context[zmq.Socket[bytes]]
) -> zmq.Socket[bytes]:  # fmt: skip
    """A socket that says which connections a socket gets and loses, by their descriptors; before that is bound."""
    address = "inproc://connections"
    door.monitor(address, zmq.Event.ACCEPTED | zmq.Event.DISCONNECTED)
    monitor: zmq.Socket[bytes] = context.socket(zmq.PAIR)
    monitor.setsockopt(zmq.RCVHWM, 0)  # libzmq's thread would wait for room, and with it everything
    monitor.connect(address)
    return monitor


class Admission:
    """The guard of one socket; used by one thread, the door's.

    Args:
        keys: the cloud's, and who is listed.
        context: the socket's; libzmq asks within it.

    Raises:
        KeysError: this libzmq has no CURVE.
    """

    def __init__(self, keys: CloudKeys, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        if not zmq.has("curve"):
            raise KeysError("this installation of ZeroMQ was built without CURVE; install pyzmq from PyPI")
        self.keys = keys
        self.questions: zmq.Socket[bytes] = context.socket(zmq.REP)  # of libzmq's
        self.questions.setsockopt(zmq.LINGER, 0)
        self.questions.bind(_ZAP)
        self._seen_version, self._seen = keys.allowed.version, keys.allowed.keys

    def guard(self, door: zmq.Socket[bytes]) -> None:
        """Let only listed keys in; before the socket is bound."""
        own = self.keys.own
        door.setsockopt(zmq.CURVE_SERVER, 1)
        door.setsockopt(zmq.CURVE_SECRETKEY, own.secret.encode())
        door.setsockopt(zmq.CURVE_PUBLICKEY, own.identity.public.encode())
        door.setsockopt_string(zmq.ZAP_DOMAIN, _DOMAIN)
        door.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)

    def answer(self) -> int:
        """Answer libzmq's questions. Who is let in has its key as the ``User-Id`` of all its messages.

        Returns:
            how many were not let in.
        """
        turned_away = 0
        for _ in range(_MAX_AT_ONCE):
            try:
                version, number, domain, _address, _routing_id, mechanism, *proof = self.questions.recv_multipart(
                    zmq.DONTWAIT
                )
            except zmq.Again:
                break
            key = ""
            if domain == _DOMAIN.encode() and mechanism == b"CURVE" and len(proof) == 1 and len(proof[0]) == 32:
                key = z85.encode(proof[0]).decode()
            listed = self.keys.allowed.find(key) is not None
            status = (b"200", b"OK", key.encode()) if listed else (b"400", b"not listed", b"")
            turned_away += not listed
            self.questions.send_multipart([version, number, *status, b""])
        return turned_away

    def owner_of(self, frame: zmq.Frame) -> str:
        """The key that a message came with."""
        try:
            return str(frame.get("User-Id"))
        except (zmq.ZMQError, KeyError):
            return ""  # which nobody has

    def find(self, owner: str) -> Identity:
        """Who holds a key, now.

        Raises:
            Refused: ``not_allowed``: it is not listed any more.
        """
        identity = self.keys.allowed.find(owner)
        if identity is None:
            raise Refused(ErrorCode.NOT_ALLOWED, "this key is not listed any more", "ask the provider to list it")
        return identity

    def changes(self) -> tuple[int, int] | None:
        """How many keys were put on the list and taken off it since this was asked last, if it has changed."""
        allowed = self.keys.allowed
        allowed.refresh()
        if allowed.version == self._seen_version:
            return None
        before, self._seen_version, self._seen = self._seen, allowed.version, allowed.keys
        return len(self._seen - before), len(before - self._seen)

    def is_listed(self, owner: str) -> bool:
        """Whether a key is listed."""
        return self.keys.allowed.find(owner) is not None

    def close(self) -> None:
        """No more questions are answered: nobody new comes in."""
        self.questions.close()


def check_role(identity: Identity, request: Request) -> None:
    """The request is one that this identity's role is there for; a vendor's names the vendor itself.

    Raises:
        Refused: ``not_allowed``.
    """
    if isinstance(request, Hello):
        return
    if isinstance(request, Collect | Acknowledge | Publish | Withdraw):
        does, what = "collects", "deliveries"
        if isinstance(request, Publish | Withdraw):
            does, what = "publishes", "sheets"
        _check_is(identity, "vendor", f"{does} no {what}")
        if request.vendor != identity.name:
            raise Refused(ErrorCode.NOT_ALLOWED, f"these are another vendor's {what}",
                          "give --vendor the name that the key has")  # fmt: skip
    elif isinstance(request, Status):
        _check_is(identity, "operator", "reads no status")
    else:
        _check_is(identity, "device", "runs no sessions")


def _check_is(identity: Identity, role: str, does: str) -> None:
    if identity.role != role:
        raise Refused(ErrorCode.NOT_ALLOWED, f"a key of role {identity.role} {does}", f"use a key of role {role}")


def check_keyless(request: Request, frame: zmq.Frame) -> None:
    """The request is one that needs no key; how the cloud does is told on its own machine only.

    Raises:
        Refused: ``not_allowed``.
    """
    if isinstance(request, Publish | Withdraw):
        raise Refused(ErrorCode.NOT_ALLOWED, "without keys anybody could publish in a third party's name",
                      "the provider can give the cloud keys: --key_file and --allow_dir")  # fmt: skip
    if isinstance(request, Status) and not is_here(_address_of(frame)):
        raise Refused(ErrorCode.NOT_ALLOWED, "without keys a cloud says how it does on its own machine only",
                      "ask there, or give it keys, and use one of role operator")  # fmt: skip


def is_here(address: str) -> bool:
    """Whether a peer's address is this machine's own, by loopback."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def descriptor_of(frame: zmq.Frame) -> int:
    """The descriptor of the connection that a message came over, which may have ended since; -1 where it has none."""
    try:
        return int(frame.get(zmq.SRCFD))
    except zmq.ZMQError:
        return -1


def _address_of(frame: zmq.Frame) -> str:
    try:
        return str(frame.get("Peer-Address"))
    except (zmq.ZMQError, KeyError):
        return ""

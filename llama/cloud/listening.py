"""The address of ``--bind``: what it stands for, and whether a cloud without keys may listen there.

Knows: addresses. Does not know: sockets.
"""

from __future__ import annotations

from collections.abc import Sequence

from llama.addresses import Endpoint, NotAnAddress, UnknownHost, address_refusal, stays_here, to_listen
from llama.cloud.event_log import EventLog
from llama.errors import UsageError


def endpoints_of(bind: str) -> list[Endpoint]:
    """Look up what is to be listened to. Whether it is free, and of this machine, only binding to it tells.

    Raises:
        UsageError: it is none that could be listened to.
    """
    try:
        return to_listen(bind)
    except NotAnAddress as err:
        raise UsageError(f"--bind {bind} is {address_refusal('listen on', str(err))}") from None
    except UnknownHost as err:
        raise UsageError(f"--bind {bind}: {err}") from None


def check_open_to(bind: str, endpoints: Sequence[Endpoint], *, keys: bool, insecure: bool, events: EventLog) -> None:
    """Allow a cloud without keys to listen to this machine only, unless the provider says otherwise.

    Raises:
        UsageError: the address is, or may be, of a network.
    """
    if keys or all(map(stays_here, endpoints)):
        return
    if not insecure:
        raise UsageError(
            f"--bind {bind} is open to a network, where without keys anybody may ask or listen; give --key_file and "
            f"--allow_dir (python -m llama.keys makes them), or --insecure"
        )
    warning = "anybody who reaches this address may use the model, and whoever listens learns what it does"
    events.warning("insecure", message=warning)

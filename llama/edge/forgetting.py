"""Asks the cloud to delete what it has of a finished run.

Knows: the request, the history that it is noted in. Does not know: screens.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from llama.edge.cloud_connector import CloudConnector
from llama.edge.history import History
from llama.errors import ProtocolMismatch, UsageError
from llama.wire import RUN_ID_BYTES, Forget, Forgotten


def forget(
    cloud: CloudConnector, run_id: str, history: History | None = None, check: Callable[[], None] | None = None
) -> bool:
    """Have the cloud delete its record of a run, and the third party's copy unless it was collected.

    Args:
        cloud: the cloud that finished the run.
        run_id: id of the run, in hexadecimal.
        history: where the deletion is noted, if the run is in it.
        check: called several times a second while waiting for the cloud. It may raise to end the wait.

    Returns:
        Whether the third party had collected its copy, which is beyond the cloud's reach.

    Raises:
        UsageError: the id is not one of a run, or the run went to another cloud.
        LinkError: the cloud does not answer, or refuses: the run is under way, or the cloud keeps no record.
        HistoryError: the history cannot be read, and nothing was asked; or it cannot be written.
    """
    raw = run_id_of(run_id)
    entry = None if history is None else history.find(raw.hex())
    if entry is not None and entry.cloud != cloud.address:
        raise UsageError(f"this run went to another cloud; ask that one with --cloud {entry.cloud}")
    with cloud.link(while_waiting=check) as link:
        reply = link.ask(Forget(raw))
    if not isinstance(reply, Forgotten):
        raise ProtocolMismatch(f"{cloud.address} answered Forget with another kind of reply")
    if history is not None:
        history.forget(raw.hex(), collected=reply.collected)
    return reply.collected


def run_id_of(text: str) -> bytes:
    """Return the id of a run that is written in hexadecimal.

    Raises:
        UsageError: it is none.
    """
    if re.fullmatch(rf"[0-9a-fA-F]{{{2 * RUN_ID_BYTES}}}", text) is None:
        raise UsageError(
            f"a run id has {2 * RUN_ID_BYTES} hexadecimal digits (got '{text[:80]}'); --show_history lists them"
        )
    return bytes.fromhex(text)

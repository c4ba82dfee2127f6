"""How this device reaches its cloud: the address, the keys and the deadlines of every connection that it makes.

Knows: ``llama.client``. Does not know: what is asked over a connection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llama.client.link import Link
from llama.keys import LinkKeys
from llama.memory_ceiling import MemoryCeiling


@dataclass(frozen=True)
class CloudConnector:
    """Makes connections to one cloud.

    Attributes:
        address: ``tcp://HOST:PORT``.
        deadline_s: how long the cloud may be silent.
        restart_deadline_s: how long a cloud that had answered and then went away is waited for; None is no longer.
        keys: the device's own and the cloud's, if keys are used.
        ceiling: of the process's memory, one for all connections: what the process has is all of theirs.
    """

    address: str
    deadline_s: float = 30.0
    restart_deadline_s: float | None = None
    keys: LinkKeys | None = None
    ceiling: MemoryCeiling | None = None

    def link(
        self, on_notice: Callable[[str], None] = lambda text: None, while_waiting: Callable[[], None] | None = None
    ) -> Link:
        """Make a connection; ``on_notice`` and ``while_waiting`` are as of :class:`Link`.

        Raises:
            UsageError: the address is none.
        """
        return Link(
            self.address,
            deadline_s=self.deadline_s,
            on_notice=on_notice,
            while_waiting=while_waiting,
            keys=self.keys,
            restart_deadline_s=self.restart_deadline_s,
            ceiling=self.ceiling,
        )

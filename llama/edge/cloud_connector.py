"""Address, keys and deadlines of every connection from this device to its cloud.

Knows: ``llama.client``. Does not know: the requests over a connection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llama.client.link import Link
from llama.keys import LinkKeys
from llama.memory_ceiling import MemoryCeiling


@dataclass(frozen=True)
class CloudConnector:
    """Factory of connections to one cloud.

    Attributes:
        address: ``tcp://HOST:PORT``.
        deadline_s: seconds that the cloud may be silent.
        restart_deadline_s: seconds to wait for a cloud that answered and then went away; None means ``deadline_s``.
        keys: the device's own key and the cloud's, if keys are used.
        ceiling: limit of the process's memory. All connections share it, because they share the process's memory.
    """

    address: str
    deadline_s: float = 30.0
    restart_deadline_s: float | None = None
    keys: LinkKeys | None = None
    ceiling: MemoryCeiling | None = None

    def link(
        self, on_notice: Callable[[str], None] = lambda text: None, while_waiting: Callable[[], None] | None = None
    ) -> Link:
        """Make a connection. :class:`Link` describes ``on_notice`` and ``while_waiting``.

        Raises:
            UsageError: the address is not valid.
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

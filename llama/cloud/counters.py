"""What the cloud counts since its start."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Counters:
    """One of them per server; the door's thread alone writes it.

    Attributes:
        started: monotonic seconds.
        tokens: ids that were handed out.
        refusals: requests that were answered with an Error; those that wait in line are asked to ask again, and do not
            count, nor do keys that are not let in.
    """

    started: float = field(default_factory=time.monotonic)
    tokens: int = 0
    refusals: int = 0

    @property
    def up_s(self) -> int:
        """Whole seconds since the start."""
        return int(time.monotonic() - self.started)

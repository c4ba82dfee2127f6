"""A value that must not leave the device, and where it comes from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from llama.privacy.profile import Value


@dataclass(frozen=True)
class Secret:
    """A value that must not leave. It does not print.

    Attributes:
        field: where it is from: a profile's field, or what a recogniser calls it.
        tag: the kind of its tag.
        value: as it was declared.
        derived: a part of the value that reads like a name; its tag stands for what is written.
    """

    field: str
    tag: str
    value: Value = dataclasses.field(repr=False)
    derived: bool = False

"""A value that must not leave the device, and its source."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from llama.privacy.profile import Value


@dataclass(frozen=True)
class Secret:
    """A value that must not leave. It does not print.

    Attributes:
        field: its source: a profile's field, or a recogniser's kind.
        tag: the kind of its tag.
        value: the value as declared.
        derived: it is a part of the value that reads like a name; its tag stands for the written part.
    """

    field: str
    tag: str
    value: Value = dataclasses.field(repr=False)
    derived: bool = False

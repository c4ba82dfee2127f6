"""Bounds of flags, declared beside the field that they belong to.

top_p: Annotated[float, Bound("between 0 and 1", at_least=0, at_most=1)] = 0.9
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Any, get_type_hints

from llama.errors import UsageError


@dataclass(frozen=True)
class Bound:
    """The values that a flag may have. NaN is out of bounds wherever a number is bounded, and None is not checked.

    Attributes:
        rule: the bounds in words, after ``--FLAG must be``.
        at_least: the smallest value.
        at_most: the largest value.
        above: a number below every value.
        finite: whether infinity is out of bounds.
        one_of: all values.
    """

    rule: str
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    finite: bool = False
    one_of: tuple[str, ...] = ()

    def allows(self, value: Any) -> bool:
        """Tell whether a value is within the bounds."""
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
            and (self.above is None or value > self.above)
            and not (self.finite and value == inf)
            and (not self.one_of or value in self.one_of)
        )

    def check(self, flag: str, value: Any) -> None:
        """Check the value of ``--flag``.

        Raises:
            UsageError: it is out of bounds.
        """
        if value is not None and not self.allows(value):
            raise UsageError(f"--{flag} must be {self.rule} (got {str(value).removesuffix('.0')})")


TIMEOUT = Bound("greater than 0 seconds", above=0)
INTERVAL = Bound("a finite number of seconds greater than 0", above=0, finite=True)


@cache
def bounds_of(config: type) -> Mapping[str, Bound]:
    """Return the bounds of the fields of a configuration that have any, in the fields' order."""
    hints = get_type_hints(config, include_extras=True)
    return {name: each for name, hint in hints.items() for each in getattr(hint, "__metadata__", ())}

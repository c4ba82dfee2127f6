"""How many examples a property test tries: one number per tier, not one per test.

Knows: hypothesis, the environment. Knows nothing about: what is tested.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

SOAK = bool(os.environ.get("SOAK"))  # make soak: do much more of the same
TIER = os.environ.get("TIER", "soak" if SOAK else "test")
EXAMPLES = {"unit": 25, "test": 60, "soak": 1500}
_CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]  # our fixtures are read-only; machines are busy


def load_profile() -> None:
    """Make the tier's profile the default of all property tests."""
    for tier, examples in EXAMPLES.items():
        settings.register_profile(tier, max_examples=examples, deadline=None, suppress_health_check=_CHECKS)
    settings.load_profile(TIER)


def examples(share: float = 1.0) -> settings:
    """Return settings with this share of the tier's examples, at least 5, for tests whose examples cost more."""
    return settings(max_examples=max(5, int(EXAMPLES[TIER] * share)))

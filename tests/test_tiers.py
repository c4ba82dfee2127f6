"""The tiers of the tests: who may start a process, how many examples a property test tries, what each worker shares."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import settings

from tests.volumes import EXAMPLES, TIER, examples


def test_a_test_without_the_mark_cannot_start_a_process() -> None:
    """By subprocess or by a fork: it fails, and says which mark it needs."""
    with pytest.raises(pytest.fail.Exception, match=r"give it the mark: @pytest\.mark\.process"):
        subprocess.run([sys.executable, "-c", ""], check=True)
    with pytest.raises(pytest.fail.Exception, match=r"starts a process \(os\.fork\)"):
        os.fork()


@pytest.mark.process
def test_a_test_with_the_mark_can() -> None:
    """Then it is no part of make unit."""
    assert subprocess.run([sys.executable, "-c", ""], check=True).returncode == 0


def test_every_property_test_tries_what_its_tier_says() -> None:
    """Or a share of it, at least five."""
    assert settings().max_examples == EXAMPLES[TIER]
    assert examples(0.5).max_examples == EXAMPLES[TIER] // 2
    assert examples(0.001).max_examples == 5


@pytest.mark.parametrize("threads", [5, 6])
def test_torchs_threads_are_those_of_the_start(threads: int) -> None:
    """Each of these two raises the number; neither finds it raised."""
    assert torch.get_num_threads() != threads
    torch.set_num_threads(threads)

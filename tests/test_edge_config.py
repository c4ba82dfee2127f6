"""Claims about the device's configuration: it is the flags of edge_main.py, and each is within its bounds."""

from __future__ import annotations

import dataclasses
import inspect
import math

import pytest

import edge_main
from llama.bounds import bounds_of
from llama.edge.config import EdgeConfig, check_together, check_values
from llama.errors import UsageError


def test_the_fields_are_the_flags_of_the_program_with_the_same_defaults() -> None:
    """So that a program that builds a configuration by itself gets what the command line gives."""
    flags = {name: p.default for name, p in inspect.signature(edge_main.main).parameters.items()}
    fields = {f.name: f.default for f in dataclasses.fields(EdgeConfig) if f.name != "ckpt_dir"}
    assert {name: default for name, default in flags.items() if name != "ckpt_dir"} == fields
    hints = inspect.get_annotations(edge_main.main, eval_str=True)
    kinds = inspect.get_annotations(EdgeConfig, eval_str=True)
    assert {name: hints[name] for name in fields} == {
        name: getattr(kinds[name], "__origin__", kinds[name]) if name in bounds_of(EdgeConfig) else kinds[name]
        for name in fields
    }


def test_every_bound_holds_for_its_default_and_for_no_value_beyond() -> None:
    """NaN is beyond each."""
    for name, bound in bounds_of(EdgeConfig).items():
        default = EdgeConfig.__dataclass_fields__[name].default
        assert default is None or bound.allows(default), name
        for least, step in ((bound.at_least, -1), (bound.at_most, 1)):
            assert least is None or (bound.allows(least) and not bound.allows(least + step)), name
        assert bound.one_of or not bound.allows(math.nan), name


def test_the_first_wrong_flag_is_reported_in_the_order_of_the_checks() -> None:
    """Each by itself before any two together; the port where its page is."""
    both = EdgeConfig("x", top_p=2.0, deadline=0.0)
    with pytest.raises(UsageError, match=r"^--top_p must be between 0 and 1 \(got 2\)$"):
        check_values(both)
    check_values(EdgeConfig("x", port=-1))
    with pytest.raises(UsageError, match="--cloud is required"):
        check_together(EdgeConfig("x", port=-1))
    with pytest.raises(UsageError, match="--port requires --web"):
        check_together(EdgeConfig("x", "tcp://127.0.0.1:1", port=-1))
    with pytest.raises(UsageError, match=r"^--port must be between 1 and 65535, or 0 for any free port \(got -1\)$"):
        check_together(EdgeConfig("x", "tcp://127.0.0.1:1", port=-1, web=True, yes=True))
    with pytest.raises(UsageError, match="--web and --yes cannot be combined"):
        check_together(EdgeConfig("x", "tcp://127.0.0.1:1", web=True, yes=True, prompt_id="a", prompt_file="b"))

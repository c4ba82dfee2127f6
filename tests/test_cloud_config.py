"""Claims about the cloud's configuration: it is the flags of cloud_main.py, and every bound is looked at."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import cloud_main
from llama.cloud import app
from llama.cloud.config import CloudConfig
from llama.cloud.loading import Models
from llama.errors import BindError, UsageError
from llama.model_args import ModelArgs
from model_cloud import CloudTransformer
from model_edge import load_edge
from tests.processes import wait_until


def test_the_fields_are_the_flags_of_the_program_with_the_same_defaults() -> None:
    """So that a program that builds a configuration by itself gets what the command line gives."""
    flags = {name: p.default for name, p in inspect.signature(cloud_main.main).parameters.items() if name != "ckpt_dir"}
    fields = {field.name: field.default for field in dataclasses.fields(CloudConfig) if field.name != "ckpt_dir"}
    assert flags == fields


def test_every_field_with_bounds_is_checked_at_the_start() -> None:
    """Those whose annotation says more than a type are named in ``check``."""
    bounded = {name for name, hint in CloudConfig.__annotations__.items() if "Annotated" in str(hint)}
    names = {node.value for node in ast.walk(ast.parse(inspect.getsource(app.check))) if isinstance(node, ast.Constant)}
    assert bounded and bounded <= names


@pytest.mark.parametrize(
    ("flag", "value", "error"),
    [
        ("max_batch_size", 0, "--max_batch_size must be between 1 and 65536 (got 0)"),
        ("kv_cache_gb", math.nan, "--kv_cache_gb must be a finite number of GiB greater than 0 (got nan)"),
        ("drain_s", math.inf, "--drain_s must be a finite number of seconds, 0 or more (got inf)"),
        ("session_idle_s", 0.0, "--session_idle_s must be greater than 0 seconds (got 0)"),
        ("max_mb_s_per_key", -1.0, "--max_mb_s_per_key must be greater than 0, or inf for no limit (got -1)"),
        ("log_level", "loud", "--log_level must be one of info, warning, error (got loud)"),
        ("dtype", "int8", "--dtype must be one of float32, bfloat16, float16 (got int8)"),
    ],
)
def test_a_value_beyond_its_bounds_is_told_with_the_value_and_the_cure(flag: str, value: object, error: str) -> None:
    with pytest.raises(UsageError) as raised:
        dataclasses.replace(CloudConfig(ckpt_dir="x"), **{flag: value}).check(flag)  # type: ignore[arg-type]
    assert str(raised.value) == error


def test_a_cloud_that_cannot_load_its_model_or_get_its_port_leaves_nothing_open(
    tiny_split: Callable[..., Path],
) -> None:
    """So that a program that starts another one in the same process can: the address is free, no thread is left."""
    out, threads = tiny_split(k=1), threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        config = CloudConfig(ckpt_dir=str(out / "cloud"), bind=f"tcp://127.0.0.1:{port}", metrics_port=0)
        with pytest.raises(BindError, match="the port is in use"):
            app.run(config, MODELS)
    for _ in range(2):
        with pytest.raises(UsageError, match="no such layers"):
            app.run(config, MODELS)
    assert wait_until(lambda: threading.active_count() == threads)


def no_such_layers(args: ModelArgs, split_layer: int) -> CloudTransformer:
    raise UsageError("no such layers")


MODELS = Models(new_cloud=no_such_layers, load_edge=load_edge)

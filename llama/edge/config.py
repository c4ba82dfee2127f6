"""The device's configuration: every flag of edge_main.py with its unit and bounds, and rules between flags.

Knows: the flags' names, the errors of wrong ones. Does not know: the parts that are built from them, screens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from llama import memory_ceiling
from llama.bounds import TIMEOUT, Bound, bounds_of
from llama.device import cpu_threads, torch_device
from llama.errors import UsageError
from llama.keys import LinkKeys, link_keys
from llama.memory_ceiling import MemoryCeiling
from llama.privacy.sanitiser import MODES, Mode
from llama.sampling_params import SamplingParams


@dataclass(frozen=True)
class EdgeConfig:
    """The flags of edge_main.py. The docstring of its ``main`` describes each.

    Each field is checked by itself, in this order. Only ``port`` is checked later, together with ``web``.
    """

    ckpt_dir: str | None = None
    cloud: str | None = None  # tcp://HOST:PORT
    prompt_file: str | None = None
    sheet_dir: str | None = None
    prompt_id: str | None = None
    profile_file: str | None = None
    temperature: Annotated[float, Bound("between 0 (greedy) and 100", at_least=0, at_most=100)] = 0.6
    top_p: Annotated[float, Bound("between 0 and 1", at_least=0, at_most=1)] = 0.9
    seed: Annotated[int, Bound("between 0 and 2**63-1", at_least=0, at_most=2**63 - 1)] = 1
    # tokens; None is the sheet's limit, or the rest of the context
    max_gen_len: Annotated[int | None, Bound("1 or more", at_least=1)] = None
    deadline: Annotated[float, TIMEOUT] = 30.0  # seconds
    restart_deadline: Annotated[float, TIMEOUT] = 300.0  # seconds
    sanitise: Annotated[str, Bound(" or ".join(MODES), one_of=MODES)] = "schema"
    dry_run: bool = False
    strict: bool = False
    yes: bool = False
    plain: bool = False
    json: bool = False
    web: bool = False
    # None is any free port
    port: Annotated[int | None, Bound("between 1 and 65535, or 0 for any free port", at_least=0, at_most=65535)] = None
    list_sheets: bool = False
    history: str | None = None
    show_history: bool = False
    forget: str | None = None
    device: str = "cpu"  # cpu, cuda or mps; llama.device checks it
    threads: int | None = None  # None is one per core; llama.device checks it
    max_memory_gb: float | None = None  # GiB; llama.memory_ceiling checks it
    key_file: str | None = None
    cloud_key: str | None = None

    @property
    def mode(self) -> Mode:
        """The mode of the sanitiser."""
        return "off" if self.sanitise == "off" else "schema"

    @property
    def sampling(self) -> SamplingParams:
        """The settings by which the cloud samples tokens."""
        return SamplingParams(self.temperature, self.top_p, self.seed)


def check_values(config: EdgeConfig) -> None:
    """Check every value but the port by itself.

    Raises:
        UsageError: about the first value that is out of bounds.
    """
    for name, bound in bounds_of(EdgeConfig).items():
        if name != "port":
            bound.check(name, getattr(config, name))


def _check_task(config: EdgeConfig) -> None:
    """Check that there is one task, and what that task requires."""
    tasks = ["web", "list_sheets", "dry_run", "show_history", "forget"]
    chosen = [flag for flag in tasks if getattr(config, flag) not in (None, False)]
    if {"show_history", "forget"} & set(chosen) and len(chosen) > 1:
        raise UsageError(f"--{chosen[0]} and --{chosen[1]} cannot be combined; omit one of them")
    if config.ckpt_dir is None and not (config.show_history or config.forget):
        raise UsageError("--ckpt_dir is required, except with --show_history or --forget")
    if config.cloud is None and not (config.dry_run or config.list_sheets or config.show_history):
        raise UsageError("--cloud is required, except with --dry_run, --list_sheets or --show_history")
    if config.show_history and config.history is None and config.profile_file is None:
        raise UsageError("--show_history requires --history, the file of your history")


@dataclass(frozen=True)
class Resources:
    """Resources of this machine that flags name: the keys, the torch device, the memory ceiling of the process."""

    keys: LinkKeys | None
    device: torch.device
    ceiling: MemoryCeiling | None


def check_together(config: EdgeConfig) -> Resources:
    """Check the rules between flags, and open the keys and the device; the first mistake in this order is the error.

    Raises:
        UsageError: two flags exclude each other, or one needs another.
        KeysError, DeviceError: a key or the device cannot be used.
    """
    _check_task(config)
    keys = link_keys(config.key_file, config.cloud_key, "device")
    if config.port is not None and not config.web:
        raise UsageError("--port requires --web")
    bounds_of(EdgeConfig)["port"].check("port", config.port)
    for flag in ("list_sheets", "dry_run", "yes", "plain", "json"):
        if config.web and getattr(config, flag):
            raise UsageError(f"--web and --{flag} cannot be combined; omit one of them")
    if config.strict and config.mode == "off":
        raise UsageError("--strict and --sanitise off cannot be combined; omit one of them")
    device, threads = torch_device(config.device), cpu_threads(config.threads)
    torch.set_num_threads(threads)
    if config.prompt_id is not None and config.prompt_file is not None:
        raise UsageError("--prompt_file and --prompt_id cannot be combined; omit one of them")
    ceiling = memory_ceiling.of_a_client(config.max_memory_gb, memory_ceiling.DEVICE_WORDS)
    if config.prompt_file is not None and config.sheet_dir is not None:
        raise UsageError("--prompt_file and --sheet_dir cannot be combined; omit one of them")
    if config.prompt_file is None and config.sheet_dir is None and config.cloud is None and not config.show_history:
        raise UsageError("there is no source of sheets; give --cloud, or --sheet_dir")
    return Resources(keys, device, ceiling)

"""The device's configuration: every flag of edge_main.py, with its unit and its bounds, and what flags say together.

Knows: the flags' names, the errors of wrong ones. Does not know: what is built of them, screens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from llama import memory_ceiling
from llama.bounds import Bound, bounds_of
from llama.command import NO_TIME_TO_WAIT
from llama.device import cpu_threads, torch_device
from llama.errors import UsageError
from llama.keys import LinkKeys, link_keys
from llama.memory_ceiling import MemoryCeiling
from llama.privacy.sanitiser import MODES, Mode
from llama.sampling_params import SamplingParams

_SOME_TIME = Bound(NO_TIME_TO_WAIT, above=0)


@dataclass(frozen=True)
class EdgeConfig:
    """The flags of edge_main.py; what each means stands in the docstring of its ``main``.

    Fields are checked in this order, all but ``port`` alone: that is checked where its page is.
    """

    ckpt_dir: str
    cloud: str | None = None  # tcp://HOST:PORT
    prompt_file: str | None = None
    sheet_dir: str | None = None
    prompt_id: str | None = None
    profile_file: str | None = None
    temperature: Annotated[float, Bound(" must lie between 0 (greedy) and 100", at_least=0, at_most=100)] = 0.6
    top_p: Annotated[float, Bound(" must lie between 0 and 1", at_least=0, at_most=1)] = 0.9
    seed: Annotated[int, Bound(" must lie between 0 and 2**63-1", at_least=0, at_most=2**63 - 1)] = 1
    max_gen_len: Annotated[int | None, Bound(" leaves nothing to generate; give 1 or more", at_least=1)] = (
        None  # tokens; None is the sheet's, or what the context leaves
    )
    deadline: Annotated[float, _SOME_TIME] = 30.0  # seconds
    restart_deadline: Annotated[float, _SOME_TIME] = 300.0  # seconds
    sanitise: Annotated[str, Bound(f" is not known; give {' or '.join(MODES)}", one_of=MODES)] = "schema"
    dry_run: bool = False
    yes: bool = False
    plain: bool = False
    json: bool = False
    web: bool = False
    port: Annotated[int | None, Bound(": give 1 to 65535, or 0 for any free one", at_least=0, at_most=65535)] = (
        None  # None is any free one
    )
    list_sheets: bool = False
    device: str = "cpu"  # cpu, cuda or mps; llama.device checks it
    threads: int | None = None  # None is one per core; llama.device checks it
    max_memory_gb: float | None = None  # GiB; llama.memory_ceiling checks it
    key_file: str | None = None
    cloud_key: str | None = None

    @property
    def mode(self) -> Mode:
        """How prompts are sanitised."""
        return "off" if self.sanitise == "off" else "schema"

    @property
    def sampling(self) -> SamplingParams:
        """How the cloud chooses tokens."""
        return SamplingParams(self.temperature, self.top_p, self.seed)


def check_values(config: EdgeConfig) -> None:
    """Check every value by itself, but for the port's.

    Raises:
        UsageError: of the first that is out of its bounds.
    """
    for name, bound in bounds_of(EdgeConfig).items():
        if name != "port":
            bound.check(name, getattr(config, name))


@dataclass(frozen=True)
class Resources:
    """What the flags name on this machine: the keys, the torch device, the ceiling of the process's memory."""

    keys: LinkKeys | None
    device: torch.device
    ceiling: MemoryCeiling | None


def check_together(config: EdgeConfig) -> Resources:
    """Check what flags say together, and open what they name; the first mistake in this order is the error.

    Raises:
        UsageError: two flags exclude each other, or one needs another.
        KeysError, DeviceError: what a flag names cannot be used.
    """
    if config.cloud is None and not (config.dry_run or config.list_sheets):
        raise UsageError("--cloud must be given; --help lists all flags")
    keys = link_keys(config.key_file, config.cloud_key, "device")
    if config.port is not None and not config.web:
        raise UsageError("--port is of the page, and there is none; give --web, too")
    bounds_of(EdgeConfig)["port"].check("port", config.port)
    for flag in ("list_sheets", "dry_run", "yes", "plain", "json"):
        if config.web and getattr(config, flag):
            raise UsageError(f"--web and --{flag} exclude each other: the page shows all of it, and asks by itself")
    device, threads = torch_device(config.device), cpu_threads(config.threads)
    torch.set_num_threads(threads)
    if config.prompt_id is not None and config.prompt_file is not None:
        raise UsageError("--prompt_file and --prompt_id exclude each other; --help lists all flags")
    ceiling = memory_ceiling.of_a_client(config.max_memory_gb, memory_ceiling.DEVICE_WORDS)
    if config.prompt_file is not None and config.sheet_dir is not None:
        raise UsageError("--prompt_file and --sheet_dir exclude each other; --help lists all flags")
    if config.prompt_file is None and config.sheet_dir is None and config.cloud is None:
        raise UsageError(
            "sheets come from the cloud unless --sheet_dir names a directory: give --cloud, or --sheet_dir"
        )
    return Resources(keys, device, ceiling)

"""Which torch device and how many CPU threads: flags to what torch wants."""

from __future__ import annotations

import os

import torch

from llama.errors import DeviceError, UsageError

MAX_THREADS = 4096  # more than any machine has cores; with far more, OpenMP stops the process or never begins


def torch_device(name: str | None, local_rank: int = 0, local_ranks: int = 1) -> torch.device:
    """The device of a ``--device`` flag; None is this rank's GPU where there is one, else the CPU.

    Where there are fewer GPUs than ranks of this machine, every rank says so: one that waited for the others would
    not even hear that it is to end.

    Raises:
        DeviceError: not available here.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"--device {name} is not a device; use cpu, cuda or mps") from None
    if device.type == "cuda":
        index = local_rank if device.index is None else device.index
        highest = local_ranks - 1 if device.index is None else index
        if highest >= torch.cuda.device_count():
            cure = "use --device cpu, or fewer ranks" if local_ranks > 1 else "use --device cpu"
            raise DeviceError(
                f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices, number "
                f"{highest} is not among them; {cure}"
            )
        return torch.device("cuda", index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("--device mps: this machine has no Apple GPU; use --device cpu")
    if device.type not in ("cpu", "mps"):
        raise DeviceError(f"--device {name} is not supported; use cpu, cuda or mps")
    return device


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch failed for want of memory; on the CPU that is a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "allocate" in str(error)  # the word its allocators share


def cpu_threads(flag: int | None, processes: int = 1) -> int:
    """Threads per process: ``--threads``, or this process's cores shared among the ``processes`` of one machine.

    torchrun would leave every process one thread.

    Raises:
        UsageError: below 1 or above ``MAX_THREADS``.
    """
    if flag is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores // processes)
    if not 1 <= flag <= MAX_THREADS:
        raise UsageError(f"--threads {flag}: give 1 to {MAX_THREADS}")
    return flag

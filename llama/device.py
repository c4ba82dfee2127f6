"""Torch device and CPU threads from the ``--device`` and ``--threads`` flags."""

from __future__ import annotations

import os

import torch

from llama.errors import DeviceError, UsageError

MAX_THREADS = 4096  # more than the cores of any machine; with far more, OpenMP ends the process or hangs at the start


def torch_device(name: str | None, local_rank: int = 0, local_ranks: int = 1) -> torch.device:
    """Return the device of a ``--device`` flag. None means this rank's GPU if the machine has one, else the CPU.

    If this machine has fewer GPUs than ranks, every rank raises the error: a rank that waited for the others would not
    notice that it should end.

    Raises:
        DeviceError: the device is unknown or not available on this machine.
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
                f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices, so "
                f"number {highest} does not exist; {cure}"
            )
        return torch.device("cuda", index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("--device mps: this machine has no Apple GPU; use --device cpu")
    if device.type not in ("cpu", "mps"):
        raise DeviceError(f"--device {name} is not supported; use cpu, cuda or mps")
    return device


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether torch ran out of memory; on the CPU that is a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "allocate" in str(error)  # a word in every allocator's message


def cpu_threads(flag: int | None, processes: int = 1) -> int:
    """Return the threads per process: ``--threads``, or this process's cores divided by the machine's ``processes``.

    torchrun would set one thread per process.

    Raises:
        UsageError: the flag is below 1 or above ``MAX_THREADS``.
    """
    if flag is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores // processes)
    if not 1 <= flag <= MAX_THREADS:
        raise UsageError(f"--threads must be 1 to {MAX_THREADS} (got {flag})")
    return flag

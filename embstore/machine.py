"""What decides how fast a model computes besides the model: processor, threads, accelerator."""

from __future__ import annotations

import functools
import os
import platform
import sys
from pathlib import Path


@functools.cache
def processor() -> str:
    """The name of the CPU, as its maker calls it where the system tells."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def accelerator(device: str) -> str:
    """What computes on a device of torch's: its model where torch tells, else the device's name.

    Args:
        device: "cpu", "cuda:0", "mps", ...
    """
    torch = sys.modules.get("torch")
    if torch is not None and device.startswith("cuda") and torch.cuda.is_available():
        return str(torch.cuda.get_device_name(device))
    return processor() if device == "cpu" else device


def threads() -> int:
    """Threads that torch uses on the CPU; all cores as long as it is not imported."""
    torch = sys.modules.get("torch")
    return os.cpu_count() or 1 if torch is None else int(torch.get_num_threads())


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""Where something was measured: the machine and the libraries, and nothing that names the user."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata

from embstore import machine
from embstore.stats import format_bytes

_LIBRARIES = ("embstore", "sentence-transformers", "transformers", "torch", "numpy")


def environment() -> dict[str, str]:
    """What a measured time depends on besides the code, by name, ready to be shown.

    Imports no library. What torch alone knows (its threads, the GPU) is there if it was imported.

    >>> environment()["python"] == platform.python_version()
    True
    """
    found = {
        "cpu": machine.processor(),
        "cores": _cores(),
        "memory": format_bytes(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }
    for library in _LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    if threads := os.environ.get("OMP_NUM_THREADS"):
        found["OMP_NUM_THREADS"] = threads
    return found | _torch()


def _cores() -> str:
    total = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    return str(total) if usable == total else f"{usable} of {total}"


def _torch() -> dict[str, str]:
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    found = {"torch threads": str(torch.get_num_threads())}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = str(torch.version.cuda)
    return found

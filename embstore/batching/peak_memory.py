"""The most memory that something took: of this process, or of a CUDA device."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Protocol

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


class PeakMemory(Protocol):
    """Measures peaks above what was in use when it was made."""

    def reset(self) -> None:
        """Forget the peak up to here."""

    def peak(self) -> int:
        """The most that was in use since the last reset, in bytes."""


def peak_memory(device: str | None) -> PeakMemory | None:
    """What measures the memory of a device of torch's; None where nothing can.

    Args:
        device: "cpu", "cuda:0", ...; None is this process.
    """
    if device is not None and device.startswith("cuda"):
        return _CudaMemory(device)
    if device in (None, "cpu") and os.access(_CLEAR_REFS, os.W_OK):
        return _ProcessMemory()
    return None


class _ProcessMemory:
    """Resident memory, by Linux's own high-water mark."""

    def __init__(self) -> None:
        _give_back_what_is_free()
        self._base = _status("VmRSS")

    def reset(self) -> None:
        _give_back_what_is_free()
        # Resets VmHWM, says proc(5). Takes 0.1 ms: it walks no pages, as other values do.
        _CLEAR_REFS.write_text("5")

    def peak(self) -> int:
        return max(0, _status("VmHWM") - self._base)


class _CudaMemory:
    """What torch has allocated on a CUDA device."""

    def __init__(self, device: str) -> None:
        self._cuda = sys.modules["torch"].cuda
        self._device = device
        self._base = self._cuda.memory_allocated(device)

    def reset(self) -> None:
        self._cuda.reset_peak_memory_stats(self._device)

    def peak(self) -> int:
        return int(self._cuda.max_memory_allocated(self._device) - self._base)


def _give_back_what_is_free() -> None:
    """Have glibc return freed memory: what computing then takes of it would be no growth."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status(field: str) -> int:
    """A figure of this process's memory, in bytes."""
    [line] = (line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024

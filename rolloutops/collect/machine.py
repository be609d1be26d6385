"""What this machine has: memory of a process, of its GPUs, and space on its disks. Nothing here raises."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg")
"""Where NVIDIA's driver answers: on Linux, and under WSL."""


def process_memory() -> int | None:
    """Bytes of memory that this process has in use; None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def free_disk(folder: Path) -> int | None:
    """Bytes that may still be written where a folder lies."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def gpus() -> list[dict[str, Any]]:
    """Name, used and total bytes of each GPU; none where NVML or pynvml is missing or does not answer."""
    if not any(map(os.path.exists, GPU_DEVICES)):
        return []  # pynvml takes 10 ms to import, and `status` 600
    try:
        import pynvml

        pynvml.nvmlInit()
        try:
            return [_gpu(pynvml, number) for number in range(pynvml.nvmlDeviceGetCount())]
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # it is only shown: whatever a driver does, `status` goes on
        return []


def _gpu(nvml: Any, number: int) -> dict[str, Any]:
    handle = nvml.nvmlDeviceGetHandleByIndex(number)
    name, memory = nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetMemoryInfo(handle)
    return {
        "name": name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name),
        "used_bytes": int(memory.used),
        "total_bytes": int(memory.total),
    }

"""glibc's heap, told to keep what is freed, as the allocators of GPUs do.

By its defaults glibc gives large blocks back to Linux when they are freed, by chance all or some of them, and the kernel clears
their pages again when the next step takes them: up to a third of a step, and more or less of it in each process and build.
"""

import ctypes
import sys
from functools import cache

# malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


@cache
def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


@cache
def keep() -> None:
    """From now on freed memory stays with the process; nothing is changed where the heap is not glibc's."""
    if libc := _glibc():
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def keeps() -> bool:
    """Whether `keep` was called, and could do something."""
    return bool(keep.cache_info().currsize and _glibc())


def give_back() -> None:
    """Let go of what is free now: what an earlier model held is no longer the process's."""
    if libc := _glibc():
        libc.malloc_trim(0)

"""Keeps freed memory in the process, for long training runs on the CPU."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NEVER, LARGEST_BYTES = 2**31 - 1, 2**30


def keep_freed_memory() -> bool:
    """Let the C library reuse freed blocks instead of returning them to the system; True if it supports this (glibc).

    A training step frees and allocates hundreds of blocks of many megabytes. By default each allocation gets new pages,
    which the system must clear first: 10 to 25 % of a step on the CPU. The process keeps its peak size.
    """
    try:
        option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(option(M_MMAP_THRESHOLD, LARGEST_BYTES)) and bool(option(M_TRIM_THRESHOLD, NEVER))

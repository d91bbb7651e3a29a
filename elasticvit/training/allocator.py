"""Freed memory stays with the process, for long runs of training on the CPU."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NEVER, LARGEST_BYTES = 2**31 - 1, 2**30


def keep_freed_memory() -> bool:
    """Let the C library reuse freed blocks instead of giving them back to the system; whether it knows how (glibc).

    A training step frees and asks for hundreds of maps of many megabytes. By default each comes as fresh pages that the
    system must clear first, which takes 10 to 25 % of a step on the CPU. The process stays as large as it ever was.
    """
    try:
        option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(option(M_MMAP_THRESHOLD, LARGEST_BYTES)) and bool(option(M_TRIM_THRESHOLD, NEVER))

"""Memory that a step has freed stays with the process, for the next step to take again.

A step takes and frees the same large blocks. By default glibc gives the end of an arena back to the system when some
ten megabytes of it are free, and a thread's arena sooner than the first one's; what comes back page by page is zeroed
first. A training in a thread, as Ray Train's workers are, lost a twentieth of its CPU time to that.
"""

import ctypes
import os

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
KEPT, HEAP = 1 << 28, 1 << 26
SETTINGS = {
    M_TRIM_THRESHOLD: KEPT,  # bytes at the end of an arena that stay there
    M_TOP_PAD: HEAP,  # a thread's arena grows by heaps of so much; an empty one stays
    M_MMAP_THRESHOLD: HEAP // 2,  # blocks up to this lie in an arena at all; glibc allows no more
}
"""Parameters of mallopt(3) and their values."""
CHOSEN = ("MALLOC_", "GLIBC_TUNABLES")
"""What the environment says of these wins."""


def keep_freed_memory() -> bool:
    """Of this process, from now on; whether it could be asked for: only glibc knows how."""
    if any(name.startswith(CHOSEN) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(parameter, size) == 1 for parameter, size in SETTINGS.items())

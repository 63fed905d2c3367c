"""Memory that a process has let go, and will need again in a moment."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # mallopt's M_..., of <malloc.h>


def keep_freed() -> bool:
    """Let the process keep what it frees, for its next layer; whether its C library can be told so.

    glibc gives freed memory back to the system, and has new pages for the next layer's activations,
    which the system must fill with zeros first: half a million for a call of SD 1's U-Net, a tenth
    of its time. So no block is mapped by itself any more, and the heap never shrinks: to the end of
    the process, so only programs call it that do little else. Results are the same to the bit.
    False where the C library is another one.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    return bool(mallopt(MMAP_MAX, 0) and mallopt(TRIM_THRESHOLD, -1))

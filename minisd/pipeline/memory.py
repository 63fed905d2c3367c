"""Memory that a process has let go, and will need again in a moment."""

import ctypes
import sys

TRIM, MMAP = -1, -3  # mallopt's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, of <malloc.h>
LARGEST = 32 << 20  # bytes: glibc maps larger blocks by themselves, whatever it is told


def keep_freed() -> bool:
    """Let the process keep what it frees, for its next layer; whether its C library can be told so.

    glibc gives freed memory back to the system, and has new pages for the next layer's activations,
    which the system must fill with zeros first: half a million for a call of SD 1's U-Net, a tenth
    of its time. It holds for the whole process and to its end, so only programs call it that do
    little else. Results are the same to the bit. False where the C library is another one.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    return bool(mallopt(MMAP, LARGEST) and mallopt(TRIM, 2**31 - 1))

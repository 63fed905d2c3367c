"""Tests and notebook kernels run side by side: one thread each, and no font-cache message."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

"""Tests and notebook kernels run side by side: one thread each, and no font-cache message.

The kernels inherit what is set here. Importing matplotlib's fonts writes their cache, and where the
home folder cannot be written it names a temporary folder for them in MPLCONFIGDIR.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("MPLBACKEND", None)  # a backend named for other programs; kernels have their own

import matplotlib.font_manager  # noqa: E402, F401

"""Freed memory that a process keeps for its next layer."""

import subprocess
import sys

import pytest

from minisd.pipeline import memory

FAULTS = """
import resource
import torch
from minisd.pipeline.memory import keep_freed
kept = keep_freed()
def layers():
    held = [torch.ones(6 << 20) for _ in range(10)]  # 24 MB each, as skips are held; then let go
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    layers()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_no_page_is_asked_for_twice():
    """By the third time nearly all pages are there, where the C library keeps them."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True)
    kept, count = done.stdout.split()
    if kept == "False":
        pytest.skip("another C library")
    assert int(count) < 3000  # a block has 6,144 pages; at least one is new where they are not kept


def test_where_it_cannot_be_told(monkeypatch):
    """Another system, and a C library without mallopt."""
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert not memory.keep_freed()
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    assert not memory.keep_freed()

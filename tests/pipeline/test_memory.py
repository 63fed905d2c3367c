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
for i in range(12):
    layers()
    if i == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_no_page_is_asked_for_twice():
    """After two times nearly all pages are there, where the C library keeps them."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True)
    kept, count = done.stdout.split()
    if kept == "False":
        pytest.skip("another C library")
    assert int(count) < 30_000  # a block has 6,144 pages; ten times one to ten are new otherwise


def test_where_it_cannot_be_told(monkeypatch):
    """Another system, and a C library without mallopt."""
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert not memory.keep_freed()
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    assert not memory.keep_freed()

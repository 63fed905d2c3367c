"""How many threads a network's call takes. Threads that share small work wait for each other, and
while another program holds a core, they wait for it: then one thread is many times faster."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

SMALL = 20_000_000  # parameters: the tiny model has 4.8 million, SD 1's U-Net 860 million
MANY = 8  # rows from which even a small network's work is worth sharing, on a machine at rest


def is_small(network: nn.Module) -> bool:
    """Whether a network has fewer than SMALL parameters."""
    return sum(weight.numel() for weight in network.parameters()) < SMALL


def busy() -> bool:
    """Whether more programs want to run than there are cores (False where no one can say)."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return load > 1.25 * (os.cpu_count() or 1)


@contextmanager
def threads_for(small: bool, rows: int) -> Iterator[None]:
    """torch's threads inside: one for a small network with few rows, or on a busy machine.

    Outside there are as many as before. A large network keeps all of them.
    """
    before = torch.get_num_threads()
    one = small and before > 1 and (rows < MANY or busy())
    if one:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if one:
            torch.set_num_threads(before)

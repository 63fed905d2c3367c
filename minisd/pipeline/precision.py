"""16 bits on a CPU: weights that stay as the file has them, and whether to compute in 16 bits.

Many processors multiply numbers of 16 bits far slower than float32. So the weights of a large
network stay in 16 bits, half of float32's memory, and the work is done in float32: a layer's
weights are widened as it reads them, and let go when it is done. The results are those of the
network that is float32 as a whole, to the bit: the same numbers go to the same kernels.
"""

import functools
import time

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

CLEARLY = 0.8  # of float32's time: what `fastest` wants of 16 bits, as timings vary from run to run


class Widened(nn.Module):
    """A parametrisation of a weight: in another dtype, made anew each time that it is read."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, weight: Tensor) -> Tensor:
        # torch's matrix product takes another way for a weight that asks for no gradient
        return weight.to(self.dtype).requires_grad_(weight.requires_grad)


def widened(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The network, changed in place, so that its weights are kept as they are and read in dtype.

    That holds for every way to read one, be it a layer's own or `layer.weight` elsewhere; nothing
    wide outlives what reads it. Parameters tell the dtype that is kept. torch's parametrisations
    rename the keys of the state_dict, so what is saved or merged is the network as it was before.
    """
    for module in [*network.modules()]:
        for name, weight in [*module.named_parameters(recurse=False)]:
            if weight.dtype != dtype:
                register_parametrization(module, name, Widened(dtype), unsafe=True)  # another dtype
    return network


def bits_of(network: nn.Module) -> torch.dtype:
    """The dtype of most of a network's numbers, as they are kept."""
    counts: dict[torch.dtype, int] = {}
    for weight in network.parameters():
        counts[weight.dtype] = counts.get(weight.dtype, 0) + weight.numel()
    return max(counts, key=counts.get)


@functools.cache
def slower(dtype: torch.dtype) -> float:
    """How many times as long as in float32 a small convolution and matrix product take on this
    processor; measured once, in some milliseconds."""

    def seconds(kind: torch.dtype) -> float:
        x, weight = torch.ones(1, 64, 32, 32, dtype=kind), torch.ones(64, 64, 3, 3, dtype=kind)
        matrix, spent = torch.ones(256, 256, dtype=kind), []
        for _ in range(6):  # the first prepares
            start = time.perf_counter()
            torch.conv2d(x, weight)
            matrix @ matrix
            spent.append(time.perf_counter() - start)
        return min(spent)

    return seconds(dtype) / seconds(torch.float32)


def fastest(stored: torch.dtype, device: torch.device) -> torch.dtype:
    """What to compute in, of the file's dtype and float32: 16 bits where they are clearly faster.

    On a CPU that is measured; a GPU has units for them.
    """
    if stored.itemsize != 2 or (device.type == "cpu" and slower(stored) > CLEARLY):
        return torch.float32
    return stored

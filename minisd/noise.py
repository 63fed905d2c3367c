"""Noise for the samplers: where it comes from is the caller's choice, one function x -> noise.

Numbers are drawn on the CPU in float32 and then moved, so that a seed means the same everywhere.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from .equations import q_sample


def gaussian(
    generator: torch.Generator | int,
    temperature: float = 1.0,
    repeat: bool = False,
    dropout: float = 0.0,
) -> Callable[[Tensor], Tensor]:
    """A function x -> N(0, temperature² I) like x, from a torch.Generator (or a seed for one).

    repeat gives every sample of the batch the same noise. dropout zeroes that share of the numbers
    and, as torch's dropout does, divides the rest by 1 - dropout: the variance grows by as much.
    Official: `temperature`, `repeat_noise`, `noise_dropout`; `noise_like`
    """
    if temperature < 0 or not 0 <= dropout < 1:
        raise ValueError(
            f"temperature must be at least 0 and dropout in [0, 1), got {temperature}, {dropout}"
        )
    if isinstance(generator, int):
        generator = torch.Generator().manual_seed(generator)

    def draw(x: Tensor) -> Tensor:
        z = torch.randn((1, *x.shape[1:]) if repeat else x.shape, generator=generator)
        if dropout:
            kept = torch.rand(z.shape, generator=generator) >= dropout
            z = z * kept / (1 - dropout)
        return (temperature * z).to(x).expand(x.shape)

    return draw


def replay(noises: Iterable[Tensor]) -> Callable[[Tensor], Tensor]:
    """A function x -> the next of recorded `noises`, so that a sampler repeats what it did."""
    noises = list(noises)
    rest = iter(noises)

    def draw(x: Tensor) -> Tensor:
        z = next(rest, None)
        if z is None:
            raise ValueError(f"replay has no noise left: all {len(noises)} recorded ones are used")
        if z.shape != x.shape:
            raise ValueError(f"replayed noise has shape {tuple(z.shape)}, x {tuple(x.shape)}")
        return z.to(x)

    return draw


def keep(
    keep_mask: Tensor, x0: Tensor, ab: Tensor, noise: Callable[[Tensor], Tensor]
) -> Callable[[Tensor, int], Tensor]:
    """For a sampler's `constrain`: where keep_mask is 1, x is x0, noised (eq. 4) to the time of x.

    keep_mask broadcasts to x; between 0 and 1 it blends. At the end, t = 0, x0 itself stands there.
    Official: `mask`, `x0` (where the last blend is missing, and the kept part is not quite x0)
    """

    def constrain(x: Tensor, t: int) -> Tensor:
        return keep_mask * q_sample(x0, noise(x0), ab[t]) + (1 - keep_mask) * x

    return constrain

"""Noise for the samplers: where it comes from is the caller's choice, one function x -> noise.

Numbers are drawn on the CPU in float32 and then moved, so that a seed means the same everywhere.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from .equations import q_sample
from .prediction import drawn, same_shape
from .schedules import ab_at, check_count, check_number


def gaussian(
    generator: torch.Generator | int,
    temperature: float = 1.0,
    repeat: bool = False,
    dropout: float = 0.0,
) -> Callable[[Tensor], Tensor]:
    """A function x -> N(0, temperature² I) like x, from a torch.Generator (or a seed for one).

    repeat gives every sample of the batch the same noise. dropout zeroes that share of the numbers,
    in each sample others, with repeat too, and divides the rest by 1 - dropout, as torch's dropout
    does: the variance grows by as much.
    Official: `temperature`, `repeat_noise`, `noise_dropout`; `noise_like`
    """
    check_number("temperature", temperature)
    check_number("dropout", dropout, below=1)
    if not isinstance(generator, torch.Generator):
        seed = check_count("generator, unless it is a torch.Generator,", generator, least=0)
        generator = torch.Generator().manual_seed(seed)

    def draw(x: Tensor) -> Tensor:
        z = torch.randn((1, *x.shape[1:]) if repeat else x.shape, generator=generator)
        z = z.expand(x.shape)
        if dropout:
            kept = torch.rand(z.shape, generator=generator) >= dropout
            z = z * kept / (1 - dropout)
        return (temperature * z).to(x)

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
    The official DDIM and PLMS loops blend before each step too, but not at the end, so their kept
    part is not quite x0. The official `p_sample_loop` blends after each step, the last included,
    with x0 noised to the time at which the step began: one time too noisy, and x_1 at the end.
    Official: `mask`, `x0`
    """

    def constrain(x: Tensor, t: float) -> Tensor:
        x_t = q_sample(same_shape("keep's x0", x0, x), drawn(noise, x0), ab_at(ab, t, x))
        return keep_mask * x_t + (1 - keep_mask) * x

    return constrain

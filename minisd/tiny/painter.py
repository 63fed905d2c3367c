"""A text-to-image pipeline in the shape of Stable Diffusion's, without a trained network.

The world has finitely many pictures, so the best noise prediction is known in closed form
(models.toy.IdealDenoiser). It paints what it has seen; to generalise is what a network is for.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..guidance import cfg
from ..noise import gaussian
from ..samplers import plms
from ..schedules import alpha_bar, ldm_uniform_times, scaled_linear_betas
from ..toy import GaussianMixture, IdealDenoiser
from .shapes import fits, world


class Frame(NamedTuple):
    """A moment of the sampling: x_t, and the x0 that was predicted from it."""

    t: int
    x: Tensor
    x0: Tensor


def paint(prompt: str, seed: int = 0, scale: float = 7.5, steps: int = 50) -> list[Frame]:
    """A sentence to a picture: a Frame for every step, and the picture as the last Frame's x0.

    With SD's schedule, time grid, sampler and guidance; pictures (1, 3, 32, 32) in -1..1.
    """
    pictures, captions = world()
    classes = (~fits(prompt, captions)).long()  # 0: the prompt fits, 1: it does not
    ab = alpha_bar(scaled_linear_betas())
    model = IdealDenoiser(GaussianMixture(pictures, labels=classes), ab)
    eps_model = cfg(model, torch.tensor([0]), torch.tensor([-1]), scale)  # -1: any class
    x = gaussian(seed)(pictures[:1])
    times = ldm_uniform_times(1000, steps)
    frames = []
    for t, step in zip(times, plms(eps_model, x, times, ab), strict=False):
        frames.append(Frame(t, x, step.x0))
        x = step.x
    return frames

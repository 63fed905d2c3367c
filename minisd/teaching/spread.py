"""How wide the samples of a stochastic sampler lie, exactly and without chance.

Where the data are N(0, STD²), the ideal ε is linear in x, and so is all that a sampler does: x_0 is
a weighted sum of x_T and of every noise that was drawn. A batch whose every entry starts from, or
draws, a single 1 where the others have 0 reads all those weights off in one run; the sum of their
squares is the variance of x_0. This is the auditor's measure for samplers that draw noise: the
error of the standard deviation falls with the number of steps as the sampler's weak order says.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..schedules import between

STD = 0.5


def spread(solve: Callable, ab: Tensor, n: int) -> float:
    """The standard deviation where the model is called last, less the exact one, as a part of it.

    solve: (model, x_T, n, noise=) -> x_0, whose every draw is noise(x), x of the shape of x_T;
    ab: ᾱ_0..ᾱ_T; n: the number of steps. At most 4 draws a step. The last step, into σ = 0, draws
    nothing and is left out: its error belongs to the last σ and not to the sampler.
    """
    draws, last = [0], []

    def model(x, t):
        ab_t = between(ab, float(t))
        var = ab_t * STD**2 + 1 - ab_t
        last[:] = x.double(), var
        return math.sqrt(1 - ab_t) / var * x

    def noise(x):
        draws[0] += 1
        z = torch.zeros_like(x)
        z.view(-1)[draws[0]] = 1
        return z

    x_T = torch.zeros(4 * n + 4, dtype=torch.float64)
    x_T[0] = math.sqrt(ab[-1] * STD**2 + 1 - ab[-1])
    solve(model, x_T, n, noise=noise)
    x, var = last
    return math.sqrt((x**2).sum().item() / var) - 1

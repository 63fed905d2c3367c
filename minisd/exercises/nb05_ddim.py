"""Exercises of notebook 05."""

import torch

from ..check import Exercise
from ..equations import pred_x0


def _cases(generator):
    for shape in [(2, 3), (1, 4, 8, 8), (5,)]:
        x_t, eps = torch.randn((2, *shape), dtype=torch.float64, generator=generator)
        for ab_t in torch.rand(2, dtype=torch.float64, generator=generator):
            yield x_t, eps, ab_t


EXERCISES = {
    "pred_x0": Exercise(
        pred_x0,
        _cases,
        {
            "a root is missing: the noise's share of x_t is √(1-ᾱ_t), not 1-ᾱ_t": lambda x, e, ab: (
                (x - (1 - ab) * e) / ab.sqrt()
            ),
            "a root is missing: divide by √ᾱ_t, not by ᾱ_t": lambda x, e, ab: (
                (x - (1 - ab).sqrt() * e) / ab
            ),
            "ᾱ_t and 1-ᾱ_t are swapped": lambda x, e, ab: (x - ab.sqrt() * e) / (1 - ab).sqrt(),
        },
    ),
}

"""Exercises of notebook 05."""

import math

import torch

from ...equations import ddim_step, dir_xt, eps_from_x0, pred_x0, q_sample, sigma
from ...schedules import alpha_bar, ldm_uniform_times, scaled_linear_betas, trailing_times
from ..checking import Exercise


def _randn(generator, *shape):
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def _pred_x0_cases(generator):
    for shape in [(2, 3), (1, 4, 8, 8), (5,)]:
        x_t, eps = _randn(generator, 2, *shape)
        for ab_t in torch.rand(2, dtype=torch.float64, generator=generator):
            yield x_t, eps, ab_t
    yield x_t, eps, torch.tensor(1.0, dtype=torch.float64)


# Pairs (ᾱ_t, ᾱ_s): a middle step, a long one, SD's first, SD's last.
_STEPS = torch.tensor(
    [(0.30, 0.50), (0.05, 0.90), (0.0057755, 0.00728173), (0.99829603, 0.99915)],
    dtype=torch.float64,
)


def _direction(x_t, x0, ab_t, ab_s, sigma_t):
    return dir_xt(eps_from_x0(x_t, x0, ab_t), ab_s, sigma_t)


def _direction_cases(generator):
    for shape, (ab_t, ab_s), eta in zip(
        [(2, 3), (1, 4, 8, 8), (5,), (3, 2)], _STEPS, [0.0, 0.5, 1.0, 0.5], strict=True
    ):
        yield *_randn(generator, 2, *shape), ab_t, ab_s, sigma(ab_t, ab_s, eta)
    one = torch.tensor(1.0, dtype=torch.float64)
    yield *_randn(generator, 2, 4), _STEPS[0, 0], one, 0 * one


def _step_cases(generator):
    for shape, (ab_t, ab_s), share in zip(
        [(2, 3), (1, 4, 8, 8), (5,), (3, 2)], _STEPS, [0.0, 0.5, 0.99, 0.2], strict=True
    ):
        x_t, eps, noise = _randn(generator, 3, *shape)
        yield x_t, eps, ab_t, ab_s, share * (1 - ab_s).sqrt(), noise


def _step_with(mix):
    def step(x_t, eps, ab_t, ab_s, sigma_t, noise):
        mixed = mix(eps, noise, (1 - ab_s - sigma_t**2).sqrt(), sigma_t, (1 - ab_s).sqrt())
        return q_sample(pred_x0(x_t, eps, ab_t), mixed, ab_s)

    return step


def _sigma_from_beta(beta_t, ab_t, eta):
    ab_s = ab_t / (1 - beta_t)
    return eta * ((1 - ab_s) / (1 - ab_t) * beta_t).sqrt()


def _sigma_cases(generator):
    betas = scaled_linear_betas()
    t = torch.tensor([2, 22, 500, 982, 1000])
    for eta in [1.0, 0.5, 0.0]:
        yield betas[t - 1], alpha_bar(betas)[t], eta
    yield betas[499], alpha_bar(betas)[500], 0.3


def _largest_eta(ab_t, ab_s):
    return ((1 - ab_t) / (1 - ab_t / ab_s)) ** 0.5


def _eta_cases(generator):
    yield from _STEPS


def _in_sigma(x_t, eps, sigma_t, sigma_s):
    x_bar = x_t * (1 + sigma_t**2) ** 0.5
    return (x_bar + (sigma_s - sigma_t) * eps) / (1 + sigma_s**2) ** 0.5


def _in_sigma_cases(generator):
    for shape, (t, s) in zip(
        [(2, 3), (1, 4, 8, 8), (5,), (3, 2)],
        [(13.12, 11.68), (1.6, 1.5), (0.0413, 0.0292), (0.5, 0.0)],
        strict=True,
    ):
        yield *_randn(generator, 2, *shape), *torch.tensor([t, s], dtype=torch.float64)


def _grid_cases(generator):
    return [(1000, 50), (1000, 60), (1000, 300), (1000, 1), (100, 7), (7, 7)]


def _ldm_with(first, cap, end):
    def grid(T, steps):
        times = {min(t, T + cap) for t in range(first, T + first, T // steps)}
        return sorted(times, reverse=True) + end

    return grid


def _trailing_with(rounding, first=0, end=True):
    return lambda T, steps: [
        rounding(T * (steps - i) / steps) - first for i in range(steps + int(end))
    ]


EXERCISES = {
    "pred_x0": Exercise(
        pred_x0,
        _pred_x0_cases,
        {
            "a root is missing: the noise's share of x_t is √(1-ᾱ_t), not 1-ᾱ_t": lambda x, e, ab: (
                (x - (1 - ab) * e) / ab.sqrt()
            ),
            "a root is missing: divide by √ᾱ_t, not by ᾱ_t": lambda x, e, ab: (
                (x - (1 - ab).sqrt() * e) / ab
            ),
            "both roots are missing: the shares in x_t are √ᾱ_t and √(1-ᾱ_t)": lambda x, e, ab: (
                (x - (1 - ab) * e) / ab
            ),
            "x_0 enters x_t with the factor √ᾱ_t: divide by it": lambda x, e, ab: (
                x - (1 - ab).sqrt() * e
            ),
            "ᾱ_t and 1-ᾱ_t are swapped": lambda x, e, ab: (x - ab.sqrt() * e) / (1 - ab).sqrt(),
            "divide by √ᾱ_t; here it is multiplied": lambda x, e, ab: (
                (x - (1 - ab).sqrt() * e) * ab.sqrt()
            ),
            "x_t is divided by √ᾱ_t as well, so brackets are missing": lambda x, e, ab: (
                x - (1 - ab).sqrt() * e / ab.sqrt()
            ),
            "the whole bracket is divided by √ᾱ_t, the noise as well": lambda x, e, ab: (
                x / ab.sqrt() - (1 - ab).sqrt() * e
            ),
            "the noise has to be subtracted from x_t, not added": lambda x, e, ab: (
                (x + (1 - ab).sqrt() * e) / ab.sqrt()
            ),
        },
        level="easy",
        goal="solve the forward equation for x0",
    ),
    "dir_xt": Exercise(
        _direction,
        _direction_cases,
        {
            "σ_t stands where its square, a variance, belongs": lambda x, x0, ab_t, ab_s, sg: (
                (1 - ab_s - sg).sqrt() * eps_from_x0(x, x0, ab_t)
            ),
            "a root is missing: 1-ᾱ_s-σ_t² is a variance": lambda x, x0, ab_t, ab_s, sg: (
                (1 - ab_s - sg**2) * eps_from_x0(x, x0, ab_t)
            ),
            "s and t are swapped: the direction has the noise of the time s, where the step ends": (
                lambda x, x0, ab_t, ab_s, sg: (1 - ab_t - sg**2).sqrt() * eps_from_x0(x, x0, ab_t)
            ),
            "1-ᾱ_s is the whole variance; σ_t² of it belongs to the fresh noise": (
                lambda x, x0, ab_t, ab_s, sg: (1 - ab_s).sqrt() * eps_from_x0(x, x0, ab_t)
            ),
            "σ_t belongs to the fresh noise z, and √(1-ᾱ_s-σ_t²) to ε": (
                lambda x, x0, ab_t, ab_s, sg: sg * eps_from_x0(x, x0, ab_t)
            ),
            "x_t - √ᾱ_t x_0 is √(1-ᾱ_t) ε, not yet ε": lambda x, x0, ab_t, ab_s, sg: (
                (1 - ab_s - sg**2).sqrt() * (x - ab_t.sqrt() * x0)
            ),
            "the direction is the noise that x_t holds, scaled to s; x_t - x̂_0 is neither": (
                lambda x, x0, ab_t, ab_s, sg: x - x0
            ),
            "x_t - x_0 is not the noise: x_0 enters x_t with √ᾱ_t, and ε with √(1-ᾱ_t)": (
                lambda x, x0, ab_t, ab_s, sg: (1 - ab_s - sg**2).sqrt() * (x - x0)
            ),
            "variances are subtracted under the root, not standard deviations": (
                lambda x, x0, ab_t, ab_s, sg: ((1 - ab_s).sqrt() - sg) * eps_from_x0(x, x0, ab_t)
            ),
            "x_t holds √ᾱ_t x_0 and √(1-ᾱ_t) ε, both at its own time t, not at s": (
                lambda x, x0, ab_t, ab_s, sg: (
                    (1 - ab_s - sg**2).sqrt() * (x - ab_s.sqrt() * x0) / (1 - ab_t).sqrt()
                )
            ),
            "a root is missing: ε's share of x_t is √(1-ᾱ_t)": lambda x, x0, ab_t, ab_s, sg: (
                (1 - ab_s - sg**2).sqrt() * (x - ab_t.sqrt() * x0) / (1 - ab_t)
            ),
            "fresh noise replaces old noise, so σ_t² is subtracted": lambda x, x0, ab_t, ab_s, sg: (
                (1 - ab_s + sg**2).sqrt() * eps_from_x0(x, x0, ab_t)
            ),
            "x_t and x_0 give ε at the time t, with ab_t": lambda x, x0, ab_t, ab_s, sg: (
                (1 - ab_s - sg**2).sqrt() * eps_from_x0(x, x0, ab_s.clamp(max=0.9999))
            ),
            "that is ε; the direction is √(1-ᾱ_s-σ_t²) times ε": lambda x, x0, ab_t, ab_s, sg: (
                eps_from_x0(x, x0, ab_t)
            ),
            "x_t holds only √ᾱ_t x_0: subtract that, not x_0": lambda x, x0, ab_t, ab_s, sg: (
                (1 - ab_s - sg**2).sqrt() * (x - x0) / (1 - ab_t).sqrt()
            ),
            "a root is missing: x_0's share of x_t is √ᾱ_t": lambda x, x0, ab_t, ab_s, sg: (
                (1 - ab_s - sg**2).sqrt() * (x - ab_t * x0) / (1 - ab_t).sqrt()
            ),
        },
        level="easy",
        goal="find the direction that fits a changed x0",
    ),
    "ddim_by_q_sample": Exercise(
        ddim_step,
        _step_cases,
        {
            "the mixed noise has not variance 1: q_sample multiplies by √(1-ᾱ_s)": _step_with(
                lambda eps, z, a, sg, root: a * eps + sg * z
            ),
            "the fresh share of the noise's variance is σ_t²/(1-ᾱ_s), not σ_t": _step_with(
                lambda eps, z, a, sg, root: (1 - sg).sqrt() * eps + sg.sqrt() * z
            ),
            "σ_t is measured in x_s, where all the noise has the variance 1-ᾱ_s, not 1": _step_with(
                lambda eps, z, a, sg, root: (1 - sg**2).sqrt() * eps + sg * z
            ),
            "variances add up, not standard deviations, and to 1-ᾱ_s, not to 1": _step_with(
                lambda eps, z, a, sg, root: (1 - sg) * eps + sg * z
            ),
            "fresh noise replaces old noise; here it is added on top of all of it": _step_with(
                lambda eps, z, a, sg, root: eps + sg * z / root
            ),
            "eps + noise has variance 2: each needs the root of its share as a factor": (
                lambda x, e, ab_t, ab_s, sg, n: q_sample(pred_x0(x, e, ab_t), e + n, ab_s)
            ),
            "only the old noise is used; the fresh noise is missing": _step_with(
                lambda eps, z, a, sg, root: eps
            ),
            "fresh noise replaces old noise; all of the old is here, and σ_t is measured in x_s": (
                _step_with(lambda eps, z, a, sg, root: eps + sg * z)
            ),
            "the shares of the variance are not the factors: take their roots": _step_with(
                lambda eps, z, a, sg, root: (a / root) ** 2 * eps + (sg / root) ** 2 * z
            ),
            "old and fresh noise are swapped": _step_with(
                lambda eps, z, a, sg, root: (sg * eps + a * z) / root
            ),
            "variances add up, not standard deviations": _step_with(
                lambda eps, z, a, sg, root: ((root - sg) * eps + sg * z) / root
            ),
            "t and s are swapped: noise is added up to s, where the step ends": (
                lambda x, eps, ab_t, ab_s, sg, z: q_sample(
                    pred_x0(x, eps, ab_t),
                    ((1 - ab_s - sg**2).sqrt() * eps + sg * z) / (1 - ab_s).sqrt(),
                    ab_t,
                )
            ),
        },
        level="middle",
        goal="see a DDIM step as predicting and noising again",
    ),
    "sigma": Exercise(
        _sigma_from_beta,
        _sigma_cases,
        {
            "that is η times a variance: σ_t has the root": lambda b, ab, eta: (
                eta * (1 - ab / (1 - b)) / (1 - ab) * b
            ),
            "eta is inside the root; it scales σ_t, not σ_t²": lambda b, ab, eta: (
                eta * (1 - ab / (1 - b)) / (1 - ab) * b
            ).sqrt(),
            "ᾱ_s is ᾱ_t divided by 1-β_t: an earlier time has more signal": lambda b, ab, eta: (
                eta * ((1 - ab * (1 - b)) / (1 - ab) * b).sqrt()
            ),
            "1-ᾱ_s and 1-ᾱ_t are swapped: σ_t is 0 where ᾱ_s is 1": (
                lambda b, ab, eta: eta * ((1 - ab) / (1 - ab / (1 - b)) * b).sqrt()
            ),
            "1-ᾱ_t/ᾱ_s, which is β_t, stands under a root": lambda b, ab, eta: (
                eta * ((1 - ab / (1 - b)) / (1 - ab)).sqrt() * b
            ),
            "the second root, of 1-ᾱ_t/ᾱ_s, is missing": lambda b, ab, eta: (
                eta * ((1 - ab / (1 - b)) / (1 - ab)).sqrt()
            ),
            "ᾱ_s is ᾱ_t/(1-β_t), not ᾱ_t + β_t": lambda b, ab, eta: (
                eta * ((1 - ab - b) / (1 - ab) * b).sqrt()
            ),
            "1-ᾱ_t/ᾱ_s is β_t, not 1-β_t": lambda b, ab, eta: (
                eta * ((1 - ab / (1 - b)) / (1 - ab) * (1 - b)).sqrt()
            ),
            "eta is squared; it scales σ_t": lambda b, ab, eta: _sigma_from_beta(b, ab, eta**2),
            "eta is missing": lambda b, ab, eta: _sigma_from_beta(b, ab, 1.0),
            "that is √β_t, DDPM's larger choice; η = 1 gives the posterior's": lambda b, ab, eta: (
                eta * b.sqrt() * torch.ones_like(ab)
            ),
        },
        level="easy",
        goal="get DDIM's sigma from one beta and one alpha_bar",
    ),
    "largest_eta": Exercise(
        _largest_eta,
        _eta_cases,
        {
            "that is η²: take the root": lambda ab_t, ab_s: (1 - ab_t) / (1 - ab_t / ab_s),
            "the fraction is upside down: the largest η is at least 1": lambda ab_t, ab_s: (
                (1 - ab_t / ab_s) / (1 - ab_t)
            ).sqrt(),
            "the noise must fit into 1-ᾱ_s, at the time x goes to": lambda ab_t, ab_s: (
                (1 - ab_t) / ((1 - ab_s) * (1 - ab_t / ab_s)) ** 0.5
            ),
            "that is the largest σ_t; η is σ_t(η) divided by σ_t(1)": lambda ab_t, ab_s: (
                (1 - ab_s) ** 0.5
            ),
            "that is σ_t at η = 1": lambda ab_t, ab_s: sigma(ab_t, ab_s, 1.0),
            "√(1-ᾱ_t) is missing: σ_t(1) has it below the line": lambda ab_t, ab_s: (
                (1 - ab_t / ab_s) ** -0.5
            ),
            "σ_t is at most √(1-ᾱ_s); a root is missing": lambda ab_t, ab_s: (
                (1 - ab_s) / sigma(ab_t, ab_s, 1.0)
            ),
            "the limit for σ_t is √(1-ᾱ_s), not 1": lambda ab_t, ab_s: 1 / sigma(ab_t, ab_s, 1.0),
            "1 always fits, but it is not the largest": lambda ab_t, ab_s: 1.0,
        },
        level="middle",
        goal="find how much fresh noise a step has room for",
    ),
    "ddim_in_sigma": Exercise(
        _in_sigma,
        _in_sigma_cases,
        {
            "the result is still x̄_s: go back to x_s": lambda x, e, t, s: (
                x * (1 + t**2).sqrt() + (s - t) * e
            ),
            "this moves x_t itself; eq. 13 moves x̄ = x/√ᾱ: change to x̄, and back": (
                lambda x, e, t, s: x + (s - t) * e
            ),
            "x_t was not changed into x̄_t first": lambda x, e, t, s: (
                (x + (s - t) * e) / (1 + s**2).sqrt()
            ),
            "the sign: the step is σ̄_s-σ̄_t, which is negative, times ε": lambda x, e, t, s: (
                (x * (1 + t**2).sqrt() + (t - s) * e) / (1 + s**2).sqrt()
            ),
            "s and t are swapped: x̄_t is x_t √(1+σ̄_t²), and x_s is x̄_s / √(1+σ̄_s²)": (
                lambda x, e, t, s: (x * (1 + s**2).sqrt() + (s - t) * e) / (1 + t**2).sqrt()
            ),
            "s and t are swapped on the way back to x_s": lambda x, e, t, s: (
                (x * (1 + t**2).sqrt() + (s - t) * e) / (1 + t**2).sqrt()
            ),
            "ᾱ is 1/(1+σ̄²): solve σ̄² = (1-ᾱ)/ᾱ": lambda x, e, t, s: (
                (x / (1 - t**2).sqrt() + (s - t) * e) * (1 - s**2).sqrt()
            ),
            "σ̄² is (1-ᾱ)/ᾱ = 1/ᾱ - 1, not 1/ᾱ: the 1 is missing": lambda x, e, t, s: (
                (x * t + (s - t) * e) / s
            ),
            "x̄ is x/√ᾱ = x √(1+σ̄²); here it is divided by the root instead": lambda x, e, t, s: (
                (x / (1 + t**2).sqrt() + (s - t) * e) * (1 + s**2).sqrt()
            ),
            "only x is rescaled here: the step (σ̄_s-σ̄_t) ε is one of x̄": lambda x, e, t, s: (
                x * ((1 + t**2) / (1 + s**2)).sqrt() + (s - t) * e
            ),
            "a root is missing: √ᾱ is 1/√(1+σ̄²)": lambda x, e, t, s: (
                (x * (1 + t**2) + (s - t) * e) / (1 + s**2)
            ),
        },
        level="middle",
        goal="take the step in a library's sigma in place of alpha_bar",
    ),
    "ldm_grid": Exercise(
        ldm_uniform_times,
        _grid_cases,
        {
            "these are the official indices; the paper's t is one more": _ldm_with(1, -1, [0]),
            "the last step, from t = 2 to t = 1, is missing": _ldm_with(2, 0, []),
            "a time T+1, the official crash, becomes T": _ldm_with(2, 1, [1]),
            "SD's grid ends at t = 1, not at 0": _ldm_with(2, 0, [0]),
            "where the cap at T makes two times equal, only one stays": lambda T, steps: (
                [min(i + 2, T) for i in range(0, T, T // steps)][::-1] + [1]
            ),
            "a time beyond T becomes T; it does not drop out": lambda T, steps: (
                [i + 2 for i in range(0, T, T // steps) if i + 2 <= T][::-1] + [1]
            ),
            "times must fall: a sampler starts with the noise": lambda T, steps: sorted(
                ldm_uniform_times(T, steps)
            ),
            "these are the official indices, without an end; the paper's t is one more": _ldm_with(
                1, -1, []
            ),
            "SD's grid ends at t = 1; there is no step to 0 after it": _ldm_with(2, 0, [1, 0]),
            "the official indices count up from 0; these times count down from T": (
                lambda T, steps: [*range(T, 0, -(T // steps)), 1]
            ),
            "the stride is T // steps, a whole number; here the times are spread evenly": (
                lambda T, steps: sorted(
                    {1, *(min(math.floor(T * i / steps) + 2, T) for i in range(steps))},
                    reverse=True,
                )
            ),
        },
        level="middle",
        goal="reproduce Stable Diffusion's time grid, with its oddities",
    ),
    "trailing_grid": Exercise(
        trailing_times,
        lambda generator: [(1000, 50), (1000, 60), (1000, 7), (10, 3), (5, 2), (1000, 1)],
        {
            "round to the nearest whole number; here the times are rounded down": _trailing_with(
                int
            ),
            "round to the nearest whole number; here the times are rounded up": _trailing_with(
                math.ceil
            ),
            "these are indices; the paper's t is one more": _trailing_with(round, 1, False),
            "the last step, to t = 0, is missing": _trailing_with(round, 0, False),
            "times must fall: a sampler starts with the noise": lambda T, steps: sorted(
                trailing_times(T, steps)
            ),
            "the stride T/steps need not be whole: round each time, not the stride": (
                lambda T, steps: [*range(T, -1, -(T // steps))]
            ),
            "T // steps rounds the stride down, so the last time stays above 0": lambda T, steps: [
                T - i * (T // steps) for i in range(steps + 1)
            ],
            "times are whole numbers: round each": lambda T, steps: [
                T * i / steps for i in range(steps, -1, -1)
            ],
            "the grid begins at T, not at T - 1": lambda T, steps: [
                round((T - 1) * i / steps) for i in range(steps, -1, -1)
            ],
            "round each time, not the stride": lambda T, steps: [
                T - i * round(T / steps) for i in range(steps + 1)
            ],
            "that falls to 1; the last time is 0": lambda T, steps: [
                round(1 + (T - 1) * i / steps) for i in range(steps, -1, -1)
            ],
            "`steps` steps have steps + 1 times": lambda T, steps: [
                round(T * i / max(steps - 1, 1)) for i in range(steps - 1, -1, -1)
            ],
        },
        level="easy",
        goal="make the grid that always begins at T",
    ),
}

"""Exercises of notebook 02: one step back when x0 is known."""

import torch

from ...equations import posterior, posterior_mean
from ...schedules import alpha_bar, cosine_betas, linear_betas, scaled_linear_betas
from ..checking import Exercise

SD = alpha_bar(scaled_linear_betas())


def _normal(generator, *shape):
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def _fuse_cases(generator):
    yield 0.0, 1.0, 1.0, 1.0
    yield 2.0, 0.5, -1.0, 0.25
    for shape in [(3,), (2, 4)]:
        m_1, m_2 = _normal(generator, 2, *shape)
        v_1, v_2 = torch.rand((2, *shape), dtype=torch.float64, generator=generator) + 0.1
        yield m_1, v_1, m_2, v_2


def _fuse(m_1, v_1, m_2, v_2):
    variance = 1 / (1 / v_1 + 1 / v_2)
    return variance * (m_1 / v_1 + m_2 / v_2), variance


def _fuse_swapped(m_1, v_1, m_2, v_2):
    return (m_1 * v_1 + m_2 * v_2) / (v_1 + v_2), _fuse(m_1, v_1, m_2, v_2)[1]


def _schedules(generator):
    yield (alpha_bar(linear_betas(4, 0.1, 0.4)),)
    yield (SD,)
    yield (alpha_bar(cosine_betas(60)),)


def _variances(ab):
    beta = 1 - ab[1:] / ab[:-1]
    return (1 - ab[:-1]) / (1 - ab[1:]) * beta, beta


def _pairs(generator):
    """ab_t, ab_s: neighbours at both ends of SD's schedule, a stride, and t = 1 where ab_s = 1."""
    for t, s in [(500, 499), (2, 1), (1, 0), (982, 962), (1000, 1)]:
        yield SD[t], SD[s]


def _x0_cases(generator):
    for shape, (ab_t, ab_s) in zip([(3,), (2, 2), (1,), (1, 4, 3, 3)], _pairs(None), strict=False):
        mean, x_t = _normal(generator, 2, *shape)
        yield mean, x_t, ab_t, ab_s


def _x0_from_mean(mean, x_t, ab_t, ab_s):
    alpha = ab_t / ab_s
    return ((1 - ab_t) * mean - alpha**0.5 * (1 - ab_s) * x_t) / (ab_s**0.5 * (1 - alpha))


def _triple_cases(generator):
    for shape, (t, r, s) in [((3,), (982, 962, 942)), ((2, 2), (3, 2, 1)), ((4,), (600, 200, 0))]:
        x0, x_t = _normal(generator, 2, *shape)
        yield x0, x_t, SD[t], SD[r], SD[s]


def _two_steps(x0, x_t, ab_t, ab_r, ab_s, carry=lambda k: k**2):
    mean_r, variance_r = posterior(x0, x_t, ab_t, ab_r)
    mean_s, variance_s = posterior(x0, mean_r, ab_r, ab_s)
    coef2 = (1 - ab_s) * (ab_r / ab_s) ** 0.5 / (1 - ab_r)
    return mean_s, variance_s + carry(coef2) * variance_r


def _two_point_cases(generator):
    for shape, (ab_t, ab_s) in zip([(3,), (2, 2), (4,), (5,)], _pairs(None), strict=False):
        yield _normal(generator, *shape), ab_t, ab_s


def _guess_of(x0_of):
    return lambda x_t, ab_t, ab_s: posterior_mean(x0_of(x_t, ab_t), x_t, ab_t, ab_s)


EXERCISES = {
    "fuse_gaussians": Exercise(
        _fuse,
        _fuse_cases,
        {
            "the weights are swapped: the narrow Gaussian has the larger weight": (_fuse_swapped),
            "variances do not add here: the product is narrower than either factor": (
                lambda m, v, n, w: (_fuse(m, v, n, w)[0], v + w)
            ),
            "precisions add, but you return the precision: a variance is one over it": (
                lambda m, v, n, w: (_fuse(m, v, n, w)[0], 1 / v + 1 / w)
            ),
            "the two centres do not count alike: weigh each by its precision": (
                lambda m, v, n, w: ((m + n) / 2, _fuse(m, v, n, w)[1])
            ),
        },
        level="easy",
        goal="multiply two Gaussians: precisions add",
    ),
    "both_variances": Exercise(
        _variances,
        _schedules,
        {
            "alpha_bar for alpha: 1-ᾱ_t is the noise of all steps, β_t of one": (
                lambda ab: ((1 - ab[:-1]) / (1 - ab[1:]) * (1 - ab[1:]), 1 - ab[1:])
            ),
            "the order: return the posterior's β̃ first, then the forward step's β": lambda ab: (
                _variances(ab)[::-1]
            ),
            "s and t are swapped in the factor before β_t: it is at most 1": (
                lambda ab: ((1 - ab[1:]) / (1 - ab[:-1]) * _variances(ab)[1], _variances(ab)[1])
            ),
            "these are standard deviations: a variance has no root": (
                lambda ab: tuple(v.sqrt() for v in _variances(ab))
            ),
        },
        level="easy",
        goal="build the two variances of a step from alpha_bar alone",
    ),
    "x0_from_posterior_mean": Exercise(
        _x0_from_mean,
        _x0_cases,
        {
            "a sign: the share of x_t has to be taken off": lambda mean, x, ab_t, ab_s: (
                ((1 - ab_t) * mean + (ab_t / ab_s).sqrt() * (1 - ab_s) * x)
                / (ab_s.sqrt() * (1 - ab_t / ab_s))
            ),
            "a root is missing: coef2 has √α_t, not α_t": lambda mean, x, ab_t, ab_s: (
                ((1 - ab_t) * mean - ab_t / ab_s * (1 - ab_s) * x)
                / (ab_s.sqrt() * (1 - ab_t / ab_s))
            ),
            "alpha_bar for alpha: coef2 has √α_t, and α_t = ᾱ_t/ᾱ_s": lambda mean, x, ab_t, ab_s: (
                ((1 - ab_t) * mean - ab_t.sqrt() * (1 - ab_s) * x)
                / (ab_s.sqrt() * (1 - ab_t / ab_s))
            ),
            "a root is missing: coef1 has √ᾱ_s, not ᾱ_s": lambda mean, x, ab_t, ab_s: (
                ((1 - ab_t) * mean - (ab_t / ab_s).sqrt() * (1 - ab_s) * x)
                / (ab_s * (1 - ab_t / ab_s))
            ),
        },
        tolerance=1e-8,
        level="middle",
        goal="solve the posterior mean for the picture it implies",
    ),
    "posterior_eps_coef": Exercise(
        lambda ab_t, ab_s: (ab_t / ab_s).sqrt() * (1 - ab_s) / (1 - ab_t).sqrt(),
        _pairs,
        {
            "√(1-ᾱ_s) would be all the noise of x_s; some of it is fresh, and in β̃": (
                lambda ab_t, ab_s: (1 - ab_s).sqrt()
            ),
            "that is coef2, the share of x_t; how much ε is in x_t?": lambda ab_t, ab_s: (
                (ab_t / ab_s).sqrt() * (1 - ab_s) / (1 - ab_t)
            ),
            "a root is missing: x_t holds √(1-ᾱ_t) of ε, not 1-ᾱ_t": lambda ab_t, ab_s: (
                (ab_t / ab_s).sqrt() * (1 - ab_s)
            ),
            "alpha_bar for alpha: coef2 has √α_t, and α_t = ᾱ_t/ᾱ_s": lambda ab_t, ab_s: (
                ab_t.sqrt() * (1 - ab_s) / (1 - ab_t).sqrt()
            ),
        },
        level="middle",
        goal="see how much of the old noise the posterior keeps",
    ),
    "two_steps_back": Exercise(
        lambda x0, x_t, ab_t, ab_r, ab_s: posterior(x0, x_t, ab_t, ab_s),
        _triple_cases,
        {
            "the first step's noise shrinks in the second, by coef2; its variance by coef2²": (
                lambda *a: _two_steps(*a, carry=lambda k: 1)
            ),
            "a square is missing: a number times k has k² times the variance": (
                lambda *a: _two_steps(*a, carry=lambda k: k)
            ),
            "the first step's noise is lost: x_r is not just its mean": (
                lambda *a: _two_steps(*a, carry=lambda k: 0)
            ),
        },
        level="hard",
        goal="chain two reverse steps and compare with one long one",
        allowed=(posterior,),
    ),
    "mean_unknown_x0": Exercise(
        _guess_of(lambda x, ab_t: torch.tanh(ab_t.sqrt() * x / (1 - ab_t))),
        _two_point_cases,
        {
            "do not choose the likelier of -1 and +1: average them by their probabilities": (
                _guess_of(lambda x, ab_t: x.sign())
            ),
            "the average of the data, 0, forgets what x_t says about x_0": (
                _guess_of(lambda x, ab_t: torch.zeros_like(x))
            ),
            "a root is missing: the Gaussians q(x_t|x_0) are centred at ±√ᾱ_t": (
                _guess_of(lambda x, ab_t: torch.tanh(ab_t * x / (1 - ab_t)))
            ),
            "the log-odds of +1 are 2z; the mean of ±1 with log-odds 2z is tanh(z), not tanh(2z)": (
                _guess_of(lambda x, ab_t: torch.tanh(2 * ab_t.sqrt() * x / (1 - ab_t)))
            ),
            "a factor 2: a probability of a and 1-a for ±1 makes the mean 2a-1": (
                _guess_of(lambda x, ab_t: torch.sigmoid(2 * ab_t.sqrt() * x / (1 - ab_t)))
            ),
            "that is E[x_0], from x_t; it still has to go into eq. 7": (
                lambda x, ab_t, ab_s: torch.tanh(ab_t.sqrt() * x / (1 - ab_t))
            ),
        },
        level="hard",
        goal="average the posterior over an unknown x0 by Bayes",
    ),
}

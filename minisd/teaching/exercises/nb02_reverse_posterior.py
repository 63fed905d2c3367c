"""Exercises of notebook 02: one step back when x0 is known."""

import torch

from ...equations import posterior_mean, posterior_variance
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
    for t, u, s in [(982, 962, 942), (3, 2, 1), (600, 200, 100), (1000, 500, 0), (400, 399, 1)]:
        yield SD[t], SD[u], SD[s]


def _covariance(ab_t, ab_u, ab_s):
    return (ab_u / ab_s).sqrt() * (1 - ab_s) * (1 - ab_t / ab_u) / (1 - ab_t)


def _carried(share, ab_t, ab_u, variance=None):
    """share · Var(x_u | x_t, x_0), or of another variance."""
    return share * (posterior_variance(ab_t, ab_u) if variance is None else variance)


def _coef1(ab_t, ab_s):
    return ab_s.sqrt() * (1 - ab_t / ab_s) / (1 - ab_t)


def _coef2(ab_t, ab_s):
    return (ab_t / ab_s).sqrt() * (1 - ab_s) / (1 - ab_t)


def _two_point_cases(generator):
    yield _normal(generator, 4), SD[300], SD[100]  # here x_0 counts most
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
            "the mean is not divided by the sum of the precisions yet": (
                lambda m, v, n, w: (m / v + n / w, _fuse(m, v, n, w)[1])
            ),
            "that is the sum of two independent numbers: multiply the densities instead": (
                lambda m, v, n, w: (m + n, v + w)
            ),
            "means do not multiply: average them, each weighted by its precision": (
                lambda m, v, n, w: (m * n, v * w)
            ),
            "normalise: the mean is this number over the precision, the variance 1/precision": (
                lambda m, v, n, w: (m / v + n / w, 1 / v + 1 / w)
            ),
            "return the variance, not its root": (
                lambda m, v, n, w: (_fuse(m, v, n, w)[0], _fuse(m, v, n, w)[1] ** 0.5)
            ),
            "variances do not average: their inverses, the precisions, add": (
                lambda m, v, n, w: (_fuse(m, v, n, w)[0], (v + w) / 2)
            ),
            "a product of two equal Gaussians has half the variance: v_1 v_2/(v_1 + v_2)": (
                lambda m, v, n, w: (_fuse(m, v, n, w)[0], v * w)
            ),
            "the order: return the mean first, then the variance": (
                lambda m, v, n, w: _fuse(m, v, n, w)[::-1]
            ),
            "a precision is 1/v, not 1/√v": lambda m, v, n, w: (
                (m / v**0.5 + n / w**0.5) / (1 / v**0.5 + 1 / w**0.5),
                1 / (1 / v**0.5 + 1 / w**0.5),
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
            "α, not ᾱ: 1-ᾱ_t is the noise of all steps, β_t of one": (
                lambda ab: ((1 - ab[:-1]) / (1 - ab[1:]) * (1 - ab[1:]), 1 - ab[1:])
            ),
            "the order: return the posterior's β̃ first, then the forward step's β": lambda ab: (
                _variances(ab)[::-1]
            ),
            "s and t are swapped in the factor before β_t: it is at most 1": (
                lambda ab: ((1 - ab[1:]) / (1 - ab[:-1]) * _variances(ab)[1], _variances(ab)[1])
            ),
            "1-ᾱ_{t-1} over 1-ᾱ_t is missing in β̃, which is smaller than β": lambda ab: (
                _variances(ab)[1],
                _variances(ab)[1],
            ),
            "this is β̃'s factor (1-ᾱ_{t-1})/(1-ᾱ_t) without β_t": lambda ab: (
                (1 - ab[:-1]) / (1 - ab[1:]),
                _variances(ab)[1],
            ),
            "the ratio of ᾱ is α_t; β_t is 1 - α_t": lambda ab: (
                (1 - ab[:-1]) / (1 - ab[1:]) * ab[1:] / ab[:-1],
                ab[1:] / ab[:-1],
            ),
            "these are T - 1 numbers each: t = 1 is missing, for which s = 0 and ᾱ_0 = 1": (
                lambda ab: tuple(v[1:] for v in _variances(ab))
            ),
            "β̃ has ᾱ_{t-1} and ᾱ_t in the factor before β_t, not their ratio": lambda ab: (
                ab[:-1] / ab[1:] * _variances(ab)[1],
                _variances(ab)[1],
            ),
            "these are standard deviations: a variance has no root": (
                lambda ab: tuple(v.sqrt() for v in _variances(ab))
            ),
            "1-ᾱ_t is the noise of all steps; β_t, of one, is 1-ᾱ_t/ᾱ_{t-1}": lambda ab: (
                _variances(ab)[0],
                1 - ab[1:],
            ),
            "the forward step's variance is β_t = 1-α_t; this is α_t": lambda ab: (
                _variances(ab)[0],
                ab[1:] / ab[:-1],
            ),
            "1-ᾱ_{t-1} is the prior's variance alone; β̃ counts the likelihood as well": (
                lambda ab: (1 - ab[:-1], _variances(ab)[1])
            ),
            "the division by 1-ᾱ_t is missing in β̃": lambda ab: (
                (1 - ab[:-1]) * _variances(ab)[1],
                _variances(ab)[1],
            ),
        },
        level="easy",
        goal="build the two variances of a step from alpha_bar alone",
    ),
    "x0_from_posterior_mean": Exercise(
        _x0_from_mean,
        _x0_cases,
        {
            "a sign: the part of x_t has to be subtracted": lambda mean, x, ab_t, ab_s: (
                ((1 - ab_t) * mean + (ab_t / ab_s).sqrt() * (1 - ab_s) * x)
                / (ab_s.sqrt() * (1 - ab_t / ab_s))
            ),
            "a root is missing: coef2 has √α_t, not α_t": lambda mean, x, ab_t, ab_s: (
                ((1 - ab_t) * mean - ab_t / ab_s * (1 - ab_s) * x)
                / (ab_s.sqrt() * (1 - ab_t / ab_s))
            ),
            "α, not ᾱ: coef2 has √α_t, and α_t = ᾱ_t/ᾱ_s": lambda mean, x, ab_t, ab_s: (
                ((1 - ab_t) * mean - ab_t.sqrt() * (1 - ab_s) * x)
                / (ab_s.sqrt() * (1 - ab_t / ab_s))
            ),
            "this is the x_0 of the forward jump (eq. 4); mean is of eq. 7, so solve eq. 7": (
                lambda mean, x, ab_t, ab_s: mean / ab_s.sqrt()
            ),
            "x_t holds noise as well: solve eq. 7 for x_0, not x_t = √ᾱ_t x_0": (
                lambda mean, x, ab_t, ab_s: x / ab_t.sqrt()
            ),
            "the division by coef1 is missing": lambda mean, x, ab_t, ab_s: (
                mean - _coef2(ab_t, ab_s) * x
            ),
            "multiplied by coef1, where a division is due": lambda mean, x, ab_t, ab_s: (
                (mean - _coef2(ab_t, ab_s) * x) * _coef1(ab_t, ab_s)
            ),
            "the part of x_t is missing: subtract coef2 · x_t first": lambda mean, x, ab_t, ab_s: (
                mean / _coef1(ab_t, ab_s)
            ),
            "the two coefficients are swapped: coef1 belongs to x_0": lambda mean, x, ab_t, ab_s: (
                (mean - _coef1(ab_t, ab_s) * x) / _coef2(ab_t, ab_s)
            ),
            "β_t is 1-ᾱ_t/ᾱ_s, not 1-ᾱ_t": lambda mean, x, ab_t, ab_s: (
                (mean - _coef2(ab_t, ab_s) * x) / ab_s.sqrt()
            ),
            "a root is missing: coef1 has √ᾱ_s, not ᾱ_s": lambda mean, x, ab_t, ab_s: (
                ((1 - ab_t) * mean - (ab_t / ab_s).sqrt() * (1 - ab_s) * x)
                / (ab_s * (1 - ab_t / ab_s))
            ),
            "coef1 has the denominator 1-ᾱ_t, as coef2 has": lambda mean, x, ab_t, ab_s: (
                (mean - _coef2(ab_t, ab_s) * x) / (_coef1(ab_t, ab_s) * (1 - ab_t))
            ),
            "x_t has the factor coef2 in the mean: subtract coef2 · x_t": (
                lambda mean, x, ab_t, ab_s: (mean - x) / _coef1(ab_t, ab_s)
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
            "k² and β̃ add to 1-ᾱ_s: this is k², without its root": lambda ab_t, ab_s: (
                _coef2(ab_t, ab_s) ** 2 * (1 - ab_t)
            ),
            "that is √β̃, the fresh noise; k is how much old noise is kept": lambda ab_t, ab_s: (
                posterior_variance(ab_t, ab_s).sqrt()
            ),
            "x_t holds √(1-ᾱ_t) ε, not √ᾱ_t ε": lambda ab_t, ab_s: _coef2(ab_t, ab_s) * ab_t.sqrt(),
            "x_t has the factor coef2; this is coef1, the factor of x_0": lambda ab_t, ab_s: (
                _coef1(ab_t, ab_s) * (1 - ab_t).sqrt()
            ),
            "the noise in x_t is √(1-ᾱ_t) ε; eq. 7 still multiplies it by coef2": (
                lambda ab_t, ab_s: (1 - ab_t).sqrt()
            ),
            "it is coef2 times √(1-ᾱ_t), at the time t of x_t, not at s": lambda ab_t, ab_s: (
                _coef2(ab_t, ab_s) * (1 - ab_s).sqrt()
            ),
            "that is coef2, the share of x_t; how much ε is in x_t?": lambda ab_t, ab_s: (
                (ab_t / ab_s).sqrt() * (1 - ab_s) / (1 - ab_t)
            ),
            "a root is missing: x_t holds √(1-ᾱ_t) of ε, not 1-ᾱ_t": lambda ab_t, ab_s: (
                (ab_t / ab_s).sqrt() * (1 - ab_s)
            ),
            "α, not ᾱ: coef2 has √α_t, and α_t = ᾱ_t/ᾱ_s": lambda ab_t, ab_s: (
                ab_t.sqrt() * (1 - ab_s) / (1 - ab_t).sqrt()
            ),
            "a root is missing: coef2 has √α_t, not α_t": lambda ab_t, ab_s: (
                ab_t / ab_s * (1 - ab_s) / (1 - ab_t).sqrt()
            ),
            "x_0 is not counted here: only the ε in x_t, times coef2": lambda ab_t, ab_s: (
                _coef1(ab_t, ab_s) * ab_t.sqrt() + _coef2(ab_t, ab_s) * (1 - ab_t).sqrt()
            ),
        },
        level="middle",
        goal="see how much of the old noise the posterior keeps",
    ),
    "posterior_covariance": Exercise(
        _covariance,
        _triple_cases,
        {
            "this is Cov(x_u, x_s) given x_0 alone; x_t is known as well": (
                lambda ab_t, ab_u, ab_s: (ab_u / ab_s).sqrt() * (1 - ab_s)
            ),
            "this is the variance of x_u; x_s varies with x_u by the factor coef2 of eq. 7": (
                lambda ab_t, ab_u, ab_s: posterior_variance(ab_t, ab_u)
            ),
            "a covariance has coef2 once; coef2² belongs to the variance of x_s": (
                lambda ab_t, ab_u, ab_s: _carried(_coef2(ab_u, ab_s) ** 2, ab_t, ab_u)
            ),
            "this is the variance of x_s given x_t and x_0, not its covariance with x_u": (
                lambda ab_t, ab_u, ab_s: posterior_variance(ab_t, ab_s)
            ),
            "this is the correlation: multiply by both standard deviations": (
                lambda ab_t, ab_u, ab_s: (
                    _covariance(ab_t, ab_u, ab_s)
                    / (posterior_variance(ab_t, ab_u) * posterior_variance(ab_t, ab_s)).sqrt()
                )
            ),
            "that would be the covariance if x_u and x_s were fully correlated": (
                lambda ab_t, ab_u, ab_s: (
                    posterior_variance(ab_t, ab_u) * posterior_variance(ab_t, ab_s)
                ).sqrt()
            ),
            "α, not ᾱ: coef2 has √α_{u|s}, and α_{u|s} = ᾱ_u/ᾱ_s": (
                lambda ab_t, ab_u, ab_s: _carried(ab_u.sqrt() * (1 - ab_s) / (1 - ab_u), ab_t, ab_u)
            ),
            "a root is missing: coef2 has √α_{u|s}, not α_{u|s}": lambda ab_t, ab_u, ab_s: _carried(
                ab_u / ab_s * (1 - ab_s) / (1 - ab_u), ab_t, ab_u
            ),
            "coef1 is the factor of x_0, which is fixed here; x_u has the factor coef2": (
                lambda ab_t, ab_u, ab_s: _carried(
                    ab_s.sqrt() * (1 - ab_u / ab_s) / (1 - ab_u), ab_t, ab_u
                )
            ),
            "coef2 is that of the step from u to s, not of the step from t to s": (
                lambda ab_t, ab_u, ab_s: _carried(_coef2(ab_t, ab_s), ab_t, ab_u)
            ),
            "coef2 is that of the step from u to s, not of the step from t to u": (
                lambda ab_t, ab_u, ab_s: _carried(_coef2(ab_t, ab_u), ab_t, ab_u)
            ),
            "the variance that is carried on is x_u's, of the step from t to u": (
                lambda ab_t, ab_u, ab_s: _carried(
                    _coef2(ab_u, ab_s), ab_t, ab_u, posterior_variance(ab_t, ab_s)
                )
            ),
            "β̃ of the step from u to s is fresh noise, independent of x_u: no part of this": (
                lambda ab_t, ab_u, ab_s: _carried(
                    _coef2(ab_u, ab_s), ab_t, ab_u, posterior_variance(ab_u, ab_s)
                )
            ),
            "√α_{u|s} is x_u's slope over x_s while x_t is unknown; given x_t it is less": (
                lambda ab_t, ab_u, ab_s: _carried(
                    (ab_u / ab_s).sqrt(), ab_t, ab_u, posterior_variance(ab_t, ab_s)
                )
            ),
            "the variance of x_u given x_t and x_0 is β̃, smaller than β_{t|u}": (
                lambda ab_t, ab_u, ab_s: _carried(_coef2(ab_u, ab_s), ab_t, ab_u, 1 - ab_t / ab_u)
            ),
            "they are not independent: x_s is drawn from x_u": lambda ab_t, ab_u, ab_s: 0 * ab_t,
            "this is the fresh noise of the step from u to s; x_u has no part in it": (
                lambda ab_t, ab_u, ab_s: posterior_variance(ab_u, ab_s)
            ),
            "a covariance has the variance of x_u in it, not the standard deviation": (
                lambda ab_t, ab_u, ab_s: _carried(
                    _coef2(ab_u, ab_s), ab_t, ab_u, posterior_variance(ab_t, ab_u).sqrt()
                )
            ),
            "the fresh noise of x_s is independent of x_u, so its variance does not count": (
                lambda ab_t, ab_u, ab_s: (
                    _covariance(ab_t, ab_u, ab_s) + posterior_variance(ab_u, ab_s)
                )
            ),
            "this is the slope of x_s over x_u: multiply by the variance of x_u": (
                lambda ab_t, ab_u, ab_s: _coef2(ab_u, ab_s)
            ),
            "the product of two variances has the wrong unit: one slope times one variance": (
                lambda ab_t, ab_u, ab_s: (
                    posterior_variance(ab_t, ab_u) * posterior_variance(ab_u, ab_s)
                )
            ),
        },
        level="hard",
        goal="find how two pictures on the same way back vary together",
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
            "a sign: x_t above 0 speaks for +1": _guess_of(
                lambda x, ab_t: torch.tanh(-ab_t.sqrt() * x / (1 - ab_t))
            ),
            "the exponent is divided by the variance 1-ᾱ_t, not by its root": _guess_of(
                lambda x, ab_t: torch.tanh(ab_t.sqrt() * x / (1 - ab_t).sqrt())
            ),
            "the variance 1-ᾱ_t is missing in the exponents": _guess_of(
                lambda x, ab_t: torch.tanh(ab_t.sqrt() * x)
            ),
            "a density's exponent is divided by 2 times the variance": _guess_of(
                lambda x, ab_t: torch.tanh(ab_t.sqrt() * x / (1 - ab_t) / 2)
            ),
            "x_t/√ᾱ_t is E[x_0] for data with no preferred points; here x_0 is -1 or +1": (
                _guess_of(lambda x, ab_t: x / ab_t.sqrt())
            ),
            "a factor 2: a probability of a and 1-a for ±1 makes the mean 2a-1": (
                _guess_of(lambda x, ab_t: torch.sigmoid(2 * ab_t.sqrt() * x / (1 - ab_t)))
            ),
            "that is E[x_0], from x_t; it still has to go into eq. 7": (
                lambda x, ab_t, ab_s: torch.tanh(ab_t.sqrt() * x / (1 - ab_t))
            ),
            "the Gaussians q(x_t|x_0) are centred at ±√ᾱ_t, not at ±1": _guess_of(
                lambda x, ab_t: torch.tanh(x / (1 - ab_t))
            ),
            "√ᾱ_s E[x_0] is the mean without x_t; put E[x_0] into eq. 7": (
                lambda x, ab_t, ab_s: ab_s.sqrt() * torch.tanh(ab_t.sqrt() * x / (1 - ab_t))
            ),
            "a probability of +1 is no mean: from a and 1-a for ±1 comes 2a-1": _guess_of(
                lambda x, ab_t: torch.sigmoid(ab_t.sqrt() * x / (1 - ab_t))
            ),
            "this puts x_t in the place of x_0": _guess_of(lambda x, ab_t: x),
        },
        level="hard",
        goal="average the posterior over an unknown x0 by Bayes",
    ),
}

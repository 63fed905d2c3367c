"""Exercises of notebook 03: from the variational bound to L_simple."""

import torch

from ...equations import eps_loss_weight, posterior_variance, pred_x0, reverse_mean
from ...schedules import alpha_bar, scaled_linear_betas, snr
from ..checking import Exercise

SD = alpha_bar(scaled_linear_betas())
PAIRS = [(2, 1), (500, 499), (982, 962), (1000, 999)]  # t, s


def _normal(generator, *shape):
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def _kl_cases(generator):
    """Mean and variance of q, mean and variance of p."""
    zero = torch.zeros(2, 3, dtype=torch.float64)
    yield zero, 1.0, zero + 1, 1.0
    yield zero, 0.5, zero, 2.0
    for shape, v_q, v_p in [((4, 2), 0.2, 0.3), ((3, 4, 5, 5), 2.0, 0.7)]:
        m_q, m_p = _normal(generator, 2, *shape)
        yield m_q, v_q, m_p, v_p


def _kl(m_q, v_q, m_p, v_p, share=1.0):
    d, r = m_q[0].numel(), torch.as_tensor(v_q / v_p, dtype=torch.float64)
    distance = ((m_q - m_p) ** 2).flatten(1).sum(1)
    return distance / (2 * v_p) + share * d / 2 * (r - 1 - r.log())


def _kl_mean(m_q, v_q, m_p, v_p):
    return _kl(m_q, v_q, m_p, v_p) / m_q[0].numel()


def _step_cases(generator):
    for shape, (t, s) in zip([(3, 2), (1, 4, 3, 3), (2, 5), (4, 1)], PAIRS, strict=True):
        yield *_normal(generator, 2, *shape), SD[t], SD[s]
    yield *_normal(generator, 2, 2, 2), SD[1], SD[0]


def _mean_of(x0_of, coef1=None):
    def mean(x_t, eps, ab_t, ab_s):
        alpha_t, x0 = ab_t / ab_s, x0_of(x_t, eps, ab_t)
        c_1 = coef1(ab_t, ab_s) if coef1 else ab_s.sqrt() * (1 - alpha_t) / (1 - ab_t)
        return c_1 * x0 + alpha_t.sqrt() * (1 - ab_s) / (1 - ab_t) * x_t

    return mean


def _error_cases(generator):
    for t in [1, 100, 500, 982]:
        yield float(torch.rand((), generator=generator)) + 0.1, SD[t]
    yield torch.tensor([0.2, 0.7], dtype=torch.float64), SD[300]


def _snr_cases(generator):
    yield 1.0, 3.0
    for t, s in PAIRS:
        yield snr(SD)[t], snr(SD)[s]


def _ab_cases(generator):
    for t, s in PAIRS:
        yield SD[t], SD[s]


def _optimal_cases(generator):
    for t, s in [(1, 0.5), (100, 0.5), (500, 2.0), (1000, 1.0), (300, 0.0)]:
        yield SD[t], s


EXERCISES = {
    "kl_gaussians": Exercise(
        _kl,
        _kl_cases,
        {
            "p and q are swapped: the expectation is over q, the first": lambda m, v, n, w: _kl(
                n, w, m, v
            ),
            "½ for each of the d numbers of a sample is missing: variances count d times": (
                lambda m, v, n, w: _kl(m, v, n, w, 1 / m[0].numel())
            ),
            "a mean for a sum: a KL adds up over the numbers of a sample": _kl_mean,
            "only the means: that is all when both variances are equal, and here they differ": (
                lambda m, v, n, w: _kl(m, v, n, w, 0.0)
            ),
            "var_q and var_p are variances already, σ²: do not square them": (
                lambda m, v, n, w: _kl(m, v**2, n, w**2)
            ),
            "var_q and var_p are the variances to use: take no root": lambda m, v, n, w: _kl(
                m, v**0.5, n, w**0.5
            ),
            "the distance is measured in p's variance, not in q's": lambda m, v, n, w: (
                _kl(m, v, n, w) + ((m - n) ** 2).flatten(1).sum(1) * (1 / (2 * v) - 1 / (2 * w))
            ),
        },
        level="middle",
        goal="compute the KL between two Gaussians, for each sample",
    ),
    "x0_error": Exercise(
        lambda eps_error, ab_t: eps_error * (1 - ab_t) / ab_t,
        _error_cases,
        {
            "squared errors: the factor between the errors is squared as well": lambda e, ab: (
                e * ((1 - ab) / ab).sqrt()
            ),
            "the wrong way round: the more noise, the more an error of ε costs": lambda e, ab: (
                e * ab / (1 - ab)
            ),
            "ε enters x_t with √(1-ᾱ_t); that factor is missing": lambda e, ab: e / ab,
        },
        level="easy",
        goal="turn an error of the noise into an error of the picture",
    ),
    "mean_from_eps": Exercise(
        reverse_mean,
        _step_cases,
        {
            "that is x̂_0 itself; it still has to go into eq. 7": lambda x, e, ab_t, ab_s: pred_x0(
                x, e, ab_t
            ),
            "a root is missing: the noise's share of x_t is √(1-ᾱ_t)": _mean_of(
                lambda x, e, ab: (x - (1 - ab) * e) / ab.sqrt()
            ),
            "a root is missing: x_0's share of x_t is √ᾱ_t": _mean_of(
                lambda x, e, ab: (x - (1 - ab).sqrt() * e) / ab
            ),
            "eq. 7 asks for x_0, and ε is not x_0: eq. 15 first": _mean_of(lambda x, e, ab: e),
            "coef1 has √ᾱ_s, of the earlier time, not √ᾱ_t": _mean_of(
                pred_x0, lambda ab_t, ab_s: ab_t.sqrt() * (1 - ab_t / ab_s) / (1 - ab_t)
            ),
        },
        level="easy",
        goal="get the reverse mean from the predicted noise",
    ),
    "weight_from_snr": Exercise(
        lambda snr_t, snr_s: (snr_s / snr_t - 1) / 2,
        _snr_cases,
        {
            "the ½ of eq. 8 is missing": lambda snr_t, snr_s: snr_s / snr_t - 1,
            "that is the weight of ‖x_0 - x̂_0‖²; an error of ε is another one of x_0": (
                lambda snr_t, snr_s: (snr_s - snr_t) / 2
            ),
            "divide by the SNR at t, where ε is predicted, not at s": lambda snr_t, snr_s: (
                (1 - snr_t / snr_s) / 2
            ),
            "s and t are swapped: the earlier time has the higher SNR": lambda snr_t, snr_s: (
                (snr_t / snr_s - 1) / 2
            ),
        },
        level="middle",
        goal="write the weight of L_t with signal-to-noise ratios alone",
    ),
    "x0_loss_weight": Exercise(
        lambda ab_t, ab_s: (ab_s / (1 - ab_s) - ab_t / (1 - ab_t)) / 2,
        _ab_cases,
        {
            "that is eq. 12, for ε; an error of x_0 is SNR(t) times as dear": lambda ab_t, ab_s: (
                eps_loss_weight(ab_t, ab_s, posterior_variance(ab_t, ab_s))
            ),
            "divided by SNR(t) where it should be multiplied": lambda ab_t, ab_s: (
                eps_loss_weight(ab_t, ab_s, posterior_variance(ab_t, ab_s)) * (1 - ab_t) / ab_t
            ),
            "that is the official line for parameterization x0, slip included: 2·1-ᾱ_t": (
                lambda ab_t, ab_s: 0.5 * ab_t.sqrt() / (2.0 * 1 - ab_t)
            ),
            "the official line is not the bound's weight, brackets corrected or not: use eq. 12": (
                lambda ab_t, ab_s: 0.5 * ab_t.sqrt() / (2 * (1 - ab_t))
            ),
            "the ½ of eq. 8 is missing": lambda ab_t, ab_s: ab_s / (1 - ab_s) - ab_t / (1 - ab_t),
        },
        level="middle",
        goal="carry the weight of the bound over to networks that predict x0",
    ),
    "optimal_loss": Exercise(
        lambda ab_t, s: ab_t * s**2 / (ab_t * s**2 + 1 - ab_t),
        _optimal_cases,
        {
            "that is how much of ε can be told; what is left over is the loss": lambda ab, s: (
                (1 - ab) / (ab * s**2 + 1 - ab)
            ),
            "1-ᾱ_t is the noise's variance in x_t; the loss, what x_t cannot tell, needs std": (
                lambda ab, s: 1 - ab
            ),
            "std is a standard deviation: the data's variance is std²": lambda ab, s: (
                ab * s / (ab * s + 1 - ab)
            ),
            "that is the loss of x̂_0, E(x_0 - x̂_0)²; asked for is that of ε": lambda ab, s: (
                (1 - ab) * s**2 / (ab * s**2 + 1 - ab)
            ),
            "x_t has the data's variance times ᾱ_t, not times its root": lambda ab, s: (
                ab.sqrt() * s**2 / (ab.sqrt() * s**2 + 1 - ab)
            ),
        },
        level="hard",
        goal="find the loss that no network can beat, for Gaussian data",
        given=("optimal_loss",),
    ),
}

"""Exercises of notebook 03: from the variational bound to L_simple."""

import torch

from ...equations import (
    eps_loss_weight,
    posterior_mean,
    posterior_variance,
    pred_x0,
    q_sample,
    reverse_mean,
)
from ...schedules import alpha_bar, scaled_linear_betas, snr
from ...toy import GaussianMixture, IdealDenoiser
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
    pairs = [(500, 400), *PAIRS[1:]]  # a long step first, where slips differ most
    for shape, (t, s) in zip([(3, 2), (1, 4, 3, 3), (2, 5), (4, 1)], pairs, strict=True):
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
    for t, s in [(500, 2.0), (100, 0.5), (1, 0.5), (1000, 1.0), (300, 0.0)]:
        yield SD[t], s


def _optimal(ab, std):
    return ab * std**2 / (ab * std**2 + 1 - ab)


def _tweedie(x_t, score, ab_t):
    return (x_t + (1 - ab_t) * score) / ab_t.sqrt()


def _tweedie_cases(generator):
    """x_t and its true score, for data that are three Gaussians somewhere."""
    for shape, t in [((2,), 100), ((3,), 500), ((1, 2, 2), 900), ((4,), 20)]:
        data = GaussianMixture(_normal(generator, 3, *shape), std=0.3)
        x0, _ = data.sample(3, generator)
        x_t = q_sample(x0, _normal(generator, *x0.shape), SD[t])
        yield x_t, -IdealDenoiser(data, SD)(x_t, t) / (1 - SD[t]).sqrt(), SD[t]


EXERCISES = {
    "kl_gaussians": Exercise(
        _kl,
        _kl_cases,
        {
            "p and q are swapped: the mean is taken over q, the first": lambda m, v, n, w: _kl(
                n, w, m, v
            ),
            "the variances' part counts for each of the d numbers of a sample: d is missing": (
                lambda m, v, n, w: _kl(m, v, n, w, 1 / m[0].numel())
            ),
            "d is the count of numbers in one sample, not the number of samples": (
                lambda m, v, n, w: _kl(m, v, n, w, len(m) / m[0].numel())
            ),
            "sum over all axes but the first: flatten(1), and d counts all these numbers": (
                lambda m, v, n, w: (
                    ((m - n) ** 2).sum(-1) / (2 * w)
                    + m.shape[-1] / 2 * (v / w - 1 - torch.tensor(v / w).double().log())
                )
            ),
            "a KL is a sum over the d numbers of a sample, and this is their mean": _kl_mean,
            "only the distance of the means is here; the part of the variances is missing": (
                lambda m, v, n, w: _kl(m, v, n, w, 0.0)
            ),
            "var_q and var_p are variances, σ² already: do not square them": (
                lambda m, v, n, w: _kl(m, v**2, n, w**2)
            ),
            "var_q and var_p are the variances to use: take no root": lambda m, v, n, w: _kl(
                m, v**0.5, n, w**0.5
            ),
            "the distance of the means is divided by p's variance, not by q's": lambda m, v, n, w: (
                _kl(m, v, n, w) + ((m - n) ** 2).flatten(1).sum(1) * (1 / (2 * v) - 1 / (2 * w))
            ),
            "the ½ is missing, in both parts": lambda m, v, n, w: 2 * _kl(m, v, n, w),
            "the distance of the means is squared in the exponent of a Gaussian": (
                lambda m, v, n, w: _kl(m, v, m, w) + (m - n).flatten(1).norm(dim=1) / (2 * w)
            ),
            "the sign of the logarithm: KL is 0 where the variances are equal, and never below 0": (
                lambda m, v, n, w: (
                    _kl(m, v, n, w) + m[0].numel() * torch.tensor(v / w).double().log()
                )
            ),
            "r is var_q / var_p, and yours is var_p / var_q": lambda m, v, n, w: (
                _kl(m, v, n, w, 0.0) + _kl(m, w, m, v)
            ),
            "one number for each sample: shape (b,), so no mean and no sum over the batch": (
                lambda m, v, n, w: _kl(m, v, n, w).mean()
            ),
            "a batch's samples are added up here: return one number for each, shape (b,)": (
                lambda m, v, n, w: _kl(m, v, n, w).sum()
            ),
        },
        level="middle",
        goal="compute the KL between two Gaussians, for each sample",
    ),
    "x0_error": Exercise(
        lambda eps_error, ab_t: eps_error * (1 - ab_t) / ab_t,
        _error_cases,
        {
            "the errors are squared, so their factor is squared, too: no root": lambda e, ab: (
                e * ((1 - ab) / ab).sqrt()
            ),
            "divide by the ratio: an error of ε counts more where noise is strong": lambda e, ab: (
                e * ab / (1 - ab)
            ),
            "ε enters x_t with √(1-ᾱ_t); the square of that factor is missing": lambda e, ab: (
                e / ab
            ),
            "x_0 enters x_t with √ᾱ_t; solving for x_0 divides by it": lambda e, ab: e * (1 - ab),
            "eps_error is squared already: do not square it again": lambda e, ab: (
                e**2 * (1 - ab) / ab
            ),
            "that is the error itself; its square was wanted": lambda e, ab: (
                torch.as_tensor(e * (1 - ab) / ab) ** 0.5
            ),
            "(1-ᾱ_t)/ᾱ_t is the factor of squared errors: do not square it again": (
                lambda e, ab: e * ((1 - ab) / ab) ** 2
            ),
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
            "eq. 7 needs x_0, and ε is not x_0: use eq. 15 first": _mean_of(lambda x, e, ab: e),
            "coef1 has √ᾱ_s, of the earlier time, not √ᾱ_t": _mean_of(
                pred_x0, lambda ab_t, ab_s: ab_t.sqrt() * (1 - ab_t / ab_s) / (1 - ab_t)
            ),
            "x_t and x̂_0 are swapped: the arguments are posterior_mean(x0, x_t, ab_t, ab_s)": (
                lambda x, e, ab_t, ab_s: posterior_mean(x, pred_x0(x, e, ab_t), ab_t, ab_s)
            ),
            "x̂_0 is predicted at the time of x_t: pred_x0 takes ab_t": lambda x, e, ab_t, ab_s: (
                posterior_mean(pred_x0(x, e, ab_s), x, ab_t, ab_s)
            ),
            "s and t are swapped: the order is ab_t, ab_s": lambda x, e, ab_t, ab_s: posterior_mean(
                pred_x0(x, e, ab_t), x, ab_s, ab_t
            ),
            "the noise is subtracted from x_t, not added to it": lambda x, e, ab_t, ab_s: (
                reverse_mean(x, -e, ab_t, ab_s)
            ),
            "that noises x̂_0 again with the old ε, a DDIM step; asked for is eq. 7's mean": (
                lambda x, e, ab_t, ab_s: q_sample(pred_x0(x, e, ab_t), e, ab_s)
            ),
            "that is x̂_0 faded to s; eq. 7's mean also keeps a part of x_t": (
                lambda x, e, ab_t, ab_s: ab_s.sqrt() * pred_x0(x, e, ab_t)
            ),
            "a root is missing in eq. 11: β_t is divided by √(1-ᾱ_t)": lambda x, e, ab_t, ab_s: (
                (x - (1 - ab_t / ab_s) / (1 - ab_t) * e) / (ab_t / ab_s).sqrt()
            ),
            "ᾱ_t for α_t: eq. 11 divides by √α_t, of one step": lambda x, e, ab_t, ab_s: (
                (x - (1 - ab_t / ab_s) / (1 - ab_t).sqrt() * e) / ab_t.sqrt()
            ),
            "a root is missing in eq. 11: the bracket is divided by √α_t": (
                lambda x, e, ab_t, ab_s: (
                    (x - (1 - ab_t / ab_s) / (1 - ab_t).sqrt() * e) / (ab_t / ab_s)
                )
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
            "that is the weight of ‖x_0 - x̂_0‖²; for the error of ε divide it by SNR(t)": (
                lambda snr_t, snr_s: (snr_s - snr_t) / 2
            ),
            "divide by the SNR at t, where ε is predicted, not at s": lambda snr_t, snr_s: (
                (1 - snr_t / snr_s) / 2
            ),
            "s and t are swapped: the earlier time has the higher SNR": lambda snr_t, snr_s: (
                (snr_t / snr_s - 1) / 2
            ),
            "the 1 is missing: for s = t there is no step, and the weight is 0": (
                lambda snr_t, snr_s: snr_s / snr_t / 2
            ),
            "only the ratio is halved here, the 1 is not": (
                lambda snr_t, snr_s: snr_s / snr_t / 2 - 1
            ),
            "the weight is a ratio of SNRs minus 1; a logarithm is only close to it": (
                lambda snr_t, snr_s: torch.as_tensor(snr_s / snr_t).log() / 2
            ),
        },
        level="middle",
        goal="write the weight of L_t with signal-to-noise ratios alone",
    ),
    "x0_loss_weight": Exercise(
        lambda ab_t, ab_s: (ab_s / (1 - ab_s) - ab_t / (1 - ab_t)) / 2,
        _ab_cases,
        {
            "that is eq. 12's weight, for ε; for x_0 multiply it by SNR(t)": lambda ab_t, ab_s: (
                eps_loss_weight(ab_t, ab_s, posterior_variance(ab_t, ab_s))
            ),
            "you divided eq. 12's weight by SNR(t): multiply it": lambda ab_t, ab_s: (
                eps_loss_weight(ab_t, ab_s, posterior_variance(ab_t, ab_s)) * (1 - ab_t) / ab_t
            ),
            "that is the official line for parameterization x0, which lacks brackets: use eq. 12": (
                lambda ab_t, ab_s: 0.5 * ab_t.sqrt() / (2.0 * 1 - ab_t)
            ),
            "the official line is not the bound's weight, brackets corrected or not: use eq. 12": (
                lambda ab_t, ab_s: 0.5 * ab_t.sqrt() / (2 * (1 - ab_t))
            ),
            "the ½ of eq. 8 is missing": lambda ab_t, ab_s: ab_s / (1 - ab_s) - ab_t / (1 - ab_t),
            "the sign: the earlier time s has the larger SNR, and a weight is positive": (
                lambda ab_t, ab_s: (ab_t / (1 - ab_t) - ab_s / (1 - ab_s)) / 2
            ),
            "SNR is ᾱ/(1-ᾱ), not ᾱ": lambda ab_t, ab_s: (ab_s - ab_t) / 2,
            "the errors are squared: multiply eq. 12's weight by SNR(t), not by its root": (
                lambda ab_t, ab_s: (
                    eps_loss_weight(ab_t, ab_s, posterior_variance(ab_t, ab_s))
                    * (ab_t / (1 - ab_t)).sqrt()
                )
            ),
            "eq. 12's weight is multiplied by SNR at t, where x_0 is predicted, not at s": (
                lambda ab_t, ab_s: (
                    eps_loss_weight(ab_t, ab_s, posterior_variance(ab_t, ab_s))
                    * (ab_s / (1 - ab_s))
                )
            ),
            "SNR(t) alone carries an L_simple over to x_0; the bound has eq. 12's weight as well": (
                lambda ab_t, ab_s: ab_t / (1 - ab_t)
            ),
        },
        level="middle",
        goal="carry the weight of the bound over to networks that predict x0",
    ),
    "optimal_loss": Exercise(
        _optimal,
        _optimal_cases,
        {
            "that is the part of ε's variance that x_t explains; the loss is the rest": (
                lambda ab, std: (1 - ab) / (ab * std**2 + 1 - ab)
            ),
            "1-ᾱ_t is the noise's variance in x_t; the loss also depends on sigma_data": (
                lambda ab, std: 1 - ab
            ),
            "ᾱ_t is the signal's share only for sigma_data = 1": lambda ab, std: ab,
            "sigma_data is a standard deviation: the data's variance is its square": (
                lambda ab, std: _optimal(ab, std**0.5)
            ),
            "that is the loss of x̂_0, E(x_0 - x̂_0)²; asked for is the loss of ε": lambda ab, std: (
                (1 - ab) * std**2 / (ab * std**2 + 1 - ab)
            ),
            "x_0 enters x_t with √ᾱ_t, so its variance is multiplied by ᾱ_t, not by the root": (
                lambda ab, std: ab.sqrt() * std**2 / (ab.sqrt() * std**2 + 1 - ab)
            ),
            "that is c, the factor of the best prediction; the loss is 1 - c Cov(ε, x_t)": (
                lambda ab, std: (1 - ab).sqrt() / (ab * std**2 + 1 - ab)
            ),
            "that is 1 - c; what the prediction removes is c Cov(ε, x_t)": lambda ab, std: (
                1 - (1 - ab).sqrt() / (ab * std**2 + 1 - ab)
            ),
            "that is 1 - c²; what the prediction removes is c² Var(x_t)": lambda ab, std: (
                1 - (1 - ab) / (ab * std**2 + 1 - ab) ** 2
            ),
            "that is the variance of the signal in x_t; divide it by the whole variance of x_t": (
                lambda ab, std: ab * std**2
            ),
            "Cov(ε, x_t) is √(1-ᾱ_t), since ε enters x_t with that factor, not 1-ᾱ_t": (
                lambda ab, std: 1 - (1 - ab) ** 2 / (ab * std**2 + 1 - ab)
            ),
            "a mean squared error is a variance: take no root": lambda ab, std: (
                _optimal(ab, std) ** 0.5
            ),
        },
        level="hard",
        goal="find the loss that no network can beat, for Gaussian data",
        given=("optimal_loss",),
    ),
    "tweedie": Exercise(
        _tweedie,
        _tweedie_cases,
        {
            "the sign: the score points to where more data are, so it is added": (
                lambda x, score, ab: (x - (1 - ab) * score) / ab.sqrt()
            ),
            "ε is √(1-ᾱ_t) times the negative score, and eq. 15 brings a second √(1-ᾱ_t)": (
                lambda x, score, ab: (x + (1 - ab).sqrt() * score) / ab.sqrt()
            ),
            "the score stands in eq. 15 as if it were ε; ε is -√(1-ᾱ_t) times the score": (
                lambda x, score, ab: (x - (1 - ab).sqrt() * score) / ab.sqrt()
            ),
            "1-ᾱ_t is the noise's variance already: do not square it": lambda x, score, ab: (
                (x + (1 - ab) ** 2 * score) / ab.sqrt()
            ),
            "the factor of the score, the noise's variance 1-ᾱ_t, is missing": (
                lambda x, score, ab: (x + score) / ab.sqrt()
            ),
            "x_0 enters x_t with √ᾱ_t: divide by it": lambda x, score, ab: x + (1 - ab) * score,
            "a root is missing: divide by √ᾱ_t, not by ᾱ_t": lambda x, score, ab: (
                (x + (1 - ab) * score) / ab
            ),
            "σ² = (1-ᾱ_t)/ᾱ_t goes with the score of x_t/√ᾱ_t; this score is that of x_t": (
                lambda x, score, ab: x / ab.sqrt() + (1 - ab) / ab * score
            ),
            "only x_t is divided by √ᾱ_t; the term of the score is divided as well": (
                lambda x, score, ab: x / ab.sqrt() + (1 - ab) * score
            ),
            "ᾱ_t and 1-ᾱ_t are swapped": lambda x, score, ab: (x + ab * score) / (1 - ab).sqrt(),
            "the term of the score is missing": lambda x, score, ab: x / ab.sqrt(),
            "that is the noise ε; eq. 15 still has to make x_0 of it": lambda x, score, ab: (
                -(1 - ab).sqrt() * score
            ),
        },
        level="easy",
        goal="read the mean of all pictures behind x_t off the score",
    ),
}

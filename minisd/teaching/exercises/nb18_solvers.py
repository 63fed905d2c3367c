"""Exercises of notebook 18."""

import functools
import math
from itertools import pairwise

import torch

from ...equations import (
    ddim_ode_step,
    ddim_step,
    distilled_x0,
    eps_integral_step,
    exponential_moments,
    node_weights,
    polynomial_mean,
    pred_x0,
    sde_sigma,
    sqrt,
    step_moments,
    transfer,
    x0_integral_step,
)
from ...prediction import move
from ...schedules import alpha_bar, scaled_linear_betas
from ...toy import GaussianMixture, IdealDenoiser
from ..checking import Exercise

AB = alpha_bar(scaled_linear_betas())
SHAPES = [(2, 3), (1, 4, 2, 2), (5,)]


def _normal(generator, *shape):
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def _number(generator, low, high):
    return low + (high - low) * float(torch.rand((), dtype=torch.float64, generator=generator))


def _ab(generator, count):
    """ᾱ at so many falling times: rising, and apart."""
    spots = torch.randperm(19, generator=generator)[:count].sort(descending=True).values
    return [float(AB[50 * int(spot) + 30]) for spot in spots]


def _lam(ab):
    return (math.log(ab) - math.log(1 - ab)) / 2


# ---- section 1: the integral --------------------------------------------------------------


def _lambda_step(ab_t, ab_s, half=0.5, sign=1, log=math.log):
    lam_t, lam_s = (sign * half * log(ab / (1 - ab)) for ab in (ab_t, ab_s))
    return lam_t, lam_s, lam_s - lam_t


def _lambda_step_cases(g):
    return [tuple(_ab(g, 2)) for _ in range(5)]


def _eps_step_cases(g):
    for shape in SHAPES:
        for _ in range(2):
            yield _normal(g, *shape), _normal(g, *shape), *_ab(g, 2)


def _eps_step(factor, first=None):
    """Eq. 3.7 with another factor of ε, or of x_t."""

    def step(x, eps, ab_t, ab_s):
        h = _lam(ab_s) - _lam(ab_t)
        scale = first(ab_t, ab_s) if first else sqrt(ab_s / ab_t)
        return scale * x - factor(ab_t, ab_s, h) * eps

    return step


# ---- section 2: moments and weights -------------------------------------------------------


def _first_moment(rate):
    return 1 / (1 - math.exp(-rate)) - 1 / rate


def _first_moment_cases(g):
    for sign in (1, -1):
        for low, high in ((0.3, 1), (1, 2), (2, 4)):
            yield (sign * _number(g, low, high),)


def _two_cases(g):
    return [(_number(g, 0.3, 3), _number(g, 0.2, 0.8)) for _ in range(5)]


def _lms_weights(moment=lambda k: 1 / (k + 1), clock=lambda sigma: sigma, mirror=1, turn=False):
    def weights(sigmas, sigma_next):
        places, end = [clock(s) for s in sigmas], clock(sigma_next)
        nodes = [mirror * (place - places[0]) / (end - places[0]) for place in places]
        found = node_weights(nodes, [moment(k) for k in range(len(nodes))])
        return found[::-1] if turn else found

    return weights


def _even_weights(sigmas, sigma_next):
    count = len(sigmas)
    return node_weights([-j for j in range(count)], [1 / (k + 1) for k in range(count)])


def _not_in_steps(sigmas, sigma_next):
    count = len(sigmas)
    nodes = [s - sigmas[0] for s in sigmas]
    return node_weights(nodes, [1 / (k + 1) for k in range(count)])


def _lms_cases(g):
    for count in (2, 3, 4, 2, 3):
        steps = [_number(g, 0.5, 2) for _ in range(count)]
        sigmas = [0.2 + sum(steps[:k]) for k in range(count + 1)]
        yield sigmas[1:], sigmas[0]


# ---- sections 4 and 5: second order -------------------------------------------------------


def _model():
    means = torch.tensor([[1.0, 0.2], [-0.7, 0.8], [-0.3, -1.0]], dtype=torch.float64)
    return IdealDenoiser(GaussianMixture(means, 0.4, weights=[0.5, 0.2, 0.3]), AB)


def _two_s(slip=""):
    def step(eps_model, x, t, mid, s, ab):
        eps = eps_model(x, t)
        x0 = pred_x0(x, eps, ab[t])
        x_mid = ddim_step(x, eps, ab[t], ab[mid])
        eps_mid = eps_model(x if slip == "unmoved" else x_mid, mid)
        x0_mid = pred_x0(x if slip == "unmoved" else x_mid, eps_mid, ab[mid])
        if slip == "half":
            return x_mid
        if slip == "x0":
            return x0_mid
        if slip == "extra":
            x0_mid = 2 * x0_mid - x0
        if slip == "old time":
            x0_mid = pred_x0(x_mid, eps_model(x_mid, t), ab[mid])
        if slip == "old ab":
            x0_mid = pred_x0(x_mid, eps_mid, ab[t])
        if slip == "eps":
            return transfer(x, eps_mid, ab[t], ab[s])
        if slip == "from the middle":
            return ddim_step(x_mid, eps_mid, ab[mid], ab[s])
        if slip == "mean":
            x0_mid = (x0 + x0_mid) / 2
        if slip == "first":
            x0_mid = x0
        if slip == "old eps":
            return sqrt(ab[s]) * x0_mid + sqrt(1 - ab[s]) * eps
        return x0_integral_step(x, x0_mid, ab[t], ab[s])

    return step


def _two_s_cases(g):
    for t, mid, s in [(982, 862, 702), (602, 452, 202), (302, 202, 102)]:
        yield _model(), _normal(g, 3, 2), t, mid, s, AB


def _two_m(share=lambda r: 1 / (2 * r), move=x0_integral_step, sign=1):
    def step(x_t, x0, x0_before, ab_before, ab_t, ab_s):
        r = (_lam(ab_t) - _lam(ab_before)) / (_lam(ab_s) - _lam(ab_t))
        return move(x_t, x0 + sign * share(r) * (x0 - x0_before), ab_t, ab_s)

    return step


def _two_m_old_eps(x_t, x0, x0_before, ab_before, ab_t, ab_s):
    r = (_lam(ab_t) - _lam(ab_before)) / (_lam(ab_s) - _lam(ab_t))
    mean = x0 + (x0 - x0_before) / (2 * r)
    eps = (x_t - sqrt(ab_t) * x0) / sqrt(1 - ab_t)
    return sqrt(ab_s) * mean + sqrt(1 - ab_s) * eps


def _two_m_plus(x_t, x0, x0_before, ab_before, ab_t, ab_s):
    r = (_lam(ab_t) - _lam(ab_before)) / (_lam(ab_s) - _lam(ab_t))
    return x0_integral_step(x_t, (1 + 1 / (2 * r)) * x0 + x0_before / (2 * r), ab_t, ab_s)


def _two_m_over_ab(x_t, x0, x0_before, ab_before, ab_t, ab_s):
    r = (ab_t - ab_before) / (ab_s - ab_t)
    return x0_integral_step(x_t, x0 + (x0 - x0_before) / (2 * r), ab_t, ab_s)


def _two_m_exact(x_t, x0, x0_before, ab_before, ab_t, ab_s):
    h = _lam(ab_s) - _lam(ab_t)
    r = (_lam(ab_t) - _lam(ab_before)) / h
    return x0_integral_step(x_t, x0 + _first_moment(h) / r * (x0 - x0_before), ab_t, ab_s)


def _two_m_cases(g):
    for shape in SHAPES:
        for _ in range(2):
            yield *(_normal(g, *shape) for _ in range(3)), *_ab(g, 3)


# ---- section 6: third order ---------------------------------------------------------------


def _nodes_mean(values, nodes, h):
    weights = node_weights(nodes, exponential_moments(h, len(nodes)))
    return sum(w * f for w, f in zip(weights, values, strict=True))


def _third(factor=2.0, slope=True, rate=1, moments=None, half=False):
    """The mean over e^{hu} of the parabola through f0, f1, f2 at 0, -r0, -r0-r1; and its slips."""

    def mean(f0, f1, f2, r0, r1, h):
        _, m_1, m_2 = moments or exponential_moments(rate * h, 3)
        m_1 = 0.5 if half else m_1
        d0, d1 = (f0 - f1) / r0, (f1 - f2) / r1
        second = (d0 - d1) / (r0 + r1)
        first = d0 + r0 * second if slope else d0
        return f0 + m_1 * first + factor * m_2 / 2 * second

    return mean


def _third_cases(g):
    for shape in SHAPES:
        for _ in range(2):
            lengths = (_number(g, 0.5, 2) for _ in range(3))
            yield *(_normal(g, *shape) for _ in range(3)), *lengths


def _parabola_miss(c, h):
    return -c * exponential_moments(h, 3)[2] / 2


def _parabola_cases(g):
    return [(_number(g, 0.5, 3), _number(g, 0.3, 2)) for _ in range(5)]


# ---- section 7: UniC ----------------------------------------------------------------------


def _unic(slip=""):
    def corrected(x_t, x_s, x0_before, x0, x0_new, ab_before, ab_t, ab_s):
        h = _lam(ab_s) - _lam(ab_t)
        values = [(0.0, x0), ((_lam(ab_before) - _lam(ab_t)) / h, x0_before), (1.0, x0_new)]
        moments = exponential_moments({"eps": -h, "flat": 0.0}.get(slip, h), 3)
        if slip == "no old":
            values, moments = [values[0], values[2]], exponential_moments(h, 2)
        if slip == "bh2":
            values, moments = [values[0], values[2]], [1.0, 0.5]
        if slip == "predictor":
            values, moments = values[:2], exponential_moments(h, 2)
        if slip == "half":
            moments = [1.0, 0.5, moments[2]]
        if slip == "published":
            moments = [*moments[:2], moments[2] / 2]
        old = values[1][0]
        places = {"equal": -1.0, "sign": -old, "r": 1 / old}
        nodes = [u for u, _ in values]
        if slip in places:
            nodes[1] = places[slip]
        if slip == "units":
            nodes = [u * h for u in nodes]
        weights = node_weights(nodes, moments)
        if slip == "order":
            weights = [weights[1], weights[0], weights[2]]
        if slip == "new":
            weights = [0.0, 0.0, 1.0]
        mean = sum(w * f for w, (_, f) in zip(weights, values, strict=True))
        if slip == "on":
            return x0_integral_step(x_s, mean, ab_t, ab_s)
        return x0_integral_step(x_t, mean, ab_t, ab_s)

    return corrected


def _unic_cases(g):
    for shape in SHAPES:
        for _ in range(2):
            yield *(_normal(g, *shape) for _ in range(5)), *_ab(g, 3)


# ---- sections 8 and 11: what is measured --------------------------------------------------


def _three_runs(x_1, x_2, x_4):
    return math.log2(float((x_1 - x_2).abs().max() / (x_2 - x_4).abs().max()))


def _three_cases(g):
    for shape in SHAPES:
        for order in (1, 2, 3):
            x, term, next_term = (_normal(g, *shape) for _ in range(3))
            yield tuple(x + term / n**order + next_term / 9 / n ** (order + 1) for n in (4, 8, 16))


def _sde(slip="", noise=None):
    def step(x_t, x0, z, ab_t, ab_s, eta):
        sigma = noise(ab_t, ab_s, eta) if noise else sde_sigma(ab_t, ab_s, eta)
        eps = (x_t - sqrt(ab_t) * x0) / sqrt(1 - ab_t)
        left = 1 - ab_s if slip == "no room" else 1 - ab_s - sigma**2
        kept = sqrt(1 - ab_s) - sigma if slip == "linear" else sqrt(left)
        inside = x_t if slip == "x_t" else eps
        return sqrt(ab_s) * x0 + kept * inside + (0 if slip == "no z" else sigma) * z

    return step


def _sde_noise(power):
    def sigma(ab_t, ab_s, eta):
        h = _lam(ab_s) - _lam(ab_t)
        return sqrt((1 - ab_s) * (1 - math.exp(-power * eta * h)))

    return sigma


def _ddim_noise(ab_t, ab_s, eta):
    return eta * sde_sigma(ab_t, ab_s, 1.0)


def _sde_cases(g):
    for shape in SHAPES:
        for _ in range(2):
            yield *(_normal(g, *shape) for _ in range(3)), *_ab(g, 2), _number(g, 0.3, 0.9)


def _wasserstein(a, b):
    return (a.sort().values - b.sort().values).abs().mean()


def _wasserstein_cases(g):
    for n in (6, 7, 40):
        yield _normal(g, n), 2 * _normal(g, n) + 0.5


# ---- a multistep sampler ------------------------------------------------------------------


def _walk(
    eps_model,
    x,
    times,
    ab,
    order,
    of="x0",
    over=_lam,
    keep="x0",
    rate=None,
    even=False,
    old_eps=False,
):
    old = []
    moments = step_moments(of) if rate is None else functools.partial(_moments, rate)
    for t, s in pairwise(times):
        ab_t, ab_s = float(ab[t]), float(ab[s])
        eps = eps_model(x, t)
        x0 = pred_x0(x, eps, ab_t)
        old = [(over(ab_t), x0 if of == "x0" else eps), *old][:order]
        places = old
        if even:
            h = over(ab_s) - over(ab_t)
            places = [(over(ab_t) - j * h, f) for j, (_, f) in enumerate(old)]
        mean = polynomial_mean(places, over(ab_s), moments)
        if old_eps:
            x = sqrt(ab_s) * mean + sqrt(1 - ab_s) * eps
        elif of == "x0":
            x = x0_integral_step(x, mean, ab_t, ab_s)
        else:
            x = transfer(x, mean, ab_t, ab_s)
        if keep == "mean":
            old[0] = (old[0][0], mean)
    return x


def _moments(rate, h, count):
    return exponential_moments(rate * h, count)


def _own_sampler(eps_model, x, times, ab, order):
    return _walk(eps_model, x, times, ab, order)


def _walk_cases(g):
    for times, order in [
        ([902, 602, 302, 102], 2),
        ([982, 782, 582, 382, 182, 82], 3),
        ([*range(962, 0, -80)], 2),
        ([*range(962, 0, -120)], 3),
    ]:
        yield _model(), _normal(g, 3, 2), times, AB, order


# ---- section 16: distillation -------------------------------------------------------------


def _consistent(how=""):
    """The start of the path of a Gaussian through x; `how` is a slip."""

    def start(x, ab_t, mean, std):
        var = ab_t * std**2 + 1 - ab_t
        middle = {"x": mean, "no": 0.0}.get(how, sqrt(ab_t) * mean)
        wide = {"plus": ab_t * std + sqrt(1 - ab_t), "var": var, "ab": sqrt(ab_t) * std}
        z = (x - middle) / wide.get(how, sqrt(var))
        if how == "noise":
            z = (x - middle) / sqrt(1 - ab_t)
        if how == "denoiser":
            return mean + sqrt(ab_t) * std**2 / var * (x - middle)
        return {"z": z, "no mean": std * z, "no std": mean + z}.get(how, mean + std * z)

    return start


def _consistent_cases(g):
    for shape in SHAPES:
        for _ in range(2):
            yield _normal(g, *shape), *_ab(g, 1), _number(g, 0.3, 2), _number(g, 0.2, 0.8)


def _one_step(how=""):
    """The x0 whose one DDIM step leads from x_t to x_s; `how` is a slip."""

    def target(x_t, x_s, ab_t, ab_s):
        r = sqrt((1 - ab_s) / (1 - ab_t))
        if how == "down":
            r = 1 / r
        if how == "square":
            r = r**2
        if how == "flat":
            return (x_s - r * x_t) / sqrt(ab_s)
        if how == "sign":
            return (x_s + r * x_t) / (sqrt(ab_s) + r * sqrt(ab_t))
        if how == "times":
            return (x_s - r * x_t) * (sqrt(ab_s) - r * sqrt(ab_t))
        if how == "roots":
            return (x_s - r * x_t) / (ab_s - r * ab_t)
        return (x_s - r * x_t) / (sqrt(ab_s) - r * sqrt(ab_t))

    return target


def _one_step_cases(g):
    for shape in SHAPES:
        for _ in range(2):
            yield _normal(g, *shape), _normal(g, *shape), *_ab(g, 2)


EXERCISES = {
    "lambda_step": Exercise(
        _lambda_step,
        _lambda_step_cases,
        {
            "The half is missing: λ is half of the log-SNR": lambda t, s: _lambda_step(t, s, 1.0),
            "The sign of λ is wrong: it grows while the noise shrinks": lambda t, s: _lambda_step(
                t, s, sign=-1
            ),
            "The sign of λ is wrong, though h is correct: λ = -ln σ": lambda t, s: (
                -_lam(t),
                -_lam(s),
                _lam(s) - _lam(t),
            ),
            "λ is a natural logarithm, not one to base 10": lambda t, s: _lambda_step(
                t, s, log=math.log10
            ),
            "h is λ_s - λ_t, which is positive: λ_s is the larger one": lambda t, s: (
                *_lambda_step(t, s)[:2],
                -_lambda_step(t, s)[2],
            ),
            "h is the difference of the two λ, not of the two ᾱ": lambda t, s: (
                _lam(t),
                _lam(s),
                s - t,
            ),
            "h has no factor 2: it is λ_s - λ_t": lambda t, s: (
                _lam(t),
                _lam(s),
                2 * (_lam(s) - _lam(t)),
            ),
            "The order is wrong: return λ_t, then λ_s, then h": lambda t, s: (
                _lam(s),
                _lam(t),
                _lam(s) - _lam(t),
            ),
            "These are noise levels σ: take λ = -ln σ": lambda t, s: (
                math.exp(-_lam(t)),
                math.exp(-_lam(s)),
                math.exp(-_lam(t)) - math.exp(-_lam(s)),
            ),
            "The noise is missing: λ is the logarithm of √ᾱ divided by √(1-ᾱ)": lambda t, s: (
                math.log(t) / 2,
                math.log(s) / 2,
                math.log(s / t) / 2,
            ),
        },
        level="easy",
        goal="turn two alpha-bars into lambdas and the length of a step",
    ),
    "eps_step": Exercise(
        eps_integral_step,
        _eps_step_cases,
        {
            "The exponent is h, not -h": _eps_step(lambda t, s, h: sqrt(1 - s) * math.expm1(-h)),
            "The factor of ε is √(1-ᾱ_s), of the end of the step; you took √(1-ᾱ_t)": (
                _eps_step(lambda t, s, h: sqrt(1 - t) * math.expm1(h))
            ),
            "The factor of ε is √(1-ᾱ_s); you took √ᾱ_s": (
                _eps_step(lambda t, s, h: sqrt(s) * math.expm1(h))
            ),
            "The factor √(1-ᾱ_s) of ε is missing": _eps_step(lambda t, s, h: math.expm1(h)),
            "The square root is missing: the factor of ε has √(1-ᾱ_s)": (
                _eps_step(lambda t, s, h: (1 - s) * math.expm1(h))
            ),
            "The 1 is missing: the integral is e^h - 1": _eps_step(
                lambda t, s, h: sqrt(1 - s) * math.exp(h)
            ),
            "h instead of e^h - 1 is correct for short steps only": _eps_step(
                lambda t, s, h: sqrt(1 - s) * h
            ),
            "Your h is twice too long: λ is half of the log-SNR": _eps_step(
                lambda t, s, h: sqrt(1 - s) * math.expm1(2 * h)
            ),
            "The term with ε is subtracted, not added": _eps_step(
                lambda t, s, h: -sqrt(1 - s) * math.expm1(h)
            ),
            "The square root is missing: x_t is multiplied by √ᾱ_s/√ᾱ_t": _eps_step(
                lambda t, s, h: sqrt(1 - s) * math.expm1(h), lambda t, s: s / t
            ),
            "The factor of x_t is upside down: it is √ᾱ_s/√ᾱ_t": _eps_step(
                lambda t, s, h: sqrt(1 - s) * math.expm1(h), lambda t, s: sqrt(t / s)
            ),
            "√(1-ᾱ_s)/√(1-ᾱ_t) is the factor in the x_0 form; here it is √ᾱ_s/√ᾱ_t": _eps_step(
                lambda t, s, h: sqrt(1 - s) * math.expm1(h),
                lambda t, s: sqrt((1 - s) / (1 - t)),
            ),
        },
        level="easy",
        goal="write DPM-Solver's first step, eq. 3.7",
        given=(transfer, ddim_step, ddim_ode_step, move),
    ),
    "first_moment": Exercise(
        _first_moment,
        _first_moment_cases,
        {
            "This is the integral of u e^{au}: divide it by the integral of e^{au}": lambda r: (
                _first_moment(r) * math.expm1(r) / r
            ),
            "This is the integral of e^{au}: m_1 is a quotient of two integrals": lambda r: (
                math.expm1(r) / r
            ),
            "This m_1 has the weight e^{-au}, or counts u from the end": lambda r: _first_moment(
                -r
            ),
            "½ is m_1 where all places have the same weight": lambda r: 0.5,
            "½ + a/12 is correct for small rates only": lambda r: 0.5 + r / 12,
            "m_1 is between 0 and 1: the sign of the whole is wrong": lambda r: -_first_moment(r),
            "This is smaller by 1 than m_1: the first term is 1/(1-e^{-a})": lambda r: (
                _first_moment(r) - 1
            ),
            "The exponent of the first term is -a, not a: 1/(1-e^{-a})": lambda r: (
                1 / (1 - math.exp(r)) - 1 / r
            ),
            "The term -1/a of the integration by parts is missing": lambda r: (
                1 / (1 - math.exp(-r))
            ),
            "The sign of the second term is wrong: it is -1/a": lambda r: (
                1 / (1 - math.exp(-r)) + 1 / r
            ),
            "Divide the second term by the integral of e^{au} too: it is -1/a, not -1/a²": (
                lambda r: 1 / (1 - math.exp(-r)) - 1 / r**2
            ),
            "Integrate from 0 to 1: the lower bound adds 1/a², and then divide": lambda r: (
                math.exp(r) / r - 1 / r**2
            ),
        },
        level="middle",
        goal="integrate by parts to the first moment of a step",
    ),
    "weights_of_two": Exercise(
        lambda r, m_1: (1 + m_1 / r, -m_1 / r),
        _two_cases,
        {
            "The order is wrong: the weight of the new prediction comes first": (
                lambda r, m: (-m / r, 1 + m / r)
            ),
            "The old prediction lies at u = -r, before the step": (lambda r, m: (1 - m / r, m / r)),
            "These are for equal steps: the old prediction lies at -r, not at -1": (
                lambda r, m: (1 + m, -m)
            ),
            "These are for an old prediction at u = 1: it lies at u = -r": lambda r, m: (1 - m, m),
            "Divide by r: an old prediction that is further away has a smaller weight": (
                lambda r, m: (1 + m * r, -m * r)
            ),
            "½ is m_1 where all places have the same weight: use the m_1 that is given": (
                lambda r, m: (1 + 0.5 / r, -0.5 / r)
            ),
            "The two weights must sum to 1: the old one is negative": (
                lambda r, m: (1 + m / r, m / r)
            ),
            "The two weights must sum to 1; yours sum to 0": lambda r, m: (m / r, -m / r),
            "The two weights must sum to 1: the new one is 1 minus the old one": (
                lambda r, m: (1.0, -m / r)
            ),
            "This is the line's value at the end of the step: use m_1 instead of 1": (
                lambda r, m: (1 + 1 / r, -1 / r)
            ),
        },
        level="easy",
        goal="solve for the weights of two values at unequal steps",
    ),
    "lms_weights": Exercise(
        _lms_weights(),
        _lms_cases,
        {
            "The order is wrong: return the newest weight first": _lms_weights(turn=True),
            "These are for equal steps: compute the places u_j from the sigmas": _even_weights,
            "The clock of LMS is σ itself, not ln σ": _lms_weights(clock=math.log),
            "The places are mirrored: old ones have u < 0, and the end of the step u = 1": (
                _lms_weights(mirror=-1)
            ),
            "This is the polynomial at the end of the step; take its mean over the step": (
                _lms_weights(moment=lambda k: 1.0)
            ),
            "With equal weight for all places the moments are 1/(k+1): 1, 1/2, 1/3": (
                _lms_weights(moment=lambda k: 1 / (k + 2))
            ),
            "The moments are 1/(k+1), without factorials": (
                _lms_weights(moment=lambda k: 1 / math.factorial(k + 1))
            ),
            "The first moment m_0 is 1: the weights sum to 1": (
                _lms_weights(moment=lambda k: 1 / (k + 1) if k else 0.0)
            ),
            "The unit of u is the step to come: divide by σ_next - σ_0": _not_in_steps,
            "u is counted from the newest place, in units of the step": lambda sigmas, end: (
                node_weights(sigmas, [1 / (k + 1) for k in range(len(sigmas))])
            ),
            "Return the weights of the mean, which sum to 1, without the length of the step": (
                lambda sigmas, end: [w * (end - sigmas[0]) for w in _lms_weights()(sigmas, end)]
            ),
        },
        tolerance=1e-8,
        level="middle",
        goal="compute the weights of LMS for any sigmas",
    ),
    "two_s_step": Exercise(
        _two_s(),
        _two_s_cases,
        {
            "This is DPM-Solver-2, which uses the ε of the middle; 2S uses its x_0": _two_s("eps"),
            "The whole step starts from x_t again, not from the middle": _two_s("from the middle"),
            "Use the x_0 of the middle alone, not its mean with the first x_0": _two_s("mean"),
            "Use the x_0 of the middle alone: do not extrapolate": _two_s("extra"),
            "This is DDIM's step: use the x_0 of the middle": _two_s("first"),
            "The new x_0 needs a new ε: the one that makes x_t of it": _two_s("old eps"),
            "Evaluate the model at the moved x, not at x_t": _two_s("unmoved"),
            "Evaluate the model at the time mid, not at t": _two_s("old time"),
            "Compute the x_0 of the middle with ᾱ of mid, not of t": _two_s("old ab"),
            "This is x at the middle; the whole step from x_t is missing": _two_s("half"),
            "This is the x_0 of the middle; the step with it is missing": _two_s("x0"),
        },
        level="middle",
        goal="write the single-step solver DPM-Solver++ 2S",
    ),
    "dpmpp_2m_step": Exercise(
        _two_m(),
        _two_m_cases,
        {
            "This is DDIM's step: the old x_0 is not used": _two_m(lambda r: 0.0),
            "3/2 and -1/2 hold for equal steps: r is missing": _two_m(lambda r: 0.5),
            "r is upside down: it is h_before divided by h": _two_m(lambda r: r / 2),
            "The half is missing: the weight of the old x_0 is -1/(2r)": _two_m(lambda r: 1 / r),
            "The denominator is 2r, not 1 + r": _two_m(lambda r: 1 / (1 + r)),
            "The sign is wrong: go beyond x_0, away from the old one": _two_m(sign=-1),
            "The weights must sum to 1: the one of the old x_0 is negative": _two_m_plus,
            "The new and the old x_0 are exchanged": (
                lambda x, x0, old, a, b, c: _two_m()(x, old, x0, a, b, c)
            ),
            "Do not average the two x_0: extrapolate beyond the new one": _two_m(lambda r: -0.5),
            "This is the mean x_0'; the step with it is missing": _two_m(move=lambda x, m, *ab: m),
            "The new x_0' needs a new ε: the one that makes x_t of it": _two_m_old_eps,
            "Measure the steps in λ, not in ᾱ": _two_m_over_ab,
            "These are the exact weights: the published 2M has m_1 = ½": _two_m_exact,
        },
        level="middle",
        goal="write the step of DPM++ 2M as it was published",
    ),
    "third_order_mean": Exercise(
        _third(),
        _third_cases,
        {
            "This is the published formula: its D_2 is half of the second derivative that the "
            "coefficient m_2/2 expects": _third(factor=1.0),
            "The slope at u = 0 is D_1, not D_1^(0): a term with r_0 is missing": (
                _third(slope=False)
            ),
            "The factor 2 is there twice": _third(factor=4.0),
            "The sign of the second derivative is wrong": _third(factor=-2.0),
            "The sign of the rate is wrong: for x_0 the weight is e^{hu}": _third(rate=-1),
            "The weight is missing: over λ the moments are not 1/2 and 1/3": (
                _third(moments=(1, 1 / 2, 1 / 3))
            ),
            "m_1 = ½ is the shortcut of 2M: here m_1 is exact": _third(half=True),
            "The curvature is missing: this is a line with the slope D_1": _third(factor=0.0),
            "This is the second order: D_2 and the correction of the slope are missing": (
                _third(factor=0.0, slope=False)
            ),
            "f2 lies at -r_0 - r_1, not at -r_1": lambda f0, f1, f2, r0, r1, h: _nodes_mean(
                (f0, f1, f2), (0, -r0, -r1), h
            ),
            "These weights are for equal steps: the places are 0, -r_0 and -r_0 - r_1": (
                lambda f0, f1, f2, r0, r1, h: _nodes_mean((f0, f1, f2), (0, -1, -2), h)
            ),
        },
        level="hard",
        goal="find the factor that the published third order lacks",
    ),
    "parabola_miss": Exercise(
        _parabola_miss,
        _parabola_cases,
        {
            "The sign is wrong: it is published minus true, and the published mean is smaller": (
                lambda c, h: -_parabola_miss(c, h)
            ),
            "The published mean is half of c m_2, not 0, so only half is missing": (
                lambda c, h: 2 * _parabola_miss(c, h)
            ),
            "The published mean is half of the true one, not twice": (
                lambda c, h: -2 * _parabola_miss(c, h)
            ),
            "For a parabola the difference is not 0: the published D_2 is c, not 2c": (
                lambda c, h: 0.0 * c
            ),
            "The factor c is missing": lambda c, h: _parabola_miss(1.0, h),
            "u is already in units of the step: do not multiply by h²": (
                lambda c, h: _parabola_miss(c, h) * h**2
            ),
            "m_2 = 1/3 is the moment without a weight": lambda c, h: -c / 6,
            "m_2 = 1/3 is the moment without a weight, and the sign is wrong": lambda c, h: c / 6,
            "The true mean is weighted too: it is c m_2, not c/3": (
                lambda c, h: -_parabola_miss(c, h) - c / 3
            ),
            "For x_0 the weight is e^{hu}, not e^{-hu}": lambda c, h: _parabola_miss(c, -h),
            "m_2 is not the square of m_1": lambda c, h: -c * _first_moment(h) ** 2 / 2,
        },
        level="middle",
        goal="say by how much the published third order misses",
    ),
    "unic_x": Exercise(
        _unic(),
        _unic_cases,
        {
            "The corrected step starts from x_t again, not from the predicted x_s": _unic("on"),
            "This is the prediction: the new x_0 must be a third place, at u = 1": (
                _unic("predictor")
            ),
            "There are three places: keep the x_0 of the time before": _unic("no old"),
            "This is UniC-1 with bh2, two places and m_1 = ½; here there are three": _unic("bh2"),
            "For x_0 the weight is e^{hu}, not e^{-hu}": _unic("eps"),
            "The weight is missing: over λ the moments are not 1/2 and 1/3": _unic("flat"),
            "The places and the predictions are in a different order: x_0 lies at u = 0": (
                _unic("order")
            ),
            "The old x_0 lies at (λ_before - λ_t)/h, not at -1": _unic("equal"),
            "The old x_0 lies before the step: its place u is negative": _unic("sign"),
            "Measure u in units of the step: divide by h": _unic("units"),
            "m_1 = ½ is for two places: with three all moments are exact": _unic("half"),
            "This uses the new x_0 alone: take the weighted mean of all three": _unic("new"),
            "The place of the old x_0 is upside down: divide λ_before - λ_t by h": _unic("r"),
            "The published third order halves m_2; here it is exact": _unic("published"),
        },
        level="middle",
        goal="correct a step with the value at its end",
    ),
    "order_from_three_runs": Exercise(
        _three_runs,
        _three_cases,
        {
            "The quotient is upside down: the first difference is the larger one": (
                lambda a, b, c: -_three_runs(a, b, c)
            ),
            "Take the logarithm to base 2, since the steps double; this is the natural one": (
                lambda a, b, c: _three_runs(a, b, c) * math.log(2)
            ),
            "Take the logarithm to base 2, since the steps double; this one is to base 10": (
                lambda a, b, c: _three_runs(a, b, c) * math.log10(2)
            ),
            "Take the logarithm to base 2: the steps double between neighbouring runs": (
                lambda a, b, c: _three_runs(a, b, c) / 2
            ),
            "The logarithm is missing": lambda a, b, c: 2 ** _three_runs(a, b, c),
            "Compare neighbours: |x_n - x_2n| divided by |x_2n - x_4n|": lambda a, b, c: math.log2(
                float((a - c).abs().max() / (b - c).abs().max())
            ),
            "Compare neighbours: the second difference is x_2n - x_4n": lambda a, b, c: math.log2(
                float((a - c).abs().max() / (a - b).abs().max())
            ),
            "The size of a difference is its largest absolute entry, not the mean": (
                lambda a, b, c: math.log2(float((a - b).abs().mean() / (b - c).abs().mean()))
            ),
            "The size of a difference is its largest absolute entry, not its norm": (
                lambda a, b, c: math.log2(float((a - b).norm() / (b - c).norm()))
            ),
            "Take the largest entry of the difference, not the difference of the largest": (
                lambda a, b, c: math.log2(
                    float((a.abs().max() - b.abs().max()).abs() + 1e-30)
                    / float((b.abs().max() - c.abs().max()).abs() + 1e-30)
                )
            ),
        },
        level="easy",
        goal="measure an order without knowing the solution",
    ),
    "sde_step": Exercise(
        _sde(),
        _sde_cases,
        {
            "The factor of ε is √(1-ᾱ_s-σ_t²): leave room for the fresh noise": _sde("no room"),
            "The factor of ε is √(1-ᾱ_s-σ_t²): variances are subtracted, not their roots": (
                _sde("linear")
            ),
            "The fresh noise is missing": _sde("no z"),
            "This is DDIM's step without fresh noise: σ_t is missing in both places": (
                _sde(noise=lambda t, s, eta: 0.0)
            ),
            "This is DDIM's η, which multiplies σ_t; here η is in the exponent": (
                _sde(noise=_ddim_noise)
            ),
            "The 2 is missing: the exponent is -2ηh": _sde(noise=_sde_noise(1)),
            "η is missing: this is the noise of η = 1": (
                _sde(noise=lambda t, s, eta: sde_sigma(t, s, 1.0))
            ),
            "This is the share of old noise: the fresh noise is 1 minus it": _sde(
                noise=lambda t, s, eta: sqrt(1 - s - sde_sigma(t, s, eta) ** 2)
            ),
            "σ_t is a standard deviation: its square root is missing": _sde(
                noise=lambda t, s, eta: sde_sigma(t, s, eta) ** 2
            ),
            "The term beside x_0 has ε, not x_t: compute ε from x_t and x_0": _sde("x_t"),
        },
        level="middle",
        goal="take a stochastic step with DPM-Solver++'s sigma",
    ),
    "wasserstein_1d": Exercise(
        _wasserstein,
        _wasserstein_cases,
        {
            "Sort both sets first: any sample may be moved to any other": lambda a, b: (
                (a - b).abs().mean()
            ),
            "Take absolute values: differences of both signs cancel": (
                lambda a, b: a.mean() - b.mean()
            ),
            "Take absolute values before the mean: differences of both signs cancel": (
                lambda a, b: (a.mean() - b.mean()).abs()
            ),
            "W_1 is a mean, not a sum: divide by n": lambda a, b: _wasserstein(a, b) * len(a),
            "W_1 is a mean distance, not the largest one": lambda a, b: (
                (a.sort().values - b.sort().values).abs().max()
            ),
            "This is W_2, from squares: take absolute values": lambda a, b: (
                (a.sort().values - b.sort().values).pow(2).mean().sqrt()
            ),
            "This is a mean of squares: take absolute values": lambda a, b: (
                (a.sort().values - b.sort().values).pow(2).mean()
            ),
            "This is a norm, from squares: take the mean of absolute values": lambda a, b: (
                a.sort().values - b.sort().values
            ).norm(),
            "Each sample is moved to one other: this is the mean over all pairs": lambda a, b: (
                (a[:, None] - b).abs().mean()
            ),
            "Each target is used once: this moves every sample to its nearest": lambda a, b: (
                (a[:, None] - b).abs().amin(1).mean()
            ),
            "Sort both sets, not only the first": lambda a, b: (a.sort().values - b).abs().mean(),
            "Sort both sets in the same direction": lambda a, b: (
                (a.sort().values - b.sort(descending=True).values).abs().mean()
            ),
        },
        level="easy",
        goal="measure how far two sets of samples are apart",
    ),
    "lambda_multistep": Exercise(
        _own_sampler,
        _walk_cases,
        {
            "This is DDIM: the old predictions are not used": lambda m, x, times, ab, k: _walk(
                m, x, times, ab, 1
            ),
            "The polynomial is of x_0, not of ε": lambda *a: _walk(*a, of="eps"),
            "The polynomial is of x_0, not of ε, and its weight is e^{hu}": lambda *a: _walk(
                *a, of="eps", rate=1
            ),
            "The sign of the rate is wrong: for x_0 the weight is e^{hu}": lambda *a: _walk(
                *a, rate=-1
            ),
            "The weight is missing: over λ the moments are those of e^{hu}": lambda *a: _walk(
                *a, rate=0
            ),
            "The clock is λ, not ᾱ": lambda *a: _walk(*a, over=lambda ab: ab),
            "The clock is λ, not σ": lambda *a: _walk(
                *a, over=lambda ab: math.exp(-_lam(ab)), rate=0
            ),
            "Your λ is twice too large: it is half of the log-SNR": lambda *a: _walk(
                *a, over=lambda ab: 2 * _lam(ab)
            ),
            "Store the network's x_0, not the mean": lambda *a: _walk(*a, keep="mean"),
            "The steps differ in length: the places u_j are not 0, -1, -2": lambda *a: _walk(
                *a, even=True
            ),
            "The new x_0' needs a new ε: the one that makes x_t of it": lambda *a: _walk(
                *a, old_eps=True
            ),
            "Keep `order` predictions, including the new one; you keep one more": (
                lambda m, x, times, ab, k: _walk(m, x, times, ab, k + 1)
            ),
            "Keep `order` predictions, including the new one; you keep one less": (
                lambda m, x, times, ab, k: _walk(m, x, times, ab, max(k - 1, 1))
            ),
            "The last step is missing": lambda m, x, times, ab, k: _walk(m, x, times[:-1], ab, k),
        },
        level="hard",
        goal="write a multistep sampler over lambda of any order",
    ),
    "path_start": Exercise(
        _consistent(),
        _consistent_cases,
        {
            "This is the denoiser's mean of x_0: the path's start is as far out as x_t is": (
                _consistent("denoiser")
            ),
            "x_t has the mean √ᾱ_t m, not m": _consistent("x"),
            "Subtract the mean of x_t first, √ᾱ_t m": _consistent("no"),
            "Standard deviations do not add up: variances do": _consistent("plus"),
            "Divide by the standard deviation of x_t: the root of its variance": (
                _consistent("var")
            ),
            "The noise is part of the variance of x_t: add 1-ᾱ_t": _consistent("ab"),
            "The data's own variance is part of that of x_t: add ᾱ_t s²": _consistent("noise"),
            "This is the number that stays along the path: make an x_0 of it": _consistent("z"),
            "The mean m of the data is missing in the x_0": _consistent("no mean"),
            "The data's standard deviation is missing in the x_0": _consistent("no std"),
        },
        level="easy",
        goal="evaluate a consistency function in closed form",
    ),
    "one_step_x0": Exercise(
        distilled_x0,
        _one_step_cases,
        {
            "The ratio r is upside down: √(1-ᾱ_s) stands above": _one_step("down"),
            "r is a ratio of standard deviations: its root is missing": _one_step("square"),
            "x_t contains √ᾱ_t x_0: that part belongs to the factor of x_0": _one_step("flat"),
            "Subtract r x_t, so that ε is gone": _one_step("sign"),
            "Divide by the factor of x_0, do not multiply": _one_step("times"),
            "The factors of x_0 are √ᾱ_s and √ᾱ_t, with roots": _one_step("roots"),
            "This is x_s divided by √ᾱ_s: its noise is still in it": (
                lambda x_t, x_s, ab_t, ab_s: x_s / sqrt(ab_s)
            ),
        },
        level="middle",
        goal="find the target of progressive distillation",
    ),
}

"""Exercises of notebook 18."""

import functools
import math
from itertools import pairwise

import torch

from ...equations import (
    ddim_ode_step,
    ddim_step,
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


def _third(factor=2.0, slope=True, rate=1, moments=None):
    """The mean over e^{hu} of the parabola through f0, f1, f2 at 0, -r0, -r0-r1; and its slips."""

    def mean(f0, f1, f2, r0, r1, h):
        _, m_1, m_2 = moments or exponential_moments(rate * h, 3)
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
        weights = node_weights([u for u, _ in values], moments)
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
        return sqrt(ab_s) * x0 + sqrt(left) * eps + (0 if slip == "no z" else sigma) * z

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


def _walk(eps_model, x, times, ab, order, of="x0", over=_lam, keep="x0", rate=None):
    old = []
    moments = step_moments(of) if rate is None else functools.partial(_moments, rate)
    for t, s in pairwise(times):
        ab_t, ab_s = float(ab[t]), float(ab[s])
        eps = eps_model(x, t)
        x0 = pred_x0(x, eps, ab_t)
        old = [(over(ab_t), x0 if of == "x0" else eps), *old][:order]
        mean = polynomial_mean(old, over(ab_s), moments)
        if of == "x0":
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


EXERCISES = {
    "lambda_step": Exercise(
        _lambda_step,
        _lambda_step_cases,
        {
            "the half is missing: λ is half the log-SNR": lambda t, s: _lambda_step(t, s, 1.0),
            "a sign: λ grows as the noise goes, it is ln of signal over noise": lambda t, s: (
                _lambda_step(t, s, sign=-1)
            ),
            "ln, to the base e, not log10": lambda t, s: _lambda_step(t, s, log=math.log10),
            "h is λ_s - λ_t, which is positive: the later step's λ is larger": lambda t, s: (
                *_lambda_step(t, s)[:2],
                -_lambda_step(t, s)[2],
            ),
            "the noise is missing: λ compares √ᾱ with √(1-ᾱ)": lambda t, s: (
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
            "a sign: the exponent is h, not -h, and the noise shrinks": _eps_step(
                lambda t, s, h: sqrt(1 - s) * math.expm1(-h)
            ),
            "that factor is σ_t's: eq. 3.7 has the noise at the end of the step, √(1-ᾱ_s)": (
                _eps_step(lambda t, s, h: sqrt(1 - t) * math.expm1(h))
            ),
            "the 1 is missing: the integral is e^h - 1": _eps_step(
                lambda t, s, h: sqrt(1 - s) * math.exp(h)
            ),
            "h in the place of e^h - 1 is right for short steps only": _eps_step(
                lambda t, s, h: sqrt(1 - s) * h
            ),
            "the root is missing: x_t is multiplied by √ᾱ_s/√ᾱ_t": _eps_step(
                lambda t, s, h: sqrt(1 - s) * math.expm1(h), lambda t, s: s / t
            ),
            "that scales x_t as the x0 form does: here its factor is √ᾱ_s/√ᾱ_t": _eps_step(
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
            "that is the integral of u e^{κu}: divide it by the integral of e^{κu}": lambda r: (
                _first_moment(r) * math.expm1(r) / r
            ),
            "a sign of κ: your weight is e^{-κu}": lambda r: _first_moment(-r),
            "½ is m_1 where all places count alike": lambda r: 0.5,
            "the place of the mean from the step's end: take 1 minus it": lambda r: (
                math.expm1(r) / r - 1 - _first_moment(r)
            ),
            "integrating by parts leaves -1/κ as well": lambda r: 1 / (1 - math.exp(-r)),
        },
        level="middle",
        goal="integrate by parts to the first moment of a step",
    ),
    "weights_of_two": Exercise(
        lambda r, m_1: (1 + m_1 / r, -m_1 / r),
        _two_cases,
        {
            "the order: the new value's weight comes first": lambda r, m: (-m / r, 1 + m / r),
            "the old value lies at u = -r, before the step": lambda r, m: (1 - m / r, m / r),
            "those hold for equal steps: the old node lies at -r, not at -1": lambda r, m: (
                1 + m,
                -m,
            ),
            "r is the old step over the new one: a far old value counts less": lambda r, m: (
                1 + m * r,
                -m * r,
            ),
            "½ is m_1 where all places count alike: use the m_1 that is given": lambda r, m: (
                1 + 0.5 / r,
                -0.5 / r,
            ),
        },
        level="easy",
        goal="solve for the weights of two values at unequal steps",
    ),
    "lms_weights": Exercise(
        _lms_weights(),
        _lms_cases,
        {
            "the order: newest first": _lms_weights(turn=True),
            "those are for equal steps: the nodes lie where the sigmas are": _even_weights,
            "the clock is σ itself, not ln σ": _lms_weights(clock=math.log),
            "a mirror: old values lie at u < 0, the end of the step at u = 1": (
                _lms_weights(mirror=-1)
            ),
            "this is the polynomial at the end of the step: wanted is its mean over it": (
                _lms_weights(moment=lambda k: 1.0)
            ),
            "the unit of u is the step to come: divide by σ_next - σ_0": _not_in_steps,
        },
        tolerance=1e-8,
        level="middle",
        goal="compute the weights of LMS for any sigmas",
    ),
    "two_s_step": Exercise(
        _two_s(),
        _two_s_cases,
        {
            "that is DPM-Solver-2: the ε of the middle leads; 2S takes its x0": _two_s("eps"),
            "the whole step leaves from x_t again, not from the middle": _two_s("from the middle"),
            "the x0 of the middle leads alone: no mean with the first one": _two_s("mean"),
            "that is DDIM's step: the x0 of the middle is to lead": _two_s("first"),
            "with a new x0 goes a new ε, the one that makes x_t of it": _two_s("old eps"),
            "the model is evaluated at the moved x, not at x_t": _two_s("unmoved"),
        },
        level="middle",
        goal="write the single-step solver DPM-Solver++ 2S",
    ),
    "dpmpp_2m_step": Exercise(
        _two_m(),
        _two_m_cases,
        {
            "that is DDIM's step: the old x0 is not used": _two_m(lambda r: 0.0),
            "3/2 and -1/2 hold for equal steps: r is missing": _two_m(lambda r: 0.5),
            "r is upside down: it is h_before over h": _two_m(lambda r: r / 2),
            "the half is missing: half way the line has risen by 1/(2r)": _two_m(lambda r: 1 / r),
            "a sign: go on beyond x0, away from the old one": _two_m(sign=-1),
            "with a new x0 goes a new ε: the one that makes x_t of the mean": _two_m_old_eps,
            "the steps are measured in λ, not in ᾱ": _two_m_over_ab,
            "those are the exact weights: the published 2M has the midpoint's ½": _two_m_exact,
        },
        level="middle",
        goal="write the step of DPM++ 2M as it was published",
    ),
    "third_order_mean": Exercise(
        _third(),
        _third_cases,
        {
            "that is the published formula: D2 is half of the second derivative that its "
            "coefficient m_2/2 expects": _third(factor=1.0),
            "the slope at u = 0 is D1_0 plus r0 times the second divided difference": (
                _third(slope=False)
            ),
            "the factor 2 once too often": _third(factor=4.0),
            "a sign: for x0 the weight is e^{hu}": _third(rate=-1),
            "no weights: over λ the moments are not 1/2 and 1/3": _third(moments=(1, 1 / 2, 1 / 3)),
            "the second order alone: the curvature is missing": _third(factor=0.0, slope=False),
        },
        level="hard",
        goal="find the factor that the published third order lacks",
    ),
    "parabola_miss": Exercise(
        _parabola_miss,
        _parabola_cases,
        {
            "a sign: published minus true, and the published mean is the smaller": lambda c, h: (
                -_parabola_miss(c, h)
            ),
            "the published formula takes one half of c m_2, so half is what it misses": (
                lambda c, h: 2 * _parabola_miss(c, h)
            ),
            "m_2 = 1/3 is the moment without a weight": lambda c, h: -c / 6,
            "for x0 the weight is e^{hu}, not e^{-hu}": lambda c, h: _parabola_miss(c, -h),
            "m_2 is not m_1 squared": lambda c, h: -c * _first_moment(h) ** 2 / 2,
        },
        level="middle",
        goal="say by how much the published third order misses",
    ),
    "unic_x": Exercise(
        _unic(),
        _unic_cases,
        {
            "the corrected step leaves from x_t again, not from the predicted x_s": _unic("on"),
            "that is the prediction: the new x0 is to be a node, at u = 1": _unic("predictor"),
            "three nodes: keep the old x0 among them": _unic("no old"),
            "that is UniC-1 with bh2, two nodes and m_1 = ½: here there are three": _unic("bh2"),
            "for x0 the weight is e^{hu}, not e^{-hu}": _unic("eps"),
            "no weights: over λ the moments are not 1/2 and 1/3": _unic("flat"),
        },
        level="middle",
        goal="correct a step with the value at its end",
    ),
    "order_from_three_runs": Exercise(
        _three_runs,
        _three_cases,
        {
            "upside down: the first difference is the larger": lambda a, b, c: (
                -_three_runs(a, b, c)
            ),
            "log2, since the steps double": lambda a, b, c: _three_runs(a, b, c) * math.log(2),
            "the logarithm is missing": lambda a, b, c: 2 ** _three_runs(a, b, c),
            "neighbours: |x_n - x_2n| over |x_2n - x_4n|": lambda a, b, c: math.log2(
                float((a - c).abs().max() / (b - c).abs().max())
            ),
            "the largest of the differences, not the difference of the largest": (
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
            "make room: with σ of fresh noise, √(1-ᾱ_s-σ²) is left for ε": _sde("no room"),
            "the fresh noise is missing": _sde("no z"),
            "that is DDIM's η, which multiplies σ: here it stands in the exponent": (
                _sde(noise=_ddim_noise)
            ),
            "the 2 is missing: variances shrink by e^{-2ηh}": _sde(noise=_sde_noise(1)),
            "η is missing: that is the noise of η = 1": (
                _sde(noise=lambda t, s, eta: sde_sigma(t, s, 1.0))
            ),
            "that is what is left of the noise, not what is new: 1 minus it": _sde(
                noise=lambda t, s, eta: sqrt(1 - s - sde_sigma(t, s, eta) ** 2)
            ),
        },
        level="middle",
        goal="take a stochastic step with DPM-Solver++'s sigma",
    ),
    "wasserstein_1d": Exercise(
        _wasserstein,
        _wasserstein_cases,
        {
            "sort both first: which sample goes with which is free": lambda a, b: (
                (a - b).abs().mean()
            ),
            "a size is missing: differences of both signs cancel": lambda a, b: a.mean() - b.mean(),
            "the mean, not the sum": lambda a, b: _wasserstein(a, b) * len(a),
            "squares make the 2-distance: take sizes": lambda a, b: (
                (a.sort().values - b.sort().values).pow(2).mean().sqrt()
            ),
            "sort both the same way": lambda a, b: (
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
            "that is DDIM: old values are not used": lambda m, x, times, ab, k: _walk(
                m, x, times, ab, 1
            ),
            "the polynomial is of x0, not of ε": lambda *a: _walk(*a, of="eps"),
            "a sign: for x0 the weight is e^{hu}, so the rate is h": lambda *a: _walk(*a, rate=-1),
            "no weights: over λ the moments are those of e^{hu}": lambda *a: _walk(*a, rate=0),
            "the clock is λ, not ᾱ": lambda *a: _walk(*a, over=lambda ab: ab),
            "store what the model said, not the mean": lambda *a: _walk(*a, keep="mean"),
            "keep `order` values, the new one counted": lambda m, x, times, ab, k: _walk(
                m, x, times, ab, k + 1
            ),
        },
        level="hard",
        goal="write a multistep sampler over lambda of any order",
    ),
}

"""Exercises of notebook 17."""

import math

import torch

from ...equations import (
    ancestral_sigmas,
    churned_sigma,
    ddim_step,
    edm_weight,
    karras_sigma,
    lambda_from_ab,
    sigma,
    sigma_from_ab,
    sqrt,
    v_scaling,
)
from ...schedules import alpha_bar, linear_betas, scaled_linear_betas, sgm_times
from ...toy import GaussianMixture, IdealDenoiser
from ..checking import Exercise

AB = alpha_bar(scaled_linear_betas())
SIGMAS = sigma_from_ab(AB[1:])  # of t = 1..1000
FEW = alpha_bar(linear_betas(20, 0.01, 0.4))  # 20 times, so that rounding to one of them shows
SHAPES = [(2, 3), (1, 4, 2, 2), (5,)]


def _normal(generator, *shape):
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def _number(g, low, high):
    return low + (high - low) * float(torch.rand((), dtype=torch.float64, generator=g))


def _whole(g, low, high):
    return int(torch.randint(low, high + 1, (), generator=g))


def _some_sigmas(g):
    """σ between SD's least and largest, evenly in ln σ."""
    for shape in [(), (5,), (2, 3)]:
        u = torch.rand(shape, dtype=torch.float64, generator=g)
        yield 0.03 * 480.0**u


def _falling_sigmas(g):
    """σ_t > σ_s, and σ_s = 0 at last."""
    for low, high in [(2.0, 14.0), (0.3, 2.0), (0.03, 0.3)]:
        sigma_s = _number(g, low, high)
        yield sigma_s * _number(g, 1.2, 2.0), sigma_s
    yield _number(g, 0.02, 0.05), 0.0


def _model(ab=AB):
    means = torch.tensor([[1.0, 0.2], [-0.7, 0.8], [-0.3, -1.0]], dtype=torch.float64)
    return IdealDenoiser(GaussianMixture(means, 0.4, weights=[0.5, 0.2, 0.3]), ab)


# ---- σ, λ and t ---------------------------------------------------------------------------


def _clocks(noise=sigma_from_ab, lam=lambda_from_ab):
    return lambda ab: torch.stack([noise(ab), lam(ab)])


def _time(share=lambda s, low, high: math.log(s / low) / math.log(high / low), first=1):
    """The real time of σ, by a share of the way between two whole times; and its slips."""

    def time(sigma, sigmas):
        k = int((sigmas <= sigma).sum()) - 1
        low, high = sigmas[k].item(), sigmas[k + 1].item()
        return first + k + share(sigma, low, high)

    return time


def _time_cases(g):
    for t in (2, 30, 500, 998):
        low, high = SIGMAS[t - 1].item(), SIGMAS[t].item()
        yield low * (high / low) ** _number(g, 0.15, 0.4), SIGMAS
    few = sigma_from_ab(FEW[1:])
    yield few[7].item() ** 0.3 * few[8].item() ** 0.7 * _number(g, 1, 1.01), few


# ---- the denoiser and its four numbers -----------------------------------------------------


def _denoised(
    inside=lambda x, ab: sqrt(ab) * x, out=lambda x, eps, ab: x - sigma_from_ab(ab) * eps
):
    def denoised(eps_model, x, t, ab):
        return out(x, eps_model(inside(x, ab[t]), t), ab[t])

    return denoised


def _denoised_cases(g):
    for t in (980, 600, 250, 20):
        yield _model(), _normal(g, 3, 2) / AB[t].sqrt(), t, AB


def _target_variance(sigma, sigma_data, c_skip, c_out):
    return ((1 - c_skip) ** 2 * sigma_data**2 + c_skip**2 * sigma**2) / c_out**2


def _variance_cases(g):
    return [
        (_number(g, 0.1, 9), _number(g, 0.3, 2), _number(g, 0.1, 0.9), _number(g, 0.3, 3))
        for _ in range(5)
    ]


def _v_cases(g):
    """First a σ near 1, where every slip shows."""
    yield (torch.tensor(_number(g, 0.4, 0.8), dtype=torch.float64),)
    for sigmas in _some_sigmas(g):
        yield (sigmas,)


def _v_slip(**changed):
    """v_scaling with some of its numbers computed otherwise."""

    def scaling(sigma):
        return v_scaling(sigma)._replace(**{name: f(sigma) for name, f in changed.items()})

    return scaling


# ---- training -----------------------------------------------------------------------------


def _weights(eps=lambda s: s**-2, v=lambda s: 1 + s**-2, edm=edm_weight):
    return lambda s, d: torch.stack([torch.ones_like(s), eps(s), v(s), edm(s, d)])


def _weights_cases(g):
    for sigmas in _some_sigmas(g):
        yield sigmas, _number(g, 0.3, 0.8)


def _below(z):
    return (1 + math.erf(z / math.sqrt(2))) / 2


def _shares(log=math.log, std=1.2, mean=-1.2, discrete=None):
    def shares(sigmas, low, high):
        a, b = ((log(s) - mean) / std for s in (low, high))
        inside = ((sigmas >= low) & (sigmas < high)).double().mean()
        return [discrete(sigmas, low, high) if discrete else inside.item(), _below(b) - _below(a)]

    return shares


def _shares_cases(g):
    for low, high in [(0.03, 0.2), (0.2, 1.0), (1.0, 14.0), (0.05, 5.0)]:
        yield SIGMAS, low * _number(g, 1.0, 1.2), high * _number(g, 0.9, 1.0)


def _over_range(sigmas, low, high):
    return ((high - low) / (sigmas[-1] - sigmas[0])).item()


def _over_logs(sigmas, low, high):
    return math.log(high / low) / float((sigmas[-1] / sigmas[0]).log())


# ---- steps --------------------------------------------------------------------------------


def _euler(x, denoised, sigma_t, sigma_s):
    return x + (sigma_s - sigma_t) * (x - denoised) / sigma_t


def _euler_cases(g):
    for shape, pair in zip([*SHAPES, (3, 2)], _falling_sigmas(g), strict=True):
        yield _normal(g, *shape) * pair[0], _normal(g, *shape), *pair


def _pair_cases(g):
    for sigma_t, sigma_s in _falling_sigmas(g):
        yield sigma_t, sigma_s, 1.0
        yield sigma_t, sigma_s, _number(g, 0.2, 0.9)


def _ancestral(x_t, eps, ab_t, ab_s, z):
    return ddim_step(x_t, eps, ab_t, ab_s, sigma(ab_t, ab_s, 1.0), z)


def _ancestral_slip(back=lambda ab_t, ab_s: sqrt(ab_s), level="down", noise=lambda up, ab_s: up):
    """The step in EDM's x, and back: with its slips."""

    def step(x_t, eps, ab_t, ab_s, z):
        sigma_t, sigma_s = sigma_from_ab(ab_t), sigma_from_ab(ab_s)
        down, up = ancestral_sigmas(sigma_t, sigma_s)
        to = down if level == "down" else sigma_s
        x = x_t / sqrt(ab_t) + (to - sigma_t) * eps
        return back(ab_t, ab_s) * x + noise(up, ab_s) * z

    return step


def _ancestral_linear(x_t, eps, ab_t, ab_s, z):
    """With σ_down = σ(s) - σ_up."""
    sigma_t, sigma_s = sigma_from_ab(ab_t), sigma_from_ab(ab_s)
    up = ancestral_sigmas(sigma_t, sigma_s)[1]
    return sqrt(ab_s) * (x_t / sqrt(ab_t) + (sigma_s - up - sigma_t) * eps + up * z)


def _ancestral_variance(x_t, eps, ab_t, ab_s, z):
    """DDIM eq. 12 with the variance of eq. 16 in the place of its σ."""
    var, x0 = sigma(ab_t, ab_s, 1.0) ** 2, (x_t - sqrt(1 - ab_t) * eps) / sqrt(ab_t)
    return sqrt(ab_s) * x0 + sqrt(1 - ab_s - var**2) * eps + var * z


def _ancestral_cases(g):
    pairs = [(1000, 950), (600, 450), (300, 100), (60, 20)]
    for shape, (t, s) in zip([*SHAPES, (3, 2)], pairs, strict=True):
        x_t, eps, z = _normal(g, 3, *shape)
        yield x_t, eps, AB[t].item(), AB[s].item(), z


# ---- grids and the discrete denoiser -------------------------------------------------------


def _sgm(index=lambda T, n, i: (T - 1) * (n - i) // n, first=1, end=(0,)):
    return lambda T, steps: [first + index(T, steps, i) for i in range(steps)] + list(end)


def _sgm_cases(g):
    """Step counts for which floats and whole numbers agree, and which differ from trailing."""
    drawn = [(T, _whole(g, 3, T // 4)) for T in (1000, 1000, 1000, 500, 200) for _ in range(40)]
    sure = [c for c in drawn if sgm_times(*c) == _sgm()(*c) != _sgm(_rounded, 0)(*c)]
    return [next(c for c in sure[k:] if c[0] == T) for k, T in enumerate((1000, 1000, 500, 200))]


def _rounded(T, n, i):
    return round(T * (n - i) / n)


def _discrete(nearest=lambda sigma, sigmas: (sigmas - sigma).abs(), scale="k", out="k", first=1):
    """D as generative-models' denoiser makes it, and its slips."""

    def denoiser(eps_model, x, sigma, sigmas):
        k = int(nearest(sigma, sigmas).argmin())
        sigma_k = sigmas[k].item()
        inside = {"k": sigma_k, "sigma": sigma, "none": 0.0}[scale]
        eps = eps_model(x / sqrt(1 + inside**2), first + k)
        return x - {"k": sigma_k, "sigma": sigma}[out] * eps

    return denoiser


def _not_above(sigma, sigmas):
    return torch.where(sigmas <= sigma, sigma - sigmas, math.inf)


def _discrete_cases(g):
    sigmas = sigma_from_ab(FEW[1:])
    for k in (3, 9, 15):
        low, high = sigmas[k].item(), sigmas[k + 1].item()
        middle = (low + high) / 2
        for level in (middle * 0.995, low + (high - low) * _number(g, 0.6, 0.9)):
            yield _model(FEW), _normal(g, 3, 2) * (1 + level), level, sigmas


def _karras(share=lambda i, n: i / (n - 1), power=lambda rho: rho, end=(0.0,), turn=1):
    def grid(steps, smallest, largest, rho):
        shares = [share(i, steps) for i in range(steps)]
        return [karras_sigma(u, smallest, largest, power(rho)) for u in shares][::turn] + list(end)

    return grid


def _exponential(steps, smallest, largest, rho):
    return [largest * (smallest / largest) ** (i / (steps - 1)) for i in range(steps)] + [0.0]


def _no_power(steps, smallest, largest, rho):
    return [sigma ** (1 / rho) for sigma in _karras()(steps, smallest, largest, rho)]


def _karras_cases(g):
    for steps, rho in [(5, 3.0), (12, _number(g, 2, 9)), (30, _number(g, 4, 20)), (2, 7.0)]:
        yield steps, _number(g, 0.02, 0.1), _number(g, 5, 20), rho


# ---- Heun and churn -----------------------------------------------------------------------


def two_points(x, sigma):
    """D for data that is -1 or 1."""
    return torch.tanh(x / sigma**2)


def two_wide(x, sigma):
    """D for two Gaussians of variance 0.1 at -1 and 1."""
    v = 0.1 + sigma**2
    return (0.1 * x + sigma**2 * torch.tanh(x / v)) / v


def _heun(
    x_from="start",
    level="s",
    mean=lambda d, e: (d + e) / 2,
    at_zero="euler",
    look="end",
    divide="",
):
    def step(denoiser, x, sigma_t, sigma_s):
        d = (x - denoiser(x, sigma_t)) / sigma_t
        x_s = x + (sigma_s - sigma_t) * d
        if sigma_s == 0 and at_zero == "euler":
            return x_s
        again = sigma_s if level == "s" else sigma_t
        place = x_s if look == "end" else x
        e = (place - denoiser(place, again)) / (sigma_t if divide == "t" else again)
        return (x if x_from == "start" else x_s) + (sigma_s - sigma_t) * mean(d, e)

    return step


def _midpoint(denoiser, x, sigma_t, sigma_s):
    """The slope at the middle, for the whole step."""
    middle = (sigma_t + sigma_s) / 2
    x_mid = _euler(x, denoiser(x, sigma_t), sigma_t, middle if sigma_s > 0 else 0.0)
    slope = (x_mid - denoiser(x_mid, middle)) / middle if sigma_s > 0 else 0.0
    return x + (sigma_s - sigma_t) * slope if sigma_s > 0 else x_mid


def _heun_cases(g):
    for pair in _falling_sigmas(g):
        for denoiser in (two_wide, two_points):
            yield denoiser, (1 + pair[0]) * _normal(g, 4), *pair


def _churned(level=churned_sigma, added=lambda new, old: sqrt(new**2 - old**2), s=lambda s: s):
    def churned(x, sigma, churn, steps, s_noise, z):
        return x + added(level(sigma, churn, steps), sigma) * s(s_noise) * z

    return churned


def _churned_cases(g):
    for shape, (sigma_t, _) in zip(SHAPES, _falling_sigmas(g), strict=False):
        for churn in (_number(g, 2, 6), _number(g, 60, 90)):
            yield (
                _normal(g, *shape),
                sigma_t,
                churn,
                40,
                _number(g, 1.003, 1.05),
                _normal(g, *shape),
            )


EXERCISES = {
    "sigma_and_lambda": Exercise(
        _clocks(),
        lambda g: [(1 / (1 + s**2),) for s in _some_sigmas(g)],
        {
            "σ is a standard deviation: take the square root of (1-ᾱ)/ᾱ": (
                _clocks(lambda ab: (1 - ab) / ab)
            ),
            "Your σ is a variance, and your λ is its logarithm: take the square root first": (
                _clocks(lambda ab: (1 - ab) / ab, lambda ab: 2 * lambda_from_ab(ab))
            ),
            "√(1-ᾱ) is the noise in x_t; in x̄ it is divided by √ᾱ": (
                _clocks(lambda ab: sqrt(1 - ab))
            ),
            "√(1-ᾱ) is the noise in x_t: divide it by √ᾱ, and then take λ = -ln σ": (
                _clocks(lambda ab: sqrt(1 - ab), lambda ab: -(1 - ab).log() / 2)
            ),
            "Your σ is upside down: it grows with the noise": _clocks(
                lambda ab: sqrt(ab / (1 - ab))
            ),
            "Your σ is upside down, and so λ has the wrong sign: σ grows with the noise": _clocks(
                lambda ab: sqrt(ab / (1 - ab)), lambda ab: -lambda_from_ab(ab)
            ),
            "The sign of λ is wrong: λ = -ln σ grows from noise to picture": (
                _clocks(lam=lambda ab: -lambda_from_ab(ab))
            ),
            "λ is half of the log-SNR, because the SNR is a ratio of variances": (
                _clocks(lam=lambda ab: 2 * lambda_from_ab(ab))
            ),
            "λ is a natural logarithm, not one to base 10": (
                _clocks(lam=lambda ab: lambda_from_ab(ab) / math.log(10))
            ),
            "The order is wrong: stack σ first and λ second": _clocks(
                lambda_from_ab, sigma_from_ab
            ),
        },
        level="easy",
        goal="go from alpha_bar to EDM's and to DPM-Solver's clock",
    ),
    "time_of_sigma": Exercise(
        _time(),
        _time_cases,
        {
            "Interpolate linearly in ln σ, not in σ": _time(lambda s, a, b: (s - a) / (b - a)),
            "sigmas[0] belongs to t = 1: your time is the network's index, 1 too small": (
                _time(first=0)
            ),
            "Your time is 1 too large: sigmas[k] belongs to t = k + 1": _time(first=2),
            "This is the nearest whole time; return a real one": (
                _time(lambda s, a, b: round((math.log(s / a)) / math.log(b / a)))
            ),
            "This is the index of the nearest σ; return a real time": (
                _time(lambda s, a, b: round((math.log(s / a)) / math.log(b / a)), first=0)
            ),
            "The share is missing: add how far σ lies between its two neighbours": (
                _time(lambda s, a, b: 0)
            ),
            "Count the share from the smaller σ: more noise means a later time": (
                _time(lambda s, a, b: math.log(b / s) / math.log(b / a))
            ),
        },
        level="middle",
        goal="find the real time at which a sigma belongs",
    ),
    "denoised_from_eps": Exercise(
        _denoised(),
        _denoised_cases,
        {
            "The network expects x_t: give it √ᾱ_t times x̄": _denoised(lambda x, ab: x),
            "Multiply x̄ by √ᾱ_t to get x_t; you divided": _denoised(lambda x, ab: x / sqrt(ab)),
            "The noise in x̄ is σ ε; √(1-ᾱ) ε is the noise in x_t": (
                _denoised(out=lambda x, eps, ab: x - sqrt(1 - ab) * eps)
            ),
            "x̄ is divided by √ᾱ already: subtract σ ε, and do not divide again": (
                _denoised(out=lambda x, eps, ab: (x - sqrt(1 - ab) * eps) / sqrt(ab))
            ),
            "Your x is x̄, not x_t: give the network √ᾱ_t x̄, and subtract σ ε from x̄": _denoised(
                lambda x, ab: x, lambda x, eps, ab: (x - sqrt(1 - ab) * eps) / sqrt(ab)
            ),
            "This is the predicted noise; D is the predicted clean picture": (
                _denoised(out=lambda x, eps, ab: eps)
            ),
            "D is already in the picture's scale: do not multiply it by √ᾱ_t": (
                _denoised(out=lambda x, eps, ab: sqrt(ab) * (x - sigma_from_ab(ab) * eps))
            ),
            "σ is a standard deviation: the square root is missing in your factor of ε": (
                _denoised(out=lambda x, eps, ab: x - (1 - ab) / ab * eps)
            ),
            "The sign is wrong: the clean picture is x̄ minus σ ε": (
                _denoised(out=lambda x, eps, ab: x + sigma_from_ab(ab) * eps)
            ),
        },
        level="middle",
        goal="make a denoiser in EDM's x from a model of epsilon",
    ),
    "target_variance": Exercise(
        _target_variance,
        _variance_cases,
        {
            "x_0 occurs twice, alone and in c_skip (x_0 + n): collect both, then square": (
                lambda s, d, skip, out: (d**2 + skip**2 * (d**2 + s**2)) / out**2
            ),
            "Variances of x_0 and of x_0 + n cannot be subtracted, because x_0 is in both": (
                lambda s, d, skip, out: (d**2 - skip**2 * (d**2 + s**2)) / out**2
            ),
            "The variances of independent parts add up, also where the part has a minus": (
                lambda s, d, skip, out: ((1 - skip) ** 2 * d**2 - skip**2 * s**2) / out**2
            ),
            "This is the standard deviation: square it": (
                lambda *case: math.sqrt(_target_variance(*case))
            ),
            "A factor enters the variance as its square: divide by c_out squared": (
                lambda s, d, skip, out: _target_variance(s, d, skip, out) * out
            ),
            "The division by c_out squared is missing": (
                lambda s, d, skip, out: _target_variance(s, d, skip, out) * out**2
            ),
            "A factor enters the variance as its square: square 1 - c_skip and c_skip": (
                lambda s, d, skip, out: ((1 - skip) * d**2 + skip * s**2) / out**2
            ),
            "sigma and sigma_data are standard deviations: their variances are squares": (
                lambda s, d, skip, out: ((1 - skip) ** 2 * d + skip**2 * s) / out**2
            ),
            "c_skip x_0 is a part of the target too: the factor of x_0 is 1 - c_skip": (
                lambda s, d, skip, out: (d**2 + skip**2 * s**2) / out**2
            ),
            "The noise n is left out: c_skip keeps a part of it in the target": (
                lambda s, d, skip, out: (1 - skip) ** 2 * d**2 / out**2
            ),
            "The noise in the target is c_skip n, not n": (
                lambda s, d, skip, out: ((1 - skip) ** 2 * d**2 + s**2) / out**2
            ),
        },
        level="middle",
        goal="see what c_skip and c_out do to the target of a network",
    ),
    "v_numbers": Exercise(
        v_scaling,
        _v_cases,
        {
            "The sign of c_out is wrong: x_0 = √ᾱ x_t - √(1-ᾱ) v, so it is negative": (
                _v_slip(c_out=lambda s: s / sqrt(s**2 + 1))
            ),
            "c_out = -σ is for a network that predicts ε": _v_slip(c_out=lambda s: -s),
            "c_skip = 1 and c_out = -σ are for a network that predicts ε": _v_slip(
                c_skip=torch.ones_like, c_out=lambda s: -s
            ),
            "c_out is -√(1-ᾱ), and 1-ᾱ = σ²/(1+σ²): the root is wrong": (
                _v_slip(c_out=lambda s: -s / (s**2 + 1))
            ),
            "c_out is -√(1-ᾱ) = -σ/√(1+σ²); yours is -√ᾱ": (
                _v_slip(c_out=lambda s: -1 / sqrt(s**2 + 1))
            ),
            "x_t is √ᾱ x̄, so √ᾱ x_t is ᾱ x̄, and c_skip is ᾱ": (
                _v_slip(c_skip=lambda s: 1 / sqrt(s**2 + 1))
            ),
            "c_skip is ᾱ = 1/(1+σ²); yours is 1 - ᾱ": _v_slip(c_skip=lambda s: s**2 / (s**2 + 1)),
            "c_skip = 1 is for a network that predicts ε": _v_slip(c_skip=torch.ones_like),
            "c_in must give the network x_t: it is √ᾱ = 1/√(1+σ²)": (
                _v_slip(c_in=lambda s: 1 / (s**2 + 1))
            ),
            "c_in is upside down: x_t is √ᾱ x̄, so c_in is √ᾱ": (
                _v_slip(c_in=lambda s: sqrt(s**2 + 1))
            ),
            "The network expects x_t, not x̄: c_in is √ᾱ, not 1": _v_slip(c_in=torch.ones_like),
            "You took x̄ for x_t: c_skip is ᾱ, and c_in is √ᾱ": _v_slip(
                c_skip=lambda s: 1 / sqrt(s**2 + 1), c_in=torch.ones_like
            ),
            "¼ ln σ is the c_noise of VScalingWithEDMcNoise; VScaling's is σ": (
                _v_slip(c_noise=lambda s: s.log() / 4)
            ),
        },
        level="middle",
        goal="derive the four numbers of a network that predicts v",
    ),
    "loss_weights": Exercise(
        _weights(),
        _weights_cases,
        {
            "The weight of ε is 1/σ²: the factor of an error counts squared": (
                _weights(eps=lambda s: 1 / s)
            ),
            "All factors count squared: a weight is 1/c_out², not 1/|c_out|": _weights(
                lambda s: 1 / s, lambda s: sqrt(1 + s**-2), lambda s, d: sqrt(edm_weight(s, d))
            ),
            "The weight of ε is upside down: an error of ε is one of D divided by σ": (
                _weights(eps=lambda s: s**2)
            ),
            "All three are upside down: the weight is 1/c_out², not c_out²": _weights(
                lambda s: s**2, lambda s: 1 / (1 + s**-2), lambda s, d: 1 / edm_weight(s, d)
            ),
            "The weight of v is 1/c_out² = (σ²+1)/σ²; yours is c_out²": (
                _weights(v=lambda s: s**2 / (s**2 + 1))
            ),
            "The weight of v is not that of ε: it is larger by 1": _weights(v=lambda s: s**-2),
            "The weight of v is (σ²+1)/σ²: the division by σ² is missing": (
                _weights(v=lambda s: s**2 + 1)
            ),
            "EDM's weight depends on σ_data; yours is that of v, which is for σ_data = 1": (
                _weights(edm=lambda s, d: 1 + s**-2)
            ),
            "The weights of ε and v are exchanged": _weights(lambda s: 1 + s**-2, lambda s: s**-2),
            "EDM's weight is 1/c_out²: its denominator is (σ σ_data)²": (
                _weights(edm=lambda s, d: (s**2 + d**2) / (s * d))
            ),
            "In EDM's weight the denominator is (σ σ_data)², and σ_data is squared too": (
                _weights(edm=lambda s, d: (s**2 + d**2) / (s**2 * d))
            ),
            "EDM's weight is upside down: it is 1/c_out²": (
                _weights(edm=lambda s, d: 1 / edm_weight(s, d))
            ),
        },
        level="middle",
        goal="write the four loss weights as weights of one error",
    ),
    "share_between": Exercise(
        _shares(),
        _shares_cases,
        {
            "ln σ is normal, not σ: take the logarithm of both bounds": _shares(lambda s: s),
            "P_mean and P_std belong to the natural logarithm": _shares(math.log10),
            "Divide by P_std = 1.2 before you look up the normal distribution": _shares(std=1.0),
            "Divide by P_std, the standard deviation, not by its square": _shares(std=1.44),
            "Subtract P_mean, which is -1.2: the sign is wrong": _shares(mean=1.2),
            "Subtract P_mean = -1.2 before you divide by P_std": _shares(mean=0.0),
            "The argument of erf is z/√2: the division by √2 is missing": (
                _shares(std=1.2 / math.sqrt(2))
            ),
            "The probability is half of 1 + erf: your share is twice as large": (
                lambda s, low, high: [_shares()(s, low, high)[0], 2 * _shares()(s, low, high)[1]]
            ),
            "The discrete share is a share: divide the count by the number of sigmas": (
                _shares(discrete=lambda s, low, high: float(((s >= low) & (s < high)).sum()))
            ),
            "The order is wrong: the discrete share comes first": (
                lambda *case: _shares()(*case)[::-1]
            ),
            "The probability is that below the upper bound minus that below the lower bound": (
                lambda s, low, high: [_shares()(s, low, high)[0], -_shares()(s, low, high)[1]]
            ),
            "The discrete σ are not even in σ: count those between the bounds": (
                _shares(discrete=_over_range)
            ),
            "The discrete σ are not even in ln σ: count those between the bounds": (
                _shares(discrete=_over_logs)
            ),
        },
        level="middle",
        goal="compare how often two trainings visit a range of sigma",
    ),
    "euler_in_sigma": Exercise(
        _euler,
        _euler_cases,
        {
            "The sign is wrong: the step is σ(s) - σ(t), and the slope is (x̄ - D)/σ(t)": (
                lambda x, d, t, s: x - (s - t) * (x - d) / t
            ),
            "The slope is (x̄ - D)/σ(t): the division is missing": (
                lambda x, d, t, s: x + (s - t) * (x - d)
            ),
            "D is not the slope: the slope is (x̄ - D)/σ(t)": lambda x, d, t, s: x + (s - t) * d,
            "The slope is (x̄ - D)/σ(t), not D/σ(t)": lambda x, d, t, s: x + (s - t) * d / t,
            "The length of the step is σ(s) - σ(t), not σ(s)": (
                lambda x, d, t, s: x + s * (x - d) / t
            ),
            "The slope belongs to the beginning of the step: divide by σ(t), not by σ(s)": (
                lambda x, d, t, s: x + (s - t) * (x - d) / (s or t)
            ),
            "The step starts from x̄, not from D": lambda x, d, t, s: d + (s - t) * (x - d) / t,
            "This makes x̄ shorter, towards 0; the step goes towards D": (
                lambda x, d, t, s: s / t * x
            ),
            "This is D; the step goes only a part of the way to it": lambda x, d, t, s: d,
        },
        level="easy",
        goal="write Euler's step in sigma",
    ),
    "ancestral_pair": Exercise(
        ancestral_sigmas,
        _pair_cases,
        {
            "Variances add up, standard deviations do not: σ_down² = σ(s)² - σ_up²": (
                lambda t, s, eta: (
                    s - ancestral_sigmas(t, s, eta)[1],
                    ancestral_sigmas(t, s, eta)[1],
                )
            ),
            "σ_down is a standard deviation: take the square root of σ(s)² - σ_up²": (
                lambda t, s, eta: (
                    ancestral_sigmas(t, s, eta)[0] ** 2,
                    ancestral_sigmas(t, s, eta)[1],
                )
            ),
            "Down and up end at σ(s): σ_down² + σ_up² is σ(s)², not σ(t)²": (
                lambda t, s, eta: (
                    sqrt(t**2 - ancestral_sigmas(t, s, eta)[1] ** 2),
                    ancestral_sigmas(t, s, eta)[1],
                )
            ),
            "σ_down is below σ(s), so that the fresh noise fits in: σ_down² = σ(s)² - σ_up²": (
                lambda t, s, eta: (s, ancestral_sigmas(t, s, eta)[1])
            ),
            "The order is wrong: return σ_down, then σ_up": (
                lambda t, s, eta: ancestral_sigmas(t, s, eta)[::-1]
            ),
            "η is left out: it multiplies σ_up": lambda t, s, eta: ancestral_sigmas(t, s),
            "η multiplies σ_up; you took the square root of η": (
                lambda t, s, eta: ancestral_sigmas(t, s, sqrt(eta))
            ),
            "The factor σ(s) is missing in σ_up": lambda t, s, eta: (
                sqrt(max(0.0, s**2 - eta**2 * (1 - s**2 / t**2))),
                eta * sqrt(1 - s**2 / t**2),
            ),
            "The square root is missing in σ_up": lambda t, s, eta: (
                sqrt(max(0.0, s**2 - (eta * s**2 * (1 - s**2 / t**2)) ** 2)),
                eta * s**2 * (1 - s**2 / t**2),
            ),
            "σ_up is η σ(s) times the square root of 1 - σ(s)²/σ(t)²": lambda t, s, eta: (
                sqrt(s**2 - (eta * s * (1 - s**2 / t**2)) ** 2),
                eta * s * (1 - s**2 / t**2),
            ),
        },
        level="middle",
        goal="split a step into one down and fresh noise up",
    ),
    "ancestral_step": Exercise(
        _ancestral,
        _ancestral_cases,
        {
            "The fresh noise is added to x̄, so √ᾱ_s multiplies σ_up z as well": (
                _ancestral_slip(noise=lambda up, ab_s: up)
            ),
            "Euler's step ends at σ_down; the fresh noise then leads up to σ(s)": (
                _ancestral_slip(level="s", noise=lambda up, ab_s: up * sqrt(ab_s))
            ),
            "At the end the noise level is σ(s): multiply by √ᾱ_s, not by √ᾱ_t": _ancestral_slip(
                lambda ab_t, ab_s: sqrt(ab_t), noise=lambda up, ab_s: up * sqrt(ab_s)
            ),
            "At the end multiply all of x̄, with its fresh noise, by √ᾱ_s, not by √ᾱ_t": (
                lambda x, eps, ab_t, ab_s, z: _ancestral(x, eps, ab_t, ab_s, z) * sqrt(ab_t / ab_s)
            ),
            "This is x̄_s: multiply by √ᾱ_s to get x_s": (_ancestral_slip(lambda ab_t, ab_s: 1.0)),
            "The fresh noise is missing after Euler's step to σ_down": (
                lambda x, eps, ab_t, ab_s, z: _ancestral(x, eps, ab_t, ab_s, 0 * z)
            ),
            "This is DDIM with η = 0: the fresh noise is missing": (
                lambda x, eps, ab_t, ab_s, z: ddim_step(x, eps, ab_t, ab_s)
            ),
            "x_t is not x̄: divide it by √ᾱ_t first": (
                lambda x, eps, ab_t, ab_s, z: _ancestral(x * sqrt(ab_t), eps, ab_t, ab_s, z)
            ),
            "Variances add up, standard deviations do not: σ_down² = σ(s)² - σ_up²": (
                _ancestral_linear
            ),
            "The factor of z is a standard deviation: its square root is missing": (
                lambda x, eps, ab_t, ab_s, z: (
                    _ancestral(x, eps, ab_t, ab_s, z)
                    + (sigma(ab_t, ab_s, 1.0) ** 2 - sigma(ab_t, ab_s, 1.0)) * z
                )
            ),
            "Your σ of the fresh noise is its square, also in the factor of ε": (
                _ancestral_variance
            ),
        },
        level="hard",
        goal="take an ancestral step in x_t's own scale",
    ),
    "sgm_grid": Exercise(
        sgm_times,
        _sgm_cases,
        {
            "These are the network's indices: the time t is 1 more": _sgm(first=0),
            "This is the trailing grid, round(T (n-i)/n): take T - 1, round down, and add 1": (
                _sgm(_rounded, 0)
            ),
            "The official code rounds down, not to the nearest": (
                _sgm(lambda T, n, i: round((T - 1) * (n - i) / n))
            ),
            "The official code rounds down, not up": (
                _sgm(lambda T, n, i: -(-(T - 1) * (n - i) // n))
            ),
            "The numbers begin at T - 1, and 1 is added after rounding down": (
                _sgm(lambda T, n, i: T * (n - i) // n, 0)
            ),
            "The numbers have n equal gaps and leave out the end: divide by n, not by n - 1": (
                _sgm(lambda T, n, i: (T - 1) * (n - 1 - i) // (n - 1))
            ),
            "The last step leads to the clean picture: the 0 at the end is missing": _sgm(end=()),
            "The last time is 0, the clean picture, not 1": _sgm(end=(1,)),
            "The grid falls: T comes first and 0 last": lambda T, n: _sgm()(T, n)[::-1],
        },
        level="easy",
        goal="build the grid of generative-models",
    ),
    "discrete_call": Exercise(
        _discrete(),
        _discrete_cases,
        {
            "The rounded σ(k) also scales x̄: compute c_in from it": _discrete(scale="sigma"),
            "The rounded σ(k) is also in c_out: multiply ε by it": _discrete(out="sigma"),
            "You rounded only the time; the official code also computes c_in and c_out from σ(k)": (
                _discrete(scale="sigma", out="sigma")
            ),
            "sigmas[0] belongs to t = 1: call eps_model with the index plus 1": _discrete(first=0),
            "Nearest means nearest in σ, not in ln σ": _discrete(
                lambda s, sigmas: (sigmas.log() - math.log(s)).abs()
            ),
            "Take the nearest σ of the table, not the next smaller one": _discrete(_not_above),
            "The network expects x_t: divide x̄ by √(1+σ(k)²)": _discrete(scale="none"),
            "This is the predicted noise; D is x̄ minus σ(k) times it": (
                lambda model, x, s, sigmas: (
                    (x - _discrete()(model, x, s, sigmas))
                    / sigmas[int((sigmas - s).abs().argmin())]
                )
            ),
            "c_skip is 1: subtract σ(k) ε from x̄ itself, not from x_t": (
                lambda model, x, s, sigmas: (
                    _discrete()(model, x, s, sigmas)
                    - x
                    + x / sqrt(1 + sigmas[int((sigmas - s).abs().argmin())] ** 2)
                )
            ),
        },
        level="hard",
        goal="evaluate a network as DiscreteDenoiser does",
    ),
    "karras_grid": Exercise(
        _karras(),
        _karras_cases,
        {
            "The last σ above 0 is the smallest one: the share is i/(steps-1)": (
                _karras(lambda i, n: i / n)
            ),
            "The last number is 0, not `smallest`, which comes just before it": (
                lambda n, low, high, rho: (
                    _karras(lambda i, n: i / n, end=())(n, low, high, rho) + [low]
                )
            ),
            "ρ is upside down: the grid is even in σ^(1/ρ)": _karras(power=lambda rho: 1 / rho),
            "This is even in ln σ, the exponential grid, which is ρ = ∞": _exponential,
            "This is even in σ, which is ρ = 1": _karras(power=lambda rho: 1.0),
            "The power ρ is missing: these are the numbers σ^(1/ρ)": _no_power,
            "Begin with the largest σ": _karras(turn=-1),
            "The last step leads to σ = 0: the 0 is missing": _karras(end=()),
        },
        level="middle",
        goal="build Karras' grid for any rho",
    ),
    "heun_step": Exercise(
        _heun(),
        _heun_cases,
        {
            "The corrected step starts from x̄_t again, not from Euler's result": _heun("end"),
            "The second slope is at σ(s): evaluate the denoiser at σ(s), and divide by σ(s)": (
                _heun(level="t")
            ),
            "Divide the second slope by σ(s), not by σ(t)": _heun(divide="t"),
            "Evaluate the second slope at Euler's result, not at x̄_t": _heun(look="start"),
            "This uses the second slope alone: take the mean of both": _heun(mean=lambda d, e: e),
            "This is the midpoint method; Heun takes the mean of the slopes at both ends": (
                _midpoint
            ),
            "This is Euler's step: the correction is missing": _heun(mean=lambda d, e: d),
            "The mean is half of the sum": _heun(mean=lambda d, e: d + e),
            "At σ(s) = 0 the second slope is 0/0: return Euler's step there": (
                _heun(at_zero="heun")
            ),
        },
        level="middle",
        goal="correct Euler's step as Heun does",
        given=("heun_by_hand",),
    ),
    "churned_x": Exercise(
        _churned(),
        _churned_cases,
        {
            "Variances add up: the factor of the noise is √(σ̂² - σ²), not σ̂ - σ": (
                _churned(added=lambda new, old: new - old)
            ),
            "√(σ̂² - σ²) is a standard deviation: the square root is missing": (
                _churned(added=lambda new, old: new**2 - old**2)
            ),
            "γ is S_churn/N: divide by the number of steps": (
                _churned(lambda s, churn, n: s * (1 + min(churn, sqrt(2) - 1)))
            ),
            "γ is at most √2 - 1": _churned(lambda s, churn, n: s * (1 + churn / n)),
            "The bound on γ is √2 - 1, not √2": (
                _churned(lambda s, churn, n: s * (1 + min(churn / n, sqrt(2))))
            ),
            "γ is at most √2 - 1: take the smaller of the two, not the larger": (
                _churned(lambda s, churn, n: s * (1 + max(churn / n, sqrt(2) - 1)))
            ),
            "The factor √(σ̂² - σ²) of the noise is missing": _churned(added=lambda new, old: 1.0),
            "S_noise is missing: it multiplies the noise": _churned(s=lambda s: 1.0),
            "S_noise multiplies the noise once, not squared": _churned(s=lambda s: s**2),
            "S_noise multiplies the noise itself, not its variance": _churned(s=sqrt),
            "This adds noise of standard deviation σ̂ to an x̄ that already has noise": (
                _churned(added=lambda new, old: new)
            ),
        },
        level="middle",
        goal="raise the noise of x before a step, as EDM does",
    ),
}

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
        inside = {"k": sigma_k, "sigma": sigma}[scale]
        eps = eps_model(x / sqrt(1 + inside**2), first + k)
        return x - {"k": sigma_k, "sigma": sigma}[out] * eps

    return denoiser


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


def _karras_cases(g):
    for steps, rho in [(2, 7.0), (5, 3.0), (12, _number(g, 2, 9)), (30, _number(g, 4, 20))]:
        yield steps, _number(g, 0.02, 0.1), _number(g, 5, 20), rho


# ---- Heun and churn -----------------------------------------------------------------------


def two_points(x, sigma):
    """D for data that is -1 or 1."""
    return torch.tanh(x / sigma**2)


def two_wide(x, sigma):
    """D for two Gaussians of variance 0.1 at -1 and 1."""
    v = 0.1 + sigma**2
    return (0.1 * x + sigma**2 * torch.tanh(x / v)) / v


def _heun(x_from="start", level="s", mean=lambda d, e: (d + e) / 2, at_zero="euler"):
    def step(denoiser, x, sigma_t, sigma_s):
        d = (x - denoiser(x, sigma_t)) / sigma_t
        x_s = x + (sigma_s - sigma_t) * d
        if sigma_s == 0 and at_zero == "euler":
            return x_s
        again = sigma_s if level == "s" else sigma_t
        e = (x_s - denoiser(x_s, again)) / again
        return (x if x_from == "start" else x_s) + (sigma_s - sigma_t) * mean(d, e)

    return step


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
        for churn in (_number(g, 2, 6), _number(g, 20, 60)):
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
            "σ is a standard deviation: take the root of (1-ᾱ)/ᾱ": (
                _clocks(lambda ab: (1 - ab) / ab)
            ),
            "√(1-ᾱ) is the noise in x_t; dividing x_t by √ᾱ divides it too": (
                _clocks(lambda ab: sqrt(1 - ab))
            ),
            "σ is upside down: it grows with the noise": _clocks(lambda ab: sqrt(ab / (1 - ab))),
            "a sign: λ grows from noise to picture, λ = -ln σ": (
                _clocks(lam=lambda ab: -lambda_from_ab(ab))
            ),
            "λ is half of the log-SNR, because SNR is a ratio of variances": (
                _clocks(lam=lambda ab: 2 * lambda_from_ab(ab))
            ),
        },
        level="easy",
        goal="go from alpha_bar to EDM's and to DPM-Solver's clock",
    ),
    "time_of_sigma": Exercise(
        _time(),
        _time_cases,
        {
            "the line is drawn in ln σ, not in σ": _time(lambda s, a, b: (s - a) / (b - a)),
            "sigmas[0] belongs to t = 1: your times are the network's index": _time(first=0),
            "that is the nearest whole time; wanted is a real one": (
                _time(lambda s, a, b: round((math.log(s / a)) / math.log(b / a)))
            ),
            "the share counts from the smaller σ: more noise is a later time": (
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
            "the network knows x_t: give it √ᾱ_t times EDM's x": _denoised(lambda x, ab: x),
            "in EDM's x the noise is σ ε; √(1-ᾱ) ε is the noise in x_t": (
                _denoised(out=lambda x, eps, ab: x - sqrt(1 - ab) * eps)
            ),
            "EDM's x is divided by √ᾱ already: do not divide again": (
                _denoised(out=lambda x, eps, ab: (x - sqrt(1 - ab) * eps) / sqrt(ab))
            ),
            "x0 is the noisy picture less the noise: a sign": (
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
            "x0 is in the target twice, in x0 and in c_skip (x0 + n): add them up, then square": (
                lambda s, d, skip, out: (d**2 + skip**2 * (d**2 + s**2)) / out**2
            ),
            "that is the standard deviation: square it": (
                lambda *case: math.sqrt(_target_variance(*case))
            ),
            "a factor's variance is its square: c_out counts squared": (
                lambda s, d, skip, out: _target_variance(s, d, skip, out) * out
            ),
            "the noise n is left out: c_skip keeps a part of it in the target": (
                lambda s, d, skip, out: (1 - skip) ** 2 * d**2 / out**2
            ),
            "the noise in the target is c_skip σ ε, not σ ε": (
                lambda s, d, skip, out: ((1 - skip) ** 2 * d**2 + s**2) / out**2
            ),
        },
        level="middle",
        goal="see what c_skip and c_out do to the target of a network",
    ),
    "v_numbers": Exercise(
        v_scaling,
        lambda g: [(s,) for s in _some_sigmas(g)],
        {
            "a sign: x0 = √ᾱ x_t - √(1-ᾱ) v, so c_out is negative": (
                _v_slip(c_out=lambda s: s / sqrt(s**2 + 1))
            ),
            "c_out = -σ is for a network that predicts ε": _v_slip(c_out=lambda s: -s),
            "x_t is √ᾱ times EDM's x, so c_skip has √ᾱ twice": (
                _v_slip(c_skip=lambda s: 1 / sqrt(s**2 + 1))
            ),
            "c_skip = 1 is for a network that predicts ε": _v_slip(c_skip=torch.ones_like),
            "c_in must give the network x_t: √ᾱ = 1/√(1+σ²)": (
                _v_slip(c_in=lambda s: 1 / (s**2 + 1))
            ),
            "¼ ln σ is VScalingWithEDMcNoise's c_noise; VScaling passes σ on": (
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
            "ε's weight is 1/σ²: a squared error counts with a squared factor": (
                _weights(eps=lambda s: 1 / s)
            ),
            "upside down: ε's error is D's divided by σ": _weights(eps=lambda s: s**2),
            "v's weight is 1/c_out² = (σ²+1)/σ²; yours is c_out²": (
                _weights(v=lambda s: s**2 / (s**2 + 1))
            ),
            "EDM's weight is 1/c_out²: its denominator is (σ σ_data)²": (
                _weights(edm=lambda s, d: (s**2 + d**2) / (s * d))
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
            "P_mean and P_std are of the natural logarithm": _shares(math.log10),
            "divide by P_std = 1.2 before you look up the normal distribution": _shares(std=1.0),
            "subtract P_mean, which is -1.2: a sign": _shares(mean=1.2),
            "the discrete σ are not even in σ: count those between the bounds": (
                _shares(discrete=_over_range)
            ),
            "the discrete σ are not even in ln σ: count those between the bounds": (
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
            "a sign: the step is σ_s - σ_t, which is negative": (
                lambda x, d, t, s: x - (s - t) * (x - d) / t
            ),
            "the slope is (x - D)/σ_t: the division is missing": (
                lambda x, d, t, s: x + (s - t) * (x - d)
            ),
            "the slope belongs to where the step begins: divide by σ_t": (
                lambda x, d, t, s: x + (s - t) * (x - d) / (s or t)
            ),
            "that goes on from D, not from x": lambda x, d, t, s: d + (s - t) * (x - d) / t,
        },
        level="easy",
        goal="write Euler's step in sigma",
    ),
    "ancestral_pair": Exercise(
        ancestral_sigmas,
        _pair_cases,
        {
            "variances add up, standard deviations do not: σ_down² = σ_s² - σ_up²": (
                lambda t, s, eta: (
                    s - ancestral_sigmas(t, s, eta)[1],
                    ancestral_sigmas(t, s, eta)[1],
                )
            ),
            "the other way round: return σ_down, then σ_up": (
                lambda t, s, eta: ancestral_sigmas(t, s, eta)[::-1]
            ),
            "η is left out": lambda t, s, eta: ancestral_sigmas(t, s),
            "the factor σ_s is missing in σ_up": lambda t, s, eta: (
                sqrt(max(0.0, s**2 - eta**2 * (1 - s**2 / t**2))),
                eta * sqrt(1 - s**2 / t**2),
            ),
            "a root is missing in σ_up": lambda t, s, eta: (
                sqrt(max(0.0, s**2 - (eta * s**2 * (1 - s**2 / t**2)) ** 2)),
                eta * s**2 * (1 - s**2 / t**2),
            ),
        },
        level="middle",
        goal="split a step into one down and fresh noise up",
    ),
    "ancestral_step": Exercise(
        _ancestral,
        _ancestral_cases,
        {
            "the fresh noise is in EDM's x too: √ᾱ_s multiplies σ_up z": (
                _ancestral_slip(noise=lambda up, ab_s: up)
            ),
            "Euler's step ends at σ_down; the fresh noise leads up to σ_s": (
                _ancestral_slip(level="s", noise=lambda up, ab_s: up * sqrt(ab_s))
            ),
            "at the end x belongs to s: multiply by √ᾱ_s": _ancestral_slip(
                lambda ab_t, ab_s: sqrt(ab_t), noise=lambda up, ab_s: up * sqrt(ab_s)
            ),
            "that is in EDM's x: √ᾱ_s brings it back to x_s": (
                _ancestral_slip(lambda ab_t, ab_s: 1.0)
            ),
            "that is DDIM at η = 0: the fresh noise is missing": (
                lambda x, eps, ab_t, ab_s, z: ddim_step(x, eps, ab_t, ab_s)
            ),
        },
        level="hard",
        goal="take an ancestral step in x_t's own scale",
    ),
    "sgm_grid": Exercise(
        sgm_times,
        _sgm_cases,
        {
            "those are the network's indices: the paper's t is one more": _sgm(first=0),
            "that is rounded, which is the trailing grid; the official code rounds down": (
                _sgm(_rounded, 0)
            ),
            "endpoint=False: the steps have length (T-1)/steps, and index 0 is not reached": (
                _sgm(lambda T, n, i: (T - 1) * (n - 1 - i) // (n - 1))
            ),
            "the last step leads to the clean picture: 0 is missing": _sgm(end=()),
        },
        level="easy",
        goal="build the grid of generative-models",
    ),
    "discrete_call": Exercise(
        _discrete(),
        _discrete_cases,
        {
            "the rounded σ_k scales x as well: c_in is computed from it": _discrete(scale="sigma"),
            "the rounded σ_k stands in c_out as well": _discrete(out="sigma"),
            "only the time is rounded in yours; officially σ itself is, in c_in and c_out": (
                _discrete(scale="sigma", out="sigma")
            ),
            "sigmas[0] belongs to t = 1: call eps_model with k + 1": _discrete(first=0),
            "nearest in σ, not in ln σ": _discrete(
                lambda s, sigmas: (sigmas.log() - math.log(s)).abs()
            ),
        },
        level="hard",
        goal="evaluate a network as DiscreteDenoiser does",
    ),
    "karras_grid": Exercise(
        _karras(),
        _karras_cases,
        {
            "the last σ above 0 is the smallest one: u = i/(steps-1)": _karras(lambda i, n: i / n),
            "ρ is upside down: even in σ^(1/ρ)": _karras(power=lambda rho: 1 / rho),
            "even in ln σ is the exponential grid, ρ = ∞": _exponential,
            "from the largest σ down": _karras(turn=-1),
            "the last step leads to σ = 0": _karras(end=()),
        },
        level="middle",
        goal="build Karras' grid for any rho",
    ),
    "heun_step": Exercise(
        _heun(),
        _heun_cases,
        {
            "the corrected step leaves from x again, not from Euler's result": _heun("end"),
            "the second slope is at σ_s: evaluate the denoiser at σ_s, and divide by it": (
                _heun(level="t")
            ),
            "the second slope alone: take the mean of both": _heun(mean=lambda d, e: e),
            "that is Euler's step: the correction is missing": _heun(mean=lambda d, e: d),
            "the mean is half the sum": _heun(mean=lambda d, e: d + e),
            "at σ_s = 0 the slope is 0/0: take Euler's step there": _heun(at_zero="heun"),
        },
        level="middle",
        goal="correct Euler's step as Heun does",
        given=("heun_by_hand",),
    ),
    "churned_x": Exercise(
        _churned(),
        _churned_cases,
        {
            "variances add up: the noise needs √(σ̂² - σ²), not σ̂ - σ": (
                _churned(added=lambda new, old: new - old)
            ),
            "γ is S_churn/N: divide by the number of steps": (
                _churned(lambda s, churn, n: s * (1 + min(churn, sqrt(2) - 1)))
            ),
            "γ is at most √2 - 1": _churned(lambda s, churn, n: s * (1 + churn / n)),
            "S_noise multiplies the noise": _churned(s=lambda s: 1.0),
            "S_noise multiplies the noise once, not squared": _churned(s=lambda s: s**2),
            "that adds σ̂ z to an x which has noise already": _churned(added=lambda new, old: new),
        },
        level="middle",
        goal="raise the noise of x before a step, as EDM does",
    ),
}

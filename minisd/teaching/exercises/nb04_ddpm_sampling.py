"""Exercises of notebook 04: DDPM's Algorithm 2."""

import torch

from ...equations import (
    forward_variance,
    posterior_mean,
    posterior_variance,
    pred_x0,
    q_sample,
    reverse_mean,
    sqrt,
)
from ...schedules import alpha_bar, linear_betas, scaled_linear_betas, trailing_times
from ..checking import Exercise

SD = alpha_bar(scaled_linear_betas())
PAIRS = [(500, 499), (1, 0), (2, 1), (982, 962), (20, 0)]  # t, s


def _normal(generator, *shape):
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def _step_cases(generator):
    shapes = [(3, 2), (1, 4, 3, 3), (5,), (2, 2), (4, 1)]
    for shape, (t, s) in zip(shapes, PAIRS, strict=True):
        yield *_normal(generator, 3, *shape), SD[t], SD[s]


def _step(variance=forward_variance, root=sqrt, always=False, mean=reverse_mean):
    def step(x_t, eps, z, ab_t, ab_s):
        noise = root(variance(ab_t, ab_s)) * z if always or ab_s < 1 else 0.0
        return mean(x_t, eps, ab_t, ab_s) + noise

    return step


def _wrong_root(x_t, eps, ab_t, ab_s):
    alpha_t = ab_t / ab_s
    return (x_t - (1 - alpha_t) / (1 - ab_t) * eps) / alpha_t.sqrt()


def _undivided(x_t, eps, ab_t, ab_s):
    return x_t - (1 - ab_t / ab_s) / (1 - ab_t).sqrt() * eps


def _alpha_bar(x_t, eps, ab_t, ab_s):
    return (x_t - (1 - ab_t / ab_s) / (1 - ab_t).sqrt() * eps) / ab_t.sqrt()


def _log_cases(generator):
    yield from [(50, 100), (1000, 200), (50, 10), (7, 3), (10, 1), (1, 5)]


def _kept(steps, every):
    return [i for i in range(steps) if i == 0 or (steps - 1 - i) % every == 0]


def _clip_cases(generator):
    for shape, (t, s) in zip([(6, 2), (1, 4, 3, 3), (5,), (2, 2)], PAIRS, strict=False):
        yield *_normal(generator, 2, *shape), SD[t], SD[s]


def _clip_mean_instead(x_t, eps, ab_t, ab_s):
    return reverse_mean(x_t, eps, ab_t, ab_s).clamp(-1, 1)


def _clip_both(x_t, eps, ab_t, ab_s):
    x0 = pred_x0(x_t, eps, ab_t).clamp(-1, 1)
    return posterior_mean(x0, x_t.clamp(-1, 1), ab_t, ab_s)


def _variance_cases(generator):
    for v_t, t, s, std, temperature in [
        (1.0, 1000, 999, 0.5, 1.0),
        (1.0, 1000, 980, 0.5, 0.0),
        (0.3, 100, 80, 0.2, 0.7),
        (0.5, 20, 0, 1.5, 1.0),
        (2.0, 300, 250, 1.0, 1.2),
    ]:
        yield v_t, SD[t], SD[s], std, temperature


def _variance(v_t, ab_t, ab_s, std, temperature, square=2, noise=posterior_variance, slope=None):
    q_t, q_s = (ab * std**2 + 1 - ab for ab in (ab_t, ab_s))
    a = slope(ab_t, ab_s, q_t, q_s) if slope else (ab_t / ab_s).sqrt() * q_s / q_t
    return a**square * v_t + temperature**2 * noise(ab_t, ab_s)


def _variance_plain_temperature(v_t, ab_t, ab_s, std, temperature):
    return _variance(v_t, ab_t, ab_s, std, temperature**0.5)


def _variance_std_added(v_t, ab_t, ab_s, std, temperature):
    sigma = posterior_variance(ab_t, ab_s) ** 0.5
    return _variance(v_t, ab_t, ab_s, std, 0.0) + temperature * sigma


def _variance_slope(slope):
    return lambda *case: _variance(*case, slope=slope)


def _grey_cases(generator):
    yield list(range(1000, -1, -1)), SD
    for T, steps in [(1000, 50), (1000, 10), (1000, 1)]:
        yield trailing_times(T, steps), SD
    yield [100, 60, 30, 7, 0], alpha_bar(linear_betas(100))


def _grey(times, ab):
    return 127.5 * (1 - ab[times[-2]]) ** 0.5


EXERCISES = {
    "ddpm_step": Exercise(
        _step(),
        _step_cases,
        {
            "noise in the last step too: at s = 0, where ab_s = 1, there must be none": (
                _step(always=True)
            ),
            "a root is missing: z is multiplied by σ, and forward_variance is σ²": (
                _step(root=lambda v: v)
            ),
            "that is fixed_small's β̃_t; asked for is fixed_large's β_t": _step(posterior_variance),
            "a root is missing in eq. 11: β_t is divided by √(1-ᾱ_t)": _step(mean=_wrong_root),
            "eq. 11 divides by √α_t, of one step, not by √ᾱ_t": _step(mean=_alpha_bar),
            "eq. 11's bracket is still to be divided by √α_t": _step(mean=_undivided),
            "the noise σ_t z is missing: a step samples around the mean": (
                lambda x, e, z, ab_t, ab_s: reverse_mean(x, e, ab_t, ab_s)
            ),
            "σ_t² is β_t, the noise of this step; 1-ᾱ_s is the noise of all steps up to s": _step(
                lambda ab_t, ab_s: 1 - ab_s
            ),
            "σ_t² is β_t, the noise of this step; 1-ᾱ_t is the noise of all steps up to t": _step(
                lambda ab_t, ab_s: 1 - ab_t
            ),
            "the mean moves from x_t by the predicted ε, not by the drawn z": (
                lambda x, e, z, ab_t, ab_s: _step()(x, z, e, ab_t, ab_s)
            ),
        },
        level="middle",
        goal="write one step of Algorithm 2, and no noise at its end",
    ),
    "clipped_mean": Exercise(
        lambda x, e, ab_t, ab_s: posterior_mean(pred_x0(x, e, ab_t).clamp(-1, 1), x, ab_t, ab_s),
        _clip_cases,
        {
            "nothing is clipped: eq. 11 has no x̂_0 left to clip, eq. 7 has": reverse_mean,
            "clip x̂_0, not the mean: x_s still holds noise, which may leave [-1, 1]": (
                _clip_mean_instead
            ),
            "clip x̂_0 only: x_t is noisy and may leave [-1, 1]": _clip_both,
            "that is the clipped x̂_0 itself; it still has to go into eq. 7": (
                lambda x, e, ab_t, ab_s: pred_x0(x, e, ab_t).clamp(-1, 1)
            ),
            "clip from both sides, to [-1, 1]": lambda x, e, ab_t, ab_s: posterior_mean(
                pred_x0(x, e, ab_t).clamp(max=1), x, ab_t, ab_s
            ),
            "pictures lie in [-1, 1], not in [0, 1]": lambda x, e, ab_t, ab_s: posterior_mean(
                pred_x0(x, e, ab_t).clamp(0, 1), x, ab_t, ab_s
            ),
            "x_t and x̂_0 are swapped: the arguments are posterior_mean(x0, x_t, ab_t, ab_s)": (
                lambda x, e, ab_t, ab_s: posterior_mean(
                    x, pred_x0(x, e, ab_t).clamp(-1, 1), ab_t, ab_s
                )
            ),
            "clip x̂_0, not ε: noise may leave [-1, 1]": lambda x, e, ab_t, ab_s: reverse_mean(
                x, e.clamp(-1, 1), ab_t, ab_s
            ),
            "clip x̂_0, not x_t: eq. 11 cannot do it, eq. 7 can": lambda x, e, ab_t, ab_s: (
                reverse_mean(x.clamp(-1, 1), e, ab_t, ab_s)
            ),
            "that noises the clipped x̂_0 with the old ε, a DDIM step; asked for is eq. 7's mean": (
                lambda x, e, ab_t, ab_s: q_sample(pred_x0(x, e, ab_t).clamp(-1, 1), e, ab_s)
            ),
        },
        level="middle",
        goal="clip the predicted picture and still take a correct step",
    ),
    "kept_by_log": Exercise(
        _kept,
        _log_cases,
        {
            "the official index counts down: step i has index steps - 1 - i": lambda n, k: [
                i for i in range(n) if i % k == 0 or i == n - 1
            ],
            "the first step is always kept, whatever its index": lambda n, k: [
                i for i in range(n) if (n - 1 - i) % k == 0
            ],
            "the last step has index 0, which every number divides: it is recorded": lambda n, k: [
                i for i in range(n) if i == 0 or (n - i) % k == 0
            ],
            "the positions are wanted in rising order": lambda n, k: _kept(n, k)[::-1],
            "these are the official indices, falling; position i has index steps - 1 - i": (
                lambda n, k: [n - 1 - i for i in _kept(n, k)]
            ),
            "a position that both conditions name is recorded once": lambda n, k: sorted(
                [0] + [i for i in range(n) if (n - 1 - i) % k == 0]
            ),
        },
        level="easy",
        goal="say which steps the official log_every_t keeps",
    ),
    "sampled_variance": Exercise(
        _variance,
        _variance_cases,
        {
            "a square is missing: a number times a has a² times the variance": (
                lambda *case: _variance(*case, square=1)
            ),
            "the temperature multiplies the noise: its variance has temperature²": (
                _variance_plain_temperature
            ),
            "variances add, and you added a standard deviation": _variance_std_added,
            "that is fixed_large's β; asked for is fixed_small's β̃": (
                lambda *case: _variance(*case, noise=forward_variance)
            ),
            "sigma_data is a standard deviation: the data's variance is its square": (
                lambda v, ab_t, ab_s, std, tau: _variance(v, ab_t, ab_s, std**0.5, tau)
            ),
            "the temperature is missing": lambda v, ab_t, ab_s, std, tau: _variance(
                v, ab_t, ab_s, std, 1.0
            ),
            "the noise of the step is missing": lambda v, ab_t, ab_s, std, tau: _variance(
                v, ab_t, ab_s, std, 0.0
            ),
            "√(ᾱ_t/ᾱ_s) alone is the forward step's; a_t has q_s/q_t as well": _variance_slope(
                lambda ab_t, ab_s, q_t, q_s: (ab_t / ab_s).sqrt()
            ),
            "a root is missing: a_t has √(ᾱ_t/ᾱ_s)": _variance_slope(
                lambda ab_t, ab_s, q_t, q_s: ab_t / ab_s * q_s / q_t
            ),
            "√(ᾱ_t/ᾱ_s) is missing in a_t": _variance_slope(lambda ab_t, ab_s, q_t, q_s: q_s / q_t),
            "q_s and q_t are swapped: a_t is Cov(x_s, x_t) / Var(x_t)": _variance_slope(
                lambda ab_t, ab_s, q_t, q_s: (ab_t / ab_s).sqrt() * q_t / q_s
            ),
            "for any s < t α_t is ᾱ_t/ᾱ_s; √ᾱ_t leads from time 0": _variance_slope(
                lambda ab_t, ab_s, q_t, q_s: ab_t.sqrt() * q_s / q_t
            ),
        },
        level="hard",
        goal="follow the variance of samples through the steps, exactly",
    ),
    "noise_in_grey_levels": Exercise(
        _grey,
        _grey_cases,
        {
            "a root is missing: grey levels are a standard deviation": lambda times, ab: (
                127.5 * (1 - ab[times[-2]])
            ),
            "255 levels stand for the range -1..1, which is 2 wide": lambda times, ab: (
                2 * _grey(times, ab)
            ),
            "the last step goes from times[-2] to 0; β_1 belongs to the step from 1 to 0": (
                lambda times, ab: _grey([1, 0], ab)
            ),
            "that is the first step's noise; only the last step's stays in the picture": (
                lambda times, ab: 127.5 * (1 - ab[times[0]]) ** 0.5
            ),
            "a standard deviation in -1..1 still has to be multiplied by 255/2": lambda times, ab: (
                (1 - ab[times[-2]]) ** 0.5
            ),
            "the factor is 255/2: -1..1 is 2 wide, and 0..255 has 255 steps": lambda times, ab: (
                256 / 127.5 * _grey(times, ab)
            ),
            "from level 0 to level 255 there are 255 steps, not 256": lambda times, ab: (
                128 / 127.5 * _grey(times, ab)
            ),
            "ab[times[-2]] is the picture's share; the noise has 1 minus it": lambda times, ab: (
                127.5 * ab[times[-2]] ** 0.5
            ),
            "ab[t] counts the paper's t: do not subtract 1": lambda times, ab: (
                127.5 * (1 - ab[times[-2] - 1]) ** 0.5
            ),
            "fixed_small's β̃ of the last step is 0; asked for is fixed_large's": lambda times, ab: (
                0.0
            ),
        },
        level="easy",
        goal="measure in grey levels what noise in the last step would cost",
    ),
}

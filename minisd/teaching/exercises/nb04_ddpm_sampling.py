"""Exercises of notebook 04: DDPM's Algorithm 2."""

import torch

from ...equations import (
    forward_variance,
    posterior_mean,
    posterior_variance,
    pred_x0,
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


def _variance(v_t, ab_t, ab_s, std, temperature, square=2, noise=posterior_variance):
    q_t, q_s = (ab * std**2 + 1 - ab for ab in (ab_t, ab_s))
    a = (ab_t / ab_s).sqrt() * q_s / q_t
    return a**square * v_t + temperature**2 * noise(ab_t, ab_s)


def _variance_plain_temperature(v_t, ab_t, ab_s, std, temperature):
    return _variance(v_t, ab_t, ab_s, std, temperature**0.5)


def _variance_std_added(v_t, ab_t, ab_s, std, temperature):
    sigma = posterior_variance(ab_t, ab_s) ** 0.5
    return _variance(v_t, ab_t, ab_s, std, 0.0) + temperature * sigma


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
            "that is fixed_small: β̃; asked for is fixed_large: β": _step(posterior_variance),
            "a root is missing in eq. 11: β_t is divided by √(1-ᾱ_t)": _step(mean=_wrong_root),
            "alpha_bar for alpha: eq. 11 divides by √α_t, of one step": _step(mean=_alpha_bar),
        },
        level="middle",
        goal="write one step of Algorithm 2, and no noise at its end",
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
            "off by one: index 0, the last step, is a multiple of anything": lambda n, k: [
                i for i in range(n) if i == 0 or (n - i) % k == 0
            ],
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
            "that is fixed_large: β; asked for is fixed_small: β̃": (
                lambda *case: _variance(*case, noise=forward_variance)
            ),
            "std is a standard deviation: the data's variance is std²": (
                lambda v, ab_t, ab_s, std, tau: _variance(v, ab_t, ab_s, std**0.5, tau)
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
            "the last step goes from times[-2] to 0; β_1 is right only if it starts at 1": (
                lambda times, ab: _grey([1, 0], ab)
            ),
            "that is the first step; the noise of all but the last is removed again": (
                lambda times, ab: 127.5 * (1 - ab[times[0]]) ** 0.5
            ),
        },
        level="easy",
        goal="measure in grey levels what noise in the last step would cost",
    ),
    "clipped_mean": Exercise(
        lambda x, e, ab_t, ab_s: posterior_mean(pred_x0(x, e, ab_t).clamp(-1, 1), x, ab_t, ab_s),
        _clip_cases,
        {
            "nothing is clipped: eq. 11 has no x̂_0 left to clip, eq. 7 has": reverse_mean,
            "clip x̂_0, not the mean: x_s still holds noise, which may leave [-1, 1]": (
                _clip_mean_instead
            ),
            "clip x̂_0 only: x_t is noisy and has every right to leave [-1, 1]": _clip_both,
        },
        level="middle",
        goal="clip the predicted picture and still take a right step",
    ),
}

"""Exercises of notebook 14."""

import math
from itertools import pairwise

import torch

from ...equations import adams_bashforth, improved_euler_eps, multistep_eps, pred_x0, sqrt, transfer
from ...schedules import alpha_bar, scaled_linear_betas
from ...toy import GaussianMixture, IdealDenoiser
from ..checking import Exercise

AB = alpha_bar(scaled_linear_betas())
SHAPES = [(2, 3), (3, 4, 2, 2), (4, 1)]


def _normal(generator, *shape):
    return torch.randn(shape, dtype=torch.float64, generator=generator)


# ---- which time, which entry of which table -----------------------------------------------


def _ddim_timesteps(S):
    return [i + 1 for i in range(0, 1000, 1000 // S)]


def _plms_call(S, i):
    grid = _ddim_timesteps(S)[::-1]
    last = len(grid) - 1
    return grid[i], last - i, grid[min(i + 1, last)]


def _call_cases(g):
    return [(50, 0), (50, 1), (50, 25), (50, 49), (20, 0), (20, 19), (30, 0), (60, 62), (2, 1)]


def _call_to_zero(S, i):
    t, index, t_next = _plms_call(S, i)
    return t, index, t_next if index else 0


def _step_alphas(index, S, use_original_steps, ab):
    if use_original_steps:
        return ab[index + 1], ab[index]
    grid = _ddim_timesteps(S)
    return ab[grid[index] + 1], ab[grid[index - 1] + 1] if index else ab[1]


def _alphas_cases(g):
    ddim = [(49, 50), (48, 50), (1, 50), (0, 50), (0, 1), (19, 20), (30, 30)]
    original = [(999, 50), (500, 20), (1, 50), (0, 50)]
    return [(*c, False, AB) for c in ddim] + [(*c, True, AB) for c in original]


def _alphas_that_end(ends_at):
    def slip(index, S, use_original_steps, ab):
        a_t, a_prev = _step_alphas(index, S, use_original_steps, ab)
        return a_t, a_prev if index else ends_at(use_original_steps, ab)

    return slip


def _index_as_time(index, S, use_original_steps, ab):
    return _step_alphas(index, S, True, ab)


def _alphas_not_shifted(index, S, use_original_steps, ab):
    if use_original_steps:
        return ab[index], ab[max(index - 1, 0)]
    grid = _ddim_timesteps(S)
    return ab[grid[index]], ab[grid[index - 1]] if index else ab[0]


def _crash_cases(g):
    few = [(1000, S) for S in (3, 9, 10, 27, 30, 50, 60, 100, 110, 250, 300, 333, 334, 500, 501)]
    return [*few, (1000, 1), (1000, 1000), (4000, 200), (4000, 3), (100, 11), (101, 10)]


# ---- guidance and correction --------------------------------------------------------------


def _column(values, like):
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _modified(power=0.5, sign=-1, table=lambda ac: 1 - ac, shift=0, which=slice(None)):
    def modify_score(e_t, grad, t, alphas_cumprod, scale):
        t = t[which].expand(len(e_t))
        size = table(alphas_cumprod[(t + shift).clamp(0, 999)]) ** power
        return e_t + sign * scale * _column(size, e_t) * grad

    return modify_score


def _modify_cases(g):
    for shape, scale in zip(SHAPES, (1.0, 2.5, -0.5), strict=True):
        t = torch.randint(1, 998, (shape[0],), generator=g)
        yield _normal(g, *shape), _normal(g, *shape), t, AB[1:], scale


# ---- quantize_denoised --------------------------------------------------------------------


def _nearest(z, codes):
    return codes[torch.cdist(z, codes).argmin(1)]


def _quantize_shift(x, e_t, a_t, a_prev, codes):
    x0 = pred_x0(x, e_t, a_t)
    return sqrt(a_prev) * (_nearest(x0, codes) - x0)


def _shift_with_new_eps(x, e_t, a_t, a_prev, codes):
    x0 = pred_x0(x, e_t, a_t)
    moved = _nearest(x0, codes) - x0
    return (sqrt(a_prev) - sqrt(1 - a_prev) * sqrt(a_t / (1 - a_t))) * moved


def _shift_at_the_end(x, e_t, a_t, a_prev, codes):
    x_prev = transfer(x, e_t, a_t, a_prev)
    return _nearest(x_prev, codes) - x_prev


def _shift_of_x(x, e_t, a_t, a_prev, codes):
    return sqrt(a_prev) * (_nearest(x, codes) - x)


def _shift_cases(g):
    for n, k, t, s in [(4, 5, 982, 962), (6, 3, 502, 482), (3, 8, 202, 2), (5, 4, 2, 1)]:
        yield _normal(g, n, 2), _normal(g, n, 2), float(AB[t]), float(AB[s]), _normal(g, k, 2)


# ---- noise --------------------------------------------------------------------------------


def _numbers_drawn(S, b, d, repeat_noise):
    return (len(_ddim_timesteps(S)) + 1) * d * (1 if repeat_noise else b)


# ---- old_eps ------------------------------------------------------------------------------


def _model():
    means = torch.tensor([[1.0, 0.2], [-0.7, 0.8], [-0.3, -1.0]], dtype=torch.float64)
    return IdealDenoiser(GaussianMixture(means, 0.4, weights=[0.5, 0.2, 0.3]), AB)


def _resume(reverse=False, forget=False, keep=3, store="e", skip=0, last=False):
    """The rest of a PLMS run, and its slips."""

    def rest(eps_model, x, times, i, old_eps, ab):
        old_eps = [] if forget else list(old_eps)
        for t, s in pairwise(times[i + skip :]):
            e_t = eps_model(x, t)
            past = old_eps if reverse else old_eps[::-1]
            if old_eps:
                e_t_prime = multistep_eps([*past, e_t] if last else [e_t, *past])
            else:
                e_s = eps_model(transfer(x, e_t, ab[t], ab[s]), s)
                e_t_prime = improved_euler_eps(e_t, e_s)
            x = transfer(x, e_t_prime, ab[t], ab[s])
            old_eps = [*old_eps, e_t_prime if store == "prime" else e_t][-keep:]
        return x

    return rest


def _resume_cases(g):
    times = [902, 802, 702, 602, 502, 402, 302, 202]
    for i in (2, 1, 3, 6, 0):
        model, x = _model(), _normal(g, 3, 2)
        old_eps = []
        for t, s in pairwise(times[: i + 1]):
            old_eps = [*old_eps, model(x, t)][-3:]
            x = transfer(x, old_eps[-1], AB[t], AB[s])
        yield model, x, times, i, old_eps, AB


# ---- steps of unequal length --------------------------------------------------------------


def _weights(back=4, moment=lambda n: 1 / (n + 1), mirror=False):
    """Adams-Bashforth's weights over the times really visited, and slips of it."""

    def weights(times, i):
        t, s = times[i : i + 2]
        nodes = times[max(i - back + 1, 0) : i + 1][::-1]
        u = torch.tensor([(node - t) / (s - t) for node in nodes], dtype=torch.float64)
        u = -u if mirror else u
        n = torch.arange(len(u))
        return torch.linalg.solve(u ** n[:, None], torch.tensor([moment(int(k)) for k in n]).to(u))

    return weights


def _weights_cases(g):
    sd = [*range(982, 0, -20), 1]
    yield from [(sd, 49), (sd, 48), (sd, 2), (sd, 1), (sd, 0)]
    yield from [([1000, 700, 600, 250, 200, 0], i) for i in (1, 2, 3, 4)]


# ---- the mask -----------------------------------------------------------------------------


def _shares(ab_t, ab_s):
    """x_s = √ᾱ_s x0 + a (z_0 - e') + b e': what of the old noise stays, and what ε' brings."""
    return sqrt(ab_s * (1 - ab_t) / ab_t), sqrt(1 - ab_s)


def _kept_noise(w, ab_t, ab_s):
    a, b = _shares(ab_t, ab_s)
    total = (b - a) * w
    total[0] += a
    return total.norm()


def _kept_apart(w, ab_t, ab_s):
    a, b = _shares(ab_t, ab_s)
    return (a**2 + ((b - a) * w).norm() ** 2) ** 0.5


def _kept_of_x0(w, ab_t, ab_s):
    w[0] -= 1
    return sqrt((1 - ab_t) / ab_t) * w.norm()


def _kept_cases(g):
    for order, t, s in [(4, 2, 1), (1, 2, 1), (2, 22, 2), (4, 42, 22), (3, 502, 482)]:
        w = torch.tensor([float(b) for b in adams_bashforth(order)], dtype=torch.float64)
        yield w, float(AB[t]), float(AB[s])
    yield torch.tensor([1.2, -0.3, 0.1], dtype=torch.float64), 0.5, 0.7


EXERCISES = {
    "plms_call": Exercise(
        _plms_call,
        _call_cases,
        {
            "t and t_next are what the network was trained with, the paper's times less 1": (
                lambda S, i: tuple(a + b for a, b in zip(_plms_call(S, i), (1, 0, 1), strict=True))
            ),
            "index counts down: it points into tables that rise with the time": lambda S, i: (
                _plms_call(S, i)[0],
                i,
                _plms_call(S, i)[2],
            ),
            "index starts at the length of the grid less 1; the grid may be longer than S": (
                lambda S, i: (_plms_call(S, i)[0], S - i - 1, _plms_call(S, i)[2])
            ),
            "after the last step t_next has nowhere to go: min(i + 1, len - 1) lets it stay": (
                _call_to_zero
            ),
            "the loop starts at the noisy end": lambda S, i: (
                _ddim_timesteps(S)[i],
                *_plms_call(S, i)[1:],
            ),
        },
        level="easy",
        goal="know what the official loop passes in each round",
    ),
    "step_alphas": Exercise(
        _step_alphas,
        _alphas_cases,
        {
            "swapped: a_t is the noisier one, the smaller": lambda *case: _step_alphas(*case)[::-1],
            "an entry i of alphas_cumprod is ᾱ of the paper's t = i + 1": _alphas_not_shifted,
            "index counts grid points; only with use_original_steps it is a time": _index_as_time,
            "the short tables end at alphas_cumprod[0], which is not 1": _alphas_that_end(
                lambda original, ab: ab[0]
            ),
            "alphas_cumprod_prev begins with 1: all original steps lead to the data": (
                _alphas_that_end(lambda original, ab: ab[1])
            ),
        },
        level="middle",
        goal="know which alpha_bar a step uses, with short and long tables",
    ),
    "grid_crashes": Exercise(
        lambda T, S: (T - 1) % (T // S) == 0,
        _crash_cases,
        {
            "not T but T - 1: the largest multiple of the stride must be T - 1 itself": (
                lambda T, S: T % (T // S) == 0
            ),
            "the stride T // S must divide it, not S": lambda T, S: (T - 1) % S == 0,
            "a stride of 1 always crashes; other strides do as well": lambda T, S: T // S == 1,
            "the other way round: those run": lambda T, S: (T - 1) % (T // S) != 0,
        },
        level="easy",
        goal="say for which numbers of steps the official grid runs past its table",
    ),
    "scale_when_swapped": Exercise(
        lambda s: 1 - s,
        lambda g: [(7.5,), (1.0,), (0.0,), (2.0,), (0.5,), (-1.0,)],
        {
            "a sign is not enough: at s = 1 the code returns its second half, here uncond": (
                lambda s: -s
            ),
            "the sign: where s is large, the picture is pushed away from the prompt": (
                lambda s: s - 1
            ),
            "it does change something: try s = 1": lambda s: s,
        },
        level="easy",
        goal="find the guidance that swapped halves amount to",
    ),
    "modify_score": Exercise(
        _modified(),
        _modify_cases,
        {
            "a sign: ε points away from the data, the gradient towards it": _modified(sign=1),
            "a root is missing: ε = -√(1-ᾱ) times the score": _modified(power=1.0),
            "ᾱ for 1-ᾱ: the factor is the noise's share, √(1-ᾱ)": _modified(table=lambda ac: ac),
            "t is the official index already: alphas_cumprod[t]": _modified(shift=-1),
            "t is the official index already: alphas_cumprod[t], without + 1": _modified(shift=1),
            "ε and the gradient differ by a factor √(1-ᾱ_t)": _modified(table=torch.ones_like),
            "each sample has its own t; t[0] is only the first one's": _modified(which=0),
        },
        level="middle",
        goal="write a score corrector, in the official indices",
    ),
    "quantize_shift": Exercise(
        _quantize_shift,
        _shift_cases,
        {
            "a sign: what it is with quantising, less what it is without": lambda *case: (
                -_quantize_shift(*case)
            ),
            "pred_x0 enters x_prev with a factor √a_prev": lambda x, e, a_t, a_prev, codes: (
                _quantize_shift(x, e, a_t, 1.0, codes)
            ),
            "a root is missing: the factor is √a_prev": lambda x, e, a_t, a_prev, codes: (
                a_prev * _quantize_shift(x, e, a_t, 1.0, codes)
            ),
            "e_t is not worked out anew from the quantised x0: dir_xt stays as it was": (
                _shift_with_new_eps
            ),
            "pred_x0 is quantised, not x_prev": _shift_at_the_end,
            "pred_x0 is quantised, not x": _shift_of_x,
        },
        level="middle",
        goal="compute by how much quantize_denoised moves a step",
    ),
    "numbers_drawn": Exercise(
        _numbers_drawn,
        lambda g: [
            (50, 3, 16384, False),
            (50, 3, 16384, True),
            (20, 1, 4, False),
            (30, 2, 10, False),
            (60, 2, 10, True),
            (1, 5, 7, False),
        ],
        {
            "sigma = 0 multiplies what was drawn; it was drawn all the same": lambda *case: 0,
            "the first step computes x_prev twice": lambda S, b, d, r: (
                len(_ddim_timesteps(S)) * d * (1 if r else b)
            ),
            "S = 30 makes 31 steps, S = 60 makes 63": lambda S, b, d, r: (
                (S + 1) * d * (1 if r else b)
            ),
            "repeat_noise draws for one sample": lambda S, b, d, r: _numbers_drawn(S, b, d, False),
            "S is not the number of steps, and the first step draws twice": lambda S, b, d, r: (
                S * d * (1 if r else b)
            ),
            "x_T was drawn before, and is not to be counted": lambda S, b, d, r: (
                _numbers_drawn(S, b, d, r) + b * d
            ),
        },
        level="middle",
        goal="count the random numbers that a run draws",
    ),
    "dropout_temperature": Exercise(
        lambda p: math.sqrt(1 - p),
        lambda g: [(0.5,), (0.0,), (0.1,), (0.75,), (0.99,)],
        {
            "a root is missing: temperature multiplies the noise, not its variance": (
                lambda p: 1 - p
            ),
            "dropout has made the variance larger, so the temperature must be below 1": (
                lambda p: 1 / math.sqrt(1 - p)
            ),
            "the kept numbers were divided by 1 - p, but not all were kept": lambda p: 1 / (1 - p),
            "the variance does change: a share 1 - p is kept, divided by 1 - p": lambda p: 1.0,
        },
        level="easy",
        goal="see noise_dropout as a temperature",
    ),
    "plms_resume": Exercise(
        _resume(),
        _resume_cases,
        {
            "old_eps is oldest first, the weights newest first": _resume(reverse=True),
            "the weights begin with the newest ε: e_t first, then the old ones": _resume(
                reverse=True, last=True
            ),
            "e_t is the newest of all: it comes first": _resume(last=True),
            "with a history the next step is no first step: use old_eps": _resume(forget=True),
            "keep three old ε: your order rises beyond 4": _resume(keep=99),
            "the order must rise to 4: keep three old ε, not two": _resume(keep=2),
            "store e_t, not e_t_prime": _resume(store="prime"),
            "x is at times[i]: the next step begins there": _resume(skip=1),
        },
        level="hard",
        goal="go on with PLMS from the middle, with its old_eps",
    ),
    "uneven_weights": Exercise(
        _weights(),
        _weights_cases,
        {
            "these weights are for equal steps; the times say how long the steps were": (
                lambda times, i: [float(b) for b in adams_bashforth(min(i + 1, 4))]
            ),
            "newest first": lambda times, i: _weights()(times, i).flip(0),
            "a mirror: u runs from 0 at times[i] to 1 at times[i+1], so the past is negative": (
                _weights(mirror=True)
            ),
            "four values at most: the new one and old_eps' three": _weights(back=5),
            "old_eps holds three, and the new ε makes four": _weights(back=3),
            "this is the polynomial at the end of the step; wanted is its average over it": (
                _weights(moment=lambda n: 1.0)
            ),
        },
        tolerance=1e-7,
        level="middle",
        goal="derive the weights that steps of unequal length deserve",
    ),
    "kept_noise": Exercise(
        _kept_noise,
        _kept_cases,
        {
            "that is the noise left by a constant ε; here each ε is a new noise": (
                lambda w, ab_t, ab_s: sqrt(1 - ab_s)
            ),
            "z_0 stands in x_t and in ε': add its two shares before squaring": _kept_apart,
            "standard deviations of independent noises add up as squares": lambda w, ab_t, ab_s: (
                _kept_noise(w, ab_t, ab_s) ** 2
            ),
            "that is the spread of pred_x0; x_prev is made of it and of dir_xt": _kept_of_x0,
            "dir_xt alone is not all: pred_x0 is off as well": lambda w, ab_t, ab_s: (
                sqrt(1 - ab_s) * w.norm()
            ),
        },
        level="hard",
        goal="derive the noise that a masked picture keeps",
    ),
}

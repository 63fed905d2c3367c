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


def _call_shifted(S, i):
    t, index, t_next = _plms_call(S, i)
    return t - 1, index, t_next - 1


def _call_from_below(S, i):
    grid = _ddim_timesteps(S)
    return grid[i], i, grid[min(i + 1, len(grid) - 1)]


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


def _without_scale(e_t, grad, t, alphas_cumprod, scale):
    return _modified()(e_t, grad, t, alphas_cumprod, 1.0)


def _modify_cases(g):
    for shape, scale in zip(SHAPES, (1.0, 2.5, -0.5), strict=True):
        t = torch.randint(1, 998, (shape[0],), generator=g)
        yield _normal(g, *shape), _normal(g, *shape), t, AB[1:], scale


def cosine_network(x, t, c):
    """ε for x (b, ...), a stand-in for a U-Net that counts its times from 0."""
    told = c.mean(1).reshape(-1, *[1] * (x.ndim - 1))
    level = (torch.as_tensor(t).reshape(-1, *[1] * (x.ndim - 1)) + 1) / 1000
    return torch.cos(x + 2 * told + 3 * level) + told


def bending_score(model, e_t, x, t, c):
    """A corrector's method: it bends ε, and calls the model once."""
    return torch.tanh(e_t) + 0.2 * x + 0.1 * model(x, t, c)


def _output(
    order="guided first", swapped=False, scale="g", none="c", given="c", corrects=True, later=0
):
    """The official get_model_output, and its slips."""

    def get_model_output(apply_model, x, t, c, uncond, g, modify_score):
        t = t + later

        def corrected(e_t, which=c):
            if modify_score is None or not corrects:
                return e_t
            return modify_score(apply_model, e_t, x, t, which)

        if uncond is None and none == "zeros":
            uncond = torch.zeros_like(c)
        e_c = apply_model(x, t, c)
        if uncond is None:
            return corrected(e_c) if none != "bare" else e_c
        e_u = apply_model(x, t, uncond)
        if swapped:
            e_u, e_c = e_c, e_u
        if order == "corrected first":
            e_u, e_c = corrected(e_u, uncond), corrected(e_c)
        if order == "prompt corrected":
            e_c = corrected(e_c)
        e_t = {"g": e_u + g * (e_c - e_u), "w": e_c + g * (e_c - e_u), "none": e_c}[scale]
        if order != "guided first":
            return e_t
        return corrected(e_t, c if given == "c" else uncond)

    return get_model_output


def _output_cases(g):
    for shape, scale, corrector in zip(
        [(2, 4), (3, 2, 2, 2), (2, 3), (1, 5)],
        (7.5, 2.0, 3.0, 1.0),
        (None, bending_score, bending_score, bending_score),
        strict=True,
    ):
        b = shape[0]
        t = torch.randint(1, 999, (b,), generator=g)
        yield (
            cosine_network,
            _normal(g, *shape),
            t,
            _normal(g, b, 3),
            _normal(g, b, 3),
            scale,
            corrector,
        )
    x, c = _normal(g, 2, 4), _normal(g, 2, 3)
    yield cosine_network, x, torch.tensor([981, 981]), c, None, 7.5, None
    yield cosine_network, -x, torch.tensor([1, 21]), c, None, 1.0, bending_score


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


def _with_quantising(x, e_t, a_t, a_prev, codes):
    return sqrt(a_prev) * _nearest(pred_x0(x, e_t, a_t), codes) + sqrt(1 - a_prev) * e_t


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


def _kept_of_z0(w, ab_t, ab_s):
    a, b = _shares(ab_t, ab_s)
    return a * (1 - w[0]) + b * w[0]


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
            "t and t_next are in the network's counting, the paper's times less 1.": (
                lambda S, i: tuple(a + b for a, b in zip(_plms_call(S, i), (1, 0, 1), strict=True))
            ),
            "index counts down: it is a row of tables that rise with the time.": lambda S, i: (
                _plms_call(S, i)[0],
                i,
                _plms_call(S, i)[2],
            ),
            "index starts at the length of the grid less 1; the grid may be longer than S.": (
                lambda S, i: (_plms_call(S, i)[0], S - i - 1, _plms_call(S, i)[2])
            ),
            "In the last round there is no next time: t_next stays at t.": (_call_to_zero),
            "The loop starts at the noisy end, with the largest time.": lambda S, i: (
                _ddim_timesteps(S)[i],
                *_plms_call(S, i)[1:],
            ),
            "The list holds the network's times already: no 1 is to be subtracted.": (
                _call_shifted
            ),
            "The loop goes through the list from its end, and index counts down.": (
                _call_from_below
            ),
        },
        level="easy",
        goal="know what the official loop passes in each round",
    ),
    "step_alphas": Exercise(
        _step_alphas,
        _alphas_cases,
        {
            "They are swapped: a_t belongs to the noisier time and is the smaller.": lambda *case: (
                _step_alphas(*case)[::-1]
            ),
            "The times are shifted by 1: alphas_cumprod[i] is ᾱ at t = i + 1.": _alphas_not_shifted,
            "index counts grid points; only with use_original_steps is it a time.": _index_as_time,
            "The short tables end at alphas_cumprod[0], ᾱ at t = 1, which is not 1.": (
                _alphas_that_end(lambda original, ab: ab[0])
            ),
            "alphas_cumprod_prev begins with 1: the original steps end on the data, at t = 0.": (
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
            "T - 1, not T, must be a multiple of the stride: the 1 is added afterwards.": (
                lambda T, S: T % (T // S) == 0
            ),
            "The stride T // S must divide T - 1, not S.": lambda T, S: (T - 1) % S == 0,
            "A stride of 1 always runs past the table; other strides do as well.": lambda T, S: (
                T // S == 1
            ),
            "True and False are exchanged: these grids stay inside the table.": lambda T, S: (
                (T - 1) % (T // S) != 0
            ),
            "The question is not whether S divides T: some grids crash where it does not.": (
                lambda T, S: T % S == 0
            ),
        },
        level="easy",
        goal="say for which numbers of steps the official grid runs past its table",
    ),
    "scale_when_swapped": Exercise(
        lambda s: 1 - s,
        lambda g: [(7.5,), (1.0,), (0.0,), (2.0,), (0.5,), (-1.0,)],
        {
            "A sign is not enough: at g = 1 the second half is returned, which is uncond here.": (
                lambda s: -s
            ),
            "The sign is wrong: a large g pushes the picture away from the prompt.": (
                lambda s: s - 1
            ),
            "The swap changes something: try g = 1.": lambda s: s,
            "The swap is no division: write ε_c + g (ε_u - ε_c) as ε_u + g' (ε_c - ε_u).": (
                lambda s: 1 / s if s else 0.0
            ),
            "The sign of g is wrong: the difference changes its sign.": (lambda s: 1 + s),
            "The sign of the 1 is wrong: try g = 0, which returns the first half, the prompt's.": (
                lambda s: -1 - s
            ),
        },
        level="easy",
        goal="find the guidance that swapped halves amount to",
    ),
    "modify_score": Exercise(
        _modified(),
        _modify_cases,
        {
            "The sign is wrong: ε points away from the data, the gradient towards them.": _modified(
                sign=1
            ),
            "A root is missing: ε is -√(1-ᾱ) times the score.": _modified(power=1.0),
            "ᾱ stands in place of 1-ᾱ: the factor is √(1-ᾱ), the amplitude of the noise.": (
                _modified(table=lambda ac: ac)
            ),
            "t is the official index already: take alphas_cumprod[t], not [t - 1].": _modified(
                shift=-1
            ),
            "t is the official index already: take alphas_cumprod[t], not [t + 1].": _modified(
                shift=1
            ),
            "ε and the gradient of log p differ by a factor √(1-ᾱ_t), which is missing.": _modified(
                table=torch.ones_like
            ),
            "Each sample has its own t; t[0] is only that of the first.": _modified(which=0),
            "The scale is missing.": (_without_scale),
            "Multiply the gradient by √(1-ᾱ); here it is divided by it.": (_modified(power=-0.5)),
        },
        level="middle",
        goal="write a score corrector, in the official indices",
    ),
    "get_model_output": Exercise(
        _output(),
        _output_cases,
        {
            "The order: first guidance, then the corrector on the guided ε.": (
                _output(order="corrected first")
            ),
            "The corrector acts on the guided ε, not on the prompt's prediction before guidance.": (
                _output(order="prompt corrected")
            ),
            "The halves are swapped: the first is the unconditional one.": _output(swapped=True),
            "The scale is SD's g, e_u + g (e_c - e_u), not the paper's w = g - 1.": (
                _output(scale="w")
            ),
            "Guidance is missing: this is the prediction with c alone.": _output(scale="none"),
            "Without unconditional_conditioning there is no guidance; zeros are a conditioning.": (
                _output(none="zeros")
            ),
            "The corrector is called without guidance, too.": _output(none="bare"),
            "The corrector is given c, not unconditional_conditioning.": _output(given="uncond"),
            "The corrector is missing: its result takes the place of e_t.": _output(corrects=False),
            "t is in the network's counting already: pass it on as it is.": (_output(later=1)),
        },
        level="middle",
        goal="write get_model_output in the official order",
    ),
    "quantize_shift": Exercise(
        _quantize_shift,
        _shift_cases,
        {
            "The sign is wrong: it is x_prev with quantising minus x_prev without.": lambda *case: (
                -_quantize_shift(*case)
            ),
            "pred_x0 enters x_prev with a factor √a_prev, which is missing.": (
                lambda x, e, a_t, a_prev, codes: _quantize_shift(x, e, a_t, 1.0, codes)
            ),
            "A root is missing: the factor is √a_prev.": lambda x, e, a_t, a_prev, codes: (
                a_prev * _quantize_shift(x, e, a_t, 1.0, codes)
            ),
            "e_t is not computed anew from the quantised x0: dir_xt stays as it was.": (
                _shift_with_new_eps
            ),
            "pred_x0 is quantised, not x_prev.": _shift_at_the_end,
            "pred_x0 is quantised, not x.": _shift_of_x,
            "The factor of pred_x0 in x_prev is √a_prev, not √a_t.": (
                lambda x, e, a_t, a_prev, codes: sqrt(a_t) * _quantize_shift(x, e, a_t, 1.0, codes)
            ),
            "This is x_prev with quantising; subtract x_prev without.": (_with_quantising),
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
            "The numbers are multiplied by sigma = 0, but they are drawn all the same.": (
                lambda *case: 0
            ),
            "The first step computes x_prev twice, so it draws twice.": lambda S, b, d, r: (
                len(_ddim_timesteps(S)) * d * (1 if r else b)
            ),
            "The grid may be longer than S: S = 30 makes 31 steps, S = 60 makes 63.": (
                lambda S, b, d, r: (S + 1) * d * (1 if r else b)
            ),
            "repeat_noise draws for one sample only.": lambda S, b, d, r: _numbers_drawn(
                S, b, d, False
            ),
            "S is not always the number of steps, and the first step draws twice.": (
                lambda S, b, d, r: S * d * (1 if r else b)
            ),
            "x_T is not to be counted.": lambda S, b, d, r: _numbers_drawn(S, b, d, r) + b * d,
            "These are the draws; each draw is of d numbers for a sample.": (
                lambda S, b, d, r: _numbers_drawn(S, b, 1, r)
            ),
            "One extra draw is counted too many: only the first step draws twice.": (
                lambda S, b, d, r: _numbers_drawn(S, b, d, r) + d * (1 if r else b)
            ),
        },
        level="middle",
        goal="count the random numbers that a run draws",
    ),
    "dropout_temperature": Exercise(
        lambda p: math.sqrt(1 - p),
        lambda g: [(0.5,), (0.0,), (0.1,), (0.75,), (0.99,)],
        {
            "A root is missing: temperature multiplies the noise, not its variance.": (
                lambda p: 1 - p
            ),
            "Dropout has made the variance larger, so the temperature must be below 1.": (
                lambda p: 1 / math.sqrt(1 - p)
            ),
            "The kept numbers were divided by 1 - p; the temperature has to make them smaller.": (
                lambda p: 1 / (1 - p)
            ),
            "The variance changes: a share 1 - p of the numbers is kept, each divided by 1 - p.": (
                lambda p: 1.0
            ),
            "p is the share that is dropped; the share that is kept, 1 - p, counts.": (math.sqrt),
            "The variance is 1/(1-p): its root is to be undone, not its square.": (
                lambda p: (1 - p) ** 2
            ),
        },
        level="easy",
        goal="see noise_dropout as a temperature",
    ),
    "plms_resume": Exercise(
        _resume(),
        _resume_cases,
        {
            "old_eps is oldest first, the weights are newest first: reverse the list.": _resume(
                reverse=True
            ),
            "The weights begin with the newest ε: e_t first, then old_eps reversed.": _resume(
                reverse=True, last=True
            ),
            "e_t is the newest of all: it comes first, before the old ones.": _resume(last=True),
            "With a history, the next step is no first step: use old_eps.": _resume(forget=True),
            "Keep three old ε: here the order rises beyond 4.": _resume(keep=99),
            "Keep three old ε, not two: the order must rise to 4.": _resume(keep=2),
            "Store e_t, not e_t_prime.": _resume(store="prime"),
            "x is at times[i]: the next step begins there, not one later.": _resume(skip=1),
            "Keep three old ε: with four of them the order rises to 5.": (_resume(keep=4)),
        },
        level="hard",
        goal="go on with PLMS from the middle, with its old_eps",
    ),
    "uneven_weights": Exercise(
        _weights(),
        _weights_cases,
        {
            "These weights are for equal steps; compute them from the times.": (
                lambda times, i: [float(b) for b in adams_bashforth(min(i + 1, 4))]
            ),
            "The order is turned round: the weights are wanted newest first.": lambda times, i: (
                _weights()(times, i).flip(0)
            ),
            "The signs of u are wrong: u is 1 at times[i+1], so the past is negative.": (
                _weights(mirror=True)
            ),
            "Four values at most are used: the new one and the three of old_eps.": _weights(back=5),
            "Up to four values are used: old_eps holds three, the new ε makes four.": (
                _weights(back=3)
            ),
            "This is the polynomial at the end of the step; wanted is its average over the step.": (
                _weights(moment=lambda n: 1.0)
            ),
            "The weights do not add up to 1: the row for f = 1 has the integral 1.": (
                _weights(moment=lambda n: 1 / (n + 1) if n else 0.0)
            ),
            "The step's length is not part of the weights, which add up to 1.": (
                lambda times, i: (times[i + 1] - times[i]) * _weights()(times, i)
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
            "This is the noise that a constant ε leaves; here each ε is a new noise.": (
                lambda w, ab_t, ab_s: sqrt(1 - ab_s)
            ),
            "z_0 stands in x_t and in ε': add its two shares before squaring.": _kept_apart,
            "This is the variance; its root is wanted.": lambda w, ab_t, ab_s: (
                _kept_noise(w, ab_t, ab_s) ** 2
            ),
            "This is the error of pred_x0; x_s is made of pred_x0 and of dir_xt.": _kept_of_x0,
            "This is dir_xt alone; pred_x0 is off as well.": lambda w, ab_t, ab_s: (
                sqrt(1 - ab_s) * w.norm()
            ),
            "This is the share of z_0 alone; the other z_j add their squares.": (_kept_of_z0),
            "x_t has the noise z_0, which stays in part: add its share to the factor of z_0.": (
                lambda w, ab_t, ab_s: (
                    abs(_shares(ab_t, ab_s)[1] - _shares(ab_t, ab_s)[0]) * w.norm()
                )
            ),
        },
        level="hard",
        goal="derive the noise that a masked picture keeps",
    ),
}

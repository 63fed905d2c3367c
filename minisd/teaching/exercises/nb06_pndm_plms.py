"""Exercises of notebook 06."""

import math
from itertools import pairwise

import torch

from ...equations import (
    adams_bashforth,
    improved_euler_eps,
    multistep_eps,
    runge_kutta_eps,
    sqrt,
    transfer,
)
from ...samplers import last, plms
from ...schedules import alpha_bar, scaled_linear_betas
from ...toy import GaussianMixture, IdealDenoiser
from ..checking import Exercise

SHAPES = [(2, 3), (1, 4, 2, 2), (5,)]


def _normal(generator, *shape):
    return torch.randn(shape, dtype=torch.float64, generator=generator)


# ---- PNDM eqs. 9 and 11: one step ---------------------------------------------------------


def _ode_slope(x, eps, ab, ab_slope):
    return ab_slope * (x - eps / sqrt(1 - ab)) / (2 * ab)


def _ode_slope_cases(g):
    for shape in SHAPES:
        for ab in (0.03, 0.5, 0.97):
            yield _normal(g, *shape), _normal(g, *shape), ab, -0.004 * ab


def _constant_path(x_t, eps, ab_path):
    x0 = (x_t - sqrt(1 - ab_path[0]) * eps) / sqrt(ab_path[0])
    return torch.stack([sqrt(ab) * x0 + sqrt(1 - ab) * eps for ab in ab_path[1:]])


def _constant_path_cases(g):
    for shape, path in zip(
        SHAPES, [[0.1, 0.4, 0.9], [0.3, 0.2], [0.01, 0.1, 0.5, 0.9, 1.0]], strict=True
    ):
        yield _normal(g, *shape), _normal(g, *shape), torch.tensor(path, dtype=torch.float64)


def _from_the_first(x, eps, path):
    steps = []
    for ab in path[1:]:
        x = transfer(x, eps, path[0], ab)
        steps.append(x)
    return torch.stack(steps)


# ---- Adams-Bashforth ----------------------------------------------------------------------


def _weights(order, nodes, moments):
    """w with Σ_j w_j node_j^k = moment_k: any rule that is exact for polynomials."""
    powers = torch.tensor([[float(u) ** k for u in nodes] for k in range(order)]).double()
    return torch.linalg.solve(powers, torch.tensor(moments, dtype=torch.float64))


def _back(order):
    return [-j for j in range(order)]


# ---- PLMS and F-PNDM with a model ---------------------------------------------------------

AB = alpha_bar(scaled_linear_betas())


def _model():
    means = torch.tensor([[1.0, 0.2], [-0.7, 0.8], [-0.3, -1.0]], dtype=torch.float64)
    return IdealDenoiser(GaussianMixture(means, 0.4, weights=[0.5, 0.2, 0.3]), AB)


def _improved_euler_step(eps_model, x, t, s, ab):
    e_t = eps_model(x, t)
    guess = transfer(x, e_t, ab[t], ab[s])
    return transfer(x, improved_euler_eps(e_t, eps_model(guess, s)), ab[t], ab[s])


def _from_guess(eps_model, x, t, s, ab):
    e_t = eps_model(x, t)
    guess = transfer(x, e_t, ab[t], ab[s])
    return transfer(guess, improved_euler_eps(e_t, eps_model(guess, s)), ab[t], ab[s])


def _only_the_end(eps_model, x, t, s, ab):
    guess = transfer(x, eps_model(x, t), ab[t], ab[s])
    return transfer(x, eps_model(guess, s), ab[t], ab[s])


def _step_cases(g):
    for t, s in [(982, 962), (902, 602), (500, 300), (202, 2)]:
        yield _model(), _normal(g, 3, 2), t, s, AB


def _history(times, i):
    return times[:2] if i == 0 else [times[j] for j in range(i, max(i - 4, -1), -1)]


def _history_cases(g):
    short, sd = [900, 600, 300, 1], list(range(981, 0, -20))
    yield from [(short, i) for i in range(3)]
    yield from [(sd, i) for i in (0, 1, 2, 3, 4, 5, 30)]


def _plms(start="euler", store="e", order=4, reverse=False):
    """PLMS, and its slips."""

    def sample(eps_model, x, times, ab):
        old_eps = []
        for t, s in pairwise(times):
            e_t = eps_model(x, t)
            used = [e_t, *old_eps][:order]
            if not old_eps and start == "euler":
                e_s = eps_model(transfer(x, e_t, ab[t], ab[s]), s)
                e_t_prime = improved_euler_eps(e_t, e_s)
                old_eps = [e_s] if store == "both" else []
            else:
                e_t_prime = multistep_eps(used[::-1] if reverse else used)
            x = transfer(x, e_t_prime, ab[t], ab[s])
            old_eps = [e_t_prime if store == "prime" else e_t, *old_eps]
        return x

    return sample


def _plms_cases(g):
    for times in [
        [902, 602],
        [902, 602, 302],
        [982, 782, 582, 382, 182, 82],
        [*range(962, 0, -80)],
    ]:
        yield _model(), _normal(g, 3, 2), times, AB


def _runge_kutta_step(eps_model, x, t, mid, s, ab):
    e1 = eps_model(x, t)
    e2 = eps_model(transfer(x, e1, ab[t], ab[mid]), mid)
    e3 = eps_model(transfer(x, e2, ab[t], ab[mid]), mid)
    e4 = eps_model(transfer(x, e3, ab[t], ab[s]), s)
    return transfer(x, runge_kutta_eps(e1, e2, e3, e4), ab[t], ab[s])


def _runge_kutta_slip(slip):
    def step(eps_model, x, t, mid, s, ab):
        e1 = eps_model(x, t)
        x2 = transfer(x, e1, ab[t], ab[mid])
        e2 = eps_model(x2, mid)
        x3 = transfer(x2 if slip == "chain" else x, e1 if slip == "old" else e2, ab[t], ab[mid])
        e3 = eps_model(x3, mid)
        if slip == "chain":
            x4 = transfer(x3, e3, ab[t], ab[s])
        elif slip == "on":
            x4 = transfer(x3, e3, ab[mid], ab[s])
        else:
            x4 = transfer(x, e3, ab[t], ab[mid] if slip == "mid" else ab[s])
        e4 = eps_model(x4, mid if slip == "mid" else s)
        mean = (e1 + e2 + e3 + e4) / 4
        eps = mean if slip == "mean" else runge_kutta_eps(e1, e2, e3, e4)
        return transfer(x, eps, ab[t], ab[s])

    return step


def _runge_kutta_cases(g):
    for t, mid, s in [(982, 972, 962), (902, 752, 602), (500, 350, 200)]:
        yield _model(), _normal(g, 3, 2), t, mid, s, AB


def _calls(sampler, steps):
    more = {"ddim": 0, "plms": 1, "s_pndm": 1, "pndm": 3 * min(steps, 3)}
    return steps + more[sampler]


def _calls_cases(g):
    return [(name, n) for name in ("ddim", "plms", "s_pndm", "pndm") for n in (50, 20, 3, 2, 1)]


# ---- errors and orders --------------------------------------------------------------------


def _order_cases(g):
    return [
        (10, 1e-2, 20, 5e-3),
        (25, 4e-3, 100, 2.5e-4),
        (8, 0.1, 24, 0.1 / 81),
        (40, 3e-5, 50, 2e-5),
    ]


def _defect(eps, sigma_bar):
    steps = sigma_bar[1:] - sigma_bar[:-1]
    return (eps * steps).sum() - eps.mean() * steps.sum()


def _defect_cases(g):
    for t, s in [(900, 700), (500, 400), (120, 100)]:
        sigma_bar = ((1 - AB[s : t + 1]) / AB[s : t + 1]).sqrt().flip(0)
        yield torch.linspace(0.9, 0.4, t - s).double() ** 2, sigma_bar
    yield _normal(g, 7), torch.tensor([9.0, 7, 5, 4, 3, 2, 1.5, 1], dtype=torch.float64)


def _uneven_ab2(e_t, e_before, h_before, h):
    return e_t + h / (2 * h_before) * (e_t - e_before)


def _uneven_cases(g):
    for shape in SHAPES:
        for h_before, h in [(20.0, 20.0), (20.0, 1.0), (3.0, 7.0)]:
            yield _normal(g, *shape), _normal(g, *shape), h_before, h


def _sigma_bar(ab):
    return sqrt((1 - ab) / ab)


def _lms2(clock, half=0.5, inverse=False):
    """Adams-Bashforth 2 over any clock(ᾱ), and its slips."""

    def eps(e_t, e_before, ab_t, ab_before, ab_s):
        ratio = (clock(ab_s) - clock(ab_t)) / (clock(ab_t) - clock(ab_before))
        return e_t + half * (1 / ratio if inverse else ratio) * (e_t - e_before)

    return eps


def _lms2_cases(g):
    for shape in SHAPES:
        for before, t, s in [(982, 962, 942), (502, 402, 302), (42, 22, 2)]:
            e_t, e_before = _normal(g, 2, *shape)
            yield e_t, e_before, AB[t], AB[before], AB[s]


EXERCISES = {
    "ode_slope": Exercise(
        _ode_slope,
        _ode_slope_cases,
        {
            "a factor 2 is missing: as s → t, √ᾱ_s + √ᾱ_t becomes 2√ᾱ_t": lambda x, e, ab, d: (
                2 * _ode_slope(x, e, ab, d)
            ),
            "a sign: divide eq. 9 by s-t, which is negative, not by its length": (
                lambda x, e, ab, d: -_ode_slope(x, e, ab, d)
            ),
            "a root is missing: ε is divided by √(1-ᾱ)": lambda x, e, ab, d: (
                d * (x - e / (1 - ab)) / (2 * ab)
            ),
            "ᾱ is missing below: both denominators of eq. 9 keep it": lambda x, e, ab, d: (
                d * (x - e / sqrt(1 - ab)) / 2
            ),
        },
        level="easy",
        goal="let the step go to zero: the probability flow ODE",
    ),
    "constant_path": Exercise(
        _constant_path,
        _constant_path_cases,
        {
            "x0 is not x_t/√ᾱ_t: take the noise out first": lambda x, e, path: torch.stack(
                [sqrt(ab / path[0]) * x + sqrt(1 - ab) * e for ab in path[1:]]
            ),
            "the noise's share of the new x is missing": lambda x, e, path: torch.stack(
                [sqrt(ab) * (x - sqrt(1 - path[0]) * e) / sqrt(path[0]) for ab in path[1:]]
            ),
            "when x has moved, its ᾱ has too: leave from where x is now": _from_the_first,
            "a root is missing: the noise's share is √(1-ᾱ)": lambda x, e, path: torch.stack(
                [
                    sqrt(ab) * (x - (1 - path[0]) * e) / sqrt(path[0]) + (1 - ab) * e
                    for ab in path[1:]
                ]
            ),
        },
        level="middle",
        goal="see what stays the same when the network's answer does",
    ),
    "ab_weights": Exercise(
        adams_bashforth,
        lambda g: [(2,), (3,), (4,), (1,), (5,), (6,)],
        {
            "the order: newest first, as in old_eps counted from its end": lambda k: (
                adams_bashforth(k)[::-1]
            ),
            "this is the polynomial at the end of the step; wanted is its average over it": (
                lambda k: _weights(k, _back(k), [1.0] * k)
            ),
            "a mirror: the old slopes lie at u = 0, -1, -2, ..., the step to come from 0 to 1": (
                lambda k: _weights(k, range(k), [1 / (n + 1) for n in range(k)])
            ),
        },
        tolerance=1e-6,
        level="middle",
        goal="derive the Adams-Bashforth weights of any order",
    ),
    "uneven_ab2": Exercise(
        _uneven_ab2,
        _uneven_cases,
        {
            "3/2 and -1/2 hold for equal steps only": lambda e, b, hb, h: 1.5 * e - 0.5 * b,
            "the ratio is upside down: a short next step leans little on the past": (
                lambda e, b, hb, h: e + hb / (2 * h) * (e - b)
            ),
            "the half is missing: the average of a line is its value half way": (
                lambda e, b, hb, h: e + h / hb * (e - b)
            ),
            "a sign: the line goes on beyond e_t, away from e_before": lambda e, b, hb, h: (
                e - h / (2 * hb) * (e - b)
            ),
        },
        level="middle",
        goal="derive order 2 for steps of unequal length",
    ),
    "improved_euler_step": Exercise(
        _improved_euler_step,
        _step_cases,
        {
            "the second transfer must leave from x_t again, not from the guess": _from_guess,
            "ε at the end alone: average it with the first one": _only_the_end,
            "that is DDIM's step: the second call is missing": lambda m, x, t, s, ab: transfer(
                x, m(x, t), ab[t], ab[s]
            ),
            "the second call asks about the moved x, not about x_t": lambda m, x, t, s, ab: (
                transfer(x, (m(x, t) + m(x, s)) / 2, ab[t], ab[s])
            ),
            "the moved x is at time s: ask the model about s": lambda m, x, t, s, ab: transfer(
                x, (m(x, t) + m(transfer(x, m(x, t), ab[t], ab[s]), t)) / 2, ab[t], ab[s]
            ),
        },
        level="easy",
        goal="write PLMS's first step, improved Euler",
    ),
    "plms_history": Exercise(
        _history,
        _history_cases,
        {
            "newest first": lambda times, i: times[:2] if i == 0 else _history(times, i)[::-1],
            "four at most: the new ε and three old ones": lambda times, i: (
                times[:2] if i == 0 else times[: i + 1][::-1]
            ),
            "five: old_eps holds three, and the new ε makes four": lambda times, i: (
                times[:2] if i == 0 else times[max(i - 4, 0) : i + 1][::-1]
            ),
            "three: old_eps holds three, and the new ε makes four": lambda times, i: (
                times[:2] if i == 0 else times[max(i - 2, 0) : i + 1][::-1]
            ),
            "the first step calls the model twice": lambda times, i: times[max(i - 3, 0) : i + 1][
                ::-1
            ],
            "the second ε of the first step is used there and not stored": lambda times, i: (
                times[:2]
                if i == 0
                else [times[0], times[1], *times[1 : i + 1]][: -5 if i > 2 else None : -1][:4]
            ),
        },
        level="easy",
        goal="know which answers of the network enter which step",
    ),
    "plms_sampler": Exercise(
        lambda *case: last(plms(*case)).x,
        _plms_cases,
        {
            "store e, not e': e' is an average already, and averaging it again smears it": (
                _plms(store="prime")
            ),
            "the second ε of the first step is used there and not stored": _plms(store="both"),
            "the first step is improved Euler, with a second call": _plms(start="ddim"),
            "the order stays at 2, which is S-PNDM: go on to 3 and 4": _plms(order=2),
            "the order stays at 3: use four ε, the new one and three old": _plms(order=3),
            "the order must stop at 4: keep three old ε": _plms(order=99),
            "the weights are newest first, your list is oldest first": _plms(reverse=True),
        },
        level="hard",
        goal="write all of PLMS and store the right thing",
    ),
    "runge_kutta_step": Exercise(
        _runge_kutta_step,
        _runge_kutta_cases,
        {
            "the third call uses the second's ε, not the first's": _runge_kutta_slip("old"),
            "every transfer leaves from x_t, the last one too": _runge_kutta_slip("on"),
            "a trial leaves from x_t, not from the trial before it": _runge_kutta_slip("chain"),
            "the fourth call is at the end of the step, s": _runge_kutta_slip("mid"),
            "the two ε half way count twice": _runge_kutta_slip("mean"),
        },
        level="middle",
        goal="write a Runge-Kutta step of F-PNDM's warm-up",
    ),
    "model_calls": Exercise(
        _calls,
        _calls_cases,
        {
            "one call a step is DDIM's; the others spend more to start": lambda name, n: n,
            "F-PNDM has only three Runge-Kutta steps; what if there are fewer steps?": (
                lambda name, n: n + {"ddim": 0, "plms": 1, "s_pndm": 1, "pndm": 9}[name]
            ),
            "Runge-Kutta only warms up: after three such steps it is one call a step": (
                lambda name, n: 4 * n if name == "pndm" else _calls(name, n)
            ),
            "a Runge-Kutta step costs four calls instead of one: three more": lambda name, n: (
                n + 4 * min(n, 3) if name == "pndm" else _calls(name, n)
            ),
            "S-PNDM starts as PLMS does": lambda name, n: (
                n if name == "s_pndm" else _calls(name, n)
            ),
        },
        level="easy",
        goal="count what a sampler costs in calls of the network",
    ),
    "measured_order": Exercise(
        lambda n1, e1, n2, e2: math.log(e1 / e2) / math.log(n2 / n1),
        _order_cases,
        {
            "a sign: the order is positive when more steps make a smaller error": (
                lambda n1, e1, n2, e2: math.log(e2 / e1) / math.log(n2 / n1)
            ),
            "log₂ of the ratio is right only when the steps double": lambda n1, e1, n2, e2: (
                math.log2(e1 / e2)
            ),
            "the logarithms are missing": lambda n1, e1, n2, e2: (e1 / e2) / (n2 / n1),
            "upside down: errors above, steps below": lambda n1, e1, n2, e2: (
                math.log(n2 / n1) / math.log(e1 / e2)
            ),
        },
        level="easy",
        goal="measure the order of a sampler from two runs",
    ),
    "transfer_defect": Exercise(
        _defect,
        _defect_cases,
        {
            "a sign: the true change minus the transfer's": lambda e, s: -_defect(e, s),
            "that is the true change alone: subtract what the transfer makes of the mean ε": (
                lambda e, s: (e * (s[1:] - s[:-1])).sum()
            ),
            "the sum of the ε is not their mean": lambda e, s: (
                (e * (s[1:] - s[:-1])).sum() - e.sum() * (s[-1] - s[0])
            ),
            "the covariance per piece: add up over the pieces": lambda e, s: _defect(e, s) / len(e),
        },
        tolerance=1e-10,
        level="middle",
        goal="compute what the transfer misses when the noise changes",
    ),
    "lms2_eps": Exercise(
        _lms2(_sigma_bar),
        _lms2_cases,
        {
            "3/2 and -1/2 assume equal steps; the steps in σ̄ are not": (
                lambda e, b, t, before, s: 1.5 * e - 0.5 * b
            ),
            "the clock is σ̄ = √((1-ᾱ)/ᾱ), not √(1-ᾱ)": _lms2(lambda ab: sqrt(1 - ab)),
            "the root is missing: σ̄ = √((1-ᾱ)/ᾱ)": _lms2(lambda ab: (1 - ab) / ab),
            "the clock is σ̄ = √((1-ᾱ)/ᾱ), not ᾱ": _lms2(lambda ab: ab),
            "the clock is σ̄ itself, not its logarithm": _lms2(lambda ab: _sigma_bar(ab).log()),
            "the half is missing: the average of a line is its value half way": (
                _lms2(_sigma_bar, half=1.0)
            ),
            "the ratio is upside down: the next step over the last one": (
                _lms2(_sigma_bar, inverse=True)
            ),
        },
        level="middle",
        goal="put the multistep rule on the clock that fits it",
    ),
}

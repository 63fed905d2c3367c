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
    return _renoised(x0, eps, ab_path[1:])


def _renoised(x0, eps, path):
    return torch.stack([sqrt(ab) * x0 + sqrt(1 - ab) * eps for ab in path])


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


def _from_x_t(x, eps, path):
    return torch.stack([transfer(x, eps, ab, after) for ab, after in pairwise(path)])


# ---- Adams-Bashforth ----------------------------------------------------------------------


def _weights(order, nodes, moments):
    """w with Σ_j w_j node_j^k = moment_k: any rule that is exact for polynomials."""
    powers = torch.tensor([[float(u) ** k for u in nodes] for k in range(order)]).double()
    return torch.linalg.solve(powers, torch.tensor(moments, dtype=torch.float64))


def _back(order):
    return [-j for j in range(order)]


def _moments(order):
    return [1 / (n + 1) for n in range(order)]


def _transposed(order):
    powers = torch.tensor([[float(u) ** k for k in range(order)] for u in _back(order)]).double()
    return torch.linalg.solve(powers, torch.tensor(_moments(order), dtype=torch.float64))


def _whole_weights(order):
    weights = adams_bashforth(order)
    return [b * math.lcm(*[b.denominator for b in weights]) for b in weights]


# ---- PLMS and F-PNDM with a model ---------------------------------------------------------

AB = alpha_bar(scaled_linear_betas())


def _model():
    means = torch.tensor([[1.0, 0.2], [-0.7, 0.8], [-0.3, -1.0]], dtype=torch.float64)
    return IdealDenoiser(GaussianMixture(means, 0.4, weights=[0.5, 0.2, 0.3]), AB)


def _improved_euler_step(eps_model, x, t, s, ab):
    e_t = eps_model(x, t)
    guess = transfer(x, e_t, ab[t], ab[s])
    return transfer(x, improved_euler_eps(e_t, eps_model(guess, s)), ab[t], ab[s])


def _improved_euler_slip(slip):
    def step(eps_model, x, t, s, ab):
        e_t = eps_model(x, t)
        guess = transfer(x, e_t, ab[t], ab[s])
        e_s = eps_model(x if slip == "x_t" else guess, t if slip == "at t" else s)
        eps = {"end": e_s, "sum": e_t + e_s}.get(slip, improved_euler_eps(e_t, e_s))
        if slip == "eps":
            return eps
        begin, end = (s, t) if slip == "swapped" else (t, s)
        return transfer(guess if slip == "guess" else x, eps, ab[begin], ab[end])

    return step


def _step_cases(g):
    for t, s in [(982, 962), (902, 602), (500, 300), (202, 2)]:
        yield _model(), _normal(g, 3, 2), t, s, AB


def _history(times, i):
    return times[:2] if i == 0 else [times[j] for j in range(i, max(i - 4, -1), -1)]


def _history_cases(g):
    short, sd = [900, 600, 300, 1], list(range(981, 0, -20))
    yield from [(short, i) for i in range(3)]
    yield from [(sd, i) for i in (0, 1, 2, 3, 4, 5, 30)]


def _plms(start="euler", store="e", order=4, reverse="", leave="x", euler=(0,)):
    """PLMS, and its slips. euler: the lengths of the history that improved Euler is used with."""

    def sample(eps_model, x, times, ab):
        old_eps = []
        for t, s in pairwise(times):
            e_t = eps_model(x, t)
            used = [e_t, *old_eps][:order]
            spare = []
            if len(old_eps) in euler and start == "euler":
                guess = transfer(x, e_t, ab[t], ab[s])
                e_s = eps_model(guess, s)
                e_t_prime = improved_euler_eps(e_t, e_s)
                x = guess if leave == "guess" else x
                spare = [e_s] if store.startswith("both") else []
            else:
                old = used[1:][::-1] if reverse == "old" else used[1:]
                e_t_prime = multistep_eps(used[::-1] if reverse == "all" else [e_t, *old])
            x = transfer(x, e_t_prime, ab[t], ab[s])
            new = [e_t_prime if store == "prime" else e_t]
            old_eps = (
                [*spare, *new, *old_eps] if store == "both, s first" else [*new, *spare, *old_eps]
            )
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
        at = (t, t, t) if slip == "at t" else (mid, mid, mid if slip == "mid" else s)
        e1 = eps_model(x, t)
        x2 = x if slip == "x_t" else transfer(x, e1, ab[t], ab[mid])
        e2 = eps_model(x2, at[0])
        x3 = transfer(x2 if slip == "chain" else x, e1 if slip == "old" else e2, ab[t], ab[mid])
        e3 = eps_model(x if slip == "x_t" else x3, at[1])
        if slip == "chain":
            x4 = transfer(x3, e3, ab[t], ab[s])
        elif slip == "on":
            x4 = transfer(x3, e3, ab[mid], ab[s])
        else:
            last_eps = e2 if slip == "second" else e3
            x4 = transfer(x, last_eps, ab[t], ab[mid] if slip == "mid" else ab[s])
        e4 = eps_model(x if slip == "x_t" else x4, at[2])
        eps = {
            "mean": (e1 + e2 + e3 + e4) / 4,
            "three": (e1 + 4 * e2 + e4) / 6,
            "by 4": (e1 + 2 * e2 + 2 * e3 + e4) / 4,
        }.get(slip, runge_kutta_eps(e1, e2, e3, e4))
        if slip == "eps":
            return eps
        return transfer(x4 if slip == "end" else x, eps, ab[t], ab[s])

    return step


def _runge_kutta_cases(g):
    for t, mid, s in [(902, 752, 602), (500, 350, 200), (982, 972, 962)]:
        yield _model(), _normal(g, 3, 2), t, mid, s, AB


def _calls(sampler, steps):
    more = {"ddim": 0, "plms": 1, "s_pndm": 1, "pndm": 3 * min(steps, 3)}
    return steps + more[sampler]


def _calls_slip(**more):
    """The answer for each sampler of `more` as given there, f(steps), and correct elsewhere."""
    return lambda name, n: more[name](n) if name in more else _calls(name, n)


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


def _lms2(clock, half=0.5, inverse=False, old=False):
    """Adams-Bashforth 2 over any clock(ᾱ), and its slips."""

    def eps(e_t, e_before, ab_t, ab_before, ab_s):
        ratio = (clock(ab_s) - clock(ab_t)) / (clock(ab_t) - clock(ab_before))
        begin = e_before if old else e_t
        return begin + half * (1 / ratio if inverse else ratio) * (e_t - e_before)

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
            "a factor 2 is missing below ε: there, too, the sum becomes twice one root": (
                lambda x, e, ab, d: d * (x / 2 - e / sqrt(1 - ab)) / ab
            ),
            "the sign is wrong: divide eq. 9 by s-t, which is negative, and not by its length": (
                lambda x, e, ab, d: -_ode_slope(x, e, ab, d)
            ),
            "the sign of ε's term is wrong: eq. 9 subtracts it": lambda x, e, ab, d: _ode_slope(
                x, -e, ab, d
            ),
            "a root is missing: ε is divided by √(1-ᾱ)": lambda x, e, ab, d: (
                d * (x - e / (1 - ab)) / (2 * ab)
            ),
            "ε is divided by √(1-ᾱ), not multiplied": lambda x, e, ab, d: (
                d * (x - sqrt(1 - ab) * e) / (2 * ab)
            ),
            "ᾱ is missing below: both denominators of eq. 9 keep it": lambda x, e, ab, d: (
                d * (x - e / sqrt(1 - ab)) / 2
            ),
            "ᾱ is missing below ε: √ᾱ times √((1-ᾱ)ᾱ) is ᾱ√(1-ᾱ)": lambda x, e, ab, d: (
                d * (x / (2 * ab) - e / (2 * sqrt(1 - ab)))
            ),
            "a root is too many: √ᾱ times √ᾱ is ᾱ": lambda x, e, ab, d: (
                d * (x - e / sqrt(1 - ab)) / (2 * sqrt(ab))
            ),
            "the factor `ab_slope` is missing: it multiplies both terms": lambda x, e, ab, d: (
                _ode_slope(x, e, ab, 1.0)
            ),
            "this is the slope if x were x0: put x0 = (x - √(1-ᾱ) ε)/√ᾱ into it": (
                lambda x, e, ab, d: d * (x / (2 * sqrt(ab)) - e / (2 * sqrt(1 - ab)))
            ),
        },
        level="easy",
        goal="let the step go to zero: the probability flow ODE",
    ),
    "constant_path": Exercise(
        _constant_path,
        _constant_path_cases,
        {
            "x0 is not x_t/√ᾱ_t: take the noise out first": lambda x, e, path: _renoised(
                x / sqrt(path[0]), e, path[1:]
            ),
            "x_t is not x0: compute x0 from x_t and ε first": lambda x, e, path: _renoised(
                x, e, path[1:]
            ),
            "x0 must also be divided by √ᾱ of the start": lambda x, e, path: _renoised(
                x - sqrt(1 - path[0]) * e, e, path[1:]
            ),
            "a root is missing in x0: the noise in x_t has the factor √(1-ᾱ)": lambda x, e, path: (
                _renoised((x - (1 - path[0]) * e) / sqrt(path[0]), e, path[1:])
            ),
            "the noise's share of the new x is missing": lambda x, e, path: torch.stack(
                [sqrt(ab) * (x - sqrt(1 - path[0]) * e) / sqrt(path[0]) for ab in path[1:]]
            ),
            "this is x0, which does not change: noise it again for each ᾱ": (
                lambda x, e, path: torch.stack(
                    [(x - sqrt(1 - path[0]) * e) / sqrt(path[0])] * (len(path) - 1)
                )
            ),
            "after a transfer x is at the next ᾱ: the next transfer starts there": _from_the_first,
            "each transfer must start from the x that the one before it returned": _from_x_t,
            "ab_path[0] is where x_t is already: return x at ab_path[1:] only": (
                lambda x, e, path: torch.cat([x[None], _constant_path(x, e, path)])
            ),
            "return x at each of ab_path[1:], not only at the last": lambda x, e, path: (
                _constant_path(x, e, path)[-1]
            ),
            "a root is missing: the noise's share is √(1-ᾱ)": lambda x, e, path: torch.stack(
                [
                    sqrt(ab) * (x - (1 - path[0]) * e) / sqrt(path[0]) + (1 - ab) * e
                    for ab in path[1:]
                ]
            ),
            "all roots are missing: the shares are √ᾱ and √(1-ᾱ)": lambda x, e, path: torch.stack(
                [ab * (x - (1 - path[0]) * e) / path[0] + (1 - ab) * e for ab in path[1:]]
            ),
        },
        level="middle",
        goal="see what stays the same when the network's answer does",
    ),
    "ab_weights": Exercise(
        adams_bashforth,
        lambda g: [(2,), (3,), (4,), (1,), (5,), (6,)],
        {
            "the order is wrong: the newest weight comes first": lambda k: adams_bashforth(k)[::-1],
            "this is the polynomial at the end of the step; wanted is its average over the step": (
                lambda k: _weights(k, _back(k), [1.0] * k)
            ),
            "this is mirrored: the old values lie at u = 0, -1, -2, ..., the step from 0 to 1": (
                lambda k: _weights(k, range(k), _moments(k))
            ),
            "the newest value lies at u = 0, not at -1": lambda k: _weights(
                k, range(-1, -k - 1, -1), _moments(k)
            ),
            "the equations are transposed: equation n has the n-th powers of all u_j": _transposed,
            "divide by the common denominator: the weights add up to 1": _whole_weights,
            "equal weights average the past; wanted is the average over the next step": (
                lambda k: [1 / k] * k
            ),
            "these are the weights of order 4, cut off: every order has its own": (
                lambda k: [*adams_bashforth(4), 0, 0][:k]
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
            "the ratio is upside down: in a short next step e_before counts little": (
                lambda e, b, hb, h: e + hb / (2 * h) * (e - b)
            ),
            "the half is missing: the average of a line is its value half way": (
                lambda e, b, hb, h: e + h / hb * (e - b)
            ),
            "the sign is wrong: the line goes on beyond e_t, away from e_before": (
                lambda e, b, hb, h: e - h / (2 * hb) * (e - b)
            ),
            "the next step begins at e_t, not at e_before": lambda e, b, hb, h: (
                b + h / (2 * hb) * (e - b)
            ),
            "this is the integral over the step: divide it by the step's length": (
                lambda e, b, hb, h: h * _uneven_ab2(e, b, hb, h)
            ),
            "the slope of the line is (e_t - e_before) divided by the length of the step before": (
                lambda e, b, hb, h: e + h / 2 * (e - b)
            ),
            "this is the mean over the step before: continue the line into the next step": (
                lambda e, b, hb, h: (e + b) / 2
            ),
            "the two values lie one step apart, the step before, and not two": lambda e, b, hb, h: (
                e + h / (2 * (h + hb)) * (e - b)
            ),
        },
        level="middle",
        goal="derive order 2 for steps of unequal length",
    ),
    "improved_euler_step": Exercise(
        _improved_euler_step,
        _step_cases,
        {
            "the second transfer must start from x_t again, not from the trial's end": (
                _improved_euler_slip("guess")
            ),
            "this is ε at the end alone: average it with the first one": (
                _improved_euler_slip("end")
            ),
            "this is DDIM's step: the second call is missing": lambda m, x, t, s, ab: transfer(
                x, m(x, t), ab[t], ab[s]
            ),
            "the second call needs the moved x, not x_t": _improved_euler_slip("x_t"),
            "the moved x is at time s: call the model with s": _improved_euler_slip("at t"),
            "take the mean of the two ε, not their sum": _improved_euler_slip("sum"),
            "this is ε': move x with it": _improved_euler_slip("eps"),
            "ab[t] and ab[s] are swapped: the transfer goes from t to s": (
                _improved_euler_slip("swapped")
            ),
        },
        level="easy",
        goal="write PLMS's first step, improved Euler",
    ),
    "plms_history": Exercise(
        _history,
        _history_cases,
        {
            "the newest comes first": lambda times, i: (
                times[:2] if i == 0 else _history(times, i)[::-1]
            ),
            "the old ones must be newest first as well": lambda times, i: (
                times[:2] if i == 0 else [times[i], *times[max(i - 3, 0) : i]]
            ),
            "there are four at most: the new ε and three old ones": lambda times, i: (
                times[:2] if i == 0 else times[: i + 1][::-1]
            ),
            "these are five: old_eps holds three, and the new ε makes four": lambda times, i: (
                times[:2] if i == 0 else times[max(i - 4, 0) : i + 1][::-1]
            ),
            "these are three: old_eps holds three, and the new ε makes four": lambda times, i: (
                times[:2] if i == 0 else times[max(i - 2, 0) : i + 1][::-1]
            ),
            "the new ε is missing: step i calls the network at times[i]": lambda times, i: (
                times[:2] if i == 0 else times[max(i - 3, 0) : i][::-1]
            ),
            "step i begins at times[i]: the ε at times[i + 1] is not known yet": lambda times, i: (
                times[:2] if i == 0 else times[max(i - 2, 0) : i + 2][::-1]
            ),
            "the first step calls the network twice": lambda times, i: times[max(i - 3, 0) : i + 1][
                ::-1
            ],
            "in step 0 the call at times[0] comes before the one at times[1]": lambda times, i: (
                times[1::-1] if i == 0 else _history(times, i)
            ),
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
            "store ε and not ε': the polynomial runs through values of ε, not through averages": (
                _plms(store="prime")
            ),
            "the second ε of the first step is used there and not stored": _plms(store="both"),
            "the second ε of the first step must not enter the history": (
                _plms(store="both, s first")
            ),
            "the first step is improved Euler, with a second call": _plms(start="ddim"),
            "the first real step must start from x_t again, not from the trial's end": (
                _plms(leave="guess")
            ),
            "improved Euler is for the first step only: use order 2 and 3 while the past fills": (
                _plms(euler=(0, 1, 2))
            ),
            "improved Euler is for the first step only: go on with the old ε": (
                _plms(euler=range(99))
            ),
            "the order stays at 2, which is S-PNDM: go on to 3 and 4": _plms(order=2),
            "the order stays at 3: use four ε, the new one and three old ones": _plms(order=3),
            "the order must stop at 4: keep three old ε": _plms(order=99),
            "the weights are newest first, but your list is oldest first": _plms(reverse="all"),
            "the old ε must be newest first as well, behind the new one": _plms(reverse="old"),
        },
        level="hard",
        goal="write all of PLMS and store the right thing",
    ),
    "runge_kutta_step": Exercise(
        _runge_kutta_step,
        _runge_kutta_cases,
        {
            "the third call uses the second's ε, not the first's": _runge_kutta_slip("old"),
            "the last trial uses the third ε, not the second": _runge_kutta_slip("second"),
            "every transfer starts from x_t, the last one too": _runge_kutta_slip("on"),
            "a trial starts from x_t, not from the trial before it": _runge_kutta_slip("chain"),
            "the real step starts from x_t, not from the last trial's end": (
                _runge_kutta_slip("end")
            ),
            "the calls need the moved x: go to `mid` and to s by a transfer first": (
                _runge_kutta_slip("x_t")
            ),
            "the moved x is no longer at t: call the model with `mid`, `mid` and s": (
                _runge_kutta_slip("at t")
            ),
            "the fourth call is at the end of the step, s": _runge_kutta_slip("mid"),
            "the two ε half way count twice": _runge_kutta_slip("mean"),
            "both ε half way enter the average, each of them twice": _runge_kutta_slip("three"),
            "the weights 1, 2, 2, 1 add up to 6: divide by 6": _runge_kutta_slip("by 4"),
            "this is ε': move x with it": _runge_kutta_slip("eps"),
        },
        level="middle",
        goal="write a Runge-Kutta step of F-PNDM's warm-up",
    ),
    "model_calls": Exercise(
        _calls,
        _calls_cases,
        {
            "one call a step is DDIM's; the others need more to start": lambda name, n: n,
            "DDIM makes one call in each step and none besides": _calls_slip(ddim=lambda n: n + 1),
            "F-PNDM has only three Runge-Kutta steps; what if there are fewer steps?": (
                _calls_slip(pndm=lambda n: n + 9)
            ),
            "only the first three steps are Runge-Kutta; after them it is one call a step": (
                _calls_slip(pndm=lambda n: 4 * n)
            ),
            "a Runge-Kutta step costs four calls instead of one, which is three more": (
                _calls_slip(pndm=lambda n: n + 4 * min(n, 3))
            ),
            "F-PNDM's first three steps cost four calls each": _calls_slip(pndm=lambda n: n + 1),
            "S-PNDM starts as PLMS does": _calls_slip(s_pndm=lambda n: n),
            "PLMS calls the network twice in its first step": _calls_slip(plms=lambda n: n),
            "PLMS starts with improved Euler, one more call, and not with Runge-Kutta": (
                _calls_slip(plms=lambda n: n + 3)
            ),
            "S-PNDM uses improved Euler in its first step only": _calls_slip(
                s_pndm=lambda n: 2 * n
            ),
            "improved Euler's second call is made in the first step only": (
                _calls_slip(plms=lambda n: 2 * n, s_pndm=lambda n: 2 * n)
            ),
        },
        level="easy",
        goal="count what a sampler costs in calls of the network",
    ),
    "measured_order": Exercise(
        lambda n1, e1, n2, e2: math.log(e1 / e2) / math.log(n2 / n1),
        _order_cases,
        {
            "the sign is wrong: the order is positive when more steps make a smaller error": (
                lambda n1, e1, n2, e2: math.log(e2 / e1) / math.log(n2 / n1)
            ),
            "log₂ of the ratio is enough only when the steps double": lambda n1, e1, n2, e2: (
                math.log2(e1 / e2)
            ),
            "divide by the logarithm of the ratio of the steps": lambda n1, e1, n2, e2: math.log(
                e1 / e2
            ),
            "the logarithms are missing": lambda n1, e1, n2, e2: (e1 / e2) / (n2 / n1),
            "this is a slope without logarithms: take the logarithm of errors and of steps": (
                lambda n1, e1, n2, e2: (e1 - e2) / (n2 - n1)
            ),
            "below, the logarithm is missing: log(steps_b / steps_a)": lambda n1, e1, n2, e2: (
                math.log(e1 / e2) / (n2 / n1)
            ),
            "divide by the logarithm of the steps' ratio, not by their difference": (
                lambda n1, e1, n2, e2: math.log(e1 / e2) / (n2 - n1)
            ),
            "it is upside down: the errors stand above, the steps below": lambda n1, e1, n2, e2: (
                math.log(n2 / n1) / math.log(e1 / e2)
            ),
            "brackets are missing round the difference of the logarithms": lambda n1, e1, n2, e2: (
                math.log(e1) - math.log(e2) / (math.log(n2) - math.log(n1))
            ),
            "use the same logarithm above and below": lambda n1, e1, n2, e2: (
                math.log10(e1 / e2) / math.log(n2 / n1)
            ),
            "do not round: a measured order is seldom whole": lambda n1, e1, n2, e2: round(
                math.log(e1 / e2) / math.log(n2 / n1)
            ),
        },
        level="easy",
        goal="measure the order of a sampler from two runs",
    ),
    "transfer_defect": Exercise(
        _defect,
        _defect_cases,
        {
            "the sign is wrong: wanted is the exact change minus the transfer's": lambda e, s: (
                -_defect(e, s)
            ),
            "the transfer's change is the mean ε times (last σ̄ - first σ̄)": lambda e, s: (
                (e * s.diff()).sum() + e.mean() * (s[-1] - s[0])
            ),
            "this is the exact change alone: subtract what the transfer makes of the mean ε": (
                lambda e, s: (e * s.diff()).sum()
            ),
            "this is the transfer's change alone: subtract it from the exact change": (
                lambda e, s: e.mean() * (s[-1] - s[0])
            ),
            "the transfer uses the mean of the ε, not their sum": lambda e, s: (
                (e * s.diff()).sum() - e.sum() * (s[-1] - s[0])
            ),
            "the exact change is the sum over the pieces, not their mean": lambda e, s: (
                (e * s.diff()).mean() - e.mean() * (s[-1] - s[0])
            ),
            "the transfer goes over the whole step, from the first σ̄ to the last": lambda e, s: (
                (e * s.diff()).sum() - e.mean() * s.diff().mean()
            ),
            "multiply each ε by its piece of σ̄, sigma_bar.diff(), and not by σ̄ at its end": (
                lambda e, s: (e * s[1:]).sum() - e.mean() * (s[-1] - s[0])
            ),
            "multiply each ε by its piece of σ̄, sigma_bar.diff(), and not by σ̄ at its beginning": (
                lambda e, s: (e * s[:-1]).sum() - e.mean() * (s[-1] - s[0])
            ),
            "this is the covariance, a mean over the pieces: wanted is the sum": lambda e, s: (
                _defect(e, s) / len(e)
            ),
            "these are the pieces: add them up": lambda e, s: (e - e.mean()) * s.diff(),
        },
        tolerance=1e-10,
        level="middle",
        goal="compute what the transfer misses when the noise changes",
    ),
    "lms2_eps": Exercise(
        _lms2(_sigma_bar),
        _lms2_cases,
        {
            "3/2 and -1/2 assume equal steps, but the steps in σ̄ are not equal": (
                lambda e, b, t, before, s: 1.5 * e - 0.5 * b
            ),
            "the clock is σ̄ = √((1-ᾱ)/ᾱ), not √(1-ᾱ)": _lms2(lambda ab: sqrt(1 - ab)),
            "the root is missing: σ̄ = √((1-ᾱ)/ᾱ)": _lms2(lambda ab: (1 - ab) / ab),
            "the clock is σ̄ = √((1-ᾱ)/ᾱ), not ᾱ": _lms2(lambda ab: ab),
            "the clock is σ̄ = √((1-ᾱ)/ᾱ), not √ᾱ": _lms2(sqrt),
            "the clock is upside down: σ̄ = √((1-ᾱ)/ᾱ)": _lms2(lambda ab: 1 / _sigma_bar(ab)),
            "the clock is σ̄ = √((1-ᾱ)/ᾱ), not the SNR": _lms2(lambda ab: ab / (1 - ab)),
            "the clock is σ̄ itself, not its logarithm": _lms2(lambda ab: _sigma_bar(ab).log()),
            "the clock is σ̄ = √((1-ᾱ)/ᾱ), not log ᾱ": _lms2(lambda ab: ab.log()),
            "the half is missing: the average of a line is its value half way": (
                _lms2(_sigma_bar, half=1.0)
            ),
            "the ratio is upside down: the next step stands above, the last one below": (
                _lms2(_sigma_bar, inverse=True)
            ),
            "the sign is wrong: the line goes on beyond e_t, away from e_before": (
                _lms2(_sigma_bar, half=-0.5)
            ),
            "the next step begins at e_t, not at e_before": _lms2(_sigma_bar, old=True),
        },
        level="middle",
        goal="put the multistep rule on the clock that fits it",
    ),
}

"""Exercises of notebook 21."""

import math
from itertools import pairwise

import torch

from ...equations import (
    eps_from_u,
    flow_heun_step,
    flow_step,
    flow_time,
    logit_normal_density,
    shifted_time,
    straight_path,
    straight_velocity,
    straightness,
    x0_from_u,
)
from ...toy import GaussianMixture, IdealVelocity
from ..checking import Exercise

SHAPES = [(2, 3), (1, 4, 2, 2), (5,)]


def _normal(generator, *shape):
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def _number(generator, low, high):
    return low + (high - low) * float(torch.rand((), dtype=torch.float64, generator=generator))


def _two_and_time(g):
    for shape in SHAPES:
        for _ in range(2):
            yield _normal(g, *shape), _normal(g, *shape), _number(g, 0.1, 0.9)


# ---- sections 1 and 2: lines and their mean -----------------------------------------------


def _point(x0, eps, t):
    return straight_path(x0, eps, t), straight_velocity(x0, eps)


def _ends(x_t, u, t):
    return x0_from_u(x_t, u, t), eps_from_u(x_t, u, t)


def _shares(score):
    return score.softmax(1)[..., None]


def _mean_velocity(
    gap=lambda x, t, data: x - (1 - t) * data,
    spread=lambda t: t**2,
    give="u",
    shares=_shares,
):
    def velocity(x, t, data):
        away = gap(x[:, None], t, data)  # (b, k, d)
        r = shares(-(away**2).sum(2) / (2 * spread(t)))
        x0, eps = (r * data).sum(1), (r * (x[:, None] - (1 - t) * data) / t).sum(1)
        return {"u": eps - x0, "minus": x0 - eps, "eps": eps, "x0": x0}[give]

    return velocity


def _nearest(x, t, data):
    near = ((x[:, None] - (1 - t) * data) ** 2).sum(2).argmin(1)
    return (x - data[near]) / t


def _all_alike(x, t, data):
    return (x - data.mean(0)) / t


def _share_per_number(x, t, data):
    away = x[:, None] - (1 - t) * data
    r = (-(away**2) / (2 * t**2)).softmax(1)  # (b, k, d)
    return (r * (away / t - data)).sum(1)


def _turned(x, t, data):
    return _mean_velocity()(x, 1 - t, data)


def _mean_cases(g):
    for k, d in ((2, 1), (3, 2), (5, 2), (4, 3)):
        yield 0.8 * _normal(g, 4, d), _number(g, 0.3, 0.8), _normal(g, k, d)


# ---- section 3: which way -----------------------------------------------------------------


def _data_at_zero(x, at_0, at_1):
    return (at_0 + x).abs().mean(1) < (at_1 - x).abs().mean(1)


def _direction_cases(g):
    """Models of N(m, s²), each a little wrong: at 0 and at 1, at points of N(0, 1)."""
    for _ in range(4):
        x, rows = _normal(g, 12), []
        for way in torch.randperm(8, generator=g) % 2:
            mean = (-1) ** int(_number(g, 0, 2)) * _number(g, 0.5, 2)
            ends = -x, x - mean  # the data at 0
            ends = (mean - x, x) if way else ends
            rows.append(torch.stack([end + 0.01 * _normal(g, 12) for end in ends]))
        yield x, *torch.stack(rows, dim=1)


# ---- section 4: Euler and Heun ------------------------------------------------------------


def swirl(x, t):
    return torch.sin(2 * x.flip(1)) + (1 + t) * x - 0.3


def _euler(sign=1.0, at=lambda t, s: t, length=lambda t, s: s - t):
    def sample(velocity, x, times):
        for t, s in pairwise(times):
            x = x + sign * length(t, s) * velocity(x, at(t, s))
        return x

    return sample


def _one_velocity(velocity, x, times):
    return x + (times[-1] - times[0]) * velocity(x, times[0])


def _euler_cases(g):
    for n in (1, 2, 3, 5):
        inner = sorted((_number(g, 0.1, 0.9) for _ in range(n - 1)), reverse=True)
        yield swirl, _normal(g, 3, 2), [1.0, *inner, 0.05]


def _heun(look="end", time="s", mean=lambda a, b: (a + b) / 2, begin="start", trial="s"):
    def step(velocity, x, t, s):
        u = velocity(x, t)
        there = flow_step(x, u, t, s if trial == "s" else 0)
        v = velocity(there if look == "end" else x, s if time == "s" else t)
        return flow_step(x if begin == "start" else there, mean(u, v), t, s)

    return step


def _midpoint(velocity, x, t, s):
    mid = (t + s) / 2
    return flow_step(x, velocity(flow_step(x, velocity(x, t), t, mid), mid), t, s)


def _heun_cases(g):
    for _ in range(5):
        t = _number(g, 0.6, 1.0)
        yield swirl, _normal(g, 3, 2), t, _number(g, 0.1, t - 0.2)


# ---- section 5: other clothes -------------------------------------------------------------


def _ab_cases(g):
    return [(_number(g, 0.02, 0.98),) for _ in range(6)]


def _eps_as_u(scale=lambda a, b: a + b, give="u", picture=lambda x, z, e, a, b: (x - b * e) / a):
    def made(x_t, eps, ab_t):
        a, b = math.sqrt(ab_t), math.sqrt(1 - ab_t)
        z = x_t / scale(a, b)
        x0 = picture(x_t, z, eps, a, b)
        return {"u": (z, eps - x0), "v": (z, a * eps - b * x0), "minus": (z, x0 - eps)}[give]

    return made


# ---- section 6: straightness and reflow ---------------------------------------------------


def _straightness(
    take=lambda off: (off**2).sum(2), chord_time=True, piece_time=True, weigh=True, mean=True
):
    def measure(path, times):
        length = times.diff()[:, None, None] if piece_time else 1
        chord = (path[-1] - path[0]) / ((times[-1] - times[0]) if chord_time else 1)
        each = take(path.diff(dim=0) / length - chord)  # (n-1, b)
        each = each.mean(1) if mean else each.sum(1)
        return (each * times.diff().abs()).sum() if weigh else each.sum()

    return measure


def _position(path, times):
    share = ((times - times[0]) / (times[-1] - times[0]))[:, None, None]
    off = path - path[0] - share * (path[-1] - path[0])
    return ((off[1:] ** 2).sum(2).mean(1) * times.diff().abs()).sum()


def _path_cases(g):
    for n, b in ((3, 1), (4, 3), (6, 2), (9, 5)):
        steps = torch.tensor([_number(g, 0.5, 2) for _ in range(n - 1)], dtype=torch.float64)
        times = 1 - torch.cat([torch.zeros(1, dtype=torch.float64), steps.cumsum(0) / steps.sum()])
        yield _normal(g, n, b, 2).cumsum(0), times


def _reflowed(
    spread=lambda t, s: (1 - t) * s + t, sign=1.0, center=True, data=lambda z, m, s: m + s * z
):
    def velocity(x, t, mean, std):
        z = (x - ((1 - t) * mean if center else 0)) / spread(t, std)
        return sign * (z - data(z, mean, std))

    return velocity


def _first_flow(x, t, mean, std):
    data = GaussianMixture(torch.tensor([[mean]], dtype=torch.float64), std)
    return IdealVelocity(data)(x[:, None], t)[:, 0]


def _reflow_cases(g):
    for _ in range(5):
        mean = (-1) ** int(_number(g, 0, 2)) * _number(g, 0.3, 1.5)
        yield _normal(g, 4), _number(g, 0.1, 0.9), mean, _number(g, 0.2, 0.8)


# ---- section 7: times ---------------------------------------------------------------------


def _density(
    std_in=lambda s: s,
    slope=lambda t: t * (1 - t),
    logit=torch.logit,
    norm=lambda s: s * math.sqrt(2 * math.pi),
    half=0.5,
    mean_sign=1,
):
    def density(t, mean, std):
        off = (logit(t) - mean_sign * mean) / std_in(std)
        return torch.exp(-half * off**2) / (norm(std) * slope(t))

    return density


def _density_cases(g):
    for _ in range(4):
        t = 0.05 + 0.9 * torch.rand(6, dtype=torch.float64, generator=g)
        yield t, _number(g, -0.8, 0.8), _number(g, 0.5, 1.6)


# ---- section 8: the shift -----------------------------------------------------------------


def _grid(shift=lambda t, r: r * t / (1 + (r - 1) * t), ends=lambda n: (1.0, 0.0, n + 1)):
    def times(steps, r):
        first, last, count = ends(steps)
        line = [first + (last - first) * i / (count - 1) for i in range(count)]
        return [shift(t, r) for t in line]

    return times


def _from_smallest(steps, r):
    line = [1 - 0.999 * i / max(steps - 1, 1) for i in range(steps)]
    return [*(shifted_time(t, r) for t in line), 0.0]


def _grid_cases(g):
    return [(n, r) for n, r in ((1, 3.0), (4, 3.0), (10, 1.0), (5, 2.0))] + [
        (7, _number(g, 1.2, 4)),
        (3, _number(g, 0.3, 0.8)),
    ]


# ---- section 9: MMDiT ---------------------------------------------------------------------


def _joint(scale=lambda m, n, d: math.sqrt(d), along="keys", of="both", values="text"):
    def attend(q_text, k_text, v_text, q_image, k_image, v_image):
        parts = zip((q_text, k_text, v_text), (q_image, k_image, v_image), strict=True)
        q, k, v = (torch.cat(part) for part in parts)
        if values != "text":
            v = torch.cat([v_image, v_text])
        m, n = len(q_text), len(q_image)
        if of == "own":
            pairs = ((q[:m], k[:m], v[:m]), (q[m:], k[m:], v[m:]))
            return tuple((a @ b.T / math.sqrt(a.shape[1])).softmax(1) @ c for a, b, c in pairs)
        if of == "cross":
            pairs = ((q[:m], k[m:], v[m:]), (q[m:], k[:m], v[:m]))
            return tuple((a @ b.T / math.sqrt(a.shape[1])).softmax(1) @ c for a, b, c in pairs)
        scores = q @ k.T / scale(m, n, q.shape[1])
        if of == "text alone":
            scores[:m, m:] = -math.inf
        out = scores.softmax(1 if along == "keys" else 0) @ v
        return out[:m], out[m:]

    return attend


def _joint_cases(g):
    for m, n, d in ((2, 3, 4), (1, 4, 2), (3, 2, 8), (4, 5, 3)):
        yield (*(_normal(g, m, d) for _ in range(3)), *(_normal(g, n, d) for _ in range(3)))


EXERCISES = {
    "line_point": Exercise(
        _point,
        _two_and_time,
        {
            "At t = 0 the path is at the picture: x_0 has the factor 1 - t": lambda x, e, t: (
                straight_path(e, x, t),
                straight_velocity(x, e),
            ),
            "The velocity goes from the picture to the noise: ε - x_0": lambda x, e, t: (
                straight_path(x, e, t),
                x - e,
            ),
            "Both are the other way round: here the picture is at t = 0 and the noise at 1": (
                lambda x, e, t: (straight_path(e, x, t), x - e)
            ),
            "These are diffusion's factors √(1-t) and √t: here they are 1 - t and t": (
                lambda x, e, t: (math.sqrt(1 - t) * x + math.sqrt(t) * e, e - x)
            ),
            "The velocity is dx_t/dt, the same at every t: it has no factor t": lambda x, e, t: (
                straight_path(x, e, t),
                t * (e - x),
            ),
            "The order is wrong: return x_t, then u": lambda x, e, t: _point(x, e, t)[::-1],
        },
        level="easy",
        goal="find a point of the straight path and its velocity",
        given=(straight_path,),
    ),
    "line_ends": Exercise(
        _ends,
        _two_and_time,
        {
            "The signs are exchanged: the picture is at x_t - t u, the noise at x_t + (1-t) u": (
                lambda x, u, t: (x + t * u, x - (1 - t) * u)
            ),
            "The factors are exchanged: the picture is t away, and the noise 1 - t": (
                lambda x, u, t: (x - (1 - t) * u, x + t * u)
            ),
            "The order is wrong: return the picture, then the noise": lambda x, u, t: _ends(
                x, u, t
            )[::-1],
            "The noise is at the end of the line: the whole u lies between both ends": (
                lambda x, u, t: (x - t * u, x + u)
            ),
            "The velocity counts for the whole way: go back t times it, not once": lambda x, u, t: (
                x - u,
                x + (1 - t) * u,
            ),
            "These are the formulas for v; for u there are no roots": lambda x, u, t: (
                math.sqrt(1 - t) * x - math.sqrt(t) * u,
                math.sqrt(1 - t) * u + math.sqrt(t) * x,
            ),
        },
        level="easy",
        goal="read the picture and the noise off a velocity",
        given=(x0_from_u, eps_from_u),
    ),
    "mean_velocity": Exercise(
        _mean_velocity(),
        _mean_cases,
        {
            "At time t a picture has become (1-t) x_0: subtract that in the weights": (
                _mean_velocity(gap=lambda x, t, data: x - data)
            ),
            "The noise at time t has the standard deviation t: the exponent has t²": (
                _mean_velocity(spread=lambda t: t)
            ),
            "The noise at time t has the standard deviation t: t² is missing in the exponent": (
                _mean_velocity(spread=lambda t: 1.0)
            ),
            "The exponent of a Gaussian has a half: -distance²/(2 t²)": (
                _mean_velocity(spread=lambda t: t**2 / 2)
            ),
            "The sign is wrong: the velocity is ε - x_0": _mean_velocity(give="minus"),
            "This is the mean of ε: subtract that of x_0": _mean_velocity(give="eps"),
            "This is the mean of x_0, not of the velocities": _mean_velocity(give="x0"),
            "This takes the nearest picture alone: it is a mean over all of them": _nearest,
            "Not all pictures are equally probable: weight them by Bayes' rule": _all_alike,
            "The shares of the pictures add up to 1: divide by their sum": (
                _mean_velocity(shares=lambda score: score.exp()[..., None])
            ),
            "The shares belong to one x: the softmax goes over the pictures": (
                _mean_velocity(shares=lambda score: score.softmax(0)[..., None])
            ),
            "The shares are already weights: sum, do not average again": (
                _mean_velocity(shares=lambda score: _shares(score) / score.shape[1])
            ),
            "A picture has one share: sum the squares over d first": _share_per_number,
            "Here the picture is at t = 0, with the factor 1 - t, and the noise has the factor t": (
                _turned
            ),
            "Here the picture is at t = 0 and the noise at t = 1: this is the other direction": (
                lambda x, t, data: -_turned(x, t, data)
            ),
        },
        goal="derive the velocity of a finite data set",
    ),
    "data_at_zero": Exercise(
        _data_at_zero,
        _direction_cases,
        {
            "It is the other way round: at the data's end the mean of the noise is 0": (
                lambda x, at_0, at_1: ~_data_at_zero(x, at_0, at_1)
            ),
            "A mean over the points alone tells the sign of the data's mean, not the direction": (
                lambda x, at_0, at_1: at_0.mean(1) < at_1.mean(1)
            ),
            "At time 0 the velocity is -x where the data are: compare at_0 with -x, not with x": (
                lambda x, at_0, at_1: (at_0 - x).abs().mean(1) < (at_1 - x).abs().mean(1)
            ),
            "Some models have their data at 0, others at 1": (
                lambda x, at_0, at_1: torch.ones(len(at_0))
            ),
            "The models are a little wrong: compare two distances": (
                lambda x, at_0, at_1: torch.isclose(at_0, -x).all(1)
            ),
        },
        goal="tell which way a velocity model counts its time",
    ),
    "flow_euler": Exercise(
        _euler(),
        _euler_cases,
        {
            "The step is s - t, which is negative: you go towards the noise": _euler(sign=-1.0),
            "The velocity belongs to the beginning of the step: call the model at t": (
                _euler(at=lambda t, s: s)
            ),
            "The step goes from t to s: multiply the velocity by s - t": (
                _euler(length=lambda t, s: -1.0)
            ),
            "Multiply by the step s - t, not by the time": _euler(length=lambda t, s: -t),
            "The model is called anew at the beginning of every step": _one_velocity,
        },
        level="easy",
        goal="sample a flow by Euler's method",
    ),
    "flow_heun": Exercise(
        _heun(),
        _heun_cases,
        {
            "Take the second velocity where the trial step ends, not at x_t": _heun(look="start"),
            "The second velocity is that at the time s": _heun(time="t"),
            "This is Euler's step: take a second velocity at the end of the trial step": (
                _heun(mean=lambda a, b: a)
            ),
            "The corrected step starts from x_t again, not from the trial step's end": (
                _heun(begin="end")
            ),
            "This uses the second velocity alone: take the mean of both": _heun(
                mean=lambda a, b: b
            ),
            "The mean is half of the sum": _heun(mean=lambda a, b: a + b),
            "This is the midpoint method; Heun takes the velocities of both ends": _midpoint,
            "Half of the whole sum, not of its second part: put the sum in brackets": _heun(
                mean=lambda a, b: a + b / 2
            ),
            "The trial step ends at s, not at 0": _heun(trial="0"),
        },
        goal="correct Euler's step as Heun does",
        given=(flow_heun_step, flow_step),
    ),
    "equal_snr_time": Exercise(
        flow_time,
        _ab_cases,
        {
            "This is σ = t/(1-t): solve it for t": lambda ab: math.sqrt((1 - ab) / ab),
            "1 - ᾱ and ᾱ are variances: take their square roots": lambda ab: 1 - ab,
            "√(1-ᾱ) is diffusion's factor of the noise; divide it by √ᾱ + √(1-ᾱ)": lambda ab: (
                math.sqrt(1 - ab)
            ),
            "σ/(1+σ) is correct, but σ is √((1-ᾱ)/ᾱ), not √ᾱ": lambda ab: (
                math.sqrt(ab) / (1 + math.sqrt(ab))
            ),
            "This is 1 - t: at ᾱ = 1, the picture, t is 0": lambda ab: 1 - flow_time(ab),
            "This is the angle's share of 90 degrees: the line has the same SNR at another t": (
                lambda ab: math.acos(math.sqrt(ab)) / (math.pi / 2)
            ),
        },
        level="easy",
        goal="find the time of equal SNR",
    ),
    "eps_as_u": Exercise(
        _eps_as_u(),
        _two_and_time,
        {
            "x_t is not divided by √ᾱ + √(1-ᾱ) yet: then its factors do not add up to 1": (
                _eps_as_u(scale=lambda a, b: 1.0)
            ),
            "Divide by √ᾱ + √(1-ᾱ); by √ᾱ alone it is EDM's x": _eps_as_u(scale=lambda a, b: a),
            "Divide x_t by √ᾱ + √(1-ᾱ), do not multiply": _eps_as_u(scale=lambda a, b: 1 / (a + b)),
            "This is v, diffusion's velocity on the circle: u is ε - x_0": _eps_as_u(give="v"),
            "The sign of u is wrong: ε - x_0": _eps_as_u(give="minus"),
            "x_t is not the picture: compute x_0 of x_t and ε first": _eps_as_u(
                picture=lambda x, z, e, a, b: x
            ),
            "Compute x_0 of x_t, not of x_straight, with √ᾱ and √(1-ᾱ)": _eps_as_u(
                picture=lambda x, z, e, a, b: (z - b * e) / a
            ),
            "x_0 = (x_t - √(1-ᾱ) ε)/√ᾱ: ᾱ and 1-ᾱ are variances, take their roots": _eps_as_u(
                picture=lambda x, z, e, a, b: (x - b**2 * e) / a**2
            ),
            "The order is wrong: return x_straight, then u": (
                lambda *case: _eps_as_u()(*case)[::-1]
            ),
        },
        goal="make a flow of a prediction of the noise",
    ),
    "path_straightness": Exercise(
        straightness,
        _path_cases,
        {
            "Square the difference of the two velocities": (
                _straightness(take=lambda off: off.abs().sum(2))
            ),
            "S has the square of the distance: leave the root out": (
                _straightness(take=lambda off: (off**2).sum(2).sqrt())
            ),
            "‖·‖² is a sum over the 2 numbers of a point, not their mean": (
                _straightness(take=lambda off: (off**2).mean(2))
            ),
            "The chord's velocity is (last - first point) / (last - first time)": (
                _straightness(chord_time=False)
            ),
            "A velocity is a distance over a time: divide each piece by its own": (
                _straightness(piece_time=False)
            ),
            "A velocity is a distance over a time: divide the pieces and the chord by theirs": (
                _straightness(piece_time=False, chord_time=False)
            ),
            "Each piece counts as long as it takes: multiply by its time": _straightness(
                weigh=False
            ),
            "It is a mean over the paths, not a sum": _straightness(mean=False),
            "This compares the places; S compares the velocities": _position,
            "S is at least 0: the pieces' times are positive": lambda path, times: (
                -straightness(path, times)
            ),
        },
        goal="measure how straight paths are",
    ),
    "reflowed_velocity": Exercise(
        _reflowed(),
        _reflow_cases,
        {
            "These are lines: the standard deviation at t is (1-t) s + t, without squares": (
                _reflowed(spread=lambda t, s: math.sqrt((1 - t) ** 2 * s**2 + t**2))
            ),
            "This is the first flow: after reflow all pairs are (m + s z, z)": _first_flow,
            "Subtract the mean (1-t) m of x_t before you divide": _reflowed(center=False),
            "The velocity is noise minus picture: z - (m + s z)": _reflowed(sign=-1.0),
            "The picture is m + s z: you left out m": _reflowed(data=lambda z, m, s: s * z),
            "The picture is m + s z: you left out s": _reflowed(data=lambda z, m, s: m + z),
            "This is z, the noise: subtract the picture m + s z": (
                _reflowed(data=lambda z, m, s: 0 * z)
            ),
            "x is z only at t = 1: solve the line's equation for z": (
                lambda x, t, mean, std: x - (mean + std * x)
            ),
            "x is the picture only at t = 0: solve the line's equation for z": (
                lambda x, t, mean, std: (x - mean) / std - x
            ),
            "The shares are exchanged: at t = 1 the standard deviation is 1, at t = 0 it is s": (
                _reflowed(spread=lambda t, s: t * s + 1 - t)
            ),
        },
        level="hard",
        goal="derive the flow of a straightened coupling",
    ),
    "logit_density": Exercise(
        logit_normal_density,
        _density_cases,
        {
            "A density of t also has the slope of the logit, 1/(t (1-t))": (
                _density(slope=lambda t: 1.0)
            ),
            "The slope of ln(t/(1-t)) is 1/(t (1-t)), not 1/t": _density(slope=lambda t: t),
            "Divide by t (1-t), do not multiply": _density(slope=lambda t: 1 / (t * (1 - t))),
            "It is the logit ln(t/(1-t)) that is normal, not ln t": _density(logit=torch.log),
            "It is the logit ln(t/(1-t)) that is normal, not t": _density(logit=lambda t: t),
            "The slope of ln(t/(1-t)) is 1/(t (1-t)), not 1/(1-t)": _density(slope=lambda t: 1 - t),
            "The exponent has std²: you took std": _density(std_in=math.sqrt),
            "The exponent has a half: -(y - mean)²/(2 std²)": _density(half=1),
            "The exponent is negative: far from the mean the density is small": _density(half=-0.5),
            "Subtract the mean from y, do not add it": _density(mean_sign=-1),
            "The factor 1/(std √(2π)) is missing": _density(norm=lambda s: 1),
            "The factor is 1/(std √(2π)): 1/std is missing": (
                _density(norm=lambda s: math.sqrt(2 * math.pi))
            ),
            "The factor is 1/(std √(2π)): 1/√(2π) is missing": _density(norm=lambda s: s),
        },
        goal="derive the density of SD 3's training times",
    ),
    "shifted_grid": Exercise(
        _grid(),
        _grid_cases,
        {
            "The shift is applied twice: r becomes r²": _grid(
                lambda t, r: shifted_time(shifted_time(t, r), r)
            ),
            "The times are not shifted yet": _grid(lambda t, r: t),
            "The shift goes the wrong way: r > 1 makes times noisier": (
                _grid(lambda t, r: shifted_time(t, 1 / r))
            ),
            "The grid begins at 1, the noise, and falls to 0": (lambda n, r: _grid()(n, r)[::-1]),
            "A grid of n steps has n + 1 times: the 0 at its end is missing": (
                lambda n, r: _grid()(n, r)[:-1]
            ),
            "n steps have n gaps: divide by n": lambda n, r: (
                _grid(ends=lambda n: (1.0, 0.0, n))(n, r) if n > 1 else [1.0]
            ),
            "r multiplies σ = t/(1-t), not t": _grid(lambda t, r: r * t),
            "The line ends at 0 itself, not at a smallest σ": _from_smallest,
        },
        level="easy",
        goal="build a shifted grid, once",
    ),
    "joint_attention": Exercise(
        _joint(),
        _joint_cases,
        {
            "The scores are divided by √d": _joint(scale=lambda m, n, d: 1.0),
            "Divide the scores by √d, not by d": _joint(scale=lambda m, n, d: d),
            "Divide by √d, the root of a token's width, not of the number of tokens": (
                _joint(scale=lambda m, n, d: math.sqrt(m + n))
            ),
            "Join the values in the order of the keys: the text's first": _joint(values="picture"),
            "The text's tokens attend to the picture's, too": _joint(of="text alone"),
            "The softmax goes over the keys, the last axis of the scores": _joint(along="queries"),
            "Each stream attends to itself alone: join keys and values of both": _joint(of="own"),
            "This is cross-attention: the keys and values are those of both streams": (
                _joint(of="cross")
            ),
            "The order is wrong: return the text's rows, then the picture's": (
                lambda *case: _joint()(*case)[::-1]
            ),
        },
        level="hard",
        goal="let two streams attend to both together",
    ),
}

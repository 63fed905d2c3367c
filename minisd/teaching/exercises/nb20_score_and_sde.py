"""Exercises of notebook 20."""

import math

import torch

from ...equations import (
    conditional_score,
    q_sample,
    reverse_drift,
    score_from_eps,
    score_matching_loss,
    sde_step,
    sqrt,
)
from ...schedules import alpha_bar, linear_betas
from ..checking import Exercise

AB = alpha_bar(linear_betas())
SHAPES = [(2, 3), (1, 4, 2, 2), (5,)]


def _normal(generator, *shape):
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def _number(generator, low, high):
    return low + (high - low) * float(torch.rand((), dtype=torch.float64, generator=generator))


def _ab(generator):
    return float(AB[int(_number(generator, 40, 700))])


# ---- sections 1 and 2: the score ----------------------------------------------------------


def _two_clusters(slip=""):
    def score(x, centre, std, ab_t):
        var = ab_t * std**2 + 1 - ab_t
        if slip == "no noise":
            var = std**2
        if slip == "std":
            var = ab_t * std + 1 - ab_t
        if slip == "data":
            var = std**2 + 1 - ab_t
        centres = {"centre": centre, "root": ab_t * centre}
        c = centres.get(slip, sqrt(ab_t) * centre)
        pulls = {"tanh": torch.tanh(c * x), "twice": torch.tanh(2 * c * x / var)}
        pulls |= {"one": torch.ones_like(x), "near": x.sign(), "none": 0 * x}
        pull = pulls.get(slip, torch.tanh(c * x / var))
        score = ((1 if slip == "share" else c) * pull - x) / (1 if slip == "undivided" else var)
        return {"sign": -score, "eps": -sqrt(1 - ab_t) * score}.get(slip, score)

    return score


def _two_cluster_cases(g):
    for _ in range(5):
        yield _normal(g, 6), _number(g, 0.5, 2), _number(g, 0.3, 0.8), _ab(g)


def _score_loss(score, x0, eps, ab_t):
    target = conditional_score(q_sample(x0, eps, ab_t), x0, ab_t)
    return 2 * (1 - ab_t) * score_matching_loss(score, target)


def _score_loss_cases(g):
    for shape in [(2, 3), (3, 4, 2, 2), (5, 2)]:
        for _ in range(2):
            yield *(_normal(g, *shape) for _ in range(3)), _ab(g)


def _sum(x):
    return x.flatten(1).sum(1)


def _weight_cases(g):
    return [(_number(g, 0.3, 20), _ab(g)) for _ in range(5)]


# ---- section 3: Langevin dynamics ---------------------------------------------------------


def _langevin_variance(std, step):
    return std**2 / (1 - step / (4 * std**2))


def _langevin_cases(g):
    for _ in range(5):
        std = _number(g, 0.4, 1.5)
        yield std, _number(g, 0.1, 0.9) * std**2


def _annealed(sigmas, step):
    return step * sigmas**2 / sigmas[-1] ** 2


def _annealed_cases(g):
    for count in (3, 4, 6, 10):
        largest, smallest = _number(g, 5, 20), _number(g, 0.02, 0.5)
        share = torch.linspace(0, 1, count, dtype=torch.float64)
        yield largest ** (1 - share) * smallest**share, _number(g, 1e-3, 0.3)


# ---- sections 4 to 6: the SDE and the ODE -------------------------------------------------


def _scaled_linear(cubic=1 / 3, cross=1.0, square=False):
    def ab(tau, first, last):
        low, rise = math.sqrt(first), math.sqrt(last) - math.sqrt(first)
        if square:  # the line of β
            return math.exp(-tau * first - tau**2 / 2 * (last - first))
        return math.exp(-(tau * low**2 + cross * tau**2 * low * rise + cubic * tau**3 * rise**2))

    return ab


def _root_of_beta(tau, first, last):
    """The integral of √β."""
    return math.sqrt(first) * tau + (math.sqrt(last) - math.sqrt(first)) * tau**2 / 2


def _scaled_linear_cases(g):
    return [(_number(g, 0.2, 1), _number(g, 0.1, 1), _number(g, 5, 15)) for _ in range(5)]


def _reverse_step(x, score, z, beta, length):
    return sde_step(x, reverse_drift(x, score, beta), beta, -length, z)


def _step(of_x=0.5, of_score=1.0, noise=lambda beta, length: math.sqrt(beta * length)):
    def step(x, score, z, beta, length):
        return x + length * beta * (of_x * x + of_score * score) + noise(beta, length) * z

    return step


def _step_cases(g):
    for shape in SHAPES:
        for _ in range(2):
            fields = (_normal(g, *shape) for _ in range(3))
            yield *fields, _number(g, 0.3, 20), _number(g, 0.005, 0.04)


def _family(of_score=lambda eta: (1 + eta**2) / 2, of_x=-0.5):
    def drift(x, score, beta, eta):
        return beta * (of_x * x - of_score(eta) * score)

    return drift


def _family_cases(g):
    for shape in SHAPES:
        for eta in (_number(g, 0.2, 0.8), _number(g, 1.2, 2)):
            yield _normal(g, *shape), _normal(g, *shape), _number(g, 0.3, 20), eta


def _hutchinson(jacobian, z):
    return ((z @ jacobian) * z).sum(1).mean()


def _hutchinson_cases(g):
    return [(_normal(g, d, d), _normal(g, n, d)) for d, n in ((2, 3), (3, 5), (4, 4), (5, 20))]


def _spread(divergence, ab_t, d):
    return (1 - ab_t) / ab_t * (d + (1 - ab_t) * divergence)


def _spread_cases(g):
    for d in (1, 2, 3, 8, 16):
        ab_t = _ab(g)
        shares = torch.rand(4, dtype=torch.float64, generator=g) * 0.8 + 0.1
        yield -shares * d / (1 - ab_t), ab_t, d


def _bits(log_p, d):
    return -log_p / (d * math.log(2)) + math.log2(127.5)


def _bits_cases(g):
    for d in (12, 64, 300, 3072):
        yield _normal(g, 4) * d / 2 + d * _number(g, 0.5, 3), d


# ---- sections 7 to 9: two samples, guidance, training pictures -----------------------------


def _ks(slip=""):
    def distance(a, b):
        points = torch.cat([a, b])
        below_a = (a <= points[:, None]).double().mean(1)
        below_b = (b <= points[:, None]).double().mean(1)
        gap = below_a - below_b
        if slip == "signed":
            return gap.max()
        if slip == "mean":
            return gap.abs().mean()
        if slip == "counts":
            return (len(a) * below_a - len(b) * below_b).abs().max()
        if slip == "first":
            return gap[: len(a)].abs().max()
        if slip == "second":
            return gap[len(a) :].abs().max()
        return gap.abs().max()

    return distance


def _quantiles(a, b):
    """The largest distance of two sorted sets, as far as both go."""
    n = min(len(a), len(b))
    return (a.sort().values[:n] - b.sort().values[:n]).abs().max()


def _ks_cases(g):
    for n, m in ((8, 8), (10, 7), (30, 20), (25, 50)):
        for shift in (0.7, -0.5):
            yield _normal(g, n), _number(g, 0.5, 1.5) * _normal(g, m) + shift


def _class_gradient(eps_c, eps_u, ab_t):
    return score_from_eps(eps_c - eps_u, ab_t)


def _class_cases(g):
    for shape in SHAPES:
        for _ in range(2):
            yield _normal(g, *shape), _normal(g, *shape), _ab(g)


def _tempered(slip=""):
    def gaussian(mean_u, std_u, mean_c, std_c, scale):
        u, c = (std_u, std_c) if slip == "std" else (std_u**2, std_c**2)
        weights = {"w": (-scale, 1 + scale), "classes": (1.0, scale), "turned": (scale, 1 - scale)}
        weights["product"] = 1.0, 1.0
        a, b = weights.get(slip, (1 - scale, scale))
        if slip == "mix":
            return [a * mean_u + b * mean_c, a * std_u + b * std_c]
        precision = a / u + b / c
        weighted, plain = a * mean_u / u + b * mean_c / c, a * mean_u + b * mean_c
        means = {"plain mean": plain, "one mean": plain, "undivided": weighted}
        mean = means.get(slip, weighted / precision)
        spread = {"var": 1 / precision, "precision": precision, "one mean": std_c}
        std = spread.get(slip, abs(precision) ** -0.5)
        return [std, mean] if slip == "exchanged" else [mean, std]

    return gaussian


def _tempered_cases(g):
    for _ in range(5):
        std_u = _number(g, 1, 2)
        std_c = std_u * _number(g, 0.4, 0.8)
        yield _number(g, -1, 1), std_u, _number(g, 1.2, 3), std_c, _number(g, 1.5, 6)


def _nearest(x, pictures):
    gaps = (x.flatten(1)[:, None] - pictures.flatten(1)) ** 2
    return gaps.mean(2).sqrt().amin(1)


def _gaps(x, pictures):
    return (x.flatten(1)[:, None] - pictures.flatten(1)) ** 2  # (b, n, d)


def _nearest_cases(g):
    for shape in ((3,), (1, 4, 4), (3, 2, 2), (5,)):
        yield _normal(g, 4, *shape), _normal(g, 6, *shape)


EXERCISES = {
    "two_cluster_score": Exercise(
        _two_clusters(),
        _two_cluster_cases,
        {
            "The variance of x_t is ᾱ_t std² + 1 - ᾱ_t: the noise is missing": (
                _two_clusters("no noise")
            ),
            "The square of `std` belongs into the variance": _two_clusters("std"),
            "The data's variance shrinks too: it is ᾱ_t std² at time t": _two_clusters("data"),
            "At time t the centres are at ±√ᾱ_t m": _two_clusters("centre"),
            "At time t the centres are at ±√ᾱ_t m, with the root of ᾱ_t": _two_clusters("root"),
            "This is the clean data's score: at time t the centres and the variance have changed": (
                lambda x, centre, std, ab_t: _two_clusters()(x, centre, std, 1.0)
            ),
            "This is the score of a single Gaussian around 0: both centres are missing": (
                _two_clusters("none")
            ),
            "The difference of the two probabilities is tanh(cx/v), without a factor 2": (
                _two_clusters("twice")
            ),
            "The mean of the two centres is c tanh(cx/v): the factor c is missing": (
                _two_clusters("share")
            ),
            "Inside tanh, divide by the variance v": _two_clusters("tanh"),
            "Divide the whole by the variance v": _two_clusters("undivided"),
            "This is the score of one cluster alone: weigh both by Bayes' rule": (
                _two_clusters("one")
            ),
            "Both clusters pull, each by its probability: do not choose the nearer one": (
                _two_clusters("near")
            ),
            "The sign is wrong: far out the score points back": _two_clusters("sign"),
            "This is ε, which is -√(1-ᾱ_t) times the score": _two_clusters("eps"),
        },
        level="middle",
        goal="write the score of two clusters in closed form",
    ),
    "score_loss": Exercise(
        _score_loss,
        _score_loss_cases,
        {
            "Take the sum over a sample's numbers, not their mean": lambda s, x0, eps, ab: (
                _score_loss(s, x0, eps, ab) / x0[0].numel()
            ),
            "The conditional score is -ε/√(1-ᾱ_t): your sign is wrong": lambda s, x0, eps, ab: (
                _score_loss(-s, x0, eps, ab)
            ),
            "The weight 1 - ᾱ_t is missing": lambda s, x0, eps, ab: (
                _score_loss(s, x0, eps, ab) / (1 - ab)
            ),
            "There is no ½ here": lambda s, x0, eps, ab: _score_loss(s, x0, eps, ab) / 2,
            "The conditional score is -ε/√(1-ᾱ_t), with a root": lambda s, x0, eps, ab: (
                (1 - ab) * _sum((s + eps / (1 - ab)) ** 2)
            ),
            "Compare with the score, not with the noise": lambda s, x0, eps, ab: (
                (1 - ab) * _sum((s - eps) ** 2)
            ),
            "The error is ε + √(1-ᾱ_t) s_θ: the root is missing": lambda s, x0, eps, ab: _sum(
                (s + eps) ** 2
            ),
            "The conditional score is -ε/√(1-ᾱ_t): the division is missing": (
                lambda s, x0, eps, ab: (1 - ab) * _sum((s + eps) ** 2)
            ),
            "This is the norm: its square is the loss": lambda s, x0, eps, ab: _score_loss(
                s, x0, eps, ab
            ).sqrt(),
            "The weight is 1 - ᾱ_t, not its root": lambda s, x0, eps, ab: (
                _score_loss(s, x0, eps, ab) / math.sqrt(1 - ab)
            ),
            "The weight is the noise's share, 1 - ᾱ_t": lambda s, x0, eps, ab: (
                _score_loss(s, x0, eps, ab) / (1 - ab) * ab
            ),
        },
        level="easy",
        goal="write denoising score matching with the weight that makes it L_simple",
    ),
    "likelihood_weight": Exercise(
        lambda beta, ab_t: beta / (2 * (1 - ab_t)),
        _weight_cases,
        {
            "The ½ of the loss is missing": lambda beta, ab_t: beta / (1 - ab_t),
            "Divide by 1 - ᾱ_t, not by its root": lambda beta, ab_t: beta / 2 / math.sqrt(1 - ab_t),
            "The score is ε divided by √(1-ᾱ_t), not multiplied": lambda beta, ab_t: (
                beta / 2 * (1 - ab_t)
            ),
            "β is the square of the noise's factor already": lambda beta, ab_t: (
                beta**2 / (2 * (1 - ab_t))
            ),
            "√β is the noise's factor, and the weight is its square": lambda beta, ab_t: (
                math.sqrt(beta) / (2 * (1 - ab_t))
            ),
            "The squared error of ε is what stands there: no ᾱ_t": lambda beta, ab_t: (
                beta * ab_t / (2 * (1 - ab_t))
            ),
            "For very short steps α_t goes to 1: do not divide by it": lambda beta, ab_t: (
                beta / (2 * (1 - beta) * (1 - ab_t))
            ),
            "The weight ½ β has the factor β": lambda beta, ab_t: 1 / (2 * (1 - ab_t)),
            "The error of the score is that of ε over √(1-ᾱ_t), and is squared once": (
                lambda beta, ab_t: beta / (2 * (1 - ab_t) ** 2)
            ),
        },
        level="middle",
        goal="find the loss weight that bounds the likelihood",
    ),
    "langevin_variance": Exercise(
        _langevin_variance,
        _langevin_cases,
        {
            "This is the variance for a step of length 0": lambda std, a: std**2,
            "The variance comes out too large, not too small": lambda std, a: (
                std**2 / (1 + a / (4 * std**2))
            ),
            "(1 - a/(2 std²))² = 1 - a/std² + a²/(4 std⁴): look at the last term again": (
                lambda std, a: std**2 / (1 - a / (2 * std**2))
            ),
            "The drift has a/2, not a": lambda std, a: a / (1 - (1 - a / std**2) ** 2),
            "The noise has the variance a, not a²": lambda std, a: (
                a**2 / (1 - (1 - a / (2 * std**2)) ** 2)
            ),
            "The noise has the variance a, not a/2": lambda std, a: _langevin_variance(std, a) / 2,
            "The variance is multiplied by the square of 1 - a/(2 std²)": lambda std, a: 2 * std**2,
            "This is the standard deviation": lambda std, a: math.sqrt(_langevin_variance(std, a)),
            "The score of a Gaussian is -x/std², with the square": lambda std, a: (
                a / (1 - (1 - a / (2 * std)) ** 2)
            ),
            "This is one step without its drift, which shrinks x before the noise is added": (
                lambda std, a: std**2 + a
            ),
            "The noise is √a z, and its variance is a": lambda std, a: (
                math.sqrt(a) / (1 - (1 - a / (2 * std**2)) ** 2)
            ),
            "The drift points to the middle: x is multiplied by 1 - a/(2 std²)": lambda std, a: (
                a / (1 - (1 + a / (2 * std**2)) ** 2)
            ),
        },
        level="middle",
        goal="compute the bias of Langevin dynamics with steps of a length",
    ),
    "annealed_steps": Exercise(
        _annealed,
        _annealed_cases,
        {
            "Divide by the last σ, the smallest, not by the first": lambda sigmas, step: (
                step * sigmas**2 / sigmas[0] ** 2
            ),
            "The length goes with the square of σ": lambda sigmas, step: step * sigmas / sigmas[-1],
            "The ratio is upside down: where there is more noise, steps are longer": (
                lambda sigmas, step: step * sigmas[-1] ** 2 / sigmas**2
            ),
            "The division by the last σ² is missing": lambda sigmas, step: step * sigmas**2,
            "The factor `step` is missing": lambda sigmas, step: sigmas**2 / sigmas[-1] ** 2,
            "a_i itself is wanted: Langevin's step divides it by 2": lambda sigmas, step: (
                _annealed(sigmas, step) / 2
            ),
            "The length goes with the square of σ, not with its root": lambda sigmas, step: (
                step * (sigmas / sigmas[-1]).sqrt()
            ),
            "The steps follow the σ, in their order": lambda sigmas, step: _annealed(
                sigmas, step
            ).flip(0),
        },
        level="easy",
        goal="choose the step lengths of annealed Langevin dynamics",
    ),
    "scaled_linear_alpha_bar": Exercise(
        _scaled_linear(),
        _scaled_linear_cases,
        {
            "This is linear in β: here √β is linear": _scaled_linear(square=True),
            "The mixed term of the square is missing": _scaled_linear(cross=0),
            "The mixed term is 2 √first (√last - √first) r, and its integral has τ²": (
                _scaled_linear(cross=0.5)
            ),
            "The integral of r² is τ³/3": _scaled_linear(cubic=1 / 2),
            "The integral of r² is τ³/3: the 3 is missing": _scaled_linear(cubic=1.0),
            "This is the integral: ᾱ is exp of minus it": lambda *a: (
                -math.log(_scaled_linear()(*a))
            ),
            "The minus sign of the exponent is missing": lambda *a: 1 / _scaled_linear()(*a),
            "The exponent has no ½: that belongs to √ᾱ": lambda *a: math.sqrt(_scaled_linear()(*a)),
            "Integrate β from 0 to τ; this is β(τ) times τ": lambda tau, first, last: math.exp(
                -tau * (math.sqrt(first) + tau * (math.sqrt(last) - math.sqrt(first))) ** 2
            ),
            "This is the integral of √β: take the square first": lambda *a: math.exp(
                -_root_of_beta(*a)
            ),
            "The integral of a square is not the square of the integral": lambda *a: math.exp(
                -(_root_of_beta(*a) ** 2)
            ),
            "1 - β is for one step of a chain: integrate β, and take exp of minus that": (
                lambda tau, first, last: (
                    1 - (math.sqrt(first) + tau * (math.sqrt(last) - math.sqrt(first))) ** 2
                )
            ),
            "The integral ends at τ, not at 1": lambda tau, first, last: _scaled_linear()(
                1.0, first, last
            ),
        },
        level="middle",
        goal="integrate Stable Diffusion's own schedule",
    ),
    "reverse_step": Exercise(
        _reverse_step,
        _step_cases,
        {
            "With noise the whole score is needed: ½ belongs to the ODE": _step(of_score=0.5),
            "The factor of x is ½ β: the ½ is missing": _step(of_x=1.0),
            "Time runs backwards, so x grows: the sign of ½ β x is wrong": _step(of_x=-0.5),
            "Time runs backwards, so the step goes uphill: the score's sign is wrong": (
                _step(of_score=-1.0)
            ),
            "Time runs backwards: dτ is minus the length": _step(of_x=-0.5, of_score=-1.0),
            "The fresh noise is missing": _step(noise=lambda beta, length: 0.0),
            "The noise has the standard deviation √(β length): the root is missing": (
                _step(noise=lambda beta, length: beta * length)
            ),
            "The noise has β under the root too": _step(noise=lambda b, length: math.sqrt(length)),
            "The noise grows with the root of the length": (
                _step(noise=lambda beta, length: math.sqrt(beta) * length)
            ),
            "The length of the step is missing under the root": (
                _step(noise=lambda beta, length: math.sqrt(beta))
            ),
            "This is a step of the ODE: the reverse SDE has the whole score, and noise": (
                _step(of_score=0.5, noise=lambda beta, length: 0.0)
            ),
            "This is a step of the forward SDE: the way back needs the score": (
                _step(of_x=-0.5, of_score=0.0)
            ),
            "The score's factor is β: it is missing": lambda x, score, z, beta, length: (
                x + length * (beta / 2 * x + score) + math.sqrt(beta * length) * z
            ),
            "The drift counts for the time of the step: multiply it by the length": (
                lambda x, score, z, beta, length: (
                    x + beta / 2 * x + beta * score + math.sqrt(beta * length) * z
                )
            ),
            "This is the drift alone: return x after the step": (
                lambda x, score, z, beta, length: reverse_drift(x, score, beta)
            ),
            "This is what the step adds: add it to x": lambda x, score, z, beta, length: (
                _reverse_step(x, score, z, beta, length) - x
            ),
            "Add the noise: -z is as likely as z, but this step is made with z": (
                _step(noise=lambda beta, length: -math.sqrt(beta * length))
            ),
        },
        level="easy",
        goal="take a step of the reverse SDE",
    ),
    "family_drift": Exercise(
        _family(),
        _family_cases,
        {
            "η is not squared": _family(lambda eta: (1 + eta) / 2),
            "At η = 0 half of the score is left: 1 + η²": _family(lambda eta: eta**2 / 2),
            "The ½ of the score's factor is missing": _family(lambda eta: 1 + eta**2),
            "Only the part of the noise takes η: ½ + ½ η²": _family(lambda eta: 0.5 + eta**2),
            "More noise needs more of the score, not less": _family(lambda eta: (1 - eta**2) / 2),
            "The factor of x is -½ β and does not depend on η": (
                lambda x, score, beta, eta: (
                    (1 + eta**2) * _family(lambda e: 0.5)(x, score, beta, eta)
                )
            ),
            "The drift points uphill as time runs back: -β times the score": (
                _family(lambda eta: -(1 + eta**2) / 2)
            ),
            "Keep the sign of `reverse_drift`: dτ is negative": lambda *a: -_family()(*a),
            "η is not squared, and the ODE's half of the score is missing": (
                _family(lambda eta: eta)
            ),
            "The ODE's half of the score is always there: add ½ η² to it": (
                _family(lambda eta: eta**2)
            ),
            "The part of the noise has the sign of the ODE's half, and is added to it": (
                _family(lambda eta: -(eta**2) / 2)
            ),
            "This is the Langevin part alone: add the ODE's drift": (
                _family(lambda eta: eta**2 / 2, of_x=0.0)
            ),
            "This is the reverse SDE, for η = 1": _family(lambda eta: 1.0),
            "This is the ODE, for η = 0": _family(lambda eta: 0.5),
            "The factor of x is -½ β": _family(of_x=-1.0),
        },
        level="middle",
        goal="keep the marginals with any amount of noise",
    ),
    "hutchinson_mean": Exercise(
        _hutchinson,
        _hutchinson_cases,
        {
            "This is the exact trace: use the probes": lambda j, z: j.trace(),
            "Take the mean over the probes, not the sum": lambda j, z: _hutchinson(j, z) * len(z),
            "The second z is missing: multiply zᵀJ by z again": lambda j, z: (z @ j).sum(1).mean(),
            "This is ‖Jz‖²: multiply Jz by z, not by itself": lambda j, z: (
                ((z @ j.T) ** 2).sum(1).mean()
            ),
            "Sum over the d numbers of a probe, and take the mean over the probes": (
                lambda j, z: ((z @ j) * z).mean()
            ),
            "Only the diagonal of J is in this: use the whole matrix": lambda j, z: (
                (j.diagonal() * z**2).sum(1).mean()
            ),
            "Multiply each probe with itself, not the means of the probes": lambda j, z: (
                z.mean(0) @ j @ z.mean(0)
            ),
        },
        level="middle",
        goal="estimate a trace from products with random vectors",
    ),
    "bits_per_number": Exercise(
        _bits,
        _bits_cases,
        {
            "A likely picture takes few bits: the sign of log p is wrong": lambda log_p, d: (
                log_p / (d * math.log(2)) + math.log2(127.5)
            ),
            "Nats become bits by a division by ln 2": lambda log_p, d: (
                -log_p / d + math.log2(127.5)
            ),
            "Divide log p by the count of numbers": lambda log_p, d: (
                -log_p / math.log(2) + math.log2(127.5)
            ),
            "A density is no probability: the width of a grey level is missing": (
                lambda log_p, d: -log_p / (d * math.log(2))
            ),
            "The levels are 2/255 apart in -1..1, not 1/255": lambda log_p, d: (
                -log_p / (d * math.log(2)) + math.log2(255)
            ),
            "A narrow level has a small probability, which takes more bits": lambda log_p, d: (
                -log_p / (d * math.log(2)) - math.log2(127.5)
            ),
            "The width counts once for each number, so it is not divided by d": lambda log_p, d: (
                -log_p / (d * math.log(2)) + math.log2(127.5) / d
            ),
            "All of this is in nats: divide by ln 2": lambda log_p, d: -log_p / d + math.log(127.5),
            "The width of a level is 2/255, so this is log2(127.5) and not 8": lambda log_p, d: (
                -log_p / (d * math.log(2)) + 8
            ),
            "The width of a level is 2/255, so this is log2(127.5) and not 7": lambda log_p, d: (
                -log_p / (d * math.log(2)) + 7
            ),
            "The width is in nats still: use the logarithm to base 2": lambda log_p, d: (
                -log_p / (d * math.log(2)) + math.log(127.5)
            ),
        },
        level="easy",
        goal="turn a log density into bits for each number",
    ),
    "x0_spread": Exercise(
        _spread,
        _spread_cases,
        {
            "The factor (1-ᾱ_t)/ᾱ_t is missing": lambda div, ab, d: d + (1 - ab) * div,
            "The divergence has the factor 1 - ᾱ_t": lambda div, ab, d: (1 - ab) / ab * (d + div),
            "The factor of the divergence is 1 - ᾱ_t, not its root": lambda div, ab, d: (
                (1 - ab) / ab * (d + math.sqrt(1 - ab) * div)
            ),
            "There are d numbers: the trace of the unit matrix is d": lambda div, ab, d: (
                (1 - ab) / ab * (1 + (1 - ab) * div)
            ),
            "The sign of the divergence is wrong: it is negative, and lowers the spread": (
                lambda div, ab, d: (1 - ab) / ab * (d - (1 - ab) * div)
            ),
            "The ratio is upside down: with more noise x_0 is less certain": lambda div, ab, d: (
                ab / (1 - ab) * (d + (1 - ab) * div)
            ),
            "Divide by ᾱ_t, not by its root": lambda div, ab, d: (
                _spread(div, ab, d) * math.sqrt(ab)
            ),
            "This is the mean over the d numbers: the sum is wanted": lambda div, ab, d: (
                _spread(div, ab, d) / d
            ),
            "The squared distance is wanted, not its root": lambda div, ab, d: _spread(
                div, ab, d
            ).sqrt(),
            "The trace of the unit matrix, d, is missing": lambda div, ab, d: (
                (1 - ab) ** 2 / ab * div
            ),
            "The divergence is a sum over the d numbers already: it has no factor d": (
                lambda div, ab, d: (1 - ab) / ab * d * (1 + (1 - ab) * div)
            ),
            "This is the part of ε: divide by ᾱ_t": lambda div, ab, d: (
                (1 - ab) * (d + (1 - ab) * div)
            ),
        },
        level="hard",
        goal="read off the divergence how far x_0 is known",
    ),
    "ks_distance": Exercise(
        _ks(),
        _ks_cases,
        {
            "Take the absolute value of the gap: it may have either sign": _ks("signed"),
            "Take the largest gap, not the mean": _ks("mean"),
            "Compare shares, not counts": _ks("counts"),
            "Look for the gap at the points of b too": _ks("first"),
            "Look for the gap at the points of a too": _ks("second"),
            "Compare shares below a point, not the sorted numbers": _quantiles,
        },
        level="middle",
        goal="write the two-sample test of Kolmogorov and Smirnov",
        given=("largest_gap",),
    ),
    "class_gradient": Exercise(
        _class_gradient,
        _class_cases,
        {
            "The sign is wrong: ε points to where the class is less probable": (
                lambda c, u, ab: -_class_gradient(c, u, ab)
            ),
            "The division by √(1-ᾱ_t) is missing": lambda c, u, ab: u - c,
            "The division by √(1-ᾱ_t) is missing, and the sign is wrong": lambda c, u, ab: c - u,
            "Divide by the root of 1 - ᾱ_t": lambda c, u, ab: (u - c) / (1 - ab),
            "Divide, do not multiply, by √(1-ᾱ_t)": lambda c, u, ab: math.sqrt(1 - ab) * (u - c),
            "Divide by √(1-ᾱ_t), the noise's factor, not by √ᾱ_t": lambda c, u, ab: (
                (u - c) / math.sqrt(ab)
            ),
            "Divide by the root of 1 - ᾱ_t; and the sign is wrong": lambda c, u, ab: (
                (c - u) / (1 - ab)
            ),
            "Divide, do not multiply, by √(1-ᾱ_t); and the sign is wrong": lambda c, u, ab: (
                math.sqrt(1 - ab) * (c - u)
            ),
            "The unconditional prediction must be subtracted": lambda c, u, ab: score_from_eps(
                c, ab
            ),
            "The unconditional prediction must be subtracted; and the sign is wrong": (
                lambda c, u, ab: -score_from_eps(c, ab)
            ),
        },
        level="easy",
        goal="find the classifier that two predictions contain",
    ),
    "tempered_gaussian": Exercise(
        _tempered(),
        _tempered_cases,
        {
            "This is a mixture of means and widths: add the exponents of the densities": (
                _tempered("mix")
            ),
            "The exponent has the variances, the squares": _tempered("std"),
            "g counts as in SD: the exponents are 1 - g and g": _tempered("w"),
            "q(x|c)^g replaces q(x), it is not multiplied: the exponents are 1 - g and g": (
                _tempered("classes")
            ),
            "The exponents are exchanged: q(x|c) has g": _tempered("turned"),
            "Weigh the means by the precisions": _tempered("plain mean"),
            "The second number is a standard deviation: the root is missing": _tempered("var"),
            "This is the precision, 1 over the variance": _tempered("precision"),
            "The mean comes first, then the standard deviation": _tempered("exchanged"),
            "This is q(x) q(x|c): the exponents 1 - g and g are missing": _tempered("product"),
            "Divide the weighted sum of the means by the sum of the weights": (
                _tempered("undivided")
            ),
            "This guides the mean alone: weigh it by the precisions, and compute the width": (
                _tempered("one mean")
            ),
        },
        level="hard",
        goal="compute what guidance is often said to sample",
    ),
    "nearest_distance": Exercise(
        _nearest,
        _nearest_cases,
        {
            "Take the mean over a picture's numbers, not the sum": lambda x, p: (
                _gaps(x, p).sum(2).sqrt().amin(1)
            ),
            "The root is missing": lambda x, p: _gaps(x, p).mean(2).amin(1),
            "Take the nearest picture, not the farthest": lambda x, p: (
                _gaps(x, p).mean(2).sqrt().amax(1)
            ),
            "Take the nearest picture, not the mean over all": lambda x, p: (
                _gaps(x, p).mean(2).sqrt().mean(1)
            ),
            "One whole picture is the nearest: first the mean over its numbers, then the least": (
                lambda x, p: _gaps(x, p).amin(1).mean(1).sqrt()
            ),
            "Take squares, then the root: this is the mean of absolute differences": (
                lambda x, p: _gaps(x, p).sqrt().mean(2).amin(1)
            ),
            "This is the number of the nearest picture: return its distance": lambda x, p: (
                _gaps(x, p).mean(2).argmin(1)
            ),
            "A root mean square has d under the root: divide by √d, not by d": lambda x, p: (
                _gaps(x, p).sum(2).sqrt().amin(1) / x[0].numel()
            ),
            "Find the nearest for each x, not for each training picture": lambda x, p: _nearest(
                p, x
            ),
        },
        level="easy",
        goal="measure how far a sample is from its nearest training picture",
        given=("nearest",),
    ),
}

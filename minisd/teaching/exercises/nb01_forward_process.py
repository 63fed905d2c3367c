"""Exercises of notebook 01."""

import math

import torch

from ...equations import q_sample
from ...schedules import alpha_bar, cosine_betas, linear_betas, scaled_linear_betas, snr, sqrt_betas
from ..checking import Exercise


def betas_back(alphas_cumprod):
    return 1 - alphas_cumprod / torch.cat([torch.ones(1).double(), alphas_cumprod[:-1]])


def variance_after(v_0, betas):
    return alpha_bar(betas)[-1] * v_0 + 1 - alpha_bar(betas)[-1]


def _loop(step, start=None):
    """The slip that goes through the betas with a wrong step(v, β)."""

    def slip(v_0, betas):
        v = v_0 if start is None else start
        for beta in betas.tolist():
            v = step(v, beta)
        return v

    return slip


def jump_between(x_s, eps, ab_t, ab_s):
    return q_sample(x_s, eps, ab_t / ab_s)


def _weights(betas):
    """√β_i √(ᾱ_t/ᾱ_i), how much of step i's noise is left after the last step t."""
    ab = alpha_bar(betas)
    return (betas * ab[-1] / ab[1:]).sqrt()


def _mixed(weights, eps_steps):
    return torch.tensordot(weights, eps_steps, 1)


def one_eps(eps_steps, betas):
    return _mixed(_weights(betas), eps_steps) / (1 - alpha_bar(betas)[-1]).sqrt()


def first_time_below(ab, level):
    return int((snr(ab) < level).nonzero()[0])


def _cosine(
    T, s, max_beta, power=2, clip=True, divide=True, share=None, turn=math.pi / 2, n=None, above=1
):
    t = torch.arange(T + 1 if n is None else n).double()
    f = torch.cos((t / T + above * s) / (1 + s if share is None else share) * turn) ** power
    betas = 1 - f[1:] / (f[:-1] if divide else f[0])
    return betas.clamp(max=max_beta) if clip else betas


def _spreads(generator):
    yield 1.0, linear_betas(20)
    yield 0.25, scaled_linear_betas()[:10]
    yield 0.0, scaled_linear_betas()[:3]
    yield 4.0, torch.tensor([0.3, 0.9, 0.5], dtype=torch.float64)
    yield 0.5, torch.tensor([1.0], dtype=torch.float64)


def _pairs(generator):
    ab = alpha_bar(scaled_linear_betas())
    for shape, t, s in [((2, 3), 500, 400), ((1, 4, 8, 8), 2, 1), ((5,), 1, 0), ((3,), 1000, 0)]:
        x_s, eps = torch.randn((2, *shape), dtype=torch.float64, generator=generator)
        yield x_s, eps, ab[t], ab[s]


def _walks(generator):
    for betas in [scaled_linear_betas()[:5], cosine_betas(4), linear_betas(1), sqrt_betas(30)]:
        yield torch.randn(len(betas), 2, 3, dtype=torch.float64, generator=generator), betas


def _levels(generator):
    ab = alpha_bar(scaled_linear_betas())
    yield ab, 1.0
    yield ab, 5.0
    yield ab, 0.1
    yield alpha_bar(linear_betas()), 0.01
    yield alpha_bar(cosine_betas(50)), 1000.0


def _alphas_cumprod(generator):
    for betas in [scaled_linear_betas(), cosine_betas(50), torch.tensor([0.25]).double()]:
        yield (alpha_bar(betas)[1:],)


EXERCISES = {
    "variance_after": Exercise(
        variance_after,
        _spreads,
        {
            "a factor on x is a squared factor on the variance: 1-β, not √(1-β)": _loop(
                lambda v, beta: math.sqrt(1 - beta) * v + beta
            ),
            "the old part shrinks before the noise is added": _loop(lambda v, beta: v + beta),
            "β is the variance of the added noise already, not its standard deviation": _loop(
                lambda v, beta: (1 - beta) * v + beta**2
            ),
            "√β is the noise's standard deviation; variances add, so β": _loop(
                lambda v, beta: (1 - beta) * v + math.sqrt(beta)
            ),
            "the noise of each step adds its own variance, β": _loop(
                lambda v, beta: (1 - beta) * v
            ),
            "v_0 is missing: the data has a variance of its own to start with": _loop(
                lambda v, beta: (1 - beta) * v + beta, 0.0
            ),
            "this is a standard deviation; return the variance, without a root": (
                lambda v_0, betas: variance_after(v_0, betas) ** 0.5
            ),
            "noise that was added early shrinks in the later steps, too": lambda v_0, betas: (
                alpha_bar(betas)[-1] * v_0 + betas.sum()
            ),
            "β and 1-β are swapped: the old part keeps the share 1-β": _loop(
                lambda v, beta: beta * v + 1 - beta
            ),
            "return one number, the variance after the last step, not one after each": (
                lambda v_0, betas: alpha_bar(betas)[1:] * v_0 + 1 - alpha_bar(betas)[1:]
            ),
            "this is the last step only": lambda v_0, betas: (1 - betas[-1]) * v_0 + betas[-1],
            "the factors on x are √(1-β); the variance has their squares": lambda v_0, betas: (
                alpha_bar(betas)[-1].sqrt() * v_0 + 1 - alpha_bar(betas)[-1].sqrt()
            ),
            "variances add, standard deviations do not: use 1-β and β": _loop(
                lambda v, beta: math.sqrt(1 - beta) * v + math.sqrt(beta)
            ),
            "1-β and β are shares of the variance already: do not square them": _loop(
                lambda v, beta: (1 - beta) ** 2 * v + beta**2
            ),
        },
        level="easy",
        goal="follow the variance of any data through the noising steps",
    ),
    "cosine_betas": Exercise(
        cosine_betas,
        lambda generator: [(1000, 0.008, 0.999), (10, 0.008, 0.999), (50, 0.1, 0.5), (1, 0.0, 1.0)],
        {
            "β_t compares ᾱ_t with ᾱ_{t-1}: 1 - ᾱ_t is the noise of all steps, not of one": (
                lambda T, s, m: _cosine(T, s, m, divide=False)
            ),
            "the last β would be 1: clip at max_beta": lambda T, s, m: _cosine(T, s, m, clip=False),
            "the cosine is squared": lambda T, s, m: _cosine(T, s, m, power=1),
            "the offset is missing in the numerator and in the denominator": lambda T, s, m: (
                _cosine(T, 0.0, m)
            ),
            "the offset is missing in the denominator: divide by 1 + offset": (
                lambda T, s, m: _cosine(T, s, m, share=1)
            ),
            "the angle goes to π/2, a quarter of a turn": lambda T, s, m: _cosine(
                T, s, m, turn=math.pi
            ),
            "the factor π/2 is missing in the cosine": lambda T, s, m: _cosine(T, s, m, turn=1),
            "this is α_t; β_t is 1 - α_t": lambda T, s, m: 1 - _cosine(T, s, m, clip=False),
            "this is ᾱ_t, and it is correct; the betas are 1 - ᾱ_t/ᾱ_{t-1}": lambda T, s, m: (
                1 - _cosine(T, s, m, clip=False, divide=False)
            ),
            "the offset is missing in the numerator: t/T + offset": lambda T, s, m: _cosine(
                T, s, m, above=0
            ),
            "t begins with 0, where ᾱ is 1; the first β is missing": lambda T, s, m: _cosine(
                T, s, m
            )[1:],
            "T betas need T + 1 values of ᾱ: t runs from 0 to T, both included": (
                lambda T, s, m: _cosine(T, s, m, n=T)
            ),
        },
        level="middle",
        goal="read betas off the signal that is wanted, iDDPM's cosine",
    ),
    "betas_back": Exercise(
        betas_back,
        _alphas_cumprod,
        {
            "1 - ᾱ_t is the noise of all steps so far, β_t that of one": lambda ab: 1 - ab,
            "this is α_t; β_t is 1 - α_t": lambda ab: 1 - betas_back(ab),
            "these are T - 1 numbers: β_1 is missing, for which ᾱ_0 = 1 has to be put in front": (
                lambda ab: 1 - ab[1:] / ab[:-1]
            ),
            "the first β is 1 - ᾱ_1, not 0: before the first entry comes ᾱ_0 = 1": (
                lambda ab: 1 - ab / torch.cat([ab[:1], ab[:-1]])
            ),
            "before the first entry comes ᾱ_0, which is 1, and not 0": lambda ab: (
                1 - ab / torch.cat([ab.new_zeros(1), ab[:-1]])
            ),
            "the ratio is upside down: α_t = ᾱ_t/ᾱ_{t-1}": lambda ab: 1 - 1 / (1 - betas_back(ab)),
            "the sign: α_t is at most 1, so β_t = 1 - α_t is not negative": lambda ab: (
                -betas_back(ab)
            ),
            "α_t is a share of the variance: the ratio ᾱ_t/ᾱ_{t-1} itself, without a root": (
                lambda ab: 1 - (1 - betas_back(ab)).sqrt()
            ),
            "a product is undone by dividing, not by subtracting": lambda ab: (
                torch.cat([ab.new_ones(1), ab[:-1]]) - ab
            ),
            "β_t is 1 - α_t; -ln α_t is only close to this": lambda ab: -(1 - betas_back(ab)).log(),
        },
        level="middle",
        goal="recover the betas from alphas_cumprod alone",
    ),
    "one_eps": Exercise(
        one_eps,
        _walks,
        {
            "this is the noise in x_t, √(1-ᾱ_t) ε; divide by its standard deviation": lambda e, b: (
                _mixed(_weights(b), e)
            ),
            "the steps have different weights: early noise has shrunk, and the βs differ": (
                lambda e, b: e.sum(0) / math.sqrt(len(b))
            ),
            "a mean of independent noises is smaller than each": lambda e, b: e.mean(0),
            "the noise of step i shrinks only in the steps after i: √(ᾱ_t/ᾱ_i), not √ᾱ_t": (
                lambda e, b: (
                    _mixed((b * alpha_bar(b)[-1]).sqrt(), e) / (1 - alpha_bar(b)[-1]).sqrt()
                )
            ),
            "the noise of each step shrinks in the steps after it": lambda e, b: (
                _mixed(b.sqrt(), e) / (1 - alpha_bar(b)[-1]).sqrt()
            ),
            "a step does not shrink its own noise: √(ᾱ_t/ᾱ_i), not √(ᾱ_t/ᾱ_{i-1})": lambda e, b: (
                _mixed((b * alpha_bar(b)[-1] / alpha_bar(b)[:-1]).sqrt(), e)
                / (1 - alpha_bar(b)[-1]).sqrt()
            ),
            "√(1-ᾱ_t) is the standard deviation to divide by, not 1-ᾱ_t": lambda e, b: (
                _mixed(_weights(b), e) / (1 - alpha_bar(b)[-1])
            ),
            "roots are missing: β_i and ᾱ_t/ᾱ_i are variances": lambda e, b: (
                _mixed(_weights(b) ** 2, e) / (1 - alpha_bar(b)[-1]).sqrt()
            ),
            "this is a plain sum: each noise needs its weight, and the sum its scale": (
                lambda e, b: e.sum(0)
            ),
            "each noise shrinks in the steps after it, and the sum has to be scaled": (
                lambda e, b: _mixed(b.sqrt(), e)
            ),
            "the weights √β_i are those before any shrinking: early noise counts less": (
                lambda e, b: _mixed(b.sqrt(), e) / b.sum().sqrt()
            ),
            "this is the noise of the last step alone": lambda e, b: e[-1],
        },
        level="hard",
        goal="melt the noises of many steps into the one of the jump",
    ),
    "jump_between": Exercise(
        jump_between,
        _pairs,
        {
            "ᾱ_t counts from t = 0; x_s has some of those steps behind it": (
                lambda x, e, ab_t, ab_s: q_sample(x, e, ab_t)
            ),
            "1-ᾱ_t is the noise of the whole way from x_0; the steps after s add 1-ᾱ_t/ᾱ_s": (
                lambda x, e, ab_t, ab_s: (ab_t / ab_s).sqrt() * x + (1 - ab_t).sqrt() * e
            ),
            "1-ᾱ_s is the noise that x_s has already; the steps after s add 1-ᾱ_t/ᾱ_s": (
                lambda x, e, ab_t, ab_s: (ab_t / ab_s).sqrt() * x + (1 - ab_s).sqrt() * e
            ),
            "s and t are swapped: x_s is the earlier, cleaner picture": lambda x, e, ab_t, ab_s: (
                q_sample(x, e, ab_s)
            ),
            "the ratio is upside down: the steps after s leave ᾱ_t/ᾱ_s": lambda x, e, ab_t, ab_s: (
                (ab_s / ab_t).sqrt() * x + (1 - ab_s / ab_t).abs().sqrt() * e
            ),
            "variances of noise do not subtract like this: the older noise shrank on the way": (
                lambda x, e, ab_t, ab_s: (ab_t / ab_s).sqrt() * x + (ab_s - ab_t).sqrt() * e
            ),
            "roots are missing: ratios of ᾱ are variances": lambda x, e, ab_t, ab_s: (
                ab_t / ab_s * x + (1 - ab_t / ab_s) * e
            ),
            "the signal's factor needs a root": lambda x, e, ab_t, ab_s: (
                ab_t / ab_s * x + (1 - ab_t / ab_s).sqrt() * e
            ),
            "the noise's factor needs a root": lambda x, e, ab_t, ab_s: (
                (ab_t / ab_s).sqrt() * x + (1 - ab_t / ab_s) * e
            ),
            "x_s becomes smaller too, by √(ᾱ_t/ᾱ_s)": lambda x, e, ab_t, ab_s: (
                x + (1 - ab_t / ab_s).sqrt() * e
            ),
            "standard deviations do not subtract: the steps after s add 1-ᾱ_t/ᾱ_s": (
                lambda x, e, ab_t, ab_s: (
                    (ab_t / ab_s).sqrt() * x + ((1 - ab_t).sqrt() - (1 - ab_s).sqrt()) * e
                )
            ),
            "what the steps after s leave is the ratio ᾱ_t/ᾱ_s, not the difference": (
                lambda x, e, ab_t, ab_s: q_sample(x, e, ab_s - ab_t)
            ),
        },
        level="middle",
        goal="jump from any earlier noisy x_s to x_t",
    ),
    "first_time_below": Exercise(
        first_time_below,
        _levels,
        {
            "one too early: this is the last time with a higher SNR, or the official index": (
                lambda ab, level: first_time_below(ab, level) - 1
            ),
            "one too late: ab[0] belongs to t = 0": lambda ab, level: (
                first_time_below(ab, level) + 1
            ),
            "this compares ᾱ with the level, where SNR = ᾱ/(1-ᾱ) is meant": lambda ab, level: int(
                (ab < level).nonzero()[0]
            ),
            "SNR is a ratio of variances, without roots": lambda ab, level: int(
                (snr(ab).sqrt() < level).nonzero()[0]
            ),
            "this is noise over signal; SNR is signal over noise": lambda ab, level: int(
                (1 / snr(ab) < level).nonzero()[0]
            ),
            "this counts from the other end, or finds the last time": lambda ab, level: int(
                (snr(ab) < level).nonzero()[-1]
            ),
            "this is how many times are below the level, not the first of them": (
                lambda ab, level: int((snr(ab) < level).sum())
            ),
            "level is one of SNR, not of log SNR": lambda ab, level: int(
                (snr(ab).log() < level).nonzero()[0]
            ),
        },
        level="middle",
        goal="find the time at which a level of SNR is passed",
    ),
}

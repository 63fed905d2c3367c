"""Exercises of notebook 07."""

import torch

from ...equations import (
    eps_from_v,
    guided_eps,
    multistep_eps,
    q_sample,
    q_step,
    velocity,
    x0_from_v,
)
from ...schedules import (
    alpha_bar,
    cosine_betas,
    linear_betas,
    scaled_linear_betas,
    zero_terminal_snr,
)
from ..checking import Exercise


def _randn(generator, *shape):
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def _number(value):
    return torch.tensor(value, dtype=torch.float64)


_SHAPES = [(2, 3), (1, 4, 8, 8), (5,), (3, 2)]
_SIGNALS = [0.3, 0.9958, 0.0047, 0.64]  # ᾱ_t


def _from_v_cases(generator):
    """x_t, v, ᾱ_t, both ends of the circle included."""
    for shape, ab_t in zip([*_SHAPES, (4,), (4,)], [*_SIGNALS, 0.0, 1.0], strict=True):
        yield *_randn(generator, 2, *shape), _number(ab_t)


def _v_from_x0(x_t, x0, ab_t):
    return (ab_t.sqrt() * x_t - x0) / (1 - ab_t).sqrt()


def _v_from_x0_cases(generator):
    for shape, ab_t in zip([*_SHAPES, (4,)], [*_SIGNALS, 0.0], strict=True):
        yield *_randn(generator, 2, *shape), _number(ab_t)


def _rotation(x_t, v, ab_t, ab_s):
    turn = ab_t.sqrt().acos() - ab_s.sqrt().acos()
    return turn.cos() * x_t - turn.sin() * v


def _rotation_cases(generator):
    for shape, pair in zip(
        _SHAPES, [(0.3, 0.5), (0.05, 0.9), (0.0, 0.2), (0.64, 1.0)], strict=True
    ):
        yield *_randn(generator, 2, *shape), *map(_number, pair)


def _weight_cases(generator):
    ab_t = torch.rand(6, dtype=torch.float64, generator=generator)
    yield torch.ones(6, dtype=torch.float64), ab_t
    yield torch.rand(6, dtype=torch.float64, generator=generator), ab_t
    yield _number(2.0), _number(0.25)


def _change_guidance(eps_u, guided, s, w):
    return eps_u + (1 + w) / s * (guided - eps_u)


def _change_guidance_cases(generator):
    for shape, (s, w) in zip(
        _SHAPES, [(7.5, 0.0), (7.5, 2.0), (2.0, 6.5), (5.0, -1.0)], strict=True
    ):
        eps_u, eps_c = _randn(generator, 2, *shape)
        yield eps_u, guided_eps(eps_u, eps_c, s), s, w


def _rescale_phi(std_c, std_g, target):
    return (std_g - target) / (std_g - std_c)


def _plms_from_v(xs, vs, abs_):
    shape = [-1, *[1] * (xs.ndim - 1)]
    return multistep_eps(list(eps_from_v(xs, vs, abs_.reshape(shape))))


def _plms_from_v_cases(generator):
    for order, shape in [(4, (2, 3)), (3, (5,)), (2, (1, 2, 2)), (1, (3,)), (4, (1, 4, 4))]:
        xs, vs = _randn(generator, 2, order, *shape)
        yield xs, vs, torch.linspace(0.3, 0.05, order, dtype=torch.float64)


def _convert_last(average):
    return lambda xs, vs, abs_: eps_from_v(xs[0], average(vs), abs_[0])


def _zero_snr(ab):
    root = ab[1:].sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return torch.cat([ab[:1], root**2])


def _zero_snr_cases(generator):
    for betas in (
        scaled_linear_betas(3, 0.1, 0.4),
        scaled_linear_betas(),
        linear_betas(),
        cosine_betas(50),
    ):
        yield (alpha_bar(betas),)


EXERCISES = {
    "x0_from_v": Exercise(
        x0_from_v,
        _from_v_cases,
        {
            "the sign: v points away from x0": lambda x, v, ab: ab.sqrt() * x + (1 - ab).sqrt() * v,
            "roots are missing: √ᾱ_t and √(1-ᾱ_t) are the cosine and the sine": lambda x, v, ab: (
                ab * x - (1 - ab) * v
            ),
            "√ᾱ_t and √(1-ᾱ_t) are swapped": lambda x, v, ab: (1 - ab).sqrt() * x - ab.sqrt() * v,
            "v is not ε: this is the formula for an ε-prediction": lambda x, v, ab: (
                (x - (1 - ab).sqrt() * v) / ab.sqrt()
            ),
        },
        level="easy",
        goal="get x0 back from v by rotating",
        given=(velocity,),
    ),
    "eps_from_v": Exercise(
        eps_from_v,
        _from_v_cases,
        {
            "the sign: v points towards the noise": lambda x, v, ab: (
                (1 - ab).sqrt() * x - ab.sqrt() * v
            ),
            "roots are missing: √ᾱ_t and √(1-ᾱ_t) are the cosine and the sine": lambda x, v, ab: (
                (1 - ab) * x + ab * v
            ),
            "√ᾱ_t and √(1-ᾱ_t) are swapped": lambda x, v, ab: ab.sqrt() * x + (1 - ab).sqrt() * v,
            "at ᾱ_t = 1 that divides by √(1-ᾱ_t) = 0: eliminate x0 without a division": (
                lambda x, v, ab: (x - ab.sqrt() * x0_from_v(x, v, ab)) / (1 - ab).sqrt()
            ),
            "at ᾱ_t = 0 that divides by √ᾱ_t = 0: eliminate x0 without a division": (
                lambda x, v, ab: (v + (1 - ab).sqrt() * x0_from_v(x, v, ab)) / ab.sqrt()
            ),
        },
        level="easy",
        goal="get eps back from v, at both ends of time too",
        given=(q_sample, q_step),
    ),
    "v_from_x0": Exercise(
        _v_from_x0,
        _v_from_x0_cases,
        {
            "the sign: v points away from x0": lambda x, x0, ab: (
                (x0 - ab.sqrt() * x) / (1 - ab).sqrt()
            ),
            "a root is missing in front of x_t": lambda x, x0, ab: (ab * x - x0) / (1 - ab).sqrt(),
            "a root is missing: divide by √(1-ᾱ_t)": lambda x, x0, ab: (
                (ab.sqrt() * x - x0) / (1 - ab)
            ),
            "that is ε: √ᾱ_t belongs to x0 there, and to x_t in v": lambda x, x0, ab: (
                (x - ab.sqrt() * x0) / (1 - ab).sqrt()
            ),
        },
        level="middle",
        goal="translate a network that predicts x0 into v",
    ),
    "ddim_rotation": Exercise(
        _rotation,
        _rotation_cases,
        {
            "turned the wrong way, towards more noise": lambda x, v, t, s: _rotation(x, v, s, t),
            "cosine and sine are swapped": lambda x, v, t, s: (
                (t.sqrt().acos() - s.sqrt().acos()).sin() * x
                - (t.sqrt().acos() - s.sqrt().acos()).cos() * v
            ),
            "a root is missing: the cosine of the angle is √ᾱ": lambda x, v, t, s: (
                (t.acos() - s.acos()).cos() * x - (t.acos() - s.acos()).sin() * v
            ),
            "a straight step leaves the circle: x_t shrinks by the cosine": lambda x, v, t, s: (
                x - (t.sqrt().acos() - s.sqrt().acos()).sin() * v
            ),
        },
        level="middle",
        goal="see a DDIM step without noise as a rotation",
    ),
    "v_loss_weight": Exercise(
        lambda w_eps, ab_t: w_eps * ab_t,
        _weight_cases,
        {
            "the other way round: an error in v is larger than its error in ε": lambda w, ab: (
                w / ab
            ),
            "a loss is a square: no root": lambda w, ab: w * ab.sqrt(),
            "that is the weight of ‖x0 - x̂0‖²": lambda w, ab: w * ab / (1 - ab),
            "ᾱ_t and 1-ᾱ_t are swapped": lambda w, ab: w * (1 - ab),
        },
        level="middle",
        goal="keep the loss the same when the network predicts v",
    ),
    "change_guidance": Exercise(
        _change_guidance,
        _change_guidance_cases,
        {
            "the paper's w is g - 1: w = 0 is the conditional prediction": lambda u, g, s, w: (
                u + w / s * (g - u)
            ),
            "the sign: g is w + 1, not w - 1": lambda u, g, s, w: u + (w - 1) / s * (g - u),
            "`guided` is not the conditional prediction: it has gone g times as far": (
                lambda u, g, s, w: u + (1 + w) * (g - u)
            ),
            "start at the unconditional prediction, not at the guided one": lambda u, g, s, w: (
                g + (1 + w) / s * (u - g)
            ),
        },
        level="middle",
        goal="change the guidance of a finished prediction, in either convention",
    ),
    "rescale_phi": Exercise(
        _rescale_phi,
        lambda generator: [(1.0, 3.0, 1.5), (1.0, 3.0, 3.0), (1.0, 3.0, 1.0), (0.8, 2.0, 1.1)],
        {
            "that is 1-κ": lambda c, g, target: (target - c) / (g - c),
            "κ is a share of the way, not a ratio of spreads": lambda c, g, target: target / g,
            "the guided spread is where κ = 0 stands, not 0": lambda c, g, target: (g - target) / g,
        },
        level="easy",
        goal="choose the share of rescaling that gives a wanted spread",
    ),
    "plms_from_v": Exercise(
        _plms_from_v,
        _plms_from_v_cases,
        {
            "v was averaged and then turned into ε: turn each into ε first": _convert_last(
                lambda vs: multistep_eps(list(vs))
            ),
            "every v belongs to its own x and ᾱ, not to the newest": lambda xs, vs, abs_: (
                multistep_eps([eps_from_v(xs[0], v, ab) for v, ab in zip(vs, abs_, strict=True)])
            ),
            "the newest comes first in the lists": lambda xs, vs, abs_: _plms_from_v(
                xs.flip(0), vs.flip(0), abs_.flip(0)
            ),
            "that is the plain mean; Adams-Bashforth's weights are not equal": (
                lambda xs, vs, abs_: torch.stack(
                    [eps_from_v(x, v, ab) for x, v, ab in zip(xs, vs, abs_, strict=True)]
                ).mean(0)
            ),
            "v is not ε": lambda xs, vs, abs_: multistep_eps(list(vs)),
        },
        level="hard",
        goal="average the right quantity when the network predicts v",
    ),
    "zero_snr_alpha_bar": Exercise(
        _zero_snr,
        _zero_snr_cases,
        {
            "shift and stretch √ᾱ, not ᾱ": lambda ab: torch.cat(
                [ab[:1], (ab[1:] - ab[-1]) * ab[1] / (ab[1] - ab[-1])]
            ),
            "it is shifted but not stretched: ᾱ_1 must stay": lambda ab: torch.cat(
                [ab[:1], (ab[1:].sqrt() - ab[-1].sqrt()) ** 2]
            ),
            "ᾱ_1 must stay, so stretch from t = 1; ᾱ_0 = 1 is no noise and no part of it": (
                lambda ab: ((ab.sqrt() - ab[-1].sqrt()) / (1 - ab[-1].sqrt())) ** 2
            ),
            "ᾱ_0 = 1 stays as it is; only t = 1..T is shifted and stretched": (
                lambda ab: (
                    ((ab.sqrt() - ab[-1].sqrt()) * ab[1].sqrt() / (ab[1].sqrt() - ab[-1].sqrt()))
                    ** 2
                )
            ),
            "these are roots: square them again": lambda ab: _zero_snr(ab).sqrt(),
        },
        level="middle",
        goal="make a schedule end in noise alone",
        given=(zero_terminal_snr,),
    ),
    "brightness_left": Exercise(
        lambda ab_T, d: (1 / (1 + ab_T * (d - 1))) ** 0.5,
        lambda generator: [(0.0046601, d) for d in (1, 256, 4096, 16384)] + [(0.0, 4096), (0.3, 9)],
        {
            "that is a ratio of variances": lambda ab_T, d: 1 / (1 + ab_T * (d - 1)),
            "the noise in x_T has variance 1-ᾱ_T, not 1": lambda ab_T, d: (
                (1 / (1 + ab_T * d)) ** 0.5
            ),
            "upside down: the true spread of x_T is the larger one": lambda ab_T, d: (
                (1 + ab_T * (d - 1)) ** 0.5
            ),
            "the signal's share of the variance is ᾱ_T, not √ᾱ_T": lambda ab_T, d: (
                (1 / (1 + ab_T**0.5 * (d - 1))) ** 0.5
            ),
        },
        level="middle",
        goal="see why a schedule that leaks keeps pictures grey",
    ),
}

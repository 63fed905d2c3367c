"""Exercises of notebook 07."""

import math

import torch

from ...equations import (
    eps_from_v,
    guided_eps,
    multistep_eps,
    q_sample,
    q_step,
    turned,
    v_from_x0,
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


def _turned(x_t, v, turn):
    return turn.cos() * x_t - turn.sin() * v


def _angle(ab):
    return ab.sqrt().acos()


def _rotation(x_t, v, ab_t, ab_s):
    return _turned(x_t, v, _angle(ab_t) - _angle(ab_s))


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


def _each(convert, xs, vs, abs_):
    return [convert(x, v, ab) for x, v, ab in zip(xs, vs, abs_, strict=True)]


def _order_4(xs, vs, abs_):
    weights = [55 / 24, -59 / 24, 37 / 24, -9 / 24]
    return sum(w * e for w, e in zip(weights, _each(eps_from_v, xs, vs, abs_), strict=False))


def _zero_snr(ab):
    root = ab[1:].sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return torch.cat([ab[:1], root**2])


def _stretched(values, to=1):
    """Values of t = 1..T, shifted to end at 0 and stretched to begin at `to`."""
    return (values - values[-1]) / (values[0] - values[-1]) * to


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
            "the sign of v is wrong: v contains x0 with a minus": lambda x, v, ab: (
                ab.sqrt() * x + (1 - ab).sqrt() * v
            ),
            "both signs are wrong: x_t contains x0 with a plus": lambda x, v, ab: (
                -x0_from_v(x, v, ab)
            ),
            "roots are missing: √ᾱ_t and √(1-ᾱ_t) are the cosine and the sine": lambda x, v, ab: (
                ab * x - (1 - ab) * v
            ),
            "√ᾱ_t and √(1-ᾱ_t) are swapped": lambda x, v, ab: (1 - ab).sqrt() * x - ab.sqrt() * v,
            "this is ε: eliminate ε and keep x0": eps_from_v,
            "v is not ε: this is the formula for an ε-prediction": lambda x, v, ab: (
                (x - (1 - ab).sqrt() * v) / ab.sqrt()
            ),
            "v is not x0: this is the formula that gives ε from x0": lambda x, v, ab: (
                (x - ab.sqrt() * v) / (1 - ab).sqrt()
            ),
            "the factor √ᾱ_t of x_t is missing": lambda x, v, ab: x - (1 - ab).sqrt() * v,
            "no division is needed: the squares of cosine and sine add up to 1": lambda x, v, ab: (
                x0_from_v(x, v, ab) / ab
            ),
            "the squares of cosine and sine are added here, not subtracted: they add up to 1": (
                lambda x, v, ab: x0_from_v(x, v, ab) / (2 * ab - 1)
            ),
            "at ᾱ_t = 0 that divides by √ᾱ_t = 0: eliminate ε without a division": (
                lambda x, v, ab: (x - (1 - ab).sqrt() * eps_from_v(x, v, ab)) / ab.sqrt()
            ),
            "at ᾱ_t = 1 that divides by √(1-ᾱ_t) = 0: eliminate ε without a division": (
                lambda x, v, ab: (ab.sqrt() * eps_from_v(x, v, ab) - v) / (1 - ab).sqrt()
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
            "the sign of v is wrong: v contains ε with a plus": lambda x, v, ab: (
                (1 - ab).sqrt() * x - ab.sqrt() * v
            ),
            "the sign of x_t is wrong: x_t contains the noise with a plus": lambda x, v, ab: (
                ab.sqrt() * v - (1 - ab).sqrt() * x
            ),
            "roots are missing: √ᾱ_t and √(1-ᾱ_t) are the cosine and the sine": lambda x, v, ab: (
                (1 - ab) * x + ab * v
            ),
            "√ᾱ_t and √(1-ᾱ_t) are swapped": lambda x, v, ab: ab.sqrt() * x + (1 - ab).sqrt() * v,
            "this is x0: eliminate x0 and keep ε": x0_from_v,
            "v is not x0: this is the formula that gives ε from x0": lambda x, v, ab: (
                (x - ab.sqrt() * v) / (1 - ab).sqrt()
            ),
            "the factor √ᾱ_t of v is missing": lambda x, v, ab: v + (1 - ab).sqrt() * x,
            "the factor √(1-ᾱ_t) of x_t is missing": lambda x, v, ab: ab.sqrt() * v + x,
            "v alone is ε only where ᾱ_t = 1": lambda x, v, ab: v,
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
            "the sign is wrong: v contains x0 with a minus": lambda x, x0, ab: (
                (x0 - ab.sqrt() * x) / (1 - ab).sqrt()
            ),
            "the sign of x0 is wrong: subtract it": lambda x, x0, ab: (
                (ab.sqrt() * x + x0) / (1 - ab).sqrt()
            ),
            "v is √ᾱ_t ε minus √(1-ᾱ_t) x0, not plus": lambda x, x0, ab: (
                _v_from_x0(x, x0, ab) + 2 * (1 - ab).sqrt() * x0
            ),
            "a root is missing in front of x_t": lambda x, x0, ab: (ab * x - x0) / (1 - ab).sqrt(),
            "a root is missing: divide by √(1-ᾱ_t)": lambda x, x0, ab: (
                (ab.sqrt() * x - x0) / (1 - ab)
            ),
            "the division by √(1-ᾱ_t) is missing": lambda x, x0, ab: ab.sqrt() * x - x0,
            "divide by √(1-ᾱ_t), not by √ᾱ_t": lambda x, x0, ab: (ab.sqrt() * x - x0) / ab.sqrt(),
            "the factor √ᾱ_t of x_t is missing": lambda x, x0, ab: (x - x0) / (1 - ab).sqrt(),
            "this is ε: √ᾱ_t belongs to x0 there, and to x_t in v": lambda x, x0, ab: (
                (x - ab.sqrt() * x0) / (1 - ab).sqrt()
            ),
            "this is √ᾱ_t ε alone: v also contains -√(1-ᾱ_t) x0": lambda x, x0, ab: (
                ab.sqrt() * (x - ab.sqrt() * x0) / (1 - ab).sqrt()
            ),
            "all roots are missing: the shares are √ᾱ_t and √(1-ᾱ_t)": lambda x, x0, ab: (
                ab * (x - ab * x0) / (1 - ab) - (1 - ab) * x0
            ),
            "the roots are missing in √ᾱ_t ε - √(1-ᾱ_t) x0": lambda x, x0, ab: (
                ab * (x - ab.sqrt() * x0) / (1 - ab).sqrt() - (1 - ab) * x0
            ),
            "this is the formula that gives x0 from v: solve it for v": x0_from_v,
        },
        level="middle",
        goal="translate a network that predicts x0 into v",
        given=(v_from_x0,),
    ),
    "ddim_rotation": Exercise(
        _rotation,
        _rotation_cases,
        {
            "this turns the wrong way, towards more noise": lambda x, v, t, s: _rotation(
                x, v, s, t
            ),
            "cosine and sine are swapped": lambda x, v, t, s: (
                (_angle(t) - _angle(s)).sin() * x - (_angle(t) - _angle(s)).cos() * v
            ),
            "a root is missing: the cosine of the angle is √ᾱ": lambda x, v, t, s: _turned(
                x, v, t.acos() - s.acos()
            ),
            "a straight step leaves the circle: x_t shrinks by the cosine": lambda x, v, t, s: (
                x - (_angle(t) - _angle(s)).sin() * v
            ),
            "a step along the tangent leaves the circle: use cosine and sine of the turn": (
                lambda x, v, t, s: x - (_angle(t) - _angle(s)) * v
            ),
            "turn by the difference of the angles, not by the angle of s": lambda x, v, t, s: (
                _turned(x, v, _angle(s))
            ),
            "turning by the whole angle of t gives x0: turn by the difference only": (
                lambda x, v, t, s: _turned(x, v, _angle(t))
            ),
            "turn by the difference of the angles, not by their sum": lambda x, v, t, s: _turned(
                x, v, _angle(t) + _angle(s)
            ),
            "this is v at s: wanted is x_s": lambda x, v, t, s: (
                (_angle(t) - _angle(s)).cos() * v + (_angle(t) - _angle(s)).sin() * x
            ),
            "cos and sin take radians, not degrees": lambda x, v, t, s: _turned(
                x, v, (_angle(t) - _angle(s)).rad2deg()
            ),
        },
        level="middle",
        goal="see a DDIM step without noise as a rotation",
        given=(turned,),
    ),
    "v_loss_weight": Exercise(
        lambda w_eps, ab_t: w_eps * ab_t,
        _weight_cases,
        {
            "upside down: an error is larger in v than in ε, so its weight on v is smaller": (
                lambda w, ab: w / ab
            ),
            "a loss is a square, so there is no root": lambda w, ab: w * ab.sqrt(),
            "a loss is a square, and an error in v is larger than its error in ε": (
                lambda w, ab: w / ab.sqrt()
            ),
            "this is the weight of ‖x0 - x̂0‖²: divide it by SNR + 1": lambda w, ab: (
                w * ab / (1 - ab)
            ),
            "this is w_eps/SNR: multiply by SNR/(SNR + 1)": lambda w, ab: w * (1 - ab) / ab,
            "this is w_eps/(SNR + 1): multiply it by SNR": lambda w, ab: w * (1 - ab),
            "this is w_eps (SNR + 1): divide by SNR + 1, and multiply by SNR": lambda w, ab: (
                w / (1 - ab)
            ),
            "divide by SNR + 1: an error is larger in v than in x0": lambda w, ab: (
                w * ab / (1 - ab) ** 2
            ),
            "the weight must change: ‖v - v̂‖² is larger than ‖ε - ε̂‖²": lambda w, ab: w,
            "w_eps is missing: multiply by it": lambda w, ab: ab,
            "ᾱ_t comes in once: the norms are squared already": lambda w, ab: w * ab**2,
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
            "w is used as if it were g, and `scale` is not used": lambda u, g, s, w: (
                u + w * (g - u)
            ),
            "the sign is wrong: g is w + 1, not w - 1": lambda u, g, s, w: (
                u + (w - 1) / s * (g - u)
            ),
            "`guided` is not ε_c: it has gone `scale` times as far from eps_u": (
                lambda u, g, s, w: u + (1 + w) * (g - u)
            ),
            "`scale` is SD's g: divide by scale, not by scale - 1": lambda u, g, s, w: (
                u + (1 + w) / (s - 1) * (g - u)
            ),
            "`scale` is SD's g and not the paper's w: divide by scale, not by scale + 1": (
                lambda u, g, s, w: u + (1 + w) / (1 + s) * (g - u)
            ),
            "divide by scale: `guided` has gone too far already": lambda u, g, s, w: (
                u + (1 + w) * s * (g - u)
            ),
            "the ratio is upside down: 1 + w stands above, scale below": lambda u, g, s, w: (
                u + s / (1 + w or math.nan) * (g - u)
            ),
            "this is ε_c: guide it with w": lambda u, g, s, w: u + (g - u) / s,
            "ε_c is eps_u + (guided - eps_u)/scale, not guided/scale": lambda u, g, s, w: (
                (1 + w) * g / s - w * u
            ),
            "start at the unconditional prediction, not at the guided one": lambda u, g, s, w: (
                g + (1 + w) / s * (u - g)
            ),
            "this is the difference alone: add eps_u to it": lambda u, g, s, w: (
                (1 + w) / s * (g - u)
            ),
            "the scale belongs to guided - eps_u, not to guided alone": lambda u, g, s, w: (
                (1 + w) / s * g
            ),
        },
        level="middle",
        goal="change the guidance of a finished prediction, in either convention",
    ),
    "rescale_phi": Exercise(
        _rescale_phi,
        lambda generator: [(1.0, 3.0, 1.5), (1.0, 3.0, 3.0), (1.0, 3.0, 1.0), (0.8, 2.0, 1.1)],
        {
            "this is 1 - κ": lambda c, g, target: (target - c) / (g - c),
            "the sign is wrong: κ lies between 0 and 1": lambda c, g, target: (
                (target - g) / (g - c)
            ),
            "κ is a share of the way, not a ratio of spreads": lambda c, g, target: target / g,
            "κ is a share of the way from std_g to std_c, not a ratio of spreads": (
                lambda c, g, target: target / c
            ),
            "κ is a share of the way, not the ratio of std_c to the target": (
                lambda c, g, target: c / target
            ),
            "this is the factor of the guided prediction at κ = 1: the target does not enter": (
                lambda c, g, target: c / g
            ),
            "divide by the whole way, std_g - std_c, and not by std_g": lambda c, g, target: (
                (g - target) / g
            ),
            "divide by the whole way, std_g - std_c": lambda c, g, target: g - target,
            "divide by the whole way, std_g - std_c, and not by std_c": lambda c, g, target: (
                (g - target) / c
            ),
            "measure from std_g, where κ = 0, and divide by std_g - std_c": lambda c, g, target: (
                (target - c) / g
            ),
            "it is upside down: the whole way stands below": lambda c, g, target: (
                (g - c) / (g - target or math.nan)
            ),
            "both parts are multiples of x_g, so their std add, not their variances": (
                lambda c, g, target: (g**2 - target**2) / (g**2 - c**2)
            ),
        },
        level="easy",
        goal="choose the share of rescaling that gives a wanted spread",
    ),
    "plms_from_v": Exercise(
        _plms_from_v,
        _plms_from_v_cases,
        {
            "v was averaged and then turned into ε: turn each v into ε first": _convert_last(
                lambda vs: multistep_eps(list(vs))
            ),
            "turn each v into ε first, and then use Adams-Bashforth's weights": _convert_last(
                lambda vs: vs.mean(0)
            ),
            "every v belongs to its own x and ᾱ, not to the newest x": lambda xs, vs, abs_: (
                multistep_eps([eps_from_v(xs[0], v, ab) for v, ab in zip(vs, abs_, strict=True)])
            ),
            "every pair of x and v belongs to its own ᾱ, not to the newest": lambda xs, vs, abs_: (
                multistep_eps([eps_from_v(x, v, abs_[0]) for x, v in zip(xs, vs, strict=True)])
            ),
            "the newest comes first in the lists already": lambda xs, vs, abs_: _plms_from_v(
                xs.flip(0), vs.flip(0), abs_.flip(0)
            ),
            "this is the plain mean; Adams-Bashforth's weights are not equal": (
                lambda xs, vs, abs_: torch.stack(_each(eps_from_v, xs, vs, abs_)).mean(0)
            ),
            "this is the newest ε alone, which is DDIM: average it with the old ones": (
                lambda xs, vs, abs_: eps_from_v(xs[0], vs[0], abs_[0])
            ),
            "with fewer than four values the weights are those of their order": _order_4,
            "these are averages of x0: average ε": lambda xs, vs, abs_: multistep_eps(
                _each(x0_from_v, xs, vs, abs_)
            ),
            "v is not ε: turn it into ε": lambda xs, vs, abs_: multistep_eps(list(vs)),
        },
        level="hard",
        goal="average the right quantity when the network predicts v",
    ),
    "zero_snr_alpha_bar": Exercise(
        _zero_snr,
        _zero_snr_cases,
        {
            "shift and stretch √ᾱ, not ᾱ": lambda ab: torch.cat(
                [ab[:1], _stretched(ab[1:], ab[1])]
            ),
            "shift and stretch √ᾱ, not ᾱ, and only for t = 1..T": lambda ab: (
                (ab - ab[-1]) / (1 - ab[-1])
            ),
            "shift √ᾱ, not ᾱ, and stretch it as well": lambda ab: ab - ab[-1],
            "it is shifted but not stretched: ᾱ_1 must stay": lambda ab: torch.cat(
                [ab[:1], (ab[1:].sqrt() - ab[-1].sqrt()) ** 2]
            ),
            "it is shifted but not stretched, and ᾱ_0 = 1 must stay": lambda ab: (
                (ab.sqrt() - ab[-1].sqrt()) ** 2
            ),
            "ᾱ_1 must stay, so stretch from t = 1; ᾱ_0 = 1 is no noise and no part of it": (
                lambda ab: _stretched(ab.sqrt()) ** 2
            ),
            "the factor √ᾱ_1 is missing: it is stretched up to 1": lambda ab: torch.cat(
                [ab[:1], _stretched(ab[1:].sqrt()) ** 2]
            ),
            "ᾱ_0 = 1 stays as it is; only t = 1..T is shifted and stretched": (
                lambda ab: (
                    ((ab.sqrt() - ab[-1].sqrt()) * ab[1].sqrt() / (ab[1].sqrt() - ab[-1].sqrt()))
                    ** 2
                )
            ),
            "ᾱ_0 = 1 is missing: return T+1 numbers": lambda ab: _zero_snr(ab)[1:],
            "only the last number was changed: shift and stretch all of t = 1..T": lambda ab: (
                torch.cat([ab[:-1], 0 * ab[-1:]])
            ),
            "these are roots: square them again": lambda ab: _zero_snr(ab).sqrt(),
            "these are roots: square them again, and keep ᾱ_0 = 1": lambda ab: (
                (ab.sqrt() - ab[-1].sqrt()) * ab[1].sqrt() / (ab[1].sqrt() - ab[-1].sqrt())
            ),
            "the factor of the stretch must be squared too": lambda ab: torch.cat(
                [
                    ab[:1],
                    (ab[1:].sqrt() - ab[-1].sqrt()) ** 2
                    * ab[1].sqrt()
                    / (ab[1].sqrt() - ab[-1].sqrt()),
                ]
            ),
            "shift and stretch √ᾱ, not ᾱ, and keep ᾱ_0 = 1": lambda ab: (
                (ab - ab[-1]) * ab[1] / (ab[1] - ab[-1])
            ),
        },
        level="middle",
        goal="make a schedule end in noise alone",
        given=(zero_terminal_snr,),
    ),
    "brightness_left": Exercise(
        lambda ab_T, d: (1 / (1 + ab_T * (d - 1))) ** 0.5,
        lambda generator: [(0.0046601, d) for d in (256, 1, 4096, 16384)] + [(0.0, 4096), (0.3, 9)],
        {
            "this is a ratio of variances: take its root": lambda ab_T, d: 1 / (1 + ab_T * (d - 1)),
            "the noise in training's x_T has variance 1-ᾱ_T, not 1": lambda ab_T, d: (
                (1 / (1 + ab_T * d)) ** 0.5
            ),
            "in sampling, x_T is noise of variance 1, not 1-ᾱ_T": lambda ab_T, d: (
                ((1 - ab_T) / (1 + ab_T * (d - 1))) ** 0.5
            ),
            "it is upside down: training's standard deviation is the larger one": lambda ab_T, d: (
                (1 + ab_T * (d - 1)) ** 0.5
            ),
            "it is upside down, and a ratio of variances": lambda ab_T, d: 1 + ab_T * (d - 1),
            "the signal's share of the variance is ᾱ_T, not √ᾱ_T": lambda ab_T, d: (
                (1 / (1 + ab_T**0.5 * (d - 1))) ** 0.5
            ),
            "this is the standard deviation in sampling: divide it by the one in training": (
                lambda ab_T, d: (1 / d) ** 0.5
            ),
            "this is the variance in sampling: compare it with the one in training": (
                lambda ab_T, d: 1 / d
            ),
            "this is the standard deviation in training: divide the one in sampling by it": (
                lambda ab_T, d: (ab_T + (1 - ab_T) / d) ** 0.5
            ),
            "this is what is lost: wanted is what is left": lambda ab_T, d: (
                1 - (1 / (1 + ab_T * (d - 1))) ** 0.5
            ),
            "the mean of d noises has the variance 1/d, not 1/√d": lambda ab_T, d: (
                (1 / (1 + ab_T * (d**0.5 - 1))) ** 0.5
            ),
            "the mean of d noises has the variance 1/d, not 1/d²": lambda ab_T, d: (
                (1 / (1 + ab_T * (d**2 - 1))) ** 0.5
            ),
            "the number of pixels is missing: the mean of d noises has the variance 1/d": (
                lambda ab_T, d: (1 - ab_T) ** 0.5
            ),
            "this is the share of signal in training; in sampling there is none": lambda ab_T, d: (
                (ab_T / (ab_T + (1 - ab_T) / d)) ** 0.5
            ),
            "variances add, standard deviations do not": lambda ab_T, d: (
                d**-0.5 / (ab_T**0.5 + (1 - ab_T) ** 0.5 * d**-0.5)
            ),
        },
        level="middle",
        goal="see why a schedule that leaks keeps pictures grey",
    ),
}

"""Exercises of notebook 13."""

import math

import torch
import torch.nn.functional as F

from ...schedules import alpha_bar, scaled_linear_betas, trailing_times, zero_terminal_snr
from ..checking import Exercise

AB = alpha_bar(zero_terminal_snr(scaled_linear_betas()))


def _normal(generator, *shape):
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def _of_each(values, x):
    """(b,) beside x (b, ...)."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


# ---- training -----------------------------------------------------------------------------


def _unscaled_ab(ab, factor, power=2):
    signal = ab / factor**power
    return signal / (signal + 1 - ab)


def _unscaled_cases(g):
    for factor in (0.18215, 0.5, 1.0, 2.5):
        yield AB[::100], factor
    yield torch.rand(4, dtype=torch.float64, generator=g), 0.13025


def _v_target(z, factor, eps, ab_t):
    x0, ab_t = factor * z, _of_each(ab_t, z)
    return (
        ab_t.sqrt() * x0 + (1 - ab_t).sqrt() * eps,
        ab_t.sqrt() * eps - (1 - ab_t).sqrt() * x0,
    )


def _v_target_slip(kind):
    def slip(z, factor, eps, ab_t):
        x_t, v = _v_target(z, factor, eps, ab_t)
        ab = _of_each(ab_t, z)
        return {
            "divided": lambda: _v_target(z, 1 / factor, eps, ab_t),
            "unscaled": lambda: _v_target(z, 1.0, eps, ab_t),
            "sign": lambda: (x_t, -v),
            "roots": lambda: (ab * factor * z + (1 - ab) * eps, ab * eps - (1 - ab) * factor * z),
            "eps": lambda: (x_t, eps),
            "half": lambda: (x_t, ab.sqrt() * eps - (1 - ab).sqrt() * z),
            "swapped": lambda: (v, x_t),
        }[kind]()

    return slip


def _latent_cases(g):
    for shape in ((4, 4, 2, 2), (3, 2, 5, 1), (2, 4, 3, 3)):
        ab_t = torch.rand(shape[0], dtype=torch.float64, generator=g)
        yield 1.6 * _normal(g, *shape), 0.6131, _normal(g, *shape), ab_t
    yield _normal(g, 2, 1, 2, 2), 0.18215, _normal(g, 2, 1, 2, 2), torch.tensor([0.0, 1.0]).double()


def _joint_weight(ab, c, w=lambda ab, c: 4 * ab * (1 - ab) + c, power=0.5):
    part = w(ab, c) ** power
    p = part / part.sum()
    return p, part / (p * part).sum()


def _weight_cases(g):
    for floor in (0.08, 0.5, 0.01):
        yield AB[1::50], floor
    yield torch.tensor([1.0, 0.8, 0.5, 0.1, 0.0]).double(), 0.08


def _dropped(tokens, empty, u, rate):
    return torch.where((u < rate)[:, None], empty, tokens)


def _token_cases(g):
    for b, n, rate in ((12, 6, 0.1), (8, 4, 0.4), (5, 24, 0.2)):
        tokens = torch.randint(1, 600, (b, n), generator=g)
        tokens[:, 0] = 622
        empty = torch.zeros(n, dtype=torch.long)
        empty[:2] = torch.tensor([622, 623])
        u = torch.rand(b, dtype=torch.float64, generator=g)
        u[0], u[1] = rate / 2, 0.95  # one that goes and one that stays
        yield tokens, empty, u, rate


def _ema(weights, decay, keep=lambda k, decay: min(decay, (1 + k) / (10 + k)), start=None):
    average = weights[0] if start is None else start
    for k, weight in enumerate(weights[1:], 1):
        share = keep(k, decay)
        average = share * average + (1 - share) * weight
    return average


def _swapped_ema(weights, decay):
    return _ema(weights, decay, lambda k, d: 1 - min(d, (1 + k) / (10 + k)))


def _ema_cases(g):
    yield 1 + _normal(g, 5, 3), 0.999
    yield _normal(g, 40, 2, 2) + 3, 0.6
    yield torch.arange(1.0, 31.0).double(), 0.7
    yield _normal(g, 1, 4), 0.9995


# ---- sampling -----------------------------------------------------------------------------

MORE_CALLS = {"ddim": 0, "ddpm": 0, "plms": 1, "s_pndm": 1, "pndm": 9}


def _rows(sampler, steps, scale, n, strength, count=int, more=MORE_CALLS):
    calls = count(steps * strength) + more[sampler]
    return calls * n * (1 if scale == 1 else 2)


def _rows_cases(g):
    yield "ddim", 50, 7.5, 1, 1.0
    yield "plms", 50, 7.5, 1, 1.0
    yield "plms", 20, 1.0, 4, 1.0
    yield "ddpm", 100, 3.0, 2, 1.0
    yield "plms", 50, 3.0, 3, 0.75
    yield "s_pndm", 10, 0.0, 1, 0.35
    yield "pndm", 30, 3.0, 2, 0.5


def _start(steps, strength, ab, place=lambda count, steps: steps - count):
    t = trailing_times(1000, steps)[place(int(steps * strength), steps)]
    return float(t), float(ab[t].sqrt())


def _start_slip(kind):
    def slip(steps, strength, ab):
        if kind == "grid":
            t = round(1000 * strength)
            return float(t), float(ab[t].sqrt())
        t, root = _start(steps, strength, ab)
        return {
            "square": lambda: (t, root**2),
            "noise": lambda: (t, (1 - root**2) ** 0.5),
            "wrong end": lambda: _start(steps, strength, ab, lambda c, n: c),
            "late": lambda: _start(steps, strength, ab, lambda c, n: n - c + 1),
            "official": lambda: _start(steps, strength, ab, lambda c, n: n - c - 1),
        }[kind]()

    return slip


def _start_cases(g):
    for steps, strength in ((50, 0.75), (30, 0.5), (20, 0.28), (7, 0.6), (15, 0.15)):
        yield steps, strength, AB


def _pool(mask, factor, how):
    b, c, h, w = mask.shape
    patches = mask.reshape(b, c, h // factor, factor, w // factor, factor)
    return how(patches)


def _mask_cases(g):
    for b, h, w, factor, share in ((1, 16, 16, 4, 0.1), (2, 24, 8, 8, 0.02), (1, 12, 20, 2, 0.3)):
        yield (torch.rand(b, 1, h, w, generator=g) < share).double(), factor
    box = torch.zeros(1, 1, 64, 64).double()
    box[:, :, 13:40, 22:63] = 1
    yield box, 4


def _slerp(a, b, u, angle=None):
    if angle is None:
        angle = ((a * b).sum() / (a.norm() * b.norm())).acos()
    return ((1 - u) * angle).sin() / angle.sin() * a + (u * angle).sin() / angle.sin() * b


def _slerp_cases(g):
    for shape, u in (((2,), 0.25), ((1, 4, 4, 4), 0.5), ((3, 5), 0.8), ((1, 4, 8, 8), 0.1)):
        yield _normal(g, *shape), _normal(g, *shape), u
    yield _normal(g, 6), 3 * _normal(g, 6), 0.0
    yield _normal(g, 6), 3 * _normal(g, 6), 1.0
    yield torch.tensor([1.0, 0.0]).double(), torch.tensor([0.6, 0.8]).double(), 0.5


def _slerp_rows(a, b, u):
    cosine = (
        (a * b).sum(-1, keepdim=True) / a.norm(dim=-1, keepdim=True) / b.norm(dim=-1)[..., None]
    )
    return _slerp(a, b, u, cosine.acos())


def _mean_in(maps, positions, area, half=1):
    word = maps.chunk(2)[half][:, positions].sum(1)  # (b, h, w)
    return (word * area).sum((1, 2)) / area.sum()


def _word_focus(maps, positions, inside, half=1):
    return _mean_in(maps, positions, inside, half) / _mean_in(maps, positions, 1 - inside, half)


def _focus_sums(maps, positions, inside):
    words = maps.chunk(2)[1][:, positions].sum(1)
    return (words * inside).sum((1, 2)) / (words * (1 - inside)).sum((1, 2))


def _focus_cases(g):
    for b, n, side, positions in ((1, 24, 8, [4]), (3, 8, 4, [2, 3]), (2, 12, 8, [1, 5, 6])):
        maps = _normal(g, 2 * b, n, side, side).softmax(1)
        inside = torch.zeros(side, side).double()
        inside[1 : side // 2, : side // 4 + 1] = 1
        yield maps, positions, inside


EXERCISES = {
    "unscaled_ab": Exercise(
        _unscaled_ab,
        _unscaled_cases,
        {
            "a variance goes with the square of the factor": lambda ab, f: _unscaled_ab(ab, f, 1),
            "latents as the encoder gives them have a standard deviation of 1/factor": (
                lambda ab, f: _unscaled_ab(ab, 1 / f)
            ),
            "that is the variance of the signal; divide by that of all of x_t": (
                lambda ab, f: ab / f**2
            ),
            "that is signal over noise; asked for is signal over signal and noise": (
                lambda ab, f: ab / f**2 / (1 - ab)
            ),
        },
        level="middle",
        goal="see what a forgotten scale factor does to the schedule",
    ),
    "latent_v_target": Exercise(
        _v_target,
        _latent_cases,
        {
            "the U-Net sees factor * z; it is the decoder that divides": _v_target_slip("divided"),
            "z comes as the encoder gives it: the scale factor is missing": (
                _v_target_slip("unscaled")
            ),
            "v has the other sign: it points from the picture to the noise": _v_target_slip("sign"),
            "ᾱ is a share of variance; amplitudes are its roots": _v_target_slip("roots"),
            "that target is ε; this U-Net is asked for v": _v_target_slip("eps"),
            "the same scaled latent belongs into x_t and into v": _v_target_slip("half"),
            "the pair is (x_t, v), in this order": _v_target_slip("swapped"),
        },
        level="easy",
        goal="make a training pair, x_t and v, from an encoder's latent",
    ),
    "caption_dropout": Exercise(
        _dropped,
        _token_cases,
        {
            "the empty caption is a row of tokens too, with its start and end": (
                lambda tokens, empty, u, rate: tokens * (u >= rate)[:, None]
            ),
            "rate is the share that is dropped, not the share that stays": (
                lambda tokens, empty, u, rate: _dropped(tokens, empty, u, 1 - rate)
            ),
            "those that should stay are dropped": lambda tokens, empty, u, rate: torch.where(
                (u < rate)[:, None], tokens, empty
            ),
            "a caption goes as a whole, not token by token": lambda tokens, empty, u, rate: (
                torch.where(
                    (u < rate)[:, None] & (torch.arange(len(empty)) % 2 == 0), empty, tokens
                )
            ),
        },
        level="easy",
        goal="drop some captions of a batch, as guidance needs it",
    ),
    "joint_weight": Exercise(
        _joint_weight,
        _weight_cases,
        {
            "each of the two is ∝ √w, so that their product is ∝ w": lambda ab, c: _joint_weight(
                ab, c, power=1
            ),
            "λ is 1 on average over the times as they are drawn: Σ p λ = 1": lambda ab, c: (
                _joint_weight(ab, c)[0],
                _joint_weight(ab, c)[0] * len(ab),
            ),
            "c is added before the root is taken": lambda ab, c: _joint_weight(
                ab, c, lambda ab, c: ((4 * ab * (1 - ab)).sqrt() + c) ** 2
            ),
            "w is 4 ᾱ (1 - ᾱ) + c; the 4 is missing": lambda ab, c: _joint_weight(
                ab, c, lambda ab, c: ab * (1 - ab) + c
            ),
            "c is missing: the ends would never be drawn": lambda ab, c: _joint_weight(ab, 0.0),
        },
        level="middle",
        goal="share a time's weight between how often it is drawn and how much it counts",
    ),
    "ema_of": Exercise(
        _ema,
        _ema_cases,
        {
            "keep is the share of the old average; the new weights get the rest": _swapped_ema,
            "young averages keep less: (1 + k)/(10 + k), until that passes the decay": (
                lambda weights, decay: _ema(weights, decay, lambda k, d: d)
            ),
            "k counts the steps done, so the first has k = 1": lambda weights, decay: _ema(
                weights, decay, lambda k, d: min(d, k / (9 + k))
            ),
            "the average begins at the first weights, not at 0": lambda weights, decay: _ema(
                weights, decay, start=torch.zeros_like(weights[0])
            ),
            "the smaller of the two, not the larger": lambda weights, decay: _ema(
                weights, decay, lambda k, d: max(d, (1 + k) / (10 + k))
            ),
            "all steps weigh the same here; a moving average forgets": lambda weights, decay: (
                weights.mean(0)
            ),
        },
        level="middle",
        goal="average the weights of a training as its Run does",
    ),
    "unet_rows": Exercise(
        _rows,
        _rows_cases,
        {
            "guidance sends each latent through twice": lambda sampler, steps, scale, n, strength: (
                _rows(sampler, steps, 1, n, strength)
            ),
            "at scale 1 there is no guidance, and one pass is enough": (
                lambda sampler, steps, scale, n, strength: _rows(sampler, steps, 3, n, strength)
            ),
            "some samplers begin with more than one call for a step": (
                lambda sampler, steps, scale, n, strength: _rows("ddim", steps, scale, n, strength)
            ),
            "every picture of the batch is a row": lambda sampler, steps, scale, n, strength: _rows(
                sampler, steps, scale, 1, strength
            ),
            "only a share of the steps is taken when a picture is given": (
                lambda sampler, steps, scale, n, strength: _rows(sampler, steps, scale, n, 1.0)
            ),
            "strength leaves out steps, and some samplers begin with more than one call": (
                lambda sampler, steps, scale, n, strength: _rows("ddim", steps, scale, n, 1.0)
            ),
            "a part of a step is not taken: cut, do not round": (
                lambda sampler, steps, scale, n, strength: _rows(
                    sampler, steps, scale, n, strength, lambda count: math.floor(count + 0.5)
                )
            ),
        },
        level="middle",
        goal="count what a picture costs, in latents through the U-Net",
    ),
    "word_focus": Exercise(
        _word_focus,
        _focus_cases,
        {
            "the first half of the batch is the empty prompt's": lambda maps, positions, inside: (
                _word_focus(maps, positions, inside, half=0)
            ),
            "sums are compared here; the areas differ in size, so take means": _focus_sums,
            "that is outside over inside": lambda maps, positions, inside: (
                1 / _word_focus(maps, positions, inside)
            ),
            "that is the difference, not the ratio": lambda maps, positions, inside: (
                _mean_in(maps, positions, inside) - _mean_in(maps, positions, 1 - inside)
            ),
        },
        level="middle",
        goal="measure from attention maps whether a word found its thing",
    ),
    "img2img_start": Exercise(
        _start,
        _start_cases,
        {
            "it begins at a time of the grid": _start_slip("grid"),
            "the share of the amplitude is a root": _start_slip("square"),
            "that is the noise's share, not the picture's": _start_slip("noise"),
            "that many steps are taken, not left out": _start_slip("wrong end"),
            "n steps need n + 1 times: it begins one earlier in the list": _start_slip("late"),
            "so the official script has it: a step noisier than where the first step begins": (
                _start_slip("official")
            ),
        },
        level="middle",
        goal="find where img2img begins and how much of the picture is left",
    ),
    "latent_mask": Exercise(
        lambda mask, factor: F.max_pool2d(mask, factor),
        _mask_cases,
        {
            "the first pixel of a patch speaks for all of it here": lambda mask, factor: mask[
                :, :, ::factor, ::factor
            ],
            "that is the share that is painted; a latent is painted or not": lambda mask, factor: (
                F.avg_pool2d(mask, factor)
            ),
            "one painted pixel of a patch is enough; it need not be all": lambda mask, factor: (
                _pool(mask, factor, lambda p: p.amin((3, 5)))
            ),
            "1 is where to paint, 0 where to keep": lambda mask, factor: (
                1 - F.max_pool2d(mask, factor)
            ),
            "that is a majority of the patch; one painted pixel is enough": lambda mask, factor: (
                F.avg_pool2d(mask, factor) >= 0.5
            ).double(),
        },
        level="middle",
        goal="bring a mask of pixels to the grid of the latents",
    ),
    "slerp": Exercise(
        _slerp,
        _slerp_cases,
        {
            "that is the straight line, which cuts through the inside of the sphere": (
                lambda a, b, u: (1 - u) * a + u * b
            ),
            "u = 0 is a, u = 1 is b": lambda a, b, u: _slerp(a, b, 1 - u),
            "the angle is not 90 degrees: it comes from a · b": lambda a, b, u: (
                math.cos(u * math.pi / 2) * a + math.sin(u * math.pi / 2) * b
            ),
            "one angle for all numbers together, not one for each row": _slerp_rows,
            "the lengths come out as 1; a and b keep theirs": lambda a, b, u: _slerp(
                a / a.norm(), b / b.norm(), u
            ),
        },
        level="middle",
        goal="go from one noise to another along the sphere",
    ),
}

"""Exercises of notebook 13."""

import math
from itertools import pairwise

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
            "exchanged": lambda: (
                x_t,
                ab.sqrt() * factor * z - (1 - ab).sqrt() * eps,
            ),
            "x0": lambda: (x_t, factor * z),
            "both": lambda: tuple(factor * part for part in _v_target(z, 1.0, eps, ab_t)),
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


def _even(w):
    return w / w.mean()


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


def count_letters(sentences):
    """Sentences -> (n, 1, 3), a stand-in for a text encoder."""
    rows = [[sum(map(ord, said)) % (7 + k) / (7 + k) for k in range(3)] for said in sentences]
    return torch.tensor(rows, dtype=torch.float64)[:, None]


def sine_network(x, index, context):
    """ε for x (b, c, h, w), a stand-in for a U-Net that counts its times from 0."""
    told = context.mean((1, 2)).reshape(-1, 1, 1, 1)
    level = (torch.as_tensor(index).reshape(-1, 1, 1, 1) + 1) / 1000
    return torch.sin(x + 4 * told + 9 * level) * (0.5 + told)


def linear_step(x, eps, t, s):
    """DDIM's step on the schedule ᾱ_t = 0.99 - 0.0009 t."""
    ab_t, ab_s = 0.99 - 0.0009 * t, 0.99 - 0.0009 * s
    x0 = (x - (1 - ab_t) ** 0.5 * eps) / ab_t**0.5
    return ab_s**0.5 * x0 + (1 - ab_s) ** 0.5 * eps


def bounded_decode(z):
    """Latents (b, c, h, w) without their factor -> pictures (b, 1, h, w)."""
    return torch.tanh(z.mean(1, keepdim=True) / 9)


def _loop(mix="cfg", order="u first", negative_is=None, later=0, last=True, pair=None, out=None):
    """Text to image, and its slips."""

    def loop(encode, model, step, decode, x, times, prompts, negative, g, factor):
        b = len(x)
        negative = negative if negative_is is None else negative_is
        context = encode([negative] * b + list(prompts))
        for t, s in pairwise(times if last else times[:-1]):
            seen = {"s": s, "s + 1": s + 1}.get(later, t) + (later if type(later) is int else 0)
            index = torch.full((2 * b,), seen - 1)
            eps_u, eps_c = model(torch.cat([x, x]), index, context).chunk(2)
            if order != "u first":
                eps_u, eps_c = eps_c, eps_u
            eps = {
                "cfg": lambda u=eps_u, c=eps_c: u + g * (c - u),
                "paper": lambda u=eps_u, c=eps_c: c + g * (c - u),
                "none": lambda u=eps_u, c=eps_c: c,
                "difference": lambda u=eps_u, c=eps_c: g * (c - u),
                "plain": lambda u=eps_u, c=eps_c: u + g * c,
            }[mix]()
            x = step(x, eps, *(pair(t, s) if pair else (t, s)))
        return decode(x / factor) if out is None else out(decode, x, factor)

    return loop


def _loop_cases(g):
    functions = (count_letters, sine_network, linear_step, bounded_decode)
    times = [1000, 750, 500, 250, 0]
    said = ["a red circle", "a blue star on navy", "a ring"]
    for b, scale, factor, negative in ((1, 2.0, 0.18, ""), (3, 4.0, 0.6, "red"), (2, 1.5, 1.6, "")):
        x = _normal(g, b, 2, 2, 3)
        yield *functions, x, times[b - 1 :], said[:b], negative, scale, factor
    yield *functions, _normal(g, 2, 4, 1, 2), [801, 401, 1, 0], said[1:], "a star", 0.5, 0.3


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


def _sine(a, b):
    return ((a * b).sum() / (a.norm() * b.norm())).acos().sin()


def _slerp_without_lengths(a, b, u):
    return _slerp(a, b, u, (a * b).sum().clamp(-1, 1).acos())


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
    "latent_v_target": Exercise(
        _v_target,
        _latent_cases,
        {
            "The U-Net sees factor * z; only the decoder divides by the factor.": _v_target_slip(
                "divided"
            ),
            "The scale factor is missing: the U-Net sees factor * z, not z.": (
                _v_target_slip("unscaled")
            ),
            "v has the other sign: it is √ᾱ ε - √(1-ᾱ) z_0.": _v_target_slip("sign"),
            "ᾱ is a share of the variance; the amplitudes are √ᾱ and √(1-ᾱ).": _v_target_slip(
                "roots"
            ),
            "The second of the pair is ε; this U-Net predicts v.": _v_target_slip("eps"),
            "The scaled latent belongs in both, x_t and v; in v it is not scaled.": _v_target_slip(
                "half"
            ),
            "The pair is (x_t, v), in this order.": _v_target_slip("swapped"),
            "ε and z_0 are exchanged in v: it is √ᾱ ε - √(1-ᾱ) z_0.": (_v_target_slip("exchanged")),
            "The second of the pair is z_0; this U-Net predicts v.": (_v_target_slip("x0")),
            "Only z is scaled; ε has a standard deviation of 1 already.": (_v_target_slip("both")),
        },
        level="easy",
        goal="make a training pair, x_t and v, from an encoder's latent",
    ),
    "caption_dropout": Exercise(
        _dropped,
        _token_cases,
        {
            "The empty caption is a row of tokens too: put `empty` there, not 0.": (
                lambda tokens, empty, u, rate: tokens * (u >= rate)[:, None]
            ),
            "rate is the share that is dropped, not the share that stays.": (
                lambda tokens, empty, u, rate: _dropped(tokens, empty, u, 1 - rate)
            ),
            "The captions that should stay are dropped, and the others stay.": (
                lambda tokens, empty, u, rate: torch.where((u < rate)[:, None], tokens, empty)
            ),
            "A caption is dropped as a whole, not token by token.": lambda tokens, empty, u, rate: (
                torch.where(
                    (u < rate)[:, None] & (torch.arange(len(empty)) % 2 == 0), empty, tokens
                )
            ),
            "Return all captions: a dropped one is replaced, and its row stays.": (
                lambda tokens, empty, u, rate: tokens[u >= rate]
            ),
            "Nothing is dropped: replace the captions whose u is less than rate.": (
                lambda tokens, empty, u, rate: tokens
            ),
        },
        level="easy",
        goal="drop some captions of a batch, as guidance needs it",
    ),
    "joint_weight": Exercise(
        _joint_weight,
        _weight_cases,
        {
            "Each of the two is proportional to √w, so that their product is proportional to w.": (
                lambda ab, c: _joint_weight(ab, c, power=1)
            ),
            "m must be 1 on average as the times are drawn: Σ p m = 1.": (
                lambda ab, c: (
                    _joint_weight(ab, c)[0],
                    _joint_weight(ab, c)[0] * len(ab),
                )
            ),
            "c is added before the root is taken.": lambda ab, c: _joint_weight(
                ab, c, lambda ab, c: ((4 * ab * (1 - ab)).sqrt() + c) ** 2
            ),
            "w is 4 ᾱ (1 - ᾱ) + c; the 4 is missing.": lambda ab, c: _joint_weight(
                ab, c, lambda ab, c: ab * (1 - ab) + c
            ),
            "c is missing: without it t = T would never be drawn.": lambda ab, c: _joint_weight(
                ab, 0.0
            ),
            "m is not normalised: divide it by Σ p m.": (
                lambda ab, c: (_joint_weight(ab, c)[0], (4 * ab * (1 - ab) + c).sqrt())
            ),
            "m sums to 1 here; its average over p must be 1.": (
                lambda ab, c: (_joint_weight(ab, c)[0],) * 2
            ),
            "Here p takes all of the weight and m none: both are proportional to √w.": (
                lambda ab, c: (_joint_weight(ab, c, power=1)[0], torch.ones_like(ab))
            ),
            "Here m takes all of the weight and p none: both are proportional to √w.": (
                lambda ab, c: (torch.full_like(ab, 1 / len(ab)), _even(4 * ab * (1 - ab) + c))
            ),
            "p is not normalised: it must sum to 1.": (
                lambda ab, c: ((4 * ab * (1 - ab) + c).sqrt(),) * 2
            ),
        },
        level="middle",
        goal="share a time's weight between how often it is drawn and how much it counts",
    ),
    "ema_of": Exercise(
        _ema,
        _ema_cases,
        {
            "The share belongs to the old average; the rest, to the new weights.": _swapped_ema,
            "The warm-up is missing: the share is the smaller of decay and (1 + j)/(10 + j).": (
                lambda weights, decay: _ema(weights, decay, lambda k, d: d)
            ),
            "j counts the steps from 1, so the first share is 2/11.": lambda weights, decay: _ema(
                weights, decay, lambda k, d: min(d, k / (9 + k))
            ),
            "The average begins at the first weights, not at 0.": lambda weights, decay: _ema(
                weights, decay, start=torch.zeros_like(weights[0])
            ),
            "Take the smaller of the two shares, not the larger.": lambda weights, decay: _ema(
                weights, decay, lambda k, d: max(d, (1 + k) / (10 + k))
            ),
            "Here all steps weigh the same; a moving average gives the later ones more.": (
                lambda weights, decay: weights.mean(0)
            ),
            "These are the last weights; the average over the steps is wanted.": (
                lambda weights, decay: weights[-1]
            ),
            "The decay is missing: it bounds the share of the warm-up from above.": (
                lambda weights, decay: _ema(weights, decay, lambda k, d: (1 + k) / (10 + k))
            ),
        },
        level="middle",
        goal="average the weights of a training as its Run does",
    ),
    "txt2img_loop": Exercise(
        _loop(),
        _loop_cases,
        {
            "The halves are swapped: chunk returns them in the order of the context.": (
                _loop(order="c first")
            ),
            "The negative prompt is missing: predict ε_u with `negative`, not with ''.": (
                _loop(negative_is="")
            ),
            "The network counts its times from 0: give it t - 1.": _loop(later=1),
            "t - 1 is the index already; here 2 is subtracted.": _loop(later=-1),
            "The network is given the time of x, t, not the time where the step ends.": (
                _loop(later="s")
            ),
            "The index is t - 1, of the time where x is; here it is s.": _loop(later="s + 1"),
            "Decode without the scale factor: the decoder expects x / factor.": _loop(
                out=lambda decode, x, factor: decode(x)
            ),
            "Divide by the factor before the decoder; here it is multiplied once more.": _loop(
                out=lambda decode, x, factor: decode(factor * x)
            ),
            "The factor belongs to the latent: divide before decoding, not after.": _loop(
                out=lambda decode, x, factor: decode(x) / factor
            ),
            "Return the decoded pictures, not the latents.": _loop(
                out=lambda decode, x, factor: x / factor
            ),
            "Return the decoded pictures; these are the latents, and with their factor.": _loop(
                out=lambda decode, x, factor: x
            ),
            "Guidance is missing: this is the prediction with the prompt alone.": _loop(mix="none"),
            "g is SD's scale, ε_u + g (ε_c - ε_u); the paper's w = g - 1 is used here.": _loop(
                mix="paper"
            ),
            "The difference is carried on: ε_u + g (ε_c - ε_u), not ε_u + g ε_c.": _loop(
                mix="plain"
            ),
            "The last step, to the time 0, is missing.": _loop(last=False),
            "A step goes from t to s: they are swapped.": _loop(pair=lambda t, s: (s, t)),
            "The step takes the paper's times t and s; only the network counts from 0.": _loop(
                pair=lambda t, s: (t - 1, s - 1)
            ),
            "The difference alone is not the prediction: it is added to ε_u.": (
                _loop(mix="difference")
            ),
        },
        level="hard",
        goal="write the text-to-image loop from its four parts",
    ),
    "unet_rows": Exercise(
        _rows,
        _rows_cases,
        {
            "Guidance sends each latent through the U-Net twice.": (
                lambda sampler, steps, scale, n, strength: _rows(sampler, steps, 1, n, strength)
            ),
            "This is the number of calls; a call takes n latents, under guidance 2 n.": (
                lambda sampler, steps, scale, n, strength: _rows(sampler, steps, 1, 1, strength)
            ),
            "At scale 1 there is no guidance, and one latent per picture is enough.": (
                lambda sampler, steps, scale, n, strength: _rows(sampler, steps, 3, n, strength)
            ),
            "The extra calls are missing: plms and s_pndm make 1, pndm makes 9.": (
                lambda sampler, steps, scale, n, strength: _rows("ddim", steps, scale, n, strength)
            ),
            "Every picture of the batch is a latent of its own: multiply by n.": (
                lambda sampler, steps, scale, n, strength: _rows(sampler, steps, scale, 1, strength)
            ),
            "Only int(steps * strength) of the steps are taken.": (
                lambda sampler, steps, scale, n, strength: _rows(sampler, steps, scale, n, 1.0)
            ),
            "Two things are missing: strength leaves out steps, some samplers make extra calls.": (
                lambda sampler, steps, scale, n, strength: _rows("ddim", steps, scale, n, 1.0)
            ),
            "A part of a step is not taken: int cuts off, it does not round.": (
                lambda sampler, steps, scale, n, strength: _rows(
                    sampler, steps, scale, n, strength, lambda count: math.floor(count + 0.5)
                )
            ),
            "strength shortens the steps only; the extra calls are made all the same.": (
                lambda sampler, steps, scale, n, strength: (
                    int((steps + MORE_CALLS[sampler]) * strength) * n * (1 if scale == 1 else 2)
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
            "The first half of the batch belongs to the empty prompt; take the second.": (
                lambda maps, positions, inside: _word_focus(maps, positions, inside, half=0)
            ),
            "Sums are compared here; the two areas differ in size, so compare means.": _focus_sums,
            "The ratio is upside down: it is on the thing over off the thing.": (
                lambda maps, positions, inside: 1 / _word_focus(maps, positions, inside)
            ),
            "The map of a word is the sum over its tokens; one token alone is taken here.": (
                lambda maps, positions, inside: _word_focus(maps, positions[:1], inside)
            ),
            "The second mean is over the places off the thing, not over all places.": (
                lambda maps, positions, inside: (
                    _mean_in(maps, positions, inside)
                    / _mean_in(maps, positions, torch.ones_like(inside))
                )
            ),
            "This is the difference of the two means, not their ratio.": (
                lambda maps, positions, inside: (
                    _mean_in(maps, positions, inside) - _mean_in(maps, positions, 1 - inside)
                )
            ),
        },
        level="middle",
        goal="measure from attention maps whether a word found its thing",
    ),
    "img2img_start": Exercise(
        _start,
        _start_cases,
        {
            "This is the place in the list, or the number of steps, and not the time.": (
                lambda *case: (
                    case[0] - int(case[0] * case[1]),
                    _start(*case)[1],
                )
            ),
            "The run begins at a time of the grid: first count the steps taken.": (
                _start_slip("grid")
            ),
            "ᾱ is the share of the variance; the share of the amplitude is its root.": _start_slip(
                "square"
            ),
            "This is the amplitude of the noise, not of the picture.": _start_slip("noise"),
            "int(steps * strength) steps are taken, not left out.": _start_slip("wrong end"),
            "n steps have n + 1 times: the run begins one place earlier in the list.": _start_slip(
                "late"
            ),
            "This is the official script's time; here it begins one place later in the list.": (
                _start_slip("official")
            ),
            "This is the number of steps taken, and not a time.": (
                lambda *case: (int(case[0] * case[1]), _start(*case)[1])
            ),
            "ab begins with ᾱ_0: the ᾱ of the time t is ab[t], not ab[t - 1].": (
                lambda steps, strength, ab: (
                    _start(steps, strength, ab)[0],
                    ab[int(_start(steps, strength, ab)[0]) - 1].sqrt(),
                )
            ),
        },
        level="middle",
        goal="find where img2img begins and how much of the picture is left",
    ),
    "latent_mask": Exercise(
        lambda mask, factor: F.max_pool2d(mask, factor),
        _mask_cases,
        {
            "Here the first pixel of a patch decides for all of it.": lambda mask, factor: mask[
                :, :, ::factor, ::factor
            ],
            "This is the share of the patch that is painted; a latent is 0 or 1.": (
                lambda mask, factor: F.avg_pool2d(mask, factor)
            ),
            "One painted pixel of a patch is enough; it need not be all of them.": (
                lambda mask, factor: _pool(mask, factor, lambda p: p.amin((3, 5)))
            ),
            "1 is where to paint, 0 where to keep: the answer is inverted.": lambda mask, factor: (
                1 - F.max_pool2d(mask, factor)
            ),
            "Here the majority of a patch decides; one painted pixel is enough.": (
                lambda mask, factor: (F.avg_pool2d(mask, factor) >= 0.5).double()
            ),
            "Here the pixel in the middle of a patch decides for all of it.": (
                lambda mask, factor: mask[:, :, factor // 2 :: factor, factor // 2 :: factor]
            ),
            "Here more than half of a patch must be painted; one painted pixel is enough.": (
                lambda mask, factor: (F.avg_pool2d(mask, factor) > 0.5).double()
            ),
        },
        level="middle",
        goal="bring a mask of pixels to the grid of the latents",
    ),
    "slerp": Exercise(
        _slerp,
        _slerp_cases,
        {
            "This is the straight line, which cuts through the inside of the sphere.": (
                lambda a, b, u: (1 - u) * a + u * b
            ),
            "u = 0 is a and u = 1 is b: they are swapped.": lambda a, b, u: _slerp(a, b, 1 - u),
            "The angle is not 90 degrees: compute it from a · b.": lambda a, b, u: (
                math.cos(u * math.pi / 2) * a + math.sin(u * math.pi / 2) * b
            ),
            "There is one angle for all numbers together, not one for each row.": _slerp_rows,
            "cos θ is a · b divided by both lengths.": _slerp_without_lengths,
            "The division by sin θ is missing.": lambda a, b, u: _slerp(a, b, u) * _sine(a, b),
            "Unit vectors give the angle only; the arc is made of a and b themselves.": (
                lambda a, b, u: _slerp(a / a.norm(), b / b.norm(), u)
            ),
        },
        level="middle",
        goal="go from one noise to another along the sphere",
    ),
}

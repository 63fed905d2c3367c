"""Exercises of notebook 08."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.configs import SD1, SD2, SDXL_REFINER
from ..checking import Exercise


def _normal(generator, *shape):
    return torch.randn(shape, dtype=torch.float64, generator=generator)


# ---- time ---------------------------------------------------------------------------------


def _embedding(sines_first, shift, period=10_000):
    def embed(index: Tensor, dim: int) -> Tensor:
        half = dim // 2
        k = torch.arange(half, dtype=torch.float64)
        angle = index[:, None].double() * period ** (-k / (half - shift))
        parts = [angle.cos(), angle.sin()]
        return torch.cat(parts[::-1] if sines_first else parts, dim=1)

    return embed


def _interleaved(index, dim):
    cosines, sines = _embedding(False, 1)(index, dim).chunk(2, dim=1)
    return torch.stack([sines, cosines], dim=2).flatten(1)


def _embedding_cases(g):
    for dim in (4, 8, 128, 320):
        yield torch.tensor([0, 1, 10, 981]), dim


def _turn(sign=1.0, shift=0):
    def turned(embedding: Tensor, delta: int) -> Tensor:
        half = embedding.shape[1] // 2
        k = torch.arange(half, dtype=torch.float64)
        angle = sign * delta * 10_000 ** (-k / (half - shift))
        cosines, sines = embedding.chunk(2, dim=1)
        parts = [
            cosines * angle.cos() - sines * angle.sin(),
            sines * angle.cos() + cosines * angle.sin(),
        ]
        return torch.cat(parts, dim=1)

    return turned


def _turn_cases(g):
    for dim, delta in [(4, 1), (8, 20), (320, -20), (320, 500), (6, 0)]:
        index = torch.randint(0, 1000, (3,), generator=g)
        yield _embedding(False, 0)(index, dim), delta


# ---- GroupNorm ----------------------------------------------------------------------------


def _group_norm(x: Tensor, groups: int, eps: float, unbiased=False, root="in", over="group"):
    b, c = x.shape[:2]
    if over == "strided":
        x = x.reshape(b, c // groups, groups, -1).transpose(1, 2).reshape(x.shape)
    flat = x.reshape(b, groups, -1)
    if over == "channel":
        flat = x.reshape(b, c, -1)
    if over == "batch":
        flat = x.reshape(b, groups, -1).transpose(0, 1).reshape(1, groups, -1)
    mean, var = flat.mean(-1, keepdim=True), flat.var(-1, correction=int(unbiased), keepdim=True)
    if over == "batch":
        flat = x.reshape(b, groups, -1)
    root = (var + eps).sqrt() if root == "in" else var.sqrt() + eps if root == "out" else var + eps
    out = ((flat - mean) / root).reshape(x.shape)
    if over == "strided":
        out = out.reshape(b, groups, c // groups, -1).transpose(1, 2).reshape(x.shape)
    return out


def _group_norm_cases(g):
    for shape, groups, eps in [
        ((2, 6, 3, 3), 3, 1e-5),
        ((1, 8, 2, 5), 2, 1e-6),
        ((3, 4, 2, 2), 4, 0.1),
        ((2, 4, 1, 3), 1, 1e-5),
    ]:
        yield 0.01 + 0.02 * _normal(g, *shape), groups, eps


def _survives(shift: Tensor, groups: int) -> Tensor:
    by_group = shift.reshape(len(shift), groups, -1)
    return (by_group - by_group.mean(2, keepdim=True)).reshape(shift.shape)


def _survives_cases(g):
    for b, c, groups in [(2, 8, 4), (1, 6, 2), (3, 4, 1), (2, 5, 5), (2, 320, 32)]:
        yield _normal(g, b, c), groups


# ---- blocks -------------------------------------------------------------------------------


def _resblock_parameters(
    channels, emb, out, norms=True, biases=True, skip="changed", second=True
) -> int:
    total = 9 * channels * out + emb * out + 9 * out * (out if second else channels)
    total += 3 * out if biases else 0
    total += 2 * (channels + (out if second else channels)) if norms else 0
    if skip == "always" or (skip == "changed" and channels != out):
        total += channels * out + (out if biases else 0)
    return total


def _resblock_cases(g):
    return [(320, 1280, 320), (320, 1280, 640), (2560, 1280, 1280), (960, 1280, 320), (64, 256, 32)]


def _halve(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, stride=2)


def _halve_cases(g):
    for shape, out in [((1, 1, 4, 4), 1), ((2, 3, 6, 8), 2), ((1, 2, 2, 2), 3)]:
        yield _normal(g, *shape), _normal(g, out, shape[1], 3, 3)


# ---- the ladder ---------------------------------------------------------------------------


def _skips(width: int, mult: tuple, blocks: int, downs=True) -> list[int]:
    skips, last = [width], len(mult) - 1
    for level, m in enumerate(mult):
        skips += [m * width] * blocks
        if level < last and downs:
            skips.append(m * width)
    return skips


def _output_inputs(width, mult, blocks, pop="last", middle=True, downs=True) -> list[int]:
    skips = _skips(width, mult, blocks, downs)
    channels, inputs = mult[-1] * width, []
    for m in reversed(mult):
        for _ in range(blocks + 1):
            skip = (skips.pop(-1 if pop == "last" else 0)) if skips else 0
            inputs.append((channels if middle else m * width) + skip)
            channels = m * width
    return inputs


def _only_skips(width, mult, blocks):
    return _skips(width, mult, blocks)[::-1]


def _skip_weights(width, mult, blocks, kernel=9, what="skip") -> int:
    skips, inputs = _only_skips(width, mult, blocks), _output_inputs(width, mult, blocks)
    outs = [m * width for m in reversed(mult) for _ in range(blocks + 1)]
    read = {
        "skip": skips,
        "all": inputs,
        "below": [i - s for i, s in zip(inputs, skips, strict=True)],
    }[what]
    return sum(kernel * r * o for r, o in zip(read, outs, strict=True))


def _ladder_cases(g):
    return [
        (320, (1, 2, 4, 4), 2),
        (320, (1, 2, 4), 2),
        (192, (1, 2, 3, 5), 2),
        (32, (1, 2), 1),
        (64, (1, 1, 2), 3),
        (32, (1,), 1),
    ]


def _heads(width, mult, factors, heads, head_channels, by="factor", swap=False):
    found = []
    for level, m in enumerate(mult):
        channels = m * width
        here = {"factor": 2**level, "level": level, "side": 64 // 2**level, "mult": m}[by]
        if here in factors:
            number = heads or channels // head_channels
            pair = [number, channels // number]
            found.append([channels, *(pair[::-1] if swap else pair)])
    return found


def _heads_cases(g):
    tiny = (32, (1, 2, 2), (2, 4), None, 16)
    return [
        (c.model_channels, c.channel_mult, c.attention_factors, c.heads, c.head_channels)
        for c in (SD1, SD2, SDXL_REFINER)
    ] + [tiny, (64, (1, 2, 4, 4), (8, 4), 4, None)]


def _fresh_cases(g):
    for shape, ab_t in [((1, 4, 8, 8), 0.00466), ((2, 3), 0.5), ((2, 3), 1.0)]:
        yield _normal(g, *shape), torch.tensor(ab_t, dtype=torch.float64)


EXERCISES = {
    "ddpm_time_embedding": Exercise(
        _embedding(True, 1),
        _embedding_cases,
        {
            "that is LDM's: DDPM has the sines first and divides k by half - 1": (
                _embedding(False, 0)
            ),
            "the sines come first": _embedding(False, 1),
            "the last frequency must be exactly 1/10000: divide k by half - 1": (
                _embedding(True, 0)
            ),
            "not in turns: first all the sines, then all the cosines": _interleaved,
        },
        tolerance=1e-3,  # float32 is enough
        level="easy",
        goal="write DDPM's time embedding, which differs from LDM's",
    ),
    "turn_time_embedding": Exercise(
        _turn(),
        _turn_cases,
        {
            "turned the wrong way: the cosines are the first half, and the angle grows by delta": (
                _turn(-1.0)
            ),
            "LDM's frequencies divide k by half, DDPM's by half - 1": _turn(shift=1),
            "adding sin and cos of delta is not adding the angle": lambda e, d: (
                e + _embedding(False, 0)(torch.tensor([d]), e.shape[1])
            ),
        },
        level="middle",
        goal="see a shift in time as a fixed rotation of its embedding",
    ),
    "group_norm": Exercise(
        _group_norm,
        _group_norm_cases,
        {
            "divide by n, not by n-1, in the variance": lambda x, n, e: _group_norm(x, n, e, True),
            "eps belongs under the root": lambda x, n, e: _group_norm(x, n, e, root="out"),
            "the root is missing: divide by the standard deviation": lambda x, n, e: _group_norm(
                x, n, e, root="no"
            ),
            "that is a mean for each channel: a group has several, and shares its mean": (
                lambda x, n, e: _group_norm(x, n, e, over="channel")
            ),
            "the channels of a group are neighbours, 0 1 2 | 3 4 5, not every n-th": (
                lambda x, n, e: _group_norm(x, n, e, over="strided")
            ),
            "the samples of the batch must not know of one another": lambda x, n, e: _group_norm(
                x, n, e, over="batch"
            ),
        },
        level="easy",
        goal="write a group norm",
    ),
    "resblock_parameters": Exercise(
        _resblock_parameters,
        _resblock_cases,
        {
            "the two norms have a weight and a bias for each channel": lambda *c: (
                _resblock_parameters(*c, norms=False)
            ),
            "the biases are missing": lambda *c: _resblock_parameters(*c, biases=False),
            "where the width changes, the skip connection is a 1 x 1 convolution": lambda *c: (
                _resblock_parameters(*c, skip="never")
            ),
            "where the width stays, the skip connection is free": lambda *c: _resblock_parameters(
                *c, skip="always"
            ),
            "the second norm and convolution work at the new width": lambda *c: (
                _resblock_parameters(*c, second=False)
            ),
        },
        level="easy",
        goal="count the parameters of a ResBlock",
    ),
    "surviving_time": Exercise(
        _survives,
        _survives_cases,
        {
            "that is what is lost: the mean of the group": lambda s, n: s - _survives(s, n),
            "the mean is over the channels of a group, not over all channels": lambda s, n: (
                s - s.mean(1, keepdim=True)
            ),
            "the channels of a group are neighbours, not every n-th": lambda s, n: (
                s - s.reshape(len(s), -1, n).mean(1).repeat(1, s.shape[1] // n)
            ),
            "no spread to divide by: it is asked for before the division": lambda s, n: _group_norm(
                s[..., None, None], n, 1e-5
            )[..., 0, 0],
        },
        level="middle",
        goal="find which part of the time signal a group norm keeps",
    ),
    "shifted_downsample": Exercise(
        _halve,
        _halve_cases,
        {
            "that is the U-Net's own: its centres are the even pixels, wanted are the odd ones": (
                lambda x, w: F.conv2d(x, w, stride=2, padding=1)
            ),
            "x[1:] loses row 0, which the first window needs: move the picture the other way": (
                lambda x, w: F.conv2d(F.pad(x, (-1, 1, -1, 1)), w, stride=2, padding=1)
            ),
            "the first row and column of the result are centred outside the picture: drop them": (
                lambda x, w: F.conv2d(F.pad(x, (1, 0, 1, 0)), w, stride=2, padding=1)
            ),
            "the last row and column of the result are not the ones to drop": lambda x, w: F.conv2d(
                F.pad(x, (1, 0, 1, 0)), w, stride=2, padding=1
            )[..., :-1, :-1],
            "padding alone leaves a row and a column too many: drop the first ones": lambda x, w: (
                F.conv2d(F.pad(x, (0, 1, 0, 1)), w, stride=2, padding=1)
            ),
            "dropping alone leaves a row and a column too few: pad before it": lambda x, w: (
                F.conv2d(x, w, stride=2, padding=1)[..., 1:, 1:]
            ),
        },
        level="middle",
        goal="tell the paddings of U-Net and autoencoder apart",
    ),
    "unet_output_inputs": Exercise(
        _output_inputs,
        _ladder_cases,
        {
            "last in, first out: the deepest skip is read first": lambda w, m, b: _output_inputs(
                w, m, b, pop="first"
            ),
            "the first block of a level still gets the width of the level below": (
                lambda w, m, b: _output_inputs(w, m, b, middle=False)
            ),
            "the Downsamples are stages too, and leave a skip each": lambda w, m, b: _output_inputs(
                w, m, b, downs=False
            ),
            "those are the skips alone: what comes from below is in front of them": _only_skips,
        },
        level="hard",
        goal="follow the skips through the U-Net: what enters each output block",
    ),
    "heads_by_level": Exercise(
        _heads,
        _heads_cases,
        {
            "attention_factors are downsampling factors 1, 2, 4, 8, not level numbers": (
                lambda *c: _heads(*c, by="level")
            ),
            "attention_factors are downsampling factors, not sides in pixels": lambda *c: (
                _heads(*c, by="side") or [[0]]
            ),
            "attention_factors are downsampling factors, not channel multipliers": lambda *c: (
                _heads(*c, by="mult")
            ),
            "the number of heads first, then the width of each": lambda *c: _heads(*c, swap=True),
        },
        level="middle",
        goal="read heads and their width from a config, in both conventions",
    ),
    "skip_weights": Exercise(
        _skip_weights,
        _ladder_cases,
        {
            "a 3 x 3 convolution has nine weights for each pair of channels": lambda w, m, b: (
                _skip_weights(w, m, b, kernel=1)
            ),
            "that is the whole convolution: count only those that read the skip": (
                lambda w, m, b: _skip_weights(w, m, b, what="all")
            ),
            "those read what comes from below, the others are asked for": lambda w, m, b: (
                _skip_weights(w, m, b, what="below")
            ),
        },
        level="middle",
        goal="count what the skip connections cost",
    ),
    "fresh_unet_sample": Exercise(
        lambda x, ab_T: x / math.sqrt(ab_T),
        _fresh_cases,
        {
            "DDIM does move x when eps is 0: what is x0 then?": lambda x, ab_T: x,
            "upside down: x_T is √ᾱ_T times x0": lambda x, ab_T: x * ab_T.sqrt(),
            "a root is missing": lambda x, ab_T: x / ab_T,
            "0 is the network's output, not the picture": lambda x, ab_T: 0 * x,
        },
        level="easy",
        goal="know what an untrained U-Net, which outputs 0, samples",
    ),
}

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


def _one_angle(embedding, delta):
    cosines, sines = embedding.chunk(2, dim=1)
    c, s = math.cos(delta), math.sin(delta)
    return torch.cat([cosines * c - sines * s, sines * c + cosines * s], dim=1)


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


def _not_centred(x, groups, eps):
    flat = x.reshape(len(x), groups, -1)
    return (flat / (flat.var(-1, correction=0, keepdim=True) + eps).sqrt()).reshape(x.shape)


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


def _only_below(width, mult, blocks):
    skips, inputs = _only_skips(width, mult, blocks), _output_inputs(width, mult, blocks)
    return [i - s for i, s in zip(inputs, skips, strict=True)]


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
            "This is LDM's embedding: DDPM's has the sines first and divides k by half - 1.": (
                _embedding(False, 0)
            ),
            "The sines come first, then the cosines.": _embedding(False, 1),
            "The last frequency must be exactly 1/10000: divide k by half - 1, not by half.": (
                _embedding(True, 0)
            ),
            "The sines and cosines do not alternate: first all sines, then all cosines.": (
                _interleaved
            ),
            "The frequencies must fall from 1 to 1/10000: the exponent is negative.": (
                _embedding(True, 1, 1e-4)
            ),
            "h is half the number of channels: divide k by dim/2 - 1, not by dim - 1.": (
                lambda i, dim: _embedding(True, 1 - dim // 2)(i, dim)
            ),
        },
        tolerance=1e-3,  # float32 is enough
        level="easy",
        goal="write DDPM's time embedding, which differs from LDM's",
    ),
    "turn_time_embedding": Exercise(
        _turn(),
        _turn_cases,
        {
            "This turns the wrong way: the cosines are the first half, and each angle grows by "
            "delta times its frequency.": _turn(-1.0),
            "LDM's frequencies divide k by half; only DDPM's divide it by half - 1.": (
                _turn(shift=1)
            ),
            "Adding the embedding of delta does not add the angles: use the addition theorems.": (
                lambda e, d: e + _embedding(False, 0)(torch.tensor([d]), e.shape[1])
            ),
            "Multiplying by the embedding of delta is half of the addition theorem: each cosine "
            "also needs the sine of its pair, and the other way round.": (
                lambda e, d: e * _embedding(False, 0)(torch.tensor([d]), e.shape[1])
            ),
            "The embedding is not moved: turn each pair by delta times its frequency.": (
                lambda e, d: e
            ),
            "k is divided by half the number of channels, not by all of them.": (
                lambda e, d: _turn(shift=-(e.shape[1] // 2))(e, d)
            ),
            "Every pair has a frequency of its own: its angle is delta times that frequency.": (
                _one_angle
            ),
        },
        level="middle",
        goal="see a shift in time as a fixed rotation of its embedding",
    ),
    "group_norm": Exercise(
        _group_norm,
        _group_norm_cases,
        {
            "The variance divides by n, not by n - 1.": lambda x, n, e: _group_norm(x, n, e, True),
            "eps belongs under the root, beside the variance.": (
                lambda x, n, e: _group_norm(x, n, e, root="out")
            ),
            "eps is missing: it is added to the variance.": lambda x, n, e: _group_norm(x, n, 0.0),
            "The root is missing: divide by the standard deviation, not by the variance.": (
                lambda x, n, e: _group_norm(x, n, e, root="no")
            ),
            "These are means of single channels: the channels of a group share one mean and one "
            "variance.": lambda x, n, e: _group_norm(x, n, e, over="channel"),
            "The channels of a group are neighbours, 0 1 2 | 3 4 5, not every n-th channel.": (
                lambda x, n, e: _group_norm(x, n, e, over="strided")
            ),
            "Each sample of the batch has its own means: do not average over the batch.": (
                lambda x, n, e: _group_norm(x, n, e, over="batch")
            ),
            "This is one group of all channels: each of the `groups` groups has its own mean.": (
                lambda x, n, e: _group_norm(x, 1, e)
            ),
            "Each sample of the batch has its own means, and each group too.": lambda x, n, e: (
                (x - x.mean()) / (x.var(correction=0) + e).sqrt()
            ),
            "That is a batch norm: means are over the channels of a group, not over samples.": (
                lambda x, n, e: F.batch_norm(x, None, None, training=True, eps=e)
            ),
            "The mean is not subtracted.": _not_centred,
        },
        level="easy",
        goal="write a group norm",
    ),
    "resblock_parameters": Exercise(
        _resblock_parameters,
        _resblock_cases,
        {
            "Each of the two norms has a weight and a bias for every channel.": lambda *c: (
                _resblock_parameters(*c, norms=False)
            ),
            "A norm has two numbers for every channel, a weight and a bias.": lambda c, e, o: (
                _resblock_parameters(c, e, o) - c - o
            ),
            "The biases of the convolutions and of the linear layer are missing.": lambda *c: (
                _resblock_parameters(*c, biases=False)
            ),
            "Where the width changes, the skip connection is a 1 x 1 convolution.": lambda *c: (
                _resblock_parameters(*c, skip="never")
            ),
            "Where the width stays, the skip connection has no parameters.": (
                lambda *c: _resblock_parameters(*c, skip="always")
            ),
            "The skip connection is a 1 x 1 convolution, not 3 x 3.": lambda c, e, o: (
                _resblock_parameters(c, e, o) + (c != o) * 8 * c * o
            ),
            "The second norm and the second convolution work at the new width.": lambda *c: (
                _resblock_parameters(*c, second=False)
            ),
            "The linear layer from emb numbers to out channels is missing.": lambda c, e, o: (
                _resblock_parameters(c, e, o) - e * o - o
            ),
            "The linear layer of the time has a bias for each of the out channels.": (
                lambda c, e, o: _resblock_parameters(c, e, o) - o
            ),
            "The biases of the two convolutions and of the linear layer are missing.": (
                lambda c, e, o: _resblock_parameters(c, e, o) - 3 * o
            ),
            "Each 3 x 3 convolution has nine weights for each pair of channels, not one.": (
                lambda c, e, o: _resblock_parameters(c, e, o) - 8 * (c * o + o * o)
            ),
            "A 3 x 3 convolution has nine weights for each pair of channels.": lambda c, e, o: (
                _resblock_parameters(c, e, o) - 6 * (c * o + o * o)
            ),
        },
        level="easy",
        goal="count the parameters of a ResBlock",
    ),
    "surviving_time": Exercise(
        _survives,
        _survives_cases,
        {
            "This is what is lost, the mean of the group: return the rest.": (
                lambda s, n: s - _survives(s, n)
            ),
            "The mean is over the channels of a group, not over all channels.": lambda s, n: (
                s - s.mean(1, keepdim=True)
            ),
            "The channels of a group are neighbours, not every n-th channel.": lambda s, n: (
                s - s.reshape(len(s), -1, n).mean(1).repeat(1, s.shape[1] // n)
            ),
            "Do not divide by the standard deviation: the question is about the numbers before "
            "the norm divides.": lambda s, n: _group_norm(s[..., None, None], n, 1e-5)[..., 0, 0],
            "`groups` is the number of groups, not the number of channels in a group.": (
                lambda s, n: _survives(s, s.shape[1] // n)
            ),
            "These are the means of the groups: subtract each from the channels of its group.": (
                lambda s, n: s.reshape(len(s), n, -1).mean(2)
            ),
            "Nothing is subtracted: the norm subtracts the mean of each group.": lambda s, n: s,
            "The mean is over the channels of a group, not over the samples of the batch.": (
                lambda s, n: s - s.mean(0)
            ),
        },
        level="middle",
        goal="find which part of the time signal a group norm keeps",
    ),
    "shifted_downsample": Exercise(
        _halve,
        _halve_cases,
        {
            "This is the U-Net's own result: its windows are centred on the even pixels, and the "
            "autoencoder's on the odd ones.": lambda x, w: F.conv2d(x, w, stride=2, padding=1),
            "Cutting off row 0 loses it, and the first window needs it: move the picture the other "
            "way.": lambda x, w: F.conv2d(F.pad(x, (-1, 1, -1, 1)), w, stride=2, padding=1),
            "The first row and column of the result are centred outside the picture: drop them.": (
                lambda x, w: F.conv2d(F.pad(x, (1, 0, 1, 0)), w, stride=2, padding=1)
            ),
            "Drop the first row and column of the result, not the last ones.": (
                lambda x, w: F.conv2d(F.pad(x, (1, 0, 1, 0)), w, stride=2, padding=1)[..., :-1, :-1]
            ),
            "This pads on the right and below: the windows are still centred on the even pixels, "
            "and there is one row and one column too many.": lambda x, w: F.conv2d(
                F.pad(x, (0, 1, 0, 1)), w, stride=2, padding=1
            ),
            "Dropping alone leaves one row and one column too few: pad before the convolution.": (
                lambda x, w: F.conv2d(x, w, stride=2, padding=1)[..., 1:, 1:]
            ),
            "roll brings the first row back at the other end: pad with zeros instead.": (
                lambda x, w: F.conv2d(x.roll((-1, -1), (2, 3)), w, stride=2, padding=1)
            ),
            "roll brings the last row to the front: pad with zeros instead.": lambda x, w: F.conv2d(
                x.roll((1, 1), (2, 3)), w, stride=2, padding=1
            ),
            "Padding on the right leaves the centres on the even pixels: pad on the left, so that "
            "pixel 1 becomes pixel 2.": lambda x, w: F.conv2d(
                F.pad(x, (0, 1, 0, 1)), w, stride=2, padding=1
            )[..., 1:, 1:],
        },
        level="middle",
        goal="tell the paddings of U-Net and autoencoder apart",
    ),
    "unet_output_inputs": Exercise(
        _output_inputs,
        _ladder_cases,
        {
            "The skips are a stack: the deepest skip, which was put there last, is read first.": (
                lambda w, m, b: _output_inputs(w, m, b, pop="first")
            ),
            "The first block of a level still gets the width of the level below.": (
                lambda w, m, b: _output_inputs(w, m, b, middle=False)
            ),
            "The Downsamples are stages too, and each of them leaves a skip.": lambda w, m, b: (
                _output_inputs(w, m, b, downs=False)
            ),
            "These are the skips alone: add the channels of the stage before.": _only_skips,
            "These are the channels of the stage before alone: add those of the skip.": _only_below,
            "These are the channels that go out of each block: the question is what comes in.": (
                lambda w, m, b: [k * w for k in reversed(m) for _ in range(b + 1)]
            ),
            "A skip does not always have the width of the stage that reads it: follow the stack.": (
                lambda w, m, b: [2 * k * w for k in reversed(m) for _ in range(b + 1)]
            ),
            "Each level has one block more on the way up than on the way down.": lambda w, m, b: (
                _output_inputs(w, m, b)[: b * len(m)]
            ),
            "Output 0, the deepest block, comes first in the list.": lambda w, m, b: _output_inputs(
                w, m, b
            )[::-1],
        },
        level="hard",
        goal="follow the skips through the U-Net: what enters each output block",
    ),
    "heads_by_level": Exercise(
        _heads,
        _heads_cases,
        {
            "attention_factors are downsampling factors 1, 2, 4, 8, not numbers of levels.": (
                lambda *c: _heads(*c, by="level")
            ),
            "attention_factors are downsampling factors, not sides in pixels.": lambda *c: (
                _heads(*c, by="side") or [[0]]
            ),
            "attention_factors are downsampling factors, not channel multipliers.": lambda *c: (
                _heads(*c, by="mult")
            ),
            "The number of heads comes first, then the width: `heads` is a number of heads and "
            "`head_channels` is the width of one.": (lambda *c: _heads(*c, swap=True)),
            "Only levels whose downsampling factor is in attention_factors have an entry.": (
                lambda w, m, f, n, d: _heads(w, m, [2**k for k in range(len(m))], n, d)
            ),
            "The top level, which has the largest size, comes first.": (
                lambda *c: _heads(*c)[::-1]
            ),
        },
        level="middle",
        goal="read heads and their width from a config, in both conventions",
    ),
    "fresh_unet_sample": Exercise(
        lambda x, ab_T: x / math.sqrt(ab_T),
        _fresh_cases,
        {
            "DDIM does move x when ε is 0: compute the predicted x_0 with ε = 0.": lambda x, ab_T: (
                x
            ),
            "This is upside down: x_T is √ᾱ_T times x_0.": lambda x, ab_T: x * ab_T.sqrt(),
            "A root is missing: x_T is √ᾱ_T times x_0.": lambda x, ab_T: x / ab_T,
            "The output 0 is the predicted noise, not the picture.": lambda x, ab_T: 0 * x,
            "The predicted noise is 0, so nothing is subtracted from x_T.": lambda x, ab_T: (
                x * (1 - (1 - ab_T).sqrt()) / ab_T.sqrt()
            ),
        },
        level="easy",
        goal="know what an untrained U-Net, which outputs 0, samples",
    ),
}

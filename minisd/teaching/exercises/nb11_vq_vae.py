"""Exercises of notebook 11."""

import math

import torch

from ...models.vq import VectorQuantizer
from ..checking import Exercise


def _randn(generator, *shape):
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def _quantizer(codes, beta=0.25, legacy=False):
    quantizer = VectorQuantizer(*codes.shape, beta, legacy).double()
    quantizer.embedding.weight.data = codes
    return quantizer


def _nearest(z, codes):
    return _quantizer(codes).indices(z)


def _nearest_with(score, flat=lambda z: z.movedim(1, -1).flatten(0, -2)):
    def nearest(z, codes):
        index = score(flat(z), codes).argmin(1)
        return index.reshape(z.shape[0], *z.shape[2:])

    return nearest


def _nearest_cases(generator):
    for b, c, h, w, codes in [(2, 3, 4, 5, 7), (1, 4, 2, 2, 16), (3, 2, 1, 6, 5), (1, 2, 3, 3, 1)]:
        sizes = 1 + torch.arange(codes, dtype=torch.float64)[:, None]  # codes of unlike length
        yield 2 * _randn(generator, b, c, h, w), _randn(generator, codes, c) * sizes / codes * 2


def _st_gradient(z, e, a, target):
    return 2 * a * (a * e - target)


def _vector_cases(generator):
    for shape in [(2, 3), (1, 4, 2, 2), (5,)]:
        yield (*_randn(generator, 4, *shape),)
    z, a, target = _randn(generator, 3, 3)
    yield z, z.clone(), a, target  # on a code


def _vq_gradients(z, e, beta):
    z, e = z.requires_grad_(), e.requires_grad_()
    loss = ((z.detach() - e) ** 2).sum() + beta * ((z - e.detach()) ** 2).sum()
    return torch.stack(torch.autograd.grad(loss, (z, e)))


def _gradients_with(of_z, of_e):
    return lambda z, e, beta: torch.stack([of_z(z - e, beta), of_e(z - e, beta)])


def _gradient_cases(generator):
    for shape, beta in [((2, 3), 0.25), ((5,), 1.0), ((1, 4, 2, 2), 2.0)]:
        yield *_randn(generator, 2, *shape), beta


def _legacy(beta, weight):
    return 1 / beta, weight * beta


def _mean_code(z, indices, codes):
    new = codes.clone()
    for k in range(len(codes)):
        if (indices == k).any():
            new[k] = z[indices == k].mean(0)
    return new


def _sum_with(divide, unused):
    def update(z, indices, codes):
        hot = torch.nn.functional.one_hot(indices, len(codes)).to(z)
        n = hot.sum(0)[:, None]
        new = hot.T @ z / divide(n, len(z), len(codes))
        return torch.where(n > 0, new, unused(codes))

    return update


def _assigned_cases(generator):
    for n, k, d in [(12, 4, 2), (5, 8, 3), (40, 3, 2)]:
        z, codes = _randn(generator, 2, max(n, k), d)
        indices = torch.randint(max(1, k - 1), (n,), generator=generator)  # the last is unused
        yield z[:n], indices, codes[:k]


def _ema(z, indices, counts, sums, decay):
    hot = torch.nn.functional.one_hot(indices, len(counts)).to(z)
    counts = decay * counts + (1 - decay) * hot.sum(0)
    sums = decay * sums + (1 - decay) * hot.T @ z
    return sums / counts[:, None]


def _ema_with(update):
    def ema(z, indices, counts, sums, decay):
        hot = torch.nn.functional.one_hot(indices, len(counts)).to(z)
        return update(hot.sum(0), hot.T @ z, counts, sums, decay)

    return ema


def _ema_cases(generator):
    for n, k, d, decay in [(12, 4, 2, 0.99), (5, 3, 3, 0.5), (30, 2, 1, 0.9)]:
        z, sums = _randn(generator, n, d), _randn(generator, k, d)
        counts = 1 + 4 * torch.rand(k, dtype=torch.float64, generator=generator)
        yield z, torch.randint(k, (n,), generator=generator), counts, sums, decay


def _perplexity(indices, codes):
    share = torch.bincount(indices.flatten(), minlength=codes).double() / indices.numel()
    return torch.special.entr(share).sum().exp()


def _perplexity_with(of_share):
    def perplexity(indices, codes):
        n = torch.bincount(indices.flatten(), minlength=codes).double()
        return of_share(n / n.sum(), codes)

    return perplexity


def _perplexity_cases(generator):
    yield torch.randint(8, (2, 4, 4), generator=generator), 8
    yield torch.randint(5, (3, 5, 2), generator=generator), 64  # most codes are never used
    yield torch.arange(16).reshape(1, 4, 4), 16
    yield torch.full((1, 2, 2), 3), 8


def _code_bits(h, w, factor, codes):
    bits = (h // factor) * (w // factor) * math.ceil(math.log2(codes))
    return bits, 24 * h * w / bits


def _bits_with(each, side=lambda f: f * f, pixel=24):
    def code_bits(h, w, factor, codes):
        bits = h * w / side(factor) * each(codes)
        return bits, pixel * h * w / bits

    return code_bits


def _bits_cases(generator):
    return [(256, 256, 4, 8192), (256, 256, 8, 16384), (512, 384, 16, 16384), (64, 64, 8, 1000)]


EXERCISES = {
    "nearest_code": Exercise(
        _nearest,
        _nearest_cases,
        {
            "that is the farthest code: argmin, not argmax": _nearest_with(
                lambda z, e: -torch.cdist(z, e)
            ),
            "the longest code is not the nearest: ‖e‖² is missing": _nearest_with(
                lambda z, e: -z @ e.T
            ),
            "the cross term is 2 z·e": _nearest_with(lambda z, e: (e**2).sum(1) - z @ e.T),
            "the sign of the cross term": _nearest_with(lambda z, e: (e**2).sum(1) + 2 * z @ e.T),
            "a vector runs along the channels: move them last before you flatten": _nearest_with(
                torch.cdist, lambda z: z.reshape(-1, z.shape[1])
            ),
        },
        tolerance=0,
        level="middle",
        goal="find nearest codes without a table of differences",
    ),
    "st_gradient": Exercise(
        _st_gradient,
        _vector_cases,
        {
            "the loss is computed at e, where the decoder was, not at z": lambda z, e, a, y: (
                2 * a * (a * z - y)
            ),
            "argmin has gradient 0, but the straight-through estimator skips it": (
                lambda z, e, a, y: 0 * z
            ),
            "the 2 of the square is missing": lambda z, e, a, y: a * (a * e - y),
            "the inner derivative a is missing": lambda z, e, a, y: 2 * (a * e - y),
            "the sign: d/dz (a z - y)²": lambda z, e, a, y: 2 * a * (y - a * e),
        },
        level="easy",
        goal="pass a gradient straight through the quantiser",
    ),
    "vq_gradients": Exercise(
        _vq_gradients,
        _gradient_cases,
        {
            "β belongs to the term that moves z (legacy order, or sg swapped)": _gradients_with(
                lambda d, b: 2 * d, lambda d, b: -2 * b * d
            ),
            "each term moves one side only: sg holds the other still": _gradients_with(
                lambda d, b: 2 * (1 + b) * d, lambda d, b: -2 * (1 + b) * d
            ),
            "the sign of the code's gradient: it is pulled towards z": _gradients_with(
                lambda d, b: 2 * b * d, lambda d, b: 2 * d
            ),
            "both signs: a gradient points uphill, away from the other": _gradients_with(
                lambda d, b: -2 * b * d, lambda d, b: 2 * d
            ),
            "the 2 of the squares is missing": _gradients_with(lambda d, b: b * d, lambda d, b: -d),
        },
        level="middle",
        goal="tell which term of the VQ loss moves what",
    ),
    "legacy_to_paper": Exercise(
        _legacy,
        lambda generator: [(0.25, 1.0), (0.5, 2.0), (2.0, 0.3), (1.0, 1.0)],
        {
            "the ratio of the two terms turns over: β becomes 1/β": lambda b, w: (b, w * b),
            "the weight must also change: the code's term had w β": lambda b, w: (1 / b, w),
            "divided where it should be multiplied": lambda b, w: (1 / b, w / b),
            "β and the weight are swapped": lambda b, w: (w * b, 1 / b),
        },
        level="middle",
        goal="translate the official legacy order of beta into the paper's",
    ),
    "best_codes": Exercise(
        _mean_code,
        _assigned_cases,
        {
            "divide by how many chose this code, not by all": _sum_with(
                lambda n, all_, k: all_, lambda codes: codes
            ),
            "the mean, not the sum": _sum_with(lambda n, all_, k: 1.0, lambda codes: codes),
            "a code that nobody chose stays where it is": _sum_with(
                lambda n, all_, k: n.clamp(min=1), lambda codes: 0 * codes
            ),
            "the mean of no vectors is nan: a code that nobody chose stays": _sum_with(
                lambda n, all_, k: n, lambda codes: codes * math.nan
            ),
            "divide by the number of vectors of this code, not of codes": _sum_with(
                lambda n, all_, k: k, lambda codes: codes
            ),
        },
        level="easy",
        goal="see the codebook term as k-means",
    ),
    "ema_codes": Exercise(
        _ema,
        _ema_cases,
        {
            "decay and 1 - decay are swapped": _ema_with(
                lambda n, s, c, m, y: ((1 - y) * m + y * s) / ((1 - y) * c + y * n)[:, None]
            ),
            "the code is the sums over the counts, both averaged; yours are the sums": _ema_with(
                lambda n, s, c, m, y: y * m + (1 - y) * s
            ),
            "the counts must be averaged as well": _ema_with(
                lambda n, s, c, m, y: (y * m + (1 - y) * s) / c[:, None]
            ),
            "average sums and counts first and divide last, not the codes": _ema_with(
                lambda n, s, c, m, y: y * m / c[:, None] + (1 - y) * s / n.clamp(min=1)[:, None]
            ),
            "the new part has the weight 1 - decay": _ema_with(
                lambda n, s, c, m, y: (y * m + s) / (y * c + n)[:, None]
            ),
        },
        level="middle",
        goal="update a codebook by moving averages",
    ),
    "perplexity": Exercise(
        _perplexity,
        _perplexity_cases,
        {
            "that is the entropy: take exp of it": _perplexity_with(
                lambda p, k: torch.special.entr(p).sum()
            ),
            "that counts the codes in use, a rare one as much as a common one": _perplexity_with(
                lambda p, k: (p > 0).sum()
            ),
            "0 log 0 is 0, not nan": _perplexity_with(lambda p, k: (-(p * p.log()).sum()).exp()),
            "the sign of the entropy": _perplexity_with(
                lambda p, k: (-torch.special.entr(p).sum()).exp()
            ),
            "sum p log p, not its mean over the codes": _perplexity_with(
                lambda p, k: torch.special.entr(p).mean().exp()
            ),
            "logarithm and power need the same base": _perplexity_with(
                lambda p, k: 2 ** torch.special.entr(p).sum()
            ),
        },
        level="easy",
        goal="measure how much of a codebook is used",
        given=("perplexity",),
    ),
    "code_bits": Exercise(
        _code_bits,
        _bits_cases,
        {
            "both sides shrink: factor² pixels for each code": _bits_with(
                lambda k: math.ceil(math.log2(k)), lambda f: f
            ),
            "a code of K needs log2 K bits, not K": _bits_with(lambda k: k),
            "bits: the logarithm to base 2": _bits_with(lambda k: math.ceil(math.log(k))),
            "a picture has 3 bytes for each pixel": _bits_with(
                lambda k: math.ceil(math.log2(k)), pixel=8
            ),
            "whole bits: round up": _bits_with(math.log2),
        },
        level="easy",
        goal="count the bits of an index map",
    ),
}

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


def _chosen(indices, codes):
    """How many vectors chose each code, (K, 1)."""
    return torch.bincount(indices, minlength=len(codes))[:, None]


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
    return [(64, 64, 8, 1000), (256, 256, 4, 8192), (256, 256, 8, 16384), (512, 384, 16, 16384)]


EXERCISES = {
    "nearest_code": Exercise(
        _nearest,
        _nearest_cases,
        {
            "this finds the farthest code: take argmin, not argmax": _nearest_with(
                lambda z, e: -torch.cdist(z, e)
            ),
            "‖e‖² is missing, so long codes win although they are not the nearest": _nearest_with(
                lambda z, e: -z @ e.T
            ),
            "the product z·e has the factor 2": _nearest_with(lambda z, e: (e**2).sum(1) - z @ e.T),
            "the product z·e is subtracted, not added": _nearest_with(
                lambda z, e: (e**2).sum(1) + 2 * z @ e.T
            ),
            "the expansion has the squared length ‖e‖², not the length ‖e‖": _nearest_with(
                lambda z, e: e.norm(dim=1) - 2 * z @ e.T
            ),
            "the distance is squared before it is summed: sum (z - e)², not sum (z - e)": (
                _nearest_with(lambda z, e: (z.sum(1, keepdim=True) - e.sum(1)).abs())
            ),
            "a vector of z runs along its second dimension: move it last before you flatten": (
                _nearest_with(torch.cdist, lambda z: z.reshape(-1, z.shape[1]))
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
            "the decoder gets the code e, so the gradient is taken at e, not at z": (
                lambda z, e, a, y: 2 * a * (a * z - y)
            ),
            "0 is the true gradient; the straight-through estimator replaces it": (
                lambda z, e, a, y: 0 * z
            ),
            "the factor 2 of the square's derivative is missing": lambda z, e, a, y: (
                a * (a * e - y)
            ),
            "the inner derivative a is missing": lambda z, e, a, y: 2 * (a * e - y),
            "the derivatives 2 and a are both missing": lambda z, e, a, y: a * e - y,
            "the sign is turned: the derivative of (a z - y)² is 2 a (a z - y)": (
                lambda z, e, a, y: 2 * a * (y - a * e)
            ),
            "L is a sum, so nothing is divided by the number of elements": lambda z, e, a, y: (
                2 * a * (a * e - y) / e.numel()
            ),
        },
        level="easy",
        goal="pass a gradient straight through the quantiser",
    ),
    "vq_gradients": Exercise(
        _vq_gradients,
        _gradient_cases,
        {
            "β belongs to the gradient of z: the commitment moves z, the codebook term e": (
                _gradients_with(lambda d, b: 2 * d, lambda d, b: -2 * b * d)
            ),
            "each term moves one side only, because sg has the gradient 0": _gradients_with(
                lambda d, b: 2 * (1 + b) * d, lambda d, b: -2 * (1 + b) * d
            ),
            "the gradient of e has the wrong sign: it is 2 (e - z)": _gradients_with(
                lambda d, b: 2 * b * d, lambda d, b: 2 * d
            ),
            "the gradient of z has the wrong sign: it is 2 β (z - e)": _gradients_with(
                lambda d, b: -2 * b * d, lambda d, b: -2 * d
            ),
            "both signs are turned: a gradient points to where the loss grows": _gradients_with(
                lambda d, b: -2 * b * d, lambda d, b: 2 * d
            ),
            "the factor 2 of the squares' derivatives is missing": _gradients_with(
                lambda d, b: b * d, lambda d, b: -d
            ),
            "the order is turned: first the gradient of z, then the gradient of e": (
                _gradients_with(lambda d, b: -2 * d, lambda d, b: 2 * b * d)
            ),
            "the gradient of z has the factor β of the commitment": _gradients_with(
                lambda d, b: 2 * d, lambda d, b: -2 * d
            ),
            "the loss has sums, so nothing is divided by the number of elements": _gradients_with(
                lambda d, b: 2 * b * d / d.numel(), lambda d, b: -2 * d / d.numel()
            ),
            "β stands before the square, so it is not squared": _gradients_with(
                lambda d, b: 2 * b * b * d, lambda d, b: -2 * d
            ),
        },
        level="middle",
        goal="tell which term of the VQ loss moves what",
    ),
    "legacy_to_paper": Exercise(
        _legacy,
        lambda generator: [(2.0, 0.3), (0.25, 1.0), (0.5, 2.0), (1.0, 1.0)],
        {
            "the ratio of the two terms turns over, so β becomes 1/β": lambda b, w: (b, w * b),
            "the weight changes too: the codebook term had the factor w β": lambda b, w: (1 / b, w),
            "the weight is multiplied by β, not divided": lambda b, w: (1 / b, w / b),
            "the answer has β first and the weight second": lambda b, w: (w * b, 1 / b),
            "nothing is changed, but the two orders give different gradients": lambda b, w: (b, w),
            "β in the paper's order is a ratio of the two terms, so the weight is not in it": (
                lambda b, w: (w / b, w * b)
            ),
            "the two numbers stay apart: β becomes 1/β, and only the weight gets a factor": (
                lambda b, w: (w * b, w)
            ),
            "β becomes 1/β, not w": lambda b, w: (w, w * b),
        },
        level="middle",
        goal="translate the official legacy order of beta into the paper's",
    ),
    "best_codes": Exercise(
        _mean_code,
        _assigned_cases,
        {
            "divide by the number of vectors that chose this code, not by all": _sum_with(
                lambda n, all_, k: all_, lambda codes: codes
            ),
            "the minimum is the mean of the vectors, and this is their sum": _sum_with(
                lambda n, all_, k: 1.0, lambda codes: codes
            ),
            "a code that no vector chose keeps its place, and here it becomes 0": _sum_with(
                lambda n, all_, k: n.clamp(min=1), lambda codes: 0 * codes
            ),
            "the mean of no vectors is nan: a code that no vector chose keeps its place": _sum_with(
                lambda n, all_, k: n, lambda codes: codes * math.nan
            ),
            "divide by the number of vectors that chose this code, not by the number of codes": (
                _sum_with(lambda n, all_, k: k, lambda codes: codes)
            ),
            "nothing is moved: these are the old codes": lambda z, indices, codes: codes,
            "the old code is not part of the mean": lambda z, indices, codes: (
                _sum_with(lambda n, all_, k: n + 1, lambda codes: codes)(z, indices, codes)
                + torch.where(
                    _chosen(indices, codes) > 0, codes / (_chosen(indices, codes) + 1), 0 * codes
                )
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
            "these are the new sums; a code is the new sums divided by the new counts": _ema_with(
                lambda n, s, c, m, y: y * m + (1 - y) * s
            ),
            "the counts must be updated too, before you divide by them": _ema_with(
                lambda n, s, c, m, y: (y * m + (1 - y) * s) / c[:, None]
            ),
            "the sums must be updated too, before you divide them": _ema_with(
                lambda n, s, c, m, y: m / (y * c + (1 - y) * n)[:, None]
            ),
            "update sums and counts first and divide last: this averages the codes": _ema_with(
                lambda n, s, c, m, y: y * m / c[:, None] + (1 - y) * s / n.clamp(min=1)[:, None]
            ),
            "the batch's part has the weight 1 - decay, and here it has 1": _ema_with(
                lambda n, s, c, m, y: (y * m + s) / (y * c + n)[:, None]
            ),
            "the decay is missing: old and new parts are added with weight 1": _ema_with(
                lambda n, s, c, m, y: (m + s) / (c + n)[:, None]
            ),
            "these are the means of the batch alone, without the running sums": _ema_with(
                lambda n, s, c, m, y: s / n.clamp(min=1)[:, None]
            ),
            "divide by the new running counts, not by the counts of the batch": _ema_with(
                lambda n, s, c, m, y: (y * m + (1 - y) * s) / n.clamp(min=1)[:, None]
            ),
            "nothing is updated: this is the old code": _ema_with(
                lambda n, s, c, m, y: m / c[:, None]
            ),
            "m is updated with the sum of the batch's vectors, not with their mean": _ema_with(
                lambda n, s, c, m, y: (
                    (y * m + (1 - y) * s / n.clamp(min=1)[:, None]) / (y * c + (1 - y) * n)[:, None]
                )
            ),
        },
        level="middle",
        goal="update a codebook by moving averages",
    ),
    "perplexity": Exercise(
        _perplexity,
        _perplexity_cases,
        {
            "this is the entropy; the perplexity is exp of it": _perplexity_with(
                lambda p, k: torch.special.entr(p).sum()
            ),
            "this counts the codes in use, a rare one as much as a common one": _perplexity_with(
                lambda p, k: (p > 0).sum()
            ),
            "0 log 0 counts as 0, and here it gives nan": _perplexity_with(
                lambda p, k: (-(p * p.log()).sum()).exp()
            ),
            "the sign is missing: the entropy is minus the sum of p log p": _perplexity_with(
                lambda p, k: (-torch.special.entr(p).sum()).exp()
            ),
            "the entropy is the sum of -p log p, not its mean over the codes": _perplexity_with(
                lambda p, k: torch.special.entr(p).mean().exp()
            ),
            "the logarithm is natural, so the power is exp and not 2 to the ...": _perplexity_with(
                lambda p, k: 2 ** torch.special.entr(p).sum()
            ),
            "the logarithm is to base 2, so it does not go with exp": _perplexity_with(
                lambda p, k: (torch.special.entr(p).sum() / math.log(2)).exp()
            ),
            "this is the entropy in bits; the perplexity is 2 to its power": _perplexity_with(
                lambda p, k: torch.special.entr(p).sum() / math.log(2)
            ),
            "1 / sum p² is another measure of usage; the perplexity has p log p": _perplexity_with(
                lambda p, k: 1 / (p**2).sum()
            ),
            "this is the share of the codebook: do not divide by the number of codes": (
                _perplexity_with(lambda p, k: torch.special.entr(p).sum().exp() / k)
            ),
        },
        tolerance=1e-4,  # counts / number, as torch divides them, is float32
        level="easy",
        goal="measure how much of a codebook is used",
        given=("perplexity",),
    ),
    "code_bits": Exercise(
        _code_bits,
        _bits_cases,
        {
            "both sides shrink, so a code stands for factor² pixels": _bits_with(
                lambda k: math.ceil(math.log2(k)), lambda f: f
            ),
            "an index into K codes needs log2 K bits, not K": _bits_with(lambda k: k),
            "bits need the logarithm to base 2, not the natural one": _bits_with(
                lambda k: math.ceil(math.log(k))
            ),
            "a picture has 3 bytes for each pixel, 24 bits and not 8": _bits_with(
                lambda k: math.ceil(math.log2(k)), pixel=8
            ),
            "a byte has 8 bits: 3 bytes for each pixel are 24 bits": _bits_with(
                lambda k: math.ceil(math.log2(k)), pixel=3
            ),
            "an index has a whole number of bits: round log2 K up": _bits_with(math.log2),
            "round up: with rounding down, not every index fits": _bits_with(
                lambda k: math.floor(math.log2(k))
            ),
            "the ratio is turned: divide the picture's bits by the index map's": (
                lambda h, w, factor, codes: (
                    (bits := (h // factor) * (w // factor) * math.ceil(math.log2(codes))),
                    bits / (24 * h * w),
                )
            ),
            "the answer has the bits first and the ratio second": lambda h, w, factor, codes: (
                _code_bits(h, w, factor, codes)[::-1]
            ),
            "the bits of an index are log2 of the number of codes, which is not always 8192": (
                _bits_with(lambda k: 13)
            ),
            "the map has (h / factor) (w / factor) indices, and here no side shrinks": _bits_with(
                lambda k: math.ceil(math.log2(k)), lambda f: 1
            ),
        },
        level="easy",
        goal="count the bits of an index map",
    ),
}

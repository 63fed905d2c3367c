"""Exercises of notebook 10."""

import math

import torch

from ...models.autoencoder import Block, Halve, Posterior
from ..checking import Exercise


def _randn(generator, *shape):
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def _latent_shape(h, w, channel_mult, embed_dim):
    f = 2 ** (len(channel_mult) - 1)
    return embed_dim, h // f, w // f, 3 * h * w / (embed_dim * (h // f) * (w // f))


def _latent_shape_with(halvings, pixels=3, inverse=False, swapped=False):
    def shape(h, w, channel_mult, embed_dim):
        f = 2 ** halvings(channel_mult)
        size = (w / f, h / f) if swapped else (h / f, w / f)
        ratio = pixels * h * w / (embed_dim * size[0] * size[1])
        return embed_dim, *size, 1 / ratio if inverse else ratio

    return shape


def _latent_shape_cases(generator):
    return [
        (512, 512, (1, 2, 4, 4), 4),
        (768, 512, (1, 2, 4, 4), 4),
        (256, 256, (1, 2, 4), 3),
        (256, 384, (1, 1, 2, 2, 4), 8),
        (16, 16, (1,), 4),
    ]


def _numel(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def _level_parameters(c_in, c_out, blocks, halve):
    with torch.device("meta"):
        stack = [Block(c_in if i == 0 else c_out, c_out) for i in range(blocks)]
        return _numel(*stack, *[Halve(c_out)] * halve)


def _level_with(conv=1, norm=2, shortcut=lambda i, a, b: (i == 0 and a != b) * (a * b + b), end=0):
    def level(c_in, c_out, blocks, halve):
        total = 0
        for i in range(blocks):
            a = c_in if i == 0 else c_out
            total += 9 * (a + c_out) * c_out + 2 * conv * c_out + norm * (a + c_out)
            total += shortcut(i, a, c_out)
        return total + (halve or end) * (9 * c_out**2 + conv * c_out)

    return level


def _level_cases(generator):
    return [
        (128, 128, 2, True),
        (128, 256, 2, True),
        (256, 512, 2, True),
        (512, 512, 2, False),
        (64, 32, 3, False),
    ]


def _pixel_under_latent(i, halvings, left):
    return 2**halvings * i + (2**halvings - 1) * (1 - left)


def _pixel_cases(generator):
    return [(5, 3, 0), (5, 3, 1), (0, 3, 0), (10, 1, 0), (7, 2, 0), (63, 4, 1), (4, 0, 0)]


def _sample_posterior(moments, noise):
    mean, logvar = moments.chunk(2, dim=1)
    return Posterior(mean, logvar.clamp(-30, 20)).sample(noise)


def _sample_with(scale, order=1):
    def sample(moments, noise):
        mean, logvar = moments.chunk(2, dim=1)[::order]
        return mean + scale(logvar) * noise

    return sample


def _interleaved(moments, noise):
    return moments[:, ::2] + (moments[:, 1::2].clamp(-30, 20) / 2).exp() * noise


def _sample_cases(generator):
    for shape in [(1, 4, 2, 2), (2, 2, 3, 1), (3, 6, 1, 2)]:
        b, c, h, w = shape
        yield _randn(generator, *shape), _randn(generator, b, c // 2, h, w)
    moments, noise = _randn(generator, 1, 4, 2, 2), _randn(generator, 1, 2, 2, 2)
    moments[:, 2:] *= 30  # beyond both ends of the clamp
    moments[0, 2, 0, 0], moments[0, 3, 1, 1] = 21.0, -75.0
    yield moments, noise


def _kl_monte_carlo(mean, logvar, noise):
    z = mean + (logvar / 2).exp() * noise
    q = torch.distributions.Normal(mean, (logvar / 2).exp())
    p = torch.distributions.Normal(torch.zeros_like(mean), 1.0)
    return (q.log_prob(z) - p.log_prob(z)).sum(1).mean()


def _kl_mc_with(half=2.0, sign=1.0, keep=1.0, width=1.0, at_noise=False, mean_all=False):
    def estimate(mean, logvar, noise):
        z = noise if at_noise else mean + (logvar / half).exp() * noise
        terms = sign * (z**2 - noise**2 - keep * logvar) / 2 * width
        return terms.mean() if mean_all else terms.sum(1).mean()

    return estimate


def _kl_mc_cases(generator):
    for n, d in [(6, 3), (1, 2), (50, 4)]:
        yield _randn(generator, d), _randn(generator, d), _randn(generator, n, d)
    yield (
        torch.zeros(2, dtype=torch.float64),
        torch.zeros(2, dtype=torch.float64),
        _randn(generator, 5, 2),
    )


def _bits_per_pixel(mean, logvar, factor):
    h, w = mean.shape[2:]
    return Posterior(mean, logvar).kl() / math.log(2) / (h * w * factor**2)


_LOG2 = math.log(2)


def _bits_with(base=_LOG2, pixels=lambda c, h, w, f: h * w * f * f, terms=None):
    def bits(mean, logvar, factor):
        kl = terms(mean, logvar).flatten(1).sum(1) if terms else Posterior(mean, logvar).kl()
        return kl / base / pixels(*mean.shape[1:], factor)

    return bits


def _bits_cases(generator):
    for shape, factor in [((2, 4, 3, 3), 8), ((1, 4, 2, 5), 4), ((3, 3, 1, 1), 2)]:
        yield 3 * _randn(generator, *shape), _randn(generator, *shape) - 5, factor


def _best_std(slope, weight):
    return (weight / (weight + 2 * slope**2)) ** 0.5


def _best_std_cases(generator):
    for slope, weight in [(1.0, 1e-6), (1.0, 1.0), (0.2, 1e-3), (3.0, 0.1), (0.0, 1e-6)]:
        yield tuple(torch.tensor([slope, weight], dtype=torch.float64))


def _best_logvar(rec):
    s = rec.mean().log()
    return s, 1 + s


def _best_logvar_cases(generator):
    for shape, size in [((2, 3, 4, 4), 0.1), ((1, 3, 2, 2), 1.0), ((5,), 20.0)]:
        yield (size * _randn(generator, *shape).abs(),)


def _logvar_with(s, lowest):
    return lambda rec: (s(rec), lowest(s(rec), rec))


def _expected_scale(mean, logvar):
    return (mean.var(correction=0) + logvar.exp().mean()) ** -0.5


def _scale_cases(generator):
    for shape, size, offset in [((2, 4, 3, 3), 5.0, 1.0), ((1, 2, 2, 2), 1.0, -3.0)]:
        yield size * _randn(generator, *shape) + offset, _randn(generator, *shape)
    yield _randn(generator, 3, 4, 2, 2), 0 * _randn(generator, 3, 4, 2, 2) - 30


def _effective(ab, std):
    return std**2 * ab / (std**2 * ab + 1 - ab)


def _effective_cases(generator):
    ab = torch.tensor([1.0, 0.99915, 0.5, 0.0046601, 0.0], dtype=torch.float64)
    return [(ab, 1 / 0.18215), (ab, 0.18215), (ab, 1.0), (ab[1:4], 1 / 0.13025)]


EXERCISES = {
    "latent_shape": Exercise(
        _latent_shape,
        _latent_shape_cases,
        {
            "one halving too many: the last level keeps its size": _latent_shape_with(len),
            "each level but the last halves the side; f is a power of 2": (
                lambda h, w, m, e: (
                    (e, h / len(m), w / len(m), 3 * h * w / (e * (h / len(m)) * (w / len(m))))
                )
            ),
            "the multipliers are of the width, not of the size": (
                lambda h, w, m, e: (e, h / m[-1], w / m[-1], 3 * m[-1] ** 2 / e)
            ),
            "a picture has 3 numbers for each pixel": _latent_shape_with(lambda m: len(m) - 1, 1),
            "the ratio is upside down": _latent_shape_with(lambda m: len(m) - 1, inverse=True),
            "height comes before width": _latent_shape_with(lambda m: len(m) - 1, swapped=True),
        },
        level="easy",
        goal="know the shape of a first stage's latent",
    ),
    "level_parameters": Exercise(
        _level_parameters,
        _level_cases,
        {
            "the first block's shortcut is missing": _level_with(shortcut=lambda i, a, b: 0),
            "only a block that changes the width has a shortcut": _level_with(
                shortcut=lambda i, a, b: a * b + b
            ),
            "the shortcut is a 1 x 1 convolution": _level_with(
                shortcut=lambda i, a, b: (a != b) * (9 * a * b + b)
            ),
            "the convolutions have biases": _level_with(
                conv=0, shortcut=lambda i, a, b: (a != b) * a * b
            ),
            "a GroupNorm has a weight and a bias for each channel": _level_with(norm=0),
            "a norm has two numbers for each channel, not one": _level_with(norm=1),
            "the level does not end with a halving unless `halve` says so": _level_with(end=1),
            "only the first block comes in with c_in channels": lambda c_in, c_out, blocks, halve: (
                blocks * _level_parameters(c_in, c_out, 1, False)
                + _level_parameters(c_out, c_out, 0, halve)
            ),
        },
        tolerance=0,
        level="easy",
        goal="count the parameters of a level of the encoder",
    ),
    "pixel_under_latent": Exercise(
        _pixel_under_latent,
        _pixel_cases,
        {
            "a shift at one level counts double at the next finer one": lambda i, n, left: (
                2**n * i + n * (1 - left)
            ),
            "the shifts are 1 + 2 + 4 + ..., one less than a power of 2": lambda i, n, left: (
                2**n * i + 2**n * (1 - left)
            ),
            "the pads are swapped: a pad on the left moves the window left": lambda i, n, left: (
                2**n * i + (2**n - 1) * left
            ),
            "that is the middle of the patch, where an even pad would look": lambda i, n, left: (
                2**n * i + (2**n - 1) / 2
            ),
        },
        level="middle",
        goal="find the pixels that a latent looks at",
    ),
    "sample_posterior": Exercise(
        _sample_posterior,
        _sample_cases,
        {
            "the clamp of the log variance, -30..20, is missing": _sample_with(
                lambda v: (v / 2).exp()
            ),
            "exp(logvar) is a variance: the noise wants the standard deviation": _sample_with(
                lambda v: v.clamp(-30, 20).exp()
            ),
            "the first half of the channels is the mean": _sample_with(
                lambda v: (v.clamp(-30, 20) / 2).exp(), -1
            ),
            "two halves, one after the other, not every second channel": _interleaved,
        },
        level="easy",
        goal="sample from the encoder's moments",
    ),
    "kl_monte_carlo": Exercise(
        _kl_monte_carlo,
        _kl_mc_cases,
        {
            "exp(logvar) is a variance, not a standard deviation": _kl_mc_with(half=1.0),
            "that is the closed form: average over the samples of the noise given": (
                lambda mean, logvar, noise: Posterior(mean[None], logvar[None]).kl()[0]
            ),
            "the sign: log q - log p, averaged over samples of q": _kl_mc_with(sign=-1.0),
            "both densities are asked at z, not p at the noise": _kl_mc_with(at_noise=True),
            "q's density has 1/std in front: its log is missing": _kl_mc_with(keep=0.0),
            "sum over the dimensions, mean over the samples": _kl_mc_with(mean_all=True),
            "log(1/std) is -logvar/2": _kl_mc_with(keep=2.0),
        },
        level="middle",
        goal="estimate a KL by sampling",
    ),
    "latent_bits_per_pixel": Exercise(
        _bits_per_pixel,
        _bits_cases,
        {
            "those are nats: a bit is log 2 of them": _bits_with(base=1.0),
            "per pixel of the picture, not per position of the latent": _bits_with(
                pixels=lambda c, h, w, f: h * w
            ),
            "a position of the latent covers factor² pixels": _bits_with(
                pixels=lambda c, h, w, f: h * w * f
            ),
            "sum over the channels too": _bits_with(pixels=lambda c, h, w, f: c * h * w * f * f),
            "the ½ in front of the KL is missing": _bits_with(
                terms=lambda m, v: m**2 + v.exp() - 1 - v
            ),
            "a bit is a natural logarithm of 2, not of 10": _bits_with(base=math.log(10)),
        },
        level="middle",
        goal="weigh a latent in bits per pixel",
    ),
    "best_posterior_std": Exercise(
        _best_std,
        _best_std_cases,
        {
            "that is the variance": lambda g, w: w / (w + 2 * g**2),
            "the KL has a ½ in front": lambda g, w: (w / (w + g**2)).sqrt(),
            "the KL's own σ² is missing: it matters when the weight is not small": lambda g, w: (
                (w / 2).sqrt() / g
            ),
            "σ falls with the slope: noise costs more where the decoder is steep": lambda g, w: (
                2 * g**2 / (w + 2 * g**2)
            ).sqrt(),
        },
        level="middle",
        goal="weigh noise in the latent against the KL: where its spread settles",
    ),
    "best_logvar": Exercise(
        _best_logvar,
        _best_logvar_cases,
        {
            "one s serves all numbers: the log of the mean, not the mean of logs": _logvar_with(
                lambda r: r.log().mean(), lambda s, r: 1 + s
            ),
            "per number: the mean, not the sum": _logvar_with(
                lambda r: r.sum().log(), lambda s, r: 1 + s
            ),
            "at the minimum rec/exp(s) is 1, not 0": _logvar_with(
                lambda r: r.mean().log(), lambda s, r: s
            ),
            "half of it: exp(s) divides the loss itself, no root": _logvar_with(
                lambda r: r.mean().log() / 2, lambda s, r: 1 + s
            ),
            "that is exp(s)": _logvar_with(lambda r: r.mean(), lambda s, r: 1 + r.mean().log()),
        },
        level="easy",
        goal="find what the log variance of the loss would come to if it were learned",
    ),
    "expected_scale_factor": Exercise(
        _expected_scale,
        _scale_cases,
        {
            "the noise of the samples adds its variance": lambda m, v: m.var(correction=0) ** -0.5,
            "the variance is about the mean of all latents, not about 0": lambda m, v: (
                ((m**2).mean() + v.exp().mean()) ** -0.5
            ),
            "that is the standard deviation; the factor is 1 over it": lambda m, v: (
                (m.var(correction=0) + v.exp().mean()) ** 0.5
            ),
            "that is 1 over the variance": lambda m, v: 1 / (m.var(correction=0) + v.exp().mean()),
            "variances add up, standard deviations do not": lambda m, v: (
                1 / (m.std(correction=0) + (v / 2).exp().mean())
            ),
            "average the variances, not the standard deviations": lambda m, v: (
                (m.var(correction=0) + (v / 2).exp().mean() ** 2) ** -0.5
            ),
            "divide by n, as the paper does, not by n - 1": lambda m, v: (
                (m.var() + v.exp().mean()) ** -0.5
            ),
        },
        level="middle",
        goal="estimate the scale factor without drawing samples",
    ),
    "effective_alpha_bar": Exercise(
        _effective,
        _effective_cases,
        {
            "a standard deviation enters a variance as its square": lambda ab, k: (
                k * ab / (k * ab + 1 - ab)
            ),
            "divided back to variance 1: signal and noise share the whole": lambda ab, k: k**2 * ab,
            "upside down: wide latents drown less": lambda ab, k: ab / (ab + k**2 * (1 - ab)),
            "the noise has variance 1-ᾱ, not 1": lambda ab, k: k**2 * ab / (k**2 * ab + 1),
        },
        level="middle",
        goal="see a wrong scale factor as another noise schedule",
    ),
}

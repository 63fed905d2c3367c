"""Exercises of notebook 10."""

import math

import torch

from ...equations.first_stage import adaptive_weight, hinge_d_loss
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


def _hinge_cases(generator):
    for real, fake in [((2, 1, 3, 3), (3, 1, 2, 2)), ((4,), (4,)), ((1, 1, 5, 5), (1, 1, 5, 5))]:
        yield 1.5 * _randn(generator, *real), 1.5 * _randn(generator, *fake)


def _hinge_with(margin=1.0, half=2.0, bend=torch.relu, swap=False, mean=torch.mean):
    def loss(real, fake):
        real, fake = (fake, real) if swap else (real, fake)
        return (mean(bend(margin - real)) + mean(bend(margin + fake))) / half

    return loss


def _adaptive_weight(nll_grad, g_grad, disc_weight):
    """equations.adaptive_weight where both losses are linear in the last weight."""
    last = torch.zeros_like(nll_grad, requires_grad=True)
    nll, g_loss = (last * nll_grad).sum(), (last * g_grad).sum()
    return disc_weight * adaptive_weight(nll, g_loss, last)


def _adaptive_cases(generator):
    for size, other in [(1.0, 0.2), (30.0, 1e-6), (1e-3, 2.0), (50.0, 0.0)]:
        grads = _randn(generator, 3, 4, 3, 3), _randn(generator, 3, 4, 3, 3)
        yield size * grads[0], other * grads[1], 0.5
    yield _randn(generator, 3, 2, 1, 1), 1e-5 * _randn(generator, 3, 2, 1, 1), 0.8


def _adaptive_with(norm=torch.linalg.vector_norm, delta=1e-4, most=1e4, before=False):
    def weight(nll_grad, g_grad, disc_weight):
        ratio = norm(nll_grad) / (norm(g_grad) + delta)
        return (
            (disc_weight * ratio).clamp(0, most) if before else disc_weight * ratio.clamp(0, most)
        )

    return weight


EXERCISES = {
    "latent_shape": Exercise(
        _latent_shape,
        _latent_shape_cases,
        {
            "This is one halving too many: the last level keeps its size.": _latent_shape_with(len),
            "Each level but the last halves the side, so f is a power of 2.": (
                lambda h, w, m, e: (
                    (e, h / len(m), w / len(m), 3 * h * w / (e * (h / len(m)) * (w / len(m))))
                )
            ),
            "channel_mult multiplies channels, not sizes.": (
                lambda h, w, m, e: (e, h / m[-1], w / m[-1], 3 * m[-1] ** 2 / e)
            ),
            "A picture has 3 numbers for each pixel.": _latent_shape_with(lambda m: len(m) - 1, 1),
            "The ratio is upside down: divide the numbers of the picture by those "
            "of the latent.": _latent_shape_with(lambda m: len(m) - 1, inverse=True),
            "The height comes before the width.": _latent_shape_with(
                lambda m: len(m) - 1, swapped=True
            ),
            "The ratio counts numbers: the latent has embed_dim for each position.": (
                lambda h, w, m, e: (*_latent_shape(h, w, m, e)[:3], 3 * 4 ** (len(m) - 1))
            ),
            "The ratio counts numbers, not positions.": (
                lambda h, w, m, e: (*_latent_shape(h, w, m, e)[:3], 4 ** (len(m) - 1))
            ),
        },
        level="easy",
        goal="know the shape of a first stage's latent",
    ),
    "level_parameters": Exercise(
        _level_parameters,
        _level_cases,
        {
            "The first block's shortcut is missing where the number of channels "
            "changes.": _level_with(shortcut=lambda i, a, b: 0),
            "Only a block that changes the number of channels has a shortcut.": _level_with(
                shortcut=lambda i, a, b: a * b + b
            ),
            "The shortcut is a 1 x 1 convolution.": _level_with(
                shortcut=lambda i, a, b: (a != b) * (9 * a * b + b)
            ),
            "The convolutions have biases.": _level_with(
                conv=0, shortcut=lambda i, a, b: (a != b) * a * b
            ),
            "A GroupNorm has a weight and a bias for each channel.": _level_with(norm=0),
            "A norm has two numbers for each channel, not one.": _level_with(norm=1),
            "The level ends with a halving only where `halve` is True.": _level_with(end=1),
            "The halving at the end is a 3 x 3 convolution with parameters of its own.": (
                lambda a, b, n, halve: _level_parameters(a, b, n, False)
            ),
            "Each block has a second 3 x 3 convolution, from c_out to c_out.": (
                lambda a, b, n, halve: _level_parameters(a, b, n, halve) - n * (9 * b * b + b)
            ),
            "The first norm of a block works on the channels that come in.": (
                lambda a, b, n, halve: _level_parameters(a, b, n, halve) + 2 * (b - a)
            ),
            "Only the first block gets c_in channels.": lambda c_in, c_out, blocks, halve: (
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
            "A shift on one level counts double on the next finer level.": lambda i, n, left: (
                2**n * i + n * (1 - left)
            ),
            "The shifts add up to 1 + 2 + 4 + ..., which is one less than a power "
            "of 2.": lambda i, n, left: 2**n * i + 2**n * (1 - left),
            "The pads are swapped: a pad on the left moves the window to the "
            "left.": lambda i, n, left: 2**n * i + (2**n - 1) * left,
            "This is the middle of the patch; the window is centred on another "
            "pixel.": lambda i, n, left: 2**n * i + (2**n - 1) / 2,
            "The shift is missing: without a pad on the left the window is centred "
            "further right.": (lambda i, n, left: 2**n * i),
            "Only the last halving is shifted here: every one of them shifts the centre.": (
                lambda i, n, left: 2**n * i + (1 - left)
            ),
            "Three halvings multiply by 8, not by 6: each doubles the number of the pixel.": (
                lambda i, n, left: 2 * n * i + (2**n - 1) * (1 - left)
            ),
        },
        level="middle",
        goal="find the pixels that a latent looks at",
    ),
    "sample_posterior": Exercise(
        _sample_posterior,
        _sample_cases,
        {
            "The clamp of the log variance to -30..20 is missing.": _sample_with(
                lambda v: (v / 2).exp()
            ),
            "exp(logvar) is a variance: multiply the noise by the standard "
            "deviation.": _sample_with(lambda v: v.clamp(-30, 20).exp()),
            "The first half of the channels is the mean.": _sample_with(
                lambda v: (v.clamp(-30, 20) / 2).exp(), -1
            ),
            "Mean and log variance are two halves of the channels, not every "
            "second one.": _interleaved,
            "The network gives the log variance: take the exponential of half of it.": _sample_with(
                lambda v: v.clamp(-30, 20)
            ),
            "This is the mean, the mode of the posterior: add the noise.": _sample_with(
                lambda v: 0 * v
            ),
            "The noise is not multiplied by the standard deviation.": _sample_with(
                lambda v: torch.ones_like(v)
            ),
            "The sign is wrong: the standard deviation grows with the log variance.": _sample_with(
                lambda v: (-v.clamp(-30, 20) / 2).exp()
            ),
        },
        level="easy",
        goal="sample from the encoder's moments",
    ),
    "kl_monte_carlo": Exercise(
        _kl_monte_carlo,
        _kl_mc_cases,
        {
            "exp(logvar) is a variance, not a standard deviation.": _kl_mc_with(half=1.0),
            "This is the closed form: average over the samples that the given noise makes.": (
                lambda mean, logvar, noise: Posterior(mean[None], logvar[None]).kl()[0]
            ),
            "The sign is wrong: average log q - log p over samples of q.": _kl_mc_with(sign=-1.0),
            "Both densities are evaluated at z, not p at the noise.": _kl_mc_with(at_noise=True),
            "The density of q has the factor 1/std; its logarithm is missing.": _kl_mc_with(
                keep=0.0
            ),
            "Sum over the dimensions and average over the samples.": _kl_mc_with(mean_all=True),
            "The logarithm of 1/std is -logvar/2.": _kl_mc_with(keep=2.0),
            "This is one number for each sample: average them.": lambda mean, logvar, noise: (
                torch.stack([_kl_monte_carlo(mean, logvar, row[None]) for row in noise])
            ),
            "This is the sum over the samples: average over them.": (
                lambda mean, logvar, noise: _kl_mc_with()(mean, logvar, noise) * len(noise)
            ),
            "The ½ in front of the squares and of the log variance is missing.": (
                _kl_mc_with(width=2.0)
            ),
        },
        level="middle",
        goal="estimate a KL by sampling",
    ),
    "latent_bits_per_pixel": Exercise(
        _bits_per_pixel,
        _bits_cases,
        {
            "These are nats: divide by log 2.": _bits_with(base=1.0),
            "Divide by the pixels of the picture, not by the positions of the latent.": _bits_with(
                pixels=lambda c, h, w, f: h * w
            ),
            "A position of the latent covers factor² pixels.": _bits_with(
                pixels=lambda c, h, w, f: h * w * f
            ),
            "Sum over the channels: only the pixels divide.": _bits_with(
                pixels=lambda c, h, w, f: c * h * w * f * f
            ),
            "The ½ in front of the KL is missing.": _bits_with(
                terms=lambda m, v: m**2 + v.exp() - 1 - v
            ),
            "A bit is log 2 nats, and log 2 is the natural logarithm of 2, not of 10.": (
                _bits_with(base=math.log(10))
            ),
            "Divide the nats by log 2: a bit is less than a nat, so there are more of them.": (
                _bits_with(base=1 / _LOG2)
            ),
            "These are bits of the whole picture: divide by its pixels.": _bits_with(
                pixels=lambda c, h, w, f: 1
            ),
            "Return one number for each picture, not their mean.": lambda m, v, f: _bits_per_pixel(
                m, v, f
            ).mean(),
            "logvar is the logarithm of the variance: its exponential is the variance already.": (
                _bits_with(terms=lambda m, v: (m**2 + (2 * v).exp() - 1 - 2 * v) / 2)
            ),
        },
        level="middle",
        goal="weigh a latent in bits per pixel",
    ),
    "best_posterior_std": Exercise(
        _best_std,
        _best_std_cases,
        {
            "This is the variance: take the root.": lambda g, w: w / (w + 2 * g**2),
            "The KL has a ½ in front.": lambda g, w: (w / (w + g**2)).sqrt(),
            "The σ_q² of the KL is missing; it matters when the weight is not "
            "small.": lambda g, w: (w / 2).sqrt() / g,
            "σ_q falls with the slope: noise costs more where the decoder is steep.": lambda g, w: (
                2 * g**2 / (w + 2 * g**2)
            ).sqrt(),
            "The slope is squared in what the noise costs.": lambda g, w: (w / (w + 2 * g)).sqrt(),
            "The derivative of log σ_q² is 2/σ_q, not 1/σ_q.": (
                lambda g, w: (w / (2 * w + 4 * g**2)).sqrt()
            ),
            "The slope is missing: it multiplies what the noise costs.": lambda g, w: (
                (w / (w + 2)).sqrt() + 0 * g
            ),
        },
        level="middle",
        goal="weigh noise in the latent against the KL: where its spread settles",
    ),
    "best_logvar": Exercise(
        _best_logvar,
        _best_logvar_cases,
        {
            "One ℓ serves all numbers: take the log of the mean, not the mean of "
            "the logs.": _logvar_with(lambda r: r.log().mean(), lambda s, r: 1 + s),
            "The mean of nll is asked for: take the mean of rec, not the sum.": _logvar_with(
                lambda r: r.sum().log(), lambda s, r: 1 + s
            ),
            "At the minimum rec/exp(ℓ) is 1, not 0.": _logvar_with(
                lambda r: r.mean().log(), lambda s, r: s
            ),
            "This is half of it: exp(ℓ) divides rec itself, without a root.": _logvar_with(
                lambda r: r.mean().log() / 2, lambda s, r: 1 + s
            ),
            "This is exp(ℓ): take the logarithm.": _logvar_with(
                lambda r: r.mean(), lambda s, r: 1 + r.mean().log()
            ),
            "The sign of ℓ is wrong: rec/exp(ℓ) is 1 at the minimum.": _logvar_with(
                lambda r: -r.mean().log(), lambda s, r: 1 + s
            ),
            "The errors are absolute already: do not square them.": _logvar_with(
                lambda r: (r**2).mean().log(), lambda s, r: 1 + s
            ),
            "The smallest nll is rec/exp(ℓ) + ℓ at this ℓ, which is not rec itself.": _logvar_with(
                lambda r: r.mean().log(), lambda s, r: r.mean()
            ),
        },
        level="easy",
        goal="find what the log variance of the loss would come to if it were learned",
    ),
    "expected_scale_factor": Exercise(
        _expected_scale,
        _scale_cases,
        {
            "The noise of the samples adds its variance.": lambda m, v: m.var(correction=0) ** -0.5,
            "The variance is about the mean of all latents, not about 0.": lambda m, v: (
                ((m**2).mean() + v.exp().mean()) ** -0.5
            ),
            "This is the standard deviation; the factor is 1 over it.": lambda m, v: (
                (m.var(correction=0) + v.exp().mean()) ** 0.5
            ),
            "This is 1 over the variance: take the root.": lambda m, v: (
                1 / (m.var(correction=0) + v.exp().mean())
            ),
            "Variances add up, standard deviations do not.": lambda m, v: (
                1 / (m.std(correction=0) + (v / 2).exp().mean())
            ),
            "Average the variances, not the standard deviations.": lambda m, v: (
                (m.var(correction=0) + (v / 2).exp().mean() ** 2) ** -0.5
            ),
            "Divide by n, as the formula does, not by n - 1.": lambda m, v: (
                (m.var() + v.exp().mean()) ** -0.5
            ),
            "The samples' variance is exp(logvar), not logvar.": lambda m, v: (
                (m.var(correction=0) + v.mean().abs()) ** -0.5
            ),
            "One factor serves all channels: return one number, not one for each.": lambda m, v: (
                (m.var((0, 2, 3), correction=0) + v.exp().mean((0, 2, 3))) ** -0.5
            ),
            "The variance of the means is missing.": lambda m, v: v.exp().mean() ** -0.5,
        },
        level="middle",
        goal="estimate the scale factor without drawing samples",
    ),
    "effective_alpha_bar": Exercise(
        _effective,
        _effective_cases,
        {
            "A standard deviation enters a variance as its square.": lambda ab, k: (
                k * ab / (k * ab + 1 - ab)
            ),
            "After the division signal and noise have the variance 1 together: "
            "divide by their sum.": lambda ab, k: k**2 * ab,
            "This is upside down: wider latents have more signal.": lambda ab, k: (
                ab / (ab + k**2 * (1 - ab))
            ),
            "The noise has the variance 1-ᾱ, not 1.": lambda ab, k: k**2 * ab / (k**2 * ab + 1),
            "This is the SNR: divide the signal by signal plus noise.": lambda ab, k: (
                k**2 * ab / (1 - ab)
            ),
            "This is the standard deviation's share: ᾱ is a share of the variance.": lambda ab, k: (
                k**2 * ab / (k**2 * ab + 1 - ab)
            ).sqrt(),
            "Nothing is changed: wider latents have more signal.": lambda ab, k: ab,
        },
        level="middle",
        goal="see a wrong scale factor as another noise schedule",
    ),
    "hinge_loss": Exercise(
        hinge_d_loss,
        _hinge_cases,
        {
            "The ½ before each of the two parts is missing.": _hinge_with(half=1.0),
            "The two are swapped: the discriminator wants high logits for real pictures.": (
                _hinge_with(swap=True)
            ),
            "A logit that is beyond 1 on its own side costs nothing: max(0, ...) is missing.": (
                _hinge_with(bend=lambda x: x)
            ),
            "The bend is at 1 and at -1, not at 0: a margin of 1 belongs in both parts.": (
                _hinge_with(margin=0.0)
            ),
            "This is the vanilla loss, with softplus; the hinge loss has max(0, 1 - logit).": (
                _hinge_with(margin=0.0, bend=torch.nn.functional.softplus)
            ),
            "This is the sum over the logits: take the mean.": _hinge_with(mean=torch.sum),
            "Take the mean of each part by itself: there may be more real logits than others.": (
                lambda real, fake: torch.cat(
                    [torch.relu(1 - real).flatten(), torch.relu(1 + fake).flatten()]
                ).mean()
            ),
            "This is the generator's loss.": lambda real, fake: -fake.mean(),
        },
        level="easy",
        goal="compute the discriminator's hinge loss",
    ),
    "adaptive_weight": Exercise(
        _adaptive_weight,
        _adaptive_cases,
        {
            "The ratio is upside down: the gradient of the generator's loss divides.": (
                lambda a, b, w: w * (b.norm() / (a.norm() + 1e-4)).clamp(0, 1e4)
            ),
            "The 0.0001 in the denominator is missing.": _adaptive_with(delta=0.0),
            "The clamp to at most 10000 is missing.": _adaptive_with(most=torch.inf),
            "The clamp comes before `disc_weight` multiplies.": _adaptive_with(before=True),
            "disc_weight is missing.": lambda a, b, w: _adaptive_weight(a, b, 1.0),
            "These are squared norms: take the root of the sum of squares.": (
                _adaptive_with(norm=lambda g: (g**2).sum())
            ),
            "These are sums of absolute values: a norm is the root of the sum of squares.": (
                _adaptive_with(norm=lambda g: g.abs().sum())
            ),
            "These are root mean squares: a norm sums the squares.": (
                _adaptive_with(norm=lambda g: (g**2).mean().sqrt())
            ),
        },
        level="middle",
        goal="balance two losses by their gradients",
    ),
}

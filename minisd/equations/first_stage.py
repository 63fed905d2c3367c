"""What made the first stage sharp: VQGAN's objective (arXiv 2012.09841), as LDM's code has it too
(2112.10752, §3.1 and appendix G), and the perceptual distance LPIPS (1801.03924).

The official classes are `LPIPSWithDiscriminator` (ldm.modules.losses.contperceptual) for the KL
autoencoder and `VQLPIPSWithDiscriminator` (taming.modules.losses.vqperceptual) for VQ. The
discriminator C (the papers write D, which is the decoder here) returns logits, a number for each
patch: high where a patch looks real. y is the reconstruction of x.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def lpips(of_x: Sequence[Tensor], of_y: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """LPIPS eq. 1: how far apart two pictures are in a network's activations, a list of layers.

        Σ_l 1/(H_l W_l) Σ_{h,w} ‖√w_l ⊙ (ŷ_l - x̂_l)‖²,  ŷ_l = y_l / ‖y_l‖ over the channels

    of_x, of_y: layers (b, c_l, h_l, w_l); weights: (c_l,) of each, at least 0 -> (b,). The paper
    multiplies by w before it squares; its code, and so this, by w after that.
    Official: `LPIPS.forward`, `normalize_tensor`, `spatial_average`
    """
    distance = 0
    for x, y, w in zip(of_x, of_y, weights, strict=True):
        square = (unit(x) - unit(y)) ** 2
        distance = distance + (w[:, None, None] * square).sum(1).mean((1, 2))
    return distance


def unit(x: Tensor, eps: float = 1e-10) -> Tensor:
    """x (b, c, h, w) divided by its norm over the channels; 0 stays 0."""
    return x / ((x**2).sum(1, keepdim=True).sqrt() + eps)


def hinge_d_loss(real: Tensor, fake: Tensor) -> Tensor:
    """VQGAN §3.2 with the code's default `disc_loss`: the discriminator's, of any logits a number.

        ½ E max(0, 1 - C(x)) + ½ E max(0, 1 + C(y))

    Logits beyond 1 on their own side cost nothing.
    Official: `hinge_d_loss`
    """
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def vanilla_d_loss(real: Tensor, fake: Tensor) -> Tensor:
    """VQGAN eq. 5: the discriminator's loss with sigmoid(C) for its D, as `disc_loss: vanilla`.

        -½ E log σ(C(x)) - ½ E log(1 - σ(C(y))) = ½ E softplus(-C(x)) + ½ E softplus(C(y))

    Official: `vanilla_d_loss`
    """
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


def generator_loss(fake: Tensor) -> Tensor:
    """VQGAN §3.2 as in the code: the decoder's part, -E C(y), with either loss above.

    Official: `g_loss`
    """
    return -fake.mean()


def adaptive_weight(
    nll: Tensor, g_loss: Tensor, last: Tensor, delta: float = 1e-4, most: float = 1e4
) -> Tensor:
    """VQGAN eq. 7: λ, with which both losses pull at the decoder's last weights as hard.

        λ = ‖∇_last nll‖ / (‖∇_last g_loss‖ + δ),  at most 10⁴

    nll, g_loss: numbers; last: the weight of the decoder's last convolution -> a number without a
    gradient. δ is 10⁻⁶ in the paper, 10⁻⁴ in the code. The config's `disc_weight` multiplies it.
    Official: `calculate_adaptive_weight`
    """
    of_nll, of_g = (torch.autograd.grad(f, last, retain_graph=True)[0] for f in (nll, g_loss))
    return (of_nll.norm() / (of_g.norm() + delta)).clamp(0, most).detach()


def adopt_weight(weight: float, step: int, start: int) -> float:
    """The late start of VQGAN's code: 0 before the step `start`, counted from 0, then the weight.

    Both the generator's and the discriminator's loss have it. kl-f8 starts at 50,001.
    Official: `adopt_weight`, `disc_start`
    """
    return weight if step >= start else 0.0


def nll_loss(x: Tensor, y: Tensor, perceptual: Tensor | float = 0.0, logvar: float = 0.0) -> Tensor:
    """LDM's code: absolute error and perceptual distance, as a negative log likelihood, summed.

        1/b Σ (|x - y| + perceptual) / e^ℓ + ℓ

    x, y (b, ...); perceptual (b,), weighted already, is added to every number of its picture -> a
    number: the sum over the numbers of a picture, the mean over the batch. ℓ is `logvar`, a
    parameter of the loss's module that begins at 0, and that `AutoencoderKL.configure_optimizers`
    gives to no optimizer, so it stays there. `VQLPIPSWithDiscriminator` has no ℓ, and takes
    the mean over all numbers.
    Official: `rec_loss`, `nll_loss`
    """
    error = (x - y).abs()
    error = error + torch.as_tensor(perceptual).reshape(-1, *[1] * (x.ndim - 1))
    logvar = torch.as_tensor(logvar, dtype=x.dtype)
    return (error / logvar.exp() + logvar).sum() / len(x)


def frechet_distance(x: Tensor, y: Tensor) -> Tensor:
    """FID eq. 6: between two sets of features, as if both were Gaussian.

        ‖μ_x - μ_y‖² + Tr(C_x + C_y - 2 (C_x C_y)^½)

    x (n, d), y (m, d), better in float64 -> a number, 0 for equal means and covariances. The trace
    of the root is the sum of the roots of the eigenvalues of C_x^½ C_y C_x^½, which is symmetric.
    """
    c_x, c_y = x.T.cov().reshape(x.shape[1], -1), y.T.cov().reshape(y.shape[1], -1)
    values, vectors = torch.linalg.eigh(c_x)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    roots = torch.linalg.eigvalsh(root @ c_y @ root).clamp(min=0).sqrt()
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + c_x.trace() + c_y.trace() - 2 * roots.sum()

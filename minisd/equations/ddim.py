"""DDIM: Denoising Diffusion Implicit Models (arXiv 2010.02502).

Careful with the symbols: DDIM writes α for what DDPM, and this code, call ᾱ.
"""

from torch import Tensor

from .ddpm import pred_x0, sqrt


def ddim_mean(x0: Tensor, x_t: Tensor, ab_t: Tensor, ab_s: Tensor, sigma_t: Tensor) -> Tensor:
    """DDIM eq. 7: the mean of q_σ(x_s | x_t, x_0), a family of ways back, one for each σ_t.

        √ᾱ_s x_0 + √(1-ᾱ_s-σ_t²) · (x_t - √ᾱ_t x_0) / √(1-ᾱ_t)

    x0, x_t (b, ...); ab_t < ab_s in [0, 1]; sigma_t² at most 1 - ab_s -> (b, ...).
    """
    eps = (x_t - sqrt(ab_t) * x0) / sqrt(1 - ab_t)
    return sqrt(ab_s) * x0 + sqrt(1 - ab_s - sigma_t**2) * eps


def dir_xt(eps: Tensor, ab_s: Tensor, sigma_t: Tensor) -> Tensor:
    """DDIM eq. 12, middle term: the part of x_s that points back to x_t.

        √(1-ᾱ_s-σ_t²) ε_θ

    eps (b, ...); ab_s in [0, 1]; sigma_t² at most 1 - ab_s -> (b, ...).
    Official: `dir_xt`
    """
    return sqrt(1 - ab_s - sigma_t**2) * eps


def ddim_step(
    x_t: Tensor, eps: Tensor, ab_t: Tensor, ab_s: Tensor, sigma_t: Tensor = 0.0, noise: Tensor = 0.0
) -> Tensor:
    """DDIM eq. 12: from x_t to x_s: the predicted x0, the direction to x_t, fresh noise.

        x_s = √ᾱ_s x̂_0 + √(1-ᾱ_s-σ_t²) ε_θ + σ_t ε_t

    x_t, eps, noise (b, ...); ab_t < ab_s in (0, 1] -> (b, ...). σ_t = 0 is DDIM proper.
    Official: `x_prev`
    """
    return sqrt(ab_s) * pred_x0(x_t, eps, ab_t) + dir_xt(eps, ab_s, sigma_t) + sigma_t * noise


def ddim_ode_step(x_t: Tensor, eps: Tensor, ab_t: Tensor, ab_s: Tensor) -> Tensor:
    """DDIM eq. 13: the σ_t = 0 step as Euler's method, in x/√ᾱ over √((1-ᾱ)/ᾱ).

        x_s/√ᾱ_s = x_t/√ᾱ_t + (√((1-ᾱ_s)/ᾱ_s) - √((1-ᾱ_t)/ᾱ_t)) ε_θ

    x_t, eps (b, ...); ab_t, ab_s in (0, 1] -> x_s (b, ...). s > t inverts.
    """
    slope = sqrt((1 - ab_s) / ab_s) - sqrt((1 - ab_t) / ab_t)
    return sqrt(ab_s) * (x_t / sqrt(ab_t) + slope * eps)


def sigma(ab_t: Tensor, ab_s: Tensor, eta: float) -> Tensor:
    """DDIM eq. 16: how much fresh noise a step takes. η = 0: none (DDIM); η = 1: DDPM's β̃.

        σ_t(η) = η √((1-ᾱ_s)/(1-ᾱ_t)) √(1-ᾱ_t/ᾱ_s)

    ab_t < ab_s in [0, 1] -> a standard deviation, in the units of x.
    Official: `ddim_sigmas`, `sigma_t`
    """
    return eta * sqrt((1 - ab_s) / (1 - ab_t)) * sqrt(1 - ab_t / ab_s)

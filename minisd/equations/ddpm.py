"""DDPM: Denoising Diffusion Probabilistic Models (arXiv 2006.11239).

Here α_t = 1 - β_t and ᾱ_t = α_1 ⋯ α_t. Between two times s < t, noise is added with
β_{t|s} = 1 - ᾱ_t/ᾱ_s, which is β_t when s = t-1.
"""

import math

from torch import Tensor


def sqrt(value):
    """√ of a tensor, or of a number (where a negative as small as a rounding error counts as 0)."""
    if isinstance(value, Tensor):
        return value.sqrt()
    if value < -1e-12:
        raise ValueError(f"square root of a negative number: {value}")
    return math.sqrt(max(value, 0.0))


def q_step(x_s: Tensor, eps: Tensor, beta_t: Tensor) -> Tensor:
    """DDPM eq. 2: one step of noise, a sample of q(x_t | x_{t-1}) = N(√(1-β_t) x_{t-1}, β_t I).

        x_t = √(1-β_t) x_{t-1} + √β_t ε

    x_s, eps (b, ...) with eps ~ N(0, I); beta_t in (0, 1] -> x_t (b, ...).
    """
    return sqrt(1 - beta_t) * x_s + sqrt(beta_t) * eps


def q_sample(x0: Tensor, eps: Tensor, ab_t: Tensor) -> Tensor:
    """DDPM eq. 4: all t steps of noise in one, a sample of q(x_t | x_0) = N(√ᾱ_t x_0, (1-ᾱ_t) I).

        x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε

    x0, eps (b, ...) with eps ~ N(0, I); ab_t in [0, 1] -> x_t (b, ...).
    Official: `q_sample`
    """
    return sqrt(ab_t) * x0 + sqrt(1 - ab_t) * eps


def posterior(x0: Tensor, x_t: Tensor, ab_t: Tensor, ab_s: Tensor) -> tuple[Tensor, Tensor]:
    """DDPM eq. 6: the way back when x0 is known, q(x_{t-1} | x_t, x_0) = N(μ̃_t, β̃_t I).

        μ̃_t(x_t, x_0) and β̃_t, both from eq. 7

    x0, x_t (b, ...); ab_t < ab_s in [0, 1] -> mean (b, ...), variance (a scalar or as ab_t).
    Official: `q_posterior`
    """
    return posterior_mean(x0, x_t, ab_t, ab_s), posterior_variance(ab_t, ab_s)


def posterior_mean(x0: Tensor, x_t: Tensor, ab_t: Tensor, ab_s: Tensor) -> Tensor:
    """DDPM eq. 7: where q(x_{t-1} | x_t, x_0) is centred.

        μ̃_t = √ᾱ_{t-1} β_t / (1-ᾱ_t) · x_0 + √α_t (1-ᾱ_{t-1}) / (1-ᾱ_t) · x_t

    x0, x_t (b, ...); ab_t < ab_s in [0, 1] -> (b, ...).
    Official: `posterior_mean_coef1`, `posterior_mean_coef2`
    """
    alpha_t = ab_t / ab_s
    beta_t = 1 - alpha_t
    return (sqrt(ab_s) * beta_t * x0 + sqrt(alpha_t) * (1 - ab_s) * x_t) / (1 - ab_t)


def posterior_variance(ab_t: Tensor, ab_s: Tensor) -> Tensor:
    """DDPM eq. 7: how wide q(x_{t-1} | x_t, x_0) is. As sampling variance: DDPM's fixed_small.

        β̃_t = (1-ᾱ_{t-1}) / (1-ᾱ_t) · β_t

    ab_t < ab_s in [0, 1] -> a variance, in the units of x squared; 0 where ab_s = 1.
    Official: `posterior_variance`
    """
    return (1 - ab_s) / (1 - ab_t) * (1 - ab_t / ab_s)


def forward_variance(ab_t: Tensor, ab_s: Tensor) -> Tensor:
    """DDPM eq. 2: the variance of q(x_t | x_s). As sampling variance: DDPM's fixed_large (§3.2).

        β_{t|s} = 1 - ᾱ_t/ᾱ_s

    ab_t < ab_s in [0, 1] -> a variance; β_t when s = t-1.
    Official: `betas`
    """
    return 1 - ab_t / ab_s


def mean_matching_loss(mean: Tensor, mean_theta: Tensor, variance: Tensor) -> Tensor:
    """DDPM eq. 8: L_{t-1} is a squared distance of two means, up to a constant C.

        L_{t-1} - C = ‖μ̃_t - μ_θ‖² / (2 σ_t²)

    mean, mean_theta (b, ...); variance σ_t² > 0 -> (b,), in nats.
    """
    return ((mean - mean_theta) ** 2 / (2 * variance)).flatten(1).sum(1)


def reverse_mean(x_t: Tensor, eps: Tensor, ab_t: Tensor, ab_s: Tensor) -> Tensor:
    """DDPM eq. 11: the mean of p_θ(x_{t-1} | x_t), from the predicted noise.

        μ_θ = (x_t - β_t / √(1-ᾱ_t) · ε_θ) / √α_t

    x_t, eps (b, ...); ab_t < ab_s in (0, 1] -> (b, ...). Equals eq. 7 with eq. 15's x0.
    Official: `model_mean` (p_mean_variance)
    """
    alpha_t = ab_t / ab_s
    beta_t = 1 - alpha_t
    return (x_t - beta_t / sqrt(1 - ab_t) * eps) / sqrt(alpha_t)


def eps_loss_weight(ab_t: Tensor, ab_s: Tensor, variance: Tensor) -> Tensor:
    """DDPM eq. 12: the weight of ‖ε - ε_θ‖² in the variational bound.

        w_t = β_t² / (2 σ_t² α_t (1-ᾱ_t))

    ab_t < ab_s in (0, 1]; variance σ_t² > 0 -> weight, in nats per squared unit of ε.
    Official: `lvlb_weights` (with σ_t² = β̃_t)
    """
    alpha_t = ab_t / ab_s
    beta_t = 1 - alpha_t
    return beta_t**2 / (2 * variance * alpha_t * (1 - ab_t))


def simple_loss(eps: Tensor, eps_theta: Tensor) -> Tensor:
    """DDPM eq. 14: L_simple for each sample, as the code has it: the mean over its numbers.

        L_simple = ‖ε - ε_θ(√ᾱ_t x_0 + √(1-ᾱ_t) ε, t)‖² / d

    eps, eps_theta (b, ...) with d numbers a sample -> (b,). The paper's ‖·‖² is d times this.
    Official: `loss_simple`
    """
    return ((eps - eps_theta) ** 2).flatten(1).mean(1)


def pred_x0(x_t: Tensor, eps: Tensor, ab_t: Tensor) -> Tensor:
    """DDPM eq. 15, DDIM eq. 9: the clean x0 that x_t and the predicted noise imply.

        x̂_0 = (x_t - √(1-ᾱ_t) ε_θ) / √ᾱ_t

    x_t, eps (b, ...); ab_t in (0, 1] -> (b, ...). At ab_t = 0 nothing can be told: inf or nan.
    Official: `pred_x0`, `predict_start_from_noise`
    """
    return (x_t - sqrt(1 - ab_t) * eps) / sqrt(ab_t)

"""EDM: Elucidating the Design Space of Diffusion-Based Generative Models (arXiv 2206.00364).

EDM measures noise by σ, and its x is x/√ᾱ here: x̄ = x0 + σ ε, so σ² = (1-ᾱ)/ᾱ. A denoiser D(x̄; σ)
predicts x0. generative-models (SDXL) speaks this language, and its names stand below.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from .ddpm import sqrt


def sigma_from_ab(ab: Tensor) -> Tensor:
    """EDM §2: the standard deviation of the noise where the picture keeps its size, in x/√ᾱ.

        σ = √((1-ᾱ)/ᾱ)

    ab in [0, 1], any shape -> the same shape, from ∞ to 0. (DDIM eq. 13 writes it σ too; eq. 16's σ
    is another number.)
    Official: `sigmas`
    """
    if not isinstance(ab, Tensor) and ab == 0:
        return float("inf")
    return sqrt((1 - ab) / ab)


def ab_from_sigma(sigma: Tensor) -> Tensor:
    """EDM §2, turned round: ᾱ = 1/(1+σ²). sigma at least 0, any shape -> the same shape."""
    return 1 / (1 + sigma**2)


class Scalings(NamedTuple):
    """EDM eq. 7: the four numbers that make a denoiser of a raw network F, at one σ.

    D(x̄; σ) = c_skip x̄ + c_out F(c_in x̄; c_noise)
    """

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


def edm_scaling(sigma: Tensor, sigma_data: float = 0.5) -> Scalings:
    """EDM Table 1, "Ours": the network's input and target have variance 1 at every σ.

        c_skip = σ_d²/(σ²+σ_d²)   c_out = σ σ_d/√(σ²+σ_d²)   c_in = 1/√(σ²+σ_d²)   c_noise = ¼ ln σ

    sigma > 0, a tensor.
    Official: `EDMScaling`
    """
    total = sigma**2 + sigma_data**2
    return Scalings(
        sigma_data**2 / total, sigma * sigma_data / sqrt(total), 1 / sqrt(total), sigma.log() / 4
    )


def eps_scaling(sigma: Tensor) -> Scalings:
    """EDM Table 1, "VP": a network that predicts ε, as SD 1, 2 and XL do.

        c_skip = 1   c_out = -σ   c_in = 1/√(σ²+1)   c_noise = σ

    c_in x̄ is x_t, and D is x̂0 (DDPM eq. 15, DDIM eq. 9). `DiscreteDenoiser` makes of c_noise the
    network's index.
    Official: `EpsScaling`
    """
    return Scalings(1 + 0 * sigma, -sigma, 1 / sqrt(sigma**2 + 1), sigma)


def v_scaling(sigma: Tensor) -> Scalings:
    """Progressive Distillation §4 in EDM's terms: a network that predicts v, as SD 2's 768 does.

        c_skip = 1/(σ²+1)   c_out = -σ/√(σ²+1)   c_in = 1/√(σ²+1)   c_noise = σ

    It is EDM's own scaling with σ_data = 1, but for the sign of F.
    Official: `VScaling`
    """
    total = sigma**2 + 1
    return Scalings(1 / total, -sigma / sqrt(total), 1 / sqrt(total), sigma)


def v_edm_noise_scaling(sigma: Tensor) -> Scalings:
    """`v_scaling` with EDM's c_noise = ¼ ln σ, as Stable Video Diffusion has it.

    Official: `VScalingWithEDMcNoise`
    """
    return v_scaling(sigma)._replace(c_noise=sigma.log() / 4)


def denoise(network: Callable, x: Tensor, sigma: Tensor, scaling: Callable) -> Tensor:
    """EDM eq. 7: the denoiser that a raw network F makes, in EDM's x.

        D(x̄; σ) = c_skip x̄ + c_out F(c_in x̄; c_noise)

    network(x, c_noise) -> (b, ...); x (b, ...) is x_t/√ᾱ_t; sigma a number or (b, 1, ...).
    Official: `Denoiser`
    """
    c = scaling(sigma)
    return c.c_skip * x + c.c_out * network(c.c_in * x, c.c_noise)


def raw_target(x0: Tensor, noise: Tensor, sigma: Tensor, scaling: Callable) -> Tensor:
    """EDM eq. 8: what F is to give, so that D is x0.

        F* = (x0 - c_skip (x0 + n)) / c_out,  n = σ ε

    x0, noise (b, ...), noise the n of standard deviation σ -> (b, ...).
    """
    c = scaling(sigma)
    return (x0 - c.c_skip * (x0 + noise)) / c.c_out


def edm_weight(sigma: Tensor, sigma_data: float = 0.5) -> Tensor:
    """EDM Table 1: λ(σ), the weight of ‖D - x0‖², which is 1/c_out²: F's errors all count alike.

        λ = (σ²+σ_d²)/(σ σ_d)²

    Official: `EDMWeighting`
    """
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def eps_weight(sigma: Tensor) -> Tensor:
    """The weight of ‖D - x0‖² that is ‖ε_θ - ε‖², DDPM eq. 14's loss: 1/σ².

    Official: `EpsWeighting`
    """
    return 1 / sigma**2


def v_weight(sigma: Tensor) -> Tensor:
    """The weight of ‖D - x0‖² that is ‖v_θ - v‖²: (σ²+1)/σ², EDM's with σ_data = 1.

    Official: `VWeighting`
    """
    return edm_weight(sigma, sigma_data=1.0)


def log_normal_sigma(z: Tensor, mean: float = -1.2, std: float = 1.2) -> Tensor:
    """EDM Table 1: which σ to train on, ln σ ~ N(P_mean, P_std²).

        σ = exp(P_mean + P_std z)

    z ~ N(0, 1), any shape -> the same shape.
    Official: `EDMSampling`
    """
    return (mean + std * z).exp()


def churned_sigma(sigma: float, churn: float, steps: int) -> float:
    """EDM Algorithm 2, lines 4 and 5: σ̂ = σ (1+γ), γ = min(S_churn/N, √2-1).

    sigma at least 0; churn at least 0; steps = N -> at most √2 σ.
    Official: `s_churn`, `gamma`
    """
    return sigma * (1 + min(churn / steps, sqrt(2) - 1))


def karras_sigma(u: Tensor, smallest: float, largest: float, rho: float = 7.0) -> Tensor:
    """EDM eq. 5: the σ that lies the share u of the way down, evenly in σ^(1/ρ).

        σ(u) = (σ_max^(1/ρ) + u (σ_min^(1/ρ) - σ_max^(1/ρ)))^ρ,  u = i/(N-1)

    u in [0, 1], any shape -> the same shape. ρ = 1 is even in σ; ρ -> ∞ even in ln σ.
    Official: `EDMDiscretization`
    """
    top, bottom = largest ** (1 / rho), smallest ** (1 / rho)
    return (top + u * (bottom - top)) ** rho


def ancestral_sigmas(sigma_t: float, sigma_s: float, eta: float = 1.0) -> tuple[float, float]:
    """Score SDE eq. 47: an ancestral step goes below σ_s, and then up to it with fresh noise.

        σ_up = min(σ_s, η √(σ_s² (σ_t²-σ_s²)/σ_t²)),  σ_down = √(σ_s²-σ_up²)

    σ_t > σ_s ≥ 0 -> (σ_down, σ_up). √ᾱ_s σ_up is DDIM eq. 16's σ(η).
    Official: `get_ancestral_step`
    """
    up = min(sigma_s, eta * sigma_s * sqrt(1 - (sigma_s / sigma_t) ** 2))
    return sqrt(sigma_s**2 - up**2), up

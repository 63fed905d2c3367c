"""Consistency models (arXiv 2303.01469, 2310.04378): from any point of a path to the path's start.

The probability-flow ODE leads from every x_t along one path to one x_0. A consistency function
f(x_t, t) gives that x_0 in one call. It is built as f = c_skip x_t + c_out F, F a raw network, so
that f(x, t) = x where the path starts, whatever F says.
"""

from torch import Tensor

from .ddpm import sqrt


def consistency_scaling(
    sigma: Tensor, sigma_min: float = 0.002, sigma_data: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Consistency Models eq. 5, App. C: c_skip and c_out of f = c_skip x̄ + c_out F, x̄ as EDM's.

        c_skip = σ_d²/((σ-σ_min)²+σ_d²)   c_out = σ_d (σ-σ_min)/√(σ²+σ_d²)

    At σ_min, where paths start, they are 1 and 0. sigma at least σ_min, any shape -> two of it.
    Official: `get_scalings_for_boundary_condition`
    """
    way = sigma - sigma_min
    c_out = sigma_data * way / sqrt(sigma**2 + sigma_data**2)
    return sigma_data**2 / (way**2 + sigma_data**2), c_out


def lcm_scaling(
    index: Tensor, timestep_scaling: float = 10.0, sigma_data: float = 0.5
) -> tuple[Tensor, Tensor]:
    """LCM App. E: c_skip and c_out of f = c_skip x_t + c_out x̂_0, x̂_0 the network's prediction.

        c_skip = σ_d²/((s i)²+σ_d²)   c_out = s i/√((s i)²+σ_d²)

    index i = t - 1, s = timestep_scaling. At i = 0 they are 1 and 0, and from a few i on nearly 0
    and 1. A network that predicts v needs neither: its x̂_0 = √ᾱ_t x_t - √(1-ᾱ_t) v is such an f
    itself, since ᾱ_0 = 1. Any shape -> two of it.
    Official: `get_scalings_for_boundary_condition_discrete`
    """
    scaled = timestep_scaling * index
    total = scaled**2 + sigma_data**2
    return sigma_data**2 / total, scaled / sqrt(total)

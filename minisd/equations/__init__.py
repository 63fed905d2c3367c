"""Every numbered formula, a pure function: one file for each paper, one name for each formula.

The arguments are torch tensors; plain numbers work too, for checks by hand. Nothing here knows a
schedule or a network: ᾱ comes in as `ab_t` (at the time x_t belongs to) and `ab_s` (at the earlier
time s < t; the papers' formulas have s = t-1, and these hold for any s).
May import: nothing of minisd. Imported by: everything that computes with diffusion.
"""

from .ddim import ddim_mean, ddim_ode_step, ddim_step, dir_xt, sigma
from .ddpm import (
    eps_loss_weight,
    forward_variance,
    mean_matching_loss,
    posterior,
    posterior_mean,
    posterior_variance,
    pred_x0,
    q_sample,
    q_step,
    reverse_mean,
    simple_loss,
    sqrt,
)
from .guidance import guided_eps, guided_eps_paper, rescale_guidance
from .pndm import (
    adams_bashforth,
    improved_euler_eps,
    multistep_eps,
    pndm_difference,
    runge_kutta_eps,
    transfer,
)
from .velocity import (
    eps_from_v,
    eps_from_x0,
    min_snr_weight_eps,
    min_snr_weight_v,
    min_snr_weight_x0,
    velocity,
    x0_from_v,
)

__all__ = [
    "adams_bashforth",
    "ddim_mean",
    "ddim_ode_step",
    "ddim_step",
    "dir_xt",
    "eps_from_v",
    "eps_from_x0",
    "eps_loss_weight",
    "forward_variance",
    "guided_eps",
    "guided_eps_paper",
    "improved_euler_eps",
    "mean_matching_loss",
    "min_snr_weight_eps",
    "min_snr_weight_v",
    "min_snr_weight_x0",
    "multistep_eps",
    "pndm_difference",
    "posterior",
    "posterior_mean",
    "posterior_variance",
    "pred_x0",
    "q_sample",
    "q_step",
    "rescale_guidance",
    "reverse_mean",
    "runge_kutta_eps",
    "sigma",
    "simple_loss",
    "sqrt",
    "transfer",
    "velocity",
    "x0_from_v",
]

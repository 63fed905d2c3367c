"""Training objectives: eqs. 8, 12 and 14 of DDPM for an eps_model, a number for each sample.

Every loss returns (b,), one number for each sample; the caller averages. t is one time for all or,
as int64 (b,), a time for each. Noise comes in as `eps`, so a loss is a function, not a draw.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .equations import (
    eps_loss_weight,
    forward_variance,
    q_sample,
    reverse_mean,
    simple_loss,
    straight_path,
    straight_velocity,
)
from .prediction import checked, same_shape
from .schedules import at, check_t


def l_simple(eps_model: Callable, x0: Tensor, t: int | Tensor, eps: Tensor, ab: Tensor) -> Tensor:
    """DDPM Algorithm 1 and eq. 14: noise x0 to time t, let the network predict the noise, compare.

        ‖ε - ε_θ(√ᾱ_t x_0 + √(1-ᾱ_t) ε, t)‖² / d

    x0, eps (b, ...) -> (b,).
    Official: `p_losses`, `loss_simple`
    """
    check_t(t, len(ab) - 1)
    x_t = q_sample(x0, same_shape("eps", eps, x0), at(ab, t, x0))
    return simple_loss(eps, checked(eps_model(x_t, t), x_t).eps)


def l_weighted(
    eps_model: Callable, x0: Tensor, t: int | Tensor, eps: Tensor, ab: Tensor, weight: Tensor
) -> Tensor:
    """DDPM eq. 12, as weight[t] L_simple: weights for every time, a line (T+1,) by the paper's t.

    Min-SNR's weights of `snr(ab)`, or eq. 12's, are such lines.
    Official: `lvlb_weights`, `loss_vlb`
    """
    loss = l_simple(eps_model, x0, t, eps, ab)
    return at(weight, t, loss) * loss


def flow_matching(u_model: Callable, x0: Tensor, t: float | Tensor, eps: Tensor) -> Tensor:
    """Flow Matching eq. 9, Rectified Flow eq. 1, SD 3 §2: conditional flow matching.

        ‖(ε - x_0) - u_θ((1-t) x_0 + t ε, t)‖² / d

    u_model(x, t) -> (b, ...), called with the t that came in; x0, eps (b, ...); t in [0, 1], a
    number or (b,) -> (b,). The target is the velocity of one line; the best u_θ is the mean of
    those of all lines through x_t.
    """
    each = t.reshape(-1, *[1] * (x0.ndim - 1)) if isinstance(t, Tensor) else t
    x_t = straight_path(x0, same_shape("eps", eps, x0), each)
    u = same_shape("what u_model returns", u_model(x_t, t), x_t)
    return ((straight_velocity(x0, eps) - u) ** 2).flatten(1).mean(1)


def prior_preservation(new: Tensor, prior: Tensor, weight: float = 1.0) -> Tensor:
    """DreamBooth eq. 2: the loss of the new pictures, and λ times that of pictures of the old kind.

        L_new + λ L_prior,  each as L_simple, with its own noise and time

    In the paper the prior's pictures are the frozen model's own, so that it keeps what it could
    paint; `tiny.lessons` has another target, and pictures of the world.
    new, prior (b,) -> (b,); ValueError where there are more of one. The authors published no code.
    Official: `prior_loss_weight` (diffusers' train_dreambooth)
    """
    if new.shape != prior.shape:
        raise ValueError(f"as many new losses as prior ones: {len(new)} and {len(prior)}")
    return new + weight * prior


def l_t(
    eps_model: Callable,
    x0: Tensor,
    t: int,
    eps: Tensor,
    ab: Tensor,
    variance: Callable = forward_variance,
) -> Tensor:
    """DDPM eqs. 5, 8, 12: one term of the variational bound, L_{t-1}, its constant C included.

        t > 1:  KL(q(x_{t-1}|x_t,x_0) ‖ p_θ(x_{t-1}|x_t)) = w_t ‖ε - ε_θ‖² + d/2 (r - 1 - log r)
        t = 1:  -log p_θ(x_0|x_1), a Gaussian density; here r = β̃_t/σ_t² and w_t is eq. 12's

    x0, eps (b, ...); variance(ab_t, ab_s) = σ_t² -> (b,), in nats. ValueError at t = 1 for
    fixed_small: its σ_1 is 0, and L_0 would be infinite.
    """
    check_t(t, len(ab) - 1)
    ab_t, ab_s = ab[t], ab[t - 1]
    x_t = q_sample(x0, same_shape("eps", eps, x0), ab_t)
    eps_theta = checked(eps_model(x_t, t), x_t).eps
    d = x0[0].numel()
    var = variance(ab_t, ab_s)
    if t == 1:
        if var == 0:
            raise ValueError("L_0 needs a variance above 0 at t=1, as fixed_large has; got 0")
        return gaussian_nll(x0, reverse_mean(x_t, eps_theta, ab_t, ab_s), var)
    ratio = forward_variance(ab_t, ab_s) * (1 - ab_s) / (1 - ab_t) / var
    constant = d / 2 * (ratio - 1 - ratio.log())
    return eps_loss_weight(ab_t, ab_s, var) * d * simple_loss(eps, eps_theta) + constant


def l_T(x0: Tensor, ab: Tensor) -> Tensor:
    """DDPM eq. 5, first term: how far q(x_T|x_0) is from N(0, I).

    The network does not occur in it, so training leaves it out.

        KL(N(√ᾱ_T x_0, (1-ᾱ_T) I) ‖ N(0, I)) = ½ (ᾱ_T ‖x_0‖² - d ᾱ_T - d log(1-ᾱ_T))

    x0 (b, ...) -> (b,), in nats.
    """
    d = x0[0].numel()
    return (ab[-1] * (x0**2).flatten(1).sum(1) - d * ab[-1] - d * (1 - ab[-1]).log()) / 2


def variational_bound(
    eps_model: Callable,
    x0: Tensor,
    eps: Tensor,
    ab: Tensor,
    variance: Callable = forward_variance,
) -> Tensor:
    """DDPM eq. 5: L_T + L_{T-1} + ... + L_0, at least -log p_θ(x_0) on average over eps.

    x0, eps (b, ...) -> (b,), in nats. The same eps serves every t. Calls the model T times.
    """
    terms = [l_t(eps_model, x0, t, eps, ab, variance) for t in range(1, len(ab))]
    return l_T(x0, ab) + torch.stack(terms).sum(0)


def gaussian_nll(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """-log N(x; mean, variance I), summed over each sample: (b, ...) -> (b,), in nats.

    ½ ‖x - mean‖²/variance + d/2 log(2π variance)
    """
    return ((x - mean) ** 2 / variance + (2 * torch.pi * variance).log()).flatten(1).sum(1) / 2

"""The score: Generative Modeling by Estimating Gradients of the Data Distribution (NCSN, arXiv
1907.05600), and Score-Based Generative Modeling through SDEs (Score SDE, arXiv 2011.13456).

Score SDE's time, here τ = t/T, runs from 0 to 1, and its β(τ) is T β_t. Its f(x, t) and g(t) are
written out for the process of DDPM: -½ β(τ) x and √β(τ).
"""

from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from torch import Tensor

from .ddpm import sqrt

Field = Callable[[Tensor, float], Tensor]  # (x, τ) -> dx/dτ


def conditional_score(x_t: Tensor, x0: Tensor, ab_t: Tensor) -> Tensor:
    """NCSN eq. 5, in DDPM's scaling: the score of x_t where x0 is known, -ε / √(1-ᾱ_t).

        ∇ log q(x_t | x_0) = -(x_t - √ᾱ_t x_0) / (1-ᾱ_t)

    x_t, x0 (b, ...); ab_t in [0, 1) -> (b, ...).
    """
    return -(x_t - sqrt(ab_t) * x0) / (1 - ab_t)


def score_matching_loss(score: Tensor, target: Tensor) -> Tensor:
    """NCSN eq. 2: denoising score matching, where the target is the conditional score.

        ½ ‖s_θ(x_t) - ∇ log q(x_t | x_0)‖²

    score, target (b, ...) -> (b,). Times 2 (1-ᾱ_t), it is DDPM's ‖ε - ε_θ‖² (its eq. 14).
    """
    return ((score - target) ** 2).flatten(1).sum(1) / 2


def langevin_step(x: Tensor, score: Tensor, step: float, z: Tensor) -> Tensor:
    """NCSN eq. 4: a step of Langevin dynamics, uphill and with noise; `step` is a, its ε.

        x ← x + a/2 ∇ log p(x) + √a z

    x, score, z (b, ...) with z ~ N(0, I); step > 0 -> (b, ...). Samples p only as a goes to 0.
    """
    return x + step / 2 * score + sqrt(step) * z


def vp_beta(tau: float, first: float = 0.1, last: float = 20.0) -> float:
    """Score SDE App. C: the rate of the noise at τ, the limit of T β_t for DDPM's linear schedule.

        β(τ) = β_min + τ (β_max - β_min)

    τ in [0, 1], a number or a tensor.
    """
    return first + tau * (last - first)


def vp_alpha_bar(tau: Tensor, first: float = 0.1, last: float = 20.0) -> Tensor:
    """Score SDE App. C: ᾱ at τ, the limit of the product of all 1 - β_i up to there.

        ᾱ(τ) = exp(-∫₀^τ β(r) dr) = exp(-τ β_min - ½ τ² (β_max - β_min))

    τ in [0, 1], a number or a tensor -> a float64 tensor of its shape.
    """
    tau = torch.as_tensor(tau, dtype=torch.float64)
    return (-tau * first - tau**2 / 2 * (last - first)).exp()


def forward_drift(x: Tensor, beta: float) -> Tensor:
    """Score SDE eq. 11: the drift of dx = -½ β x dτ + √β dW, the limit of DDPM's chain.

    x (b, ...); beta = β(τ) -> (b, ...).
    """
    return -beta / 2 * x


def reverse_drift(x: Tensor, score: Tensor, beta: float) -> Tensor:
    """Score SDE eq. 6 (Anderson): the drift of the SDE that runs from τ = 1 down to 0.

        dx = (-½ β x - β ∇ log q(x)) dτ + √β dW,  dτ < 0

    x, score (b, ...); beta = β(τ) -> (b, ...).
    """
    return -beta / 2 * x - beta * score


def flow_drift(x: Tensor, score: Tensor, beta: float) -> Tensor:
    """Score SDE eq. 13: the probability-flow ODE, which has no noise and half of the score.

        dx/dτ = -½ β x - ½ β ∇ log q(x)

    x, score (b, ...); beta = β(τ) -> (b, ...).
    """
    return -beta / 2 * x - beta / 2 * score


def sde_step(x: Tensor, drift: Tensor, beta: float, length: float, z: Tensor = 0.0) -> Tensor:
    """Euler and Maruyama's step of an SDE whose noise is √β dW; z = 0 is Euler's of an ODE.

        x ← x + drift dτ + √(β |dτ|) z

    x, drift, z (b, ...); length = dτ, negative towards the data -> (b, ...).
    """
    return x + length * drift + sqrt(beta * abs(length)) * z


def divergence(field: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Score SDE eq. 39, its integrand: ∇·f(x) = Σ_i ∂f_i/∂x_i, exactly, one pass for each number.

    field maps x (b, d) to (b, d), each row by itself; x (b, d) -> f(x) (b, d), ∇·f (b,).
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = field(x)
        rows = range(x.shape[1])
        parts = [torch.autograd.grad(value[:, i].sum(), x, retain_graph=True)[0] for i in rows]
    total = torch.stack([part[:, i] for i, part in enumerate(parts)]).sum(0)
    return value.detach(), total


def hutchinson(field: Callable[[Tensor], Tensor], x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Score SDE eq. 40 (Hutchinson): the divergence by one pass, right on average over z.

        ∇·f ≈ zᵀ (∂f/∂x) z,  where E[z zᵀ] = I

    field and x as for `divergence`; z (b, d), Gaussian or of signs -> f(x) (b, d), estimate (b,).
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = field(x)
        (product,) = torch.autograd.grad((value * z).sum(), x)  # zᵀ ∂f/∂x
    return value.detach(), (product * z).sum(1)


def flow_log_likelihood(
    flow: Field,
    x0: Tensor,
    taus: Iterable[float],
    log_prior: Callable,
    trace: Callable = divergence,
) -> Tensor:
    """Score SDE eq. 39: log p_0(x_0), by the probability-flow ODE and its divergence.

        log p_0(x(0)) = log p_1(x(1)) + ∫₀¹ ∇·f(x(τ), τ) dτ

    flow(x, τ) = dx/dτ; x0 (b, d); taus rise from 0, one step of Runge and Kutta's fourth order
    between each two; log_prior(x) -> (b,) at the last; trace(field, x) -> f(x), ∇·f (b,), for
    example `hutchinson` with a z. -> (b,), in nats.
    """
    x, change = x0, 0.0
    for start, end in pairwise(taus):
        h = end - start
        slopes, rates = [], []
        for share in (0, 1 / 2, 1 / 2, 1):
            at = x + share * h * slopes[-1] if slopes else x
            slope, rate = trace(lambda y, tau=start + share * h: flow(y, tau), at)
            slopes.append(slope)
            rates.append(rate)
        x, change = (
            old + h / 6 * (k[0] + 2 * k[1] + 2 * k[2] + k[3])
            for old, k in ((x, slopes), (change, rates))
        )
    return log_prior(x) + change

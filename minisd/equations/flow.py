"""Flow matching: a picture and noise joined by a straight line, and the velocity along it.

The papers: Flow Matching (arXiv 2210.02747), Rectified Flow (2209.03003), Stochastic Interpolants
(2303.08797), SD 3 (2403.03206). Time is t here, from 0 at the picture to 1 at the noise, as in SD 3
and Flux; Flow Matching and Rectified Flow count from the noise, 1 - t. The velocity is u: v is
Progressive Distillation's here.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .ddpm import sqrt


def interpolant(x0: Tensor, eps: Tensor, a_t: Tensor, b_t: Tensor) -> Tensor:
    """Stochastic Interpolants §4, SD 3 eq. 2: any path from a picture to noise.

        x_t = a_t x_0 + b_t ε

    a falls from 1 to 0 and b rises from 0 to 1; most papers write α_t and σ_t. √ᾱ_t and √(1-ᾱ_t)
    are diffusion's. With their derivatives in their place it is the path's velocity,
    u = a'_t x_0 + b'_t ε.
    x0, eps (b, ...) -> (b, ...).
    """
    return a_t * x0 + b_t * eps


def straight_path(x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """SD 3 eq. 13, Rectified Flow eq. 1: the straight path, a_t = 1-t and b_t = t.

        x_t = (1-t) x_0 + t ε

    x0, eps (b, ...); t in [0, 1], a number or (b, 1, ...) -> (b, ...).
    Official: `scale_noise` (diffusers)
    """
    return (1 - t) * x0 + t * eps


def straight_velocity(x0: Tensor, eps: Tensor) -> Tensor:
    """Rectified Flow eq. 1: the velocity of the straight path, the same at all its points.

        u = dx_t/dt = ε - x_0

    x0, eps (b, ...) -> (b, ...).
    """
    return eps - x0


def conditional_path(x1: Tensor, noise: Tensor, t: Tensor, sigma_min: float = 0.0) -> Tensor:
    """Flow Matching eq. 22: Lipman's straight path, with the noise at t = 0 and the picture at 1.

        x_t = (1 - (1-σ_min) t) z + t x_1

    x1 the picture, noise z (b, ...); t in [0, 1] -> (b, ...). With σ_min = 0 it is `straight_path`
    at 1 - t.
    """
    return (1 - (1 - sigma_min) * t) * noise + t * x1


def conditional_velocity(x1: Tensor, noise: Tensor, sigma_min: float = 0.0) -> Tensor:
    """Flow Matching eq. 23: the velocity of `conditional_path`, from the noise to the picture.

        dx_t/dt = x_1 - (1-σ_min) z

    x1, noise (b, ...) -> (b, ...). σ_min = 0 is minus `straight_velocity`.
    """
    return x1 - (1 - sigma_min) * noise


def x0_from_u(x_t: Tensor, u: Tensor, t: Tensor) -> Tensor:
    """SD 3 eq. 13, solved for the picture: back along the line, to its beginning.

        x̂_0 = x_t - t u

    x_t, u (b, ...); t in [0, 1] -> (b, ...).
    """
    return x_t - t * u


def eps_from_u(x_t: Tensor, u: Tensor, t: Tensor) -> Tensor:
    """SD 3 eq. 13, solved for the noise: on along the line, to its end.

        ε̂ = x_t + (1-t) u

    x_t, u (b, ...); t in [0, 1] -> (b, ...).
    """
    return x_t + (1 - t) * u


def flow_time(ab: Tensor) -> Tensor:
    """SD 3 §3.1 (CosMap): the straight path's time where its SNR is that of ᾱ, so σ = t/(1-t).

        t = √(1-ᾱ) / (√ᾱ + √(1-ᾱ))

    ab in [0, 1], any shape -> the same shape, from 1 to 0.
    """
    return sqrt(1 - ab) / (sqrt(ab) + sqrt(1 - ab))


def ab_from_flow_time(t: Tensor) -> Tensor:
    """SD 3 §3.1 (CosMap): the ᾱ with the SNR of the straight path at t; `flow_time` turned round.

        ᾱ = (1-t)² / ((1-t)² + t²)

    t in [0, 1], any shape -> the same shape.
    """
    return (1 - t) ** 2 / ((1 - t) ** 2 + t**2)


def flow_scale(t: Tensor) -> Tensor:
    """What diffusion's x_t is multiplied by, to lie on the straight path at t.

        c = √((1-t)² + t²),  c (√ᾱ x_0 + √(1-ᾱ) ε) = (1-t) x_0 + t ε

    It follows from equal SNR: c √ᾱ = 1-t and c √(1-ᾱ) = t; the sum of their squares is c².
    t in [0, 1], any shape -> the same shape, from √½ to 1.
    """
    return sqrt((1 - t) ** 2 + t**2)


def flow_step(x_t: Tensor, u: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Flow Matching eq. 1 by Euler's method: a step along one velocity. It is DDIM's.

        x_s = x_t + (s-t) u

    x_t, u (b, ...); t, s in [0, 1] -> (b, ...).
    Official: `FlowMatchEulerDiscreteScheduler.step` (diffusers)
    """
    return x_t + (s - t) * u


def flow_heun_step(velocity: Callable, x_t: Tensor, t: float, s: float) -> Tensor:
    """Flow Matching eq. 1 by Heun's method: the mean of the velocities at both ends of a step.

        trial = x_t + (s-t) u(x_t, t),   x_s = x_t + (s-t) (u(x_t, t) + u(trial, s))/2

    velocity(x, t) -> (b, ...), called twice; x_t (b, ...); t, s in [0, 1] -> (b, ...). The last
    step, to s = 0, is Euler's in diffusers; here it is the caller's choice.
    Official: `FlowMatchHeunDiscreteScheduler.step` (diffusers)
    """
    u = velocity(x_t, t)
    return flow_step(x_t, (u + velocity(flow_step(x_t, u, t, s), s)) / 2, t, s)


def straightness(path: Tensor, times: Tensor) -> Tensor:
    """Rectified Flow §2.2: how far the velocity of a path is from that of its chord, squared.

        S = ∫ E‖(x_1 - x_0) - dx_t/dt‖² dt

    x_0 and x_1 are the path's ends, at t = 0 and 1; dx_t/dt is the velocity of the piece between
    two points. path (n, b, ...), the points of b paths at n times; times (n,), from 1 to 0 or from
    0 to 1, the whole way -> (), at least 0; 0 for straight paths of constant speed.
    """
    length = times.diff().reshape(-1, *[1] * (path.ndim - 1))  # (n-1, 1, ...)
    off = path.diff(dim=0) / length - (path[-1] - path[0]) / (times[-1] - times[0])
    return ((off**2).flatten(2).sum(2).mean(1) * times.diff().abs()).sum()


def logit_normal_time(z: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """SD 3 eq. 19: which times to train on, logit t ~ N(mean, std²): the middle, where it is hard.

        t = 1 / (1 + exp(-(mean + std z)))

    z ~ N(0, 1), any shape -> the same shape, in (0, 1).
    Official: `compute_density_for_timestep_sampling("logit_normal")` (diffusers)
    """
    return torch.sigmoid(mean + std * z)


def logit_normal_density(t: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """SD 3 eq. 19: the density of `logit_normal_time`, of which equal weights are the constant 1.

        π(t) = exp(-(logit t - mean)²/(2 std²)) / (std √(2π) t (1-t)),  logit t = ln(t/(1-t))

    t in (0, 1), a tensor of any shape -> the same shape.
    """
    bell = torch.exp(-((torch.logit(t) - mean) ** 2) / (2 * std**2))
    return bell / (std * math.sqrt(2 * math.pi) * t * (1 - t))


def shifted_time(t: Tensor, shift: float) -> Tensor:
    """SD 3 eq. 23: the time with the same trace of noise in a picture of more pixels.

        t_m = r t_n / (1 + (r-1) t_n),  r = √(m/n)

    t_n is the time in n pixels, t_m that in m pixels. The shift multiplies σ = t/(1-t) by r: so
    r > 1 goes to noisier times, and two shifts are one by their product. t in [0, 1], any shape ->
    the same shape.
    Official: `time_snr_shift`; `shift` (diffusers)
    """
    return shift * t / (1 + (shift - 1) * t)


def resolution_shift(pixels: int, trained: int) -> float:
    """SD 3 eq. 23: the shift between two sizes of a picture, m and n pixels in all.

    r = √(m/n)
    """
    return sqrt(pixels / trained)


def flux_shift(tokens: int) -> float:
    """The shift of Flux for a picture of so many tokens (2 x 2 latents), e^μ, μ on a line.

        μ = 0.5 + (1.15-0.5) (tokens-256)/(4096-256)

    Official: `get_lin_function`, `time_shift`; `calculate_shift` (diffusers)
    """
    return math.exp(0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256))

"""Three ways to say the same prediction, ε, x0 or v (Progressive Distillation, arXiv 2202.00512),
and what a loss on one weighs as a loss on another (Min-SNR, arXiv 2303.09556)."""

from torch import Tensor

from .ddpm import sqrt


def velocity(x0: Tensor, eps: Tensor, ab_t: Tensor) -> Tensor:
    """Progressive Distillation §4, App. D: v, how fast x_t turns on the circle.

        v = √ᾱ_t ε - √(1-ᾱ_t) x_0 = dx_t/dψ  where √ᾱ_t = cos ψ, √(1-ᾱ_t) = sin ψ

    x0, eps (b, ...); ab_t in [0, 1] -> (b, ...).
    Official: `get_v`
    """
    return sqrt(ab_t) * eps - sqrt(1 - ab_t) * x0


def x0_from_v(x_t: Tensor, v: Tensor, ab_t: Tensor) -> Tensor:
    """Progressive Distillation §4: x0 from a v-prediction. Defined at ᾱ_t = 0 too.

        x̂_0 = √ᾱ_t x_t - √(1-ᾱ_t) v

    x_t, v (b, ...); ab_t in [0, 1] -> (b, ...).
    Official: `predict_start_from_z_and_v`
    """
    return sqrt(ab_t) * x_t - sqrt(1 - ab_t) * v


def v_from_x0(x_t: Tensor, x0: Tensor, ab_t: Tensor) -> Tensor:
    """Progressive Distillation §4: v of an x0, as a target for example; `x0_from_v` turned round.

        v = (√ᾱ_t x_t - x_0) / √(1-ᾱ_t)

    x_t, x0 (b, ...); ab_t in [0, 1) -> (b, ...).
    """
    return (sqrt(ab_t) * x_t - x0) / sqrt(1 - ab_t)


def eps_from_v(x_t: Tensor, v: Tensor, ab_t: Tensor) -> Tensor:
    """Progressive Distillation §4: ε from a v-prediction. Defined at ᾱ_t = 0 too.

        ε̂ = √ᾱ_t v + √(1-ᾱ_t) x_t

    x_t, v (b, ...); ab_t in [0, 1] -> (b, ...).
    Official: `predict_eps_from_z_and_v`
    """
    return sqrt(ab_t) * v + sqrt(1 - ab_t) * x_t


def eps_from_x0(x_t: Tensor, x0: Tensor, ab_t: Tensor) -> Tensor:
    """DDIM eq. 12, solved for the noise: ε from an x0-prediction (eq. 4 turned round).

        ε̂ = (x_t - √ᾱ_t x̂_0) / √(1-ᾱ_t)

    x_t, x0 (b, ...); ab_t in [0, 1) -> (b, ...).
    Official: `predict_eps_from_xstart`
    """
    return (x_t - sqrt(ab_t) * x0) / sqrt(1 - ab_t)


def turned(x_t: Tensor, v: Tensor, ab_t: Tensor, ab_s: Tensor) -> Tensor:
    """Progressive Distillation App. D: DDIM's step (σ = 0) along v, a turn by δ = ψ_t - ψ_s.

        x_s = cos δ x_t - sin δ v  where √ᾱ_t = cos ψ_t, √(1-ᾱ_t) = sin ψ_t

    x_t, v (b, ...); ab_t, ab_s in [0, 1] -> (b, ...). ᾱ_s = 1 gives `x0_from_v`.
    """
    cos = sqrt(ab_s) * sqrt(ab_t) + sqrt(1 - ab_s) * sqrt(1 - ab_t)
    sin = sqrt(ab_s) * sqrt(1 - ab_t) - sqrt(1 - ab_s) * sqrt(ab_t)
    return cos * x_t - sin * v


def min_snr_weight_x0(snr: Tensor, gamma: float = 5.0) -> Tensor:
    """Min-SNR §3.4: the weight of ‖x_0 - x̂_0‖², capped so that nearly clean times do not rule.

        w = min(SNR, γ)

    snr = ᾱ/(1-ᾱ), any shape -> same shape.
    """
    return snr.clamp(max=gamma) if isinstance(snr, Tensor) else min(snr, gamma)


def min_snr_weight_eps(snr: Tensor, gamma: float = 5.0) -> Tensor:
    """Min-SNR §3.4: the same loss as a weight of ‖ε - ε̂‖², which is SNR ‖x_0 - x̂_0‖².

        w = min(SNR, γ) / SNR = min(1, γ/SNR)

    snr > 0, any shape -> same shape.
    """
    return min_snr_weight_x0(snr, gamma) / snr


def min_snr_weight_v(snr: Tensor, gamma: float = 5.0) -> Tensor:
    """Min-SNR §3.4: the same loss as a weight of ‖v - v̂‖², which is (SNR+1) ‖x_0 - x̂_0‖².

        w = min(SNR, γ) / (SNR + 1)

    snr, any shape -> same shape.
    """
    return min_snr_weight_x0(snr, gamma) / (snr + 1)

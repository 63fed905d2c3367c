"""PNDM: Pseudo Numerical Methods for Diffusion Models (arXiv 2202.09778).

The paper's idea: split a solver's step into a gradient part, how to average several ε (eqs. 12 and
13), and a transfer part, how to move x with the result (eq. 11). PLMS is its multi-step method.
"""

import functools
from collections.abc import Sequence
from fractions import Fraction

from torch import Tensor

from .ddpm import sqrt


def pndm_difference(x_t: Tensor, eps: Tensor, ab_t: Tensor, ab_s: Tensor) -> Tensor:
    """PNDM eq. 9: x_s - x_t of a DDIM step, written so that no two near-equal roots are subtracted.

        (ᾱ_s-ᾱ_t) ( x_t / (√ᾱ_t (√ᾱ_s+√ᾱ_t)) - ε_θ / (√ᾱ_t (√((1-ᾱ_s)ᾱ_t) + √((1-ᾱ_t)ᾱ_s))) )

    x_t, eps (b, ...); ab_t, ab_s in (0, 1], not both 1 -> (b, ...).
    """
    return (ab_s - ab_t) * (
        x_t / (sqrt(ab_t) * (sqrt(ab_s) + sqrt(ab_t)))
        - eps / (sqrt(ab_t) * (sqrt((1 - ab_s) * ab_t) + sqrt((1 - ab_t) * ab_s)))
    )


def transfer(x_t: Tensor, eps: Tensor, ab_t: Tensor, ab_s: Tensor) -> Tensor:
    """PNDM eq. 11: φ(x_t, ε, t, s), move x from t to s along one ε. Exact if ε is; DDIM at η = 0.

        φ = √ᾱ_s/√ᾱ_t x_t - (ᾱ_s-ᾱ_t) / (√ᾱ_t (√((1-ᾱ_s)ᾱ_t) + √((1-ᾱ_t)ᾱ_s))) ε

    x_t, eps (b, ...); ab_t, ab_s in (0, 1], not both 1 -> (b, ...). s > t inverts.
    """
    denominator = sqrt(ab_t) * (sqrt((1 - ab_s) * ab_t) + sqrt((1 - ab_t) * ab_s))
    return sqrt(ab_s) / sqrt(ab_t) * x_t - (ab_s - ab_t) / denominator * eps


@functools.cache
def adams_bashforth(order: int) -> tuple[Fraction, ...]:
    """PNDM eq. 12: the weights of the last `order` slopes, newest first, for a step of length 1.

        b_j = ∫₀¹ ℓ_j(u) du,  ℓ_j(u) = ∏_{m≠j} (u+m)/(m-j)

    ℓ_j is the polynomial through 1 at u = -j and 0 at the other -m; the step goes from u = 0 to 1.
    order a whole number of at least 1 -> exact fractions, sum 1. For 4: (55, -59, 37, -9)/24.
    Official: the coefficients of `e_t_prime`
    """
    if not isinstance(order, int) or isinstance(order, bool) or order < 1:
        raise ValueError(f"order must be a whole number of at least 1, got {order!r}")
    weights = []
    for j in range(order):
        poly = [Fraction(1)]  # coefficients of u^0, u^1, ...
        for m in set(range(order)) - {j}:
            times_u, times_m = [Fraction(0), *poly], [m * c for c in poly] + [Fraction(0)]
            poly = [(a + b) / (m - j) for a, b in zip(times_u, times_m, strict=True)]
        weights.append(sum(c / (k + 1) for k, c in enumerate(poly)))
    return tuple(weights)


def multistep_eps(history: Sequence[Tensor]) -> Tensor:
    """PNDM eq. 12: PLMS's averaged noise ε', from the newest ε and up to three before it.

        ε' = (55 ε_t - 59 ε_{t+δ} + 37 ε_{t+2δ} - 9 ε_{t+3δ}) / 24

    history: ε (b, ...), newest first; their number is the order of `adams_bashforth` -> (b, ...).
    Official: `e_t_prime`, `old_eps`
    """
    weights = adams_bashforth(len(history))
    newest, *older = (float(b) * eps for b, eps in zip(weights, history, strict=True))
    return sum(older, start=newest)


def runge_kutta_eps(e1: Tensor, e2: Tensor, e3: Tensor, e4: Tensor) -> Tensor:
    """PNDM eq. 13: Runge-Kutta's average of four ε: at t, twice half way to s, and at s.

        ε' = (ε¹ + 2ε² + 2ε³ + ε⁴) / 6

    e1..e4 (b, ...) -> (b, ...).
    """
    return (e1 + 2 * e2 + 2 * e3 + e4) / 6


def improved_euler_eps(e_t: Tensor, e_s: Tensor) -> Tensor:
    """PNDM appendix, improved Euler: the mean of ε at both ends. Starts S-PNDM and PLMS.

        ε' = (ε_t + ε_s) / 2

    e_t, e_s (b, ...) -> (b, ...).
    Official: `e_t_prime` (while `old_eps` is empty)
    """
    return (e_t + e_s) / 2

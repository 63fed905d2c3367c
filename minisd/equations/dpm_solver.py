"""DPM-Solver (arXiv 2206.00927), DPM-Solver++ (arXiv 2211.01095) and UniPC (arXiv 2302.04867).

Their clock is λ = ln(√ᾱ/√(1-ᾱ)), half the log-SNR, which grows from noise to picture. Over λ the
network's ε or x0 stands under an integral with an exponential, so all that a solver has to choose
is the polynomial that stands for it. The weights of every multistep solver follow from that.
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from .ddpm import sqrt


def lambda_from_ab(ab: Tensor) -> Tensor:
    """DPM-Solver §3.1: λ = ln(√ᾱ/√(1-ᾱ)) = -ln σ, half the log-SNR. ab in (0, 1), any shape."""
    log = Tensor.log if isinstance(ab, Tensor) else math.log
    return (log(ab) - log(1 - ab)) / 2


def ab_from_lambda(lam: Tensor) -> Tensor:
    """DPM-Solver §3.1, turned round: ᾱ = 1/(1+e^{-2λ}). lam any shape -> the same shape."""
    exp = Tensor.exp if isinstance(lam, Tensor) else math.exp
    return 1 / (1 + exp(-2 * lam))


def eps_integral_step(x_t: Tensor, eps: Tensor, ab_t: Tensor, ab_s: Tensor) -> Tensor:
    """DPM-Solver eq. 3.7 (DPM-Solver-1): the exact solution for an ε that stays. DDIM at η = 0.

        x_s = √(ᾱ_s/ᾱ_t) x_t - √(1-ᾱ_s) (e^h - 1) ε,  h = λ_s - λ_t

    x_t, eps (b, ...); ab_t < ab_s in (0, 1) -> (b, ...).
    """
    h = lambda_from_ab(ab_s) - lambda_from_ab(ab_t)
    expm1 = Tensor.expm1 if isinstance(h, Tensor) else math.expm1
    return sqrt(ab_s) / sqrt(ab_t) * x_t - sqrt(1 - ab_s) * expm1(h) * eps


def x0_integral_step(x_t: Tensor, x0: Tensor, ab_t: Tensor, ab_s: Tensor) -> Tensor:
    """DPM-Solver++ §4.1, first order: the exact solution for an x0 that stays. DDIM at η = 0.

        x_s = √((1-ᾱ_s)/(1-ᾱ_t)) x_t - √ᾱ_s (e^{-h} - 1) x_0,  h = λ_s - λ_t

    x_t, x0 (b, ...); ab_t < ab_s in (0, 1) -> (b, ...).
    """
    h = lambda_from_ab(ab_s) - lambda_from_ab(ab_t)
    expm1 = Tensor.expm1 if isinstance(h, Tensor) else math.expm1
    return sqrt(1 - ab_s) / sqrt(1 - ab_t) * x_t - sqrt(ab_s) * expm1(-h) * x0


def sde_sigma(ab_t: Tensor, ab_s: Tensor, eta: float = 1.0) -> Tensor:
    """DPM-Solver++ §5 (SDE): how much fresh noise a step takes; DDIM eq. 12's σ.

        σ = √(1-ᾱ_s) √(1 - e^{-2ηh}),  e^{-2h} = ᾱ_t (1-ᾱ_s) / (ᾱ_s (1-ᾱ_t))

    ab_t < ab_s in (0, 1] -> a standard deviation, in the units of x. η = 0 and η = 1 are DDIM
    eq. 16's; between them the two families differ.
    Official: `sde-dpmsolver++`; k-diffusion's `eta`
    """
    shrunk = (ab_t * (1 - ab_s) / (ab_s * (1 - ab_t))) ** eta
    return sqrt(1 - ab_s) * sqrt(1 - shrunk)


def exponential_moments(rate: float, count: int) -> list[float]:
    """The means of 1, u, u², ... over a step, u = 0..1, where u counts for e^{rate·u}.

        m_k = ∫₀¹ u^k e^{rate·u} du / ∫₀¹ e^{rate·u} du

    rate 0: 1/(k+1), Adams-Bashforth. In DPM-Solver rate is -h for ε and h for x0, h = λ_s - λ_t,
    and m_1, m_2/2 are its φ functions, divided by φ_1. By Gauss-Legendre, to the last digits.
    """
    if rate == 0:
        return [1 / (k + 1) for k in range(count)]
    nodes, weights = _gauss()
    weights = weights * np.exp(rate * nodes - max(rate, 0.0))  # e^rate may be too large for a float
    powers = nodes ** np.arange(count)[:, None]
    return (powers @ weights / weights.sum()).tolist()


def published_moments(moments: Sequence[float], order: int) -> list[float]:
    """The moments that DPM-Solver's and DPM-Solver++'s multistep formulas really use.

    Of order 2, the published "midpoint" takes m_1 = ½, as if the step were short. Of order 3, the
    published code takes half of m_2, since it divides by r_0 + r_1 once and forgets a factor of 2:
    that solver is of order 2 (docs/AUDIT.md).
    """
    changes = {1: 0.5} if order == 2 else {2: moments[-1] / 2} if len(moments) == 3 else {}
    return [changes.get(k, m) for k, m in enumerate(moments)]


def unipc_moments(h: float, count: int, b: str = "bh2") -> list[float]:
    """UniPC Algorithms 1 and 2, for x0: the exact moments, but for two nodes, where ½ B(h) stands.

        m_1 = ½ B(h)/(e^{-h} - 1),  B(h) = -h ("bh1") or e^{-h} - 1 ("bh2")

    From three nodes on, B cancels out, and UniPC is the exponential Adams method. h = λ_s - λ_t.
    """
    if count == 2:
        return [1.0, 0.5 * (-h / math.expm1(-h) if b == "bh1" else 1.0)]
    return exponential_moments(h, count)


def node_weights(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """The weights of values at the nodes that give every polynomial through them its right mean.

        Σ_j w_j u_j^k = m_k,  k = 0..n-1

    nodes u_j, all different, in units of the step: 0 where it begins, 1 where it ends, older ones
    below 0. They sum to m_0 = 1. Nodes 0, -1, -2, -3 with 1, 1/2, 1/3, 1/4 are PNDM eq. 12's.
    """
    return list(_solved(tuple(nodes), tuple(moments)))


def step_moments(of: str | None, eta: float = 0.0, published: int | None = None) -> Callable:
    """The moments of a step of length h, as a function (h, count) -> moments.

    of: "eps" or "x0" over λ, which e^{-λ} and e^{(1+η)λ} weigh; None: another clock, which weighs
    all alike. published: the order whose published formula is to be followed, or None for exact.
    """
    rate = {"eps": -1, "x0": 1 + eta, None: 0}[of]

    def moments(h: float, count: int) -> list[float]:
        exact = exponential_moments(rate * h, count)
        return published_moments(exact, published) if published else exact

    return moments


def polynomial_mean(
    values: Sequence[tuple[float, Tensor]], end: float, moments: Callable
) -> Tensor:
    """Adams' idea: put a polynomial through the last answers, and take its mean over the step.

        Σ_j w_j f_j,  w of `node_weights`

    values: (place on the clock, f (b, ...)), first the one where the step begins; end: the place
    where it ends; moments(h, count) those of a step of length h -> (b, ...). Where the end is ∞, as
    λ is at σ = 0, only the first counts.
    """
    start, first = values[0]
    h = end - start
    if len(values) == 1 or math.isinf(h):
        return first
    nodes = [(place - start) / h for place, _ in values]
    weights = node_weights(nodes, moments(h, len(nodes)))
    mean = weights[0] * first
    for w, (_, value) in zip(weights[1:], list(values)[1:], strict=True):
        mean = mean.add(value, alpha=w)  # one pass over the numbers, not two
    return mean


@functools.lru_cache(1000)  # PLMS asks for the same weights in every step
def _solved(nodes: tuple[float, ...], moments: tuple[float, ...]) -> tuple[float, ...]:
    """`node_weights`' system of equations, solved."""
    powers = np.vander(np.array(nodes, dtype=np.float64), increasing=True).T
    return tuple(np.linalg.solve(powers, np.array(moments)).tolist())


@functools.cache
def _gauss() -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre's 20 nodes and weights on 0..1."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    return (nodes + 1) / 2, weights / 2

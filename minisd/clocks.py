"""One process, four clocks: the paper's t, ᾱ, EDM's σ and DPM-Solver's λ; and the grids of real t.

    σ = √((1-ᾱ)/ᾱ)      λ = -ln σ = ½ log SNR      x_t/√ᾱ_t = x0 + σ ε

A solver's formula is in the clock that suits it, but what a sampler walks is always a list of the
paper's times, from T down: whole ones (schedules.py) or, for grids that are even in σ or λ, real
ones. `Clock` turns one into the other; between whole times ln σ is linear (`schedules.between`).
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .equations import karras_sigma, sigma_from_ab
from .schedules import between, check_choice, check_count, check_number, trailing_times


class Clock:
    """ᾱ by the paper's t, clock[t], as floats, t whole or real; and its other clocks."""

    def __init__(self, ab: Tensor):
        self.ab = ab.tolist()

    def __getitem__(self, t: float) -> float:
        return self.ab[t] if isinstance(t, int) else between(self.ab, t)

    def __len__(self) -> int:
        return len(self.ab)

    def sigma(self, t: float) -> float:
        """EDM's σ at time t: 0 at t = 0, and ∞ where ᾱ_T = 0."""
        return sigma_from_ab(self[t])

    def lam(self, t: float) -> float:
        """DPM-Solver's λ at time t: ∞ at t = 0."""
        sigma = self.sigma(t)
        return -math.log(sigma) if sigma > 0 else math.inf

    def time(self, sigma: float) -> float:
        """The t of that σ, an int where it is whole. ValueError beyond the largest finite σ."""
        logs = self._log_sigmas
        if not 0 <= sigma <= math.exp(logs[-1]) * (1 + 1e-9):
            raise ValueError(f"sigma must be from 0 to {math.exp(logs[-1]):.6g}, got {sigma}")
        if sigma <= math.exp(logs[0]):
            t = sigma / math.exp(logs[0])
        else:
            k = min(bisect_left(logs, math.log(sigma)), len(logs) - 1)
            t = k + (math.log(sigma) - logs[k - 1]) / (logs[k] - logs[k - 1])
        near = round(t)
        return near if abs(t - near) < 1e-9 else t

    def part(self, t: float, s: float, share: float) -> float:
        """The time that is that share of the way from t to s, in λ."""
        return self.time(self.sigma(t) ** (1 - share) * self.sigma(s) ** share)

    @property
    def largest(self) -> float:
        """The largest σ that is finite."""
        return math.exp(self._log_sigmas[-1])

    @cached_property
    def _log_sigmas(self) -> list[float]:
        """ln σ of t = 1, 2, ... as long as σ is finite."""
        return [math.log(sigma_from_ab(a)) for a in self.ab[1:] if a > 0]


def sigmas_of(ab: Tensor, times: Iterable[float]) -> Tensor:
    """EDM's σ at each of the times, float64 (n,). Official: `sigmas`"""
    clock = Clock(ab)
    return torch.tensor([clock.sigma(t) for t in times], dtype=torch.float64)


def times_of(ab: Tensor, sigmas: Iterable[float]) -> list[float]:
    """The time of each σ: a grid for samplers from a list of sigmas. σ = 0 is t = 0.

    ValueError for a σ that no time has: between 0 and σ(1), or above the largest.
    Official: k-diffusion's `sigma_to_t`
    """
    clock = Clock(ab)
    times = [clock.time(float(sigma)) for sigma in sigmas]
    if any(0 < t < 1 for t in times):
        least = clock.sigma(1)
        raise ValueError(f"sigmas must be 0 or at least {least:.6g}, which is sigma at t = 1")
    return times


# ---- grids of real times -------------------------------------------------------------------


def karras_times(ab: Tensor, steps: int, rho: float = 7.0, end: int = 0) -> list[float]:
    """EDM eq. 5, "Karras": even in σ^(1/ρ) from σ(T) to σ(1), and then to t = 0.

    steps steps, the last from t = 1 to 0; end=1 leaves that one out and has steps steps to t = 1.
    Where ᾱ_T = 0 the first time is T, and Karras' follow from `trailing_times`' second time on.
    Official: `get_sigmas_karras`, `EDMDiscretization`
    """
    check_number("rho", rho, least=1e-6)
    return _spread(ab, steps, end, lambda u, low, high: karras_sigma(u, low, high, rho))


def exponential_times(ab: Tensor, steps: int, end: int = 0) -> list[float]:
    """EDM eq. 5 with ρ = ∞, "exponential": even in ln σ, which is even in λ; else `karras_times`.

    Official: `get_sigmas_exponential`
    """
    return polyexponential_times(ab, steps, 1.0, end)


def polyexponential_times(ab: Tensor, steps: int, rho: float = 1.0, end: int = 0) -> list[float]:
    """ln σ falls as (1-u)^ρ: ρ > 1 has shorter steps near the picture; then as `karras_times`.

    Official: `get_sigmas_polyexponential`
    """
    check_number("rho", rho, least=1e-6)
    return _spread(ab, steps, end, lambda u, low, high: low * (high / low) ** ((1 - u) ** rho))


def lambda_times(ab: Tensor, steps: int) -> list[float]:
    """DPM-Solver §4.1, the "logSNR" grid: even in λ from T to 1, where it ends.

    Official: `get_time_steps("logSNR")`
    """
    return exponential_times(ab, steps, end=1)


def uniform_times(ab: Tensor, steps: int) -> list[float]:
    """DPM-Solver §4.1, the "time_uniform" grid: even in real t from T to 1, where it ends.

    Official: `get_time_steps("time_uniform")`
    """
    return quadratic_times(ab, steps, power=1.0)


def quadratic_times(ab: Tensor, steps: int, power: float = 2.0) -> list[float]:
    """DPM-Solver §4.1, the "time_quadratic" grid: even in √t from T to 1, where it ends.

    Official: `get_time_steps("time_quadratic")`
    """
    head, top, steps = _begin(ab, steps)
    start = top ** (1 / power)
    return [*head, top, *((start + i / steps * (1 - start)) ** power for i in range(1, steps)), 1]


def beta_times(ab: Tensor, steps: int, a: float = 0.6, b: float = 0.6) -> list[float]:
    """Beta sampling §3: times at the quantiles of a Beta(a, b) distribution, from T
    down, then 0. With a and b below 1 they are dense at both ends, where pictures change most.

        t_i = 1 + (T-1) · quantile(1 - i/steps),  i = 0..steps-1

    ComfyUI rounds them to whole times; diffusers takes quantiles of σ instead of t.
    Official: ComfyUI's `beta_scheduler`
    """
    for name, value in {"a": a, "b": b}.items():
        check_number(name, value, least=1e-2)
    head, top, steps = _begin(ab, steps)
    shares = [_beta_quantile(1 - i / steps, a, b) for i in range(1, steps)]
    return [*head, top, *(1 + (top - 1) * share for share in shares), 0]


ALIGNED = {
    "sd1": [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029],
    "sdxl": [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029],
}


def ays_times(ab: Tensor, steps: int, table: str = "sd1") -> list[float]:
    """Align Your Steps Table 1: the published σ of 10 steps, optimised for SD 1.5
    ("sd1") or SDXL ("sdxl"), and between them evenly in ln σ for another number. Ends at 0.

    Official: ComfyUI's `AlignYourStepsScheduler`
    """
    check_choice("table", table, tuple(ALIGNED))
    head, top, steps = _begin(ab, steps)
    clock, levels = Clock(ab), np.log(ALIGNED[table])
    places = np.linspace(0, len(levels) - 1, steps + 1)
    sigmas = np.exp(np.interp(places, range(len(levels)), levels))[:-1]
    sigmas = [min(float(sigma), clock.sigma(top)) for sigma in sigmas]
    return [*head, *map(clock.time, sigmas), 0]


def _spread(ab: Tensor, steps: int, end: int, curve: Callable) -> list[float]:
    """Times of σ = curve(u, σ(1), σ(T)), evenly in u from 0 to 1."""
    if end not in (0, 1):
        raise ValueError(f"end must be 0 or 1, got {end!r:.60}")
    head, top, steps = _begin(ab, steps)
    clock, last = Clock(ab), steps - 1 + end
    shares = [i / last for i in range(1, last)]
    inner = [clock.time(curve(u, clock.sigma(1), clock.sigma(top))) for u in shares]
    return [*head, top, *inner, *([1] if last else []), *([0] if end == 0 else [])]


def _begin(ab: Tensor, steps: int) -> tuple[list[int], int, int]:
    """[], T and steps; where ᾱ_T = 0 and σ is infinite, [T] and what `trailing_times` leaves."""
    T = check_count("T", len(ab) - 1)
    first, *rest = trailing_times(T, steps)
    if ab[T] > 0:
        return [], first, steps
    if steps == 1:
        raise ValueError("where alpha_bar[T] is 0, this grid needs at least 2 steps, got 1")
    return [first], rest[0], steps - 1


def _beta_quantile(p: float, a: float, b: float) -> float:
    """The x in 0..1 below which a Beta(a, b) variable stays with probability p, by bisection."""
    whole = math.gamma(a) * math.gamma(b) / math.gamma(a + b)
    low, high = 0.0, 1.0
    for _ in range(60):
        x = (low + high) / 2
        share = _beta_part(x, a, b) if x < 0.5 else whole - _beta_part(1 - x, b, a)
        low, high = (x, high) if share < p * whole else (low, x)
    return high


def _beta_part(x: float, a: float, b: float) -> float:
    """∫₀ˣ u^{a-1} (1-u)^{b-1} du as a power series, for x up to ½."""
    total, term = 0.0, x**a
    for n in range(80):
        total += term / (a + n)
        term *= x * (n + 1 - b) / (n + 1)
    return total

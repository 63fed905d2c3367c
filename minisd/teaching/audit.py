"""The auditor: what a solver does to a model whose exact solution is known.

`audit(solve, ab, claims=3)` takes a solver as a black box, solve(model, x_T, n) -> x_0, runs it
with many step counts n, and says what it measured. The model is in closed form (model(x, t) -> ε, t
the paper's, whole or real), in three versions side by side in one batch of 1-D samples:

    POINTS values of x_T    the ideal denoiser of a mixture of two Gaussians: the error
    two                     ε = 0 and ε = 1 everywhere: x_end = √ᾱ_e x0 + √(1-ᾱ_e) ε tells ᾱ_e
    one                     data that are one point C: x0 = C everywhere

In one dimension trajectories do not cross, so the ODE keeps every quantile: x_s has the same value
of the CDF at time s as x_t at time t. `carry` solves that equation; no reference is integrated.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..samplers import last
from ..schedules import between
from ..toy import GaussianMixture, IdealDenoiser

MIXTURE = GaussianMixture(torch.tensor([[-1.0], [0.8]]).double(), [0.5, 0.4], [0.4, 0.6])
POINTS, C = 9, 0.7
X_T = torch.cat([torch.linspace(-2, 2, POINTS), torch.ones(3)]).double()
ROUNDING, NOISE = 1e-10, 1e-4  # what float64 leaves; what float32 may leave
ZERO = 1e-3  # √(1-ᾱ) below this is the end, 0


def mixture_cdf(x: Tensor, ab_t: float) -> Tensor:
    """P(x_t ≤ x) = Σ_k w_k Φ((x - √ᾱ m_k) / √(ᾱ s_k² + 1 - ᾱ)), for x (n,)."""
    std = (ab_t * MIXTURE.std**2 + 1 - ab_t).sqrt()
    z = (x[:, None] - math.sqrt(ab_t) * MIXTURE.means[:, 0]) / std
    return (MIXTURE.weights * torch.special.ndtr(z)).sum(1)


def carry(x: Tensor, ab_t: float, ab_s: float) -> Tensor:
    """The exact solution of the ODE: the x_s at ᾱ_s whose CDF is that of x_t at ᾱ_t, bisected."""
    wanted, low, high = mixture_cdf(x, ab_t), torch.full_like(x, -12.0), torch.full_like(x, 12.0)
    for _ in range(60):
        middle = (low + high) / 2
        below = mixture_cdf(middle, ab_s) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


class Run:
    """One run of a solver on all models at once; it remembers every call (x, t) of the model.

    failed: what the solver raised, or that its result is not finite; every measure is NaN then.
    """

    def __init__(self, solve: Callable, ab: Tensor, n: int, dtype: torch.dtype):
        self.ab, self.calls, self.x, self.failed = ab, [], torch.full_like(X_T, math.nan), ""
        try:
            self.x = solve(self._model, X_T.to(dtype), n).double()
            self.failed = "" if self.x.isfinite().all() else "It returns NaN or inf"
        except Exception as error:  # whatever a black box raises is a finding
            self.failed = f"It raises {type(error).__name__}"

    def _model(self, x: Tensor, t: float) -> Tensor:
        wide = x.detach().double().clone()
        self.calls.append((wide, float(t)))
        ab_t = torch.tensor([between(self.ab, max(float(t), 1.0))], dtype=torch.float64)
        mixture = IdealDenoiser(MIXTURE, ab_t)(wide[:POINTS, None], 0)[:, 0]
        point = (wide[-1:] - ab_t.sqrt() * C) / (1 - ab_t).sqrt()
        return torch.cat([mixture, wide.new_tensor([0.0, 1.0]), point]).to(x.dtype)

    def end(self) -> tuple[float, float]:
        """√ᾱ and √(1-ᾱ) of the result, as the two constant ε tell them."""
        x, ab_t = self.calls[0][0], between(self.ab, float(self.calls[0][1]))
        x0 = (
            x[POINTS : POINTS + 2] - math.sqrt(1 - ab_t) * self.x.new_tensor([0.0, 1.0])
        ) / math.sqrt(ab_t)
        a = self.x[POINTS] / x0[0]
        return a.item(), (self.x[POINTS + 1] - a * x0[1]).item()

    def missed(self) -> float:
        """How far the result is from √ᾱ_e x0 + √(1-ᾱ_e) ε where ε, or x0, is constant."""
        (x, t), (a, b) = self.calls[0], self.end()
        ab_t = between(self.ab, float(t))
        eps = (x[-1] - math.sqrt(ab_t) * C) / math.sqrt(1 - ab_t)
        return max(abs(a * a + b * b - 1), abs(self.x[-1] - a * C - b * eps).item())

    def error(self) -> float:
        """max |x - exact| at the end, or, if that is σ = 0, where the model was called last: the
        last step, from there to 0, is DDIM's in every solver over log σ, and never shrinks."""
        a, b = self.end()
        if b <= ZERO:
            return self._between(0, -1)
        return self._off(self.calls[0], self.x, a * a / (a * a + b * b))

    def middle(self) -> float:
        """max |x - exact| at three quarters of the calls, exact from one quarter on: without the
        steps of lower order at the start, and without the end, where σ changes by large factors."""
        n = len(self.calls)
        return self._between(math.ceil(n / 4), math.ceil(3 * n / 4))

    def _between(self, i: int, j: int) -> float:
        x, t = self.calls[j]
        return self._off(self.calls[i], x, between(self.ab, float(t)))

    def _off(self, call: tuple, x: Tensor, ab_s: float) -> float:
        exact = carry(call[0][:POINTS], between(self.ab, float(call[1])), ab_s)
        return (x[:POINTS] - exact).abs().max().item()

    def strange(self) -> Iterator[str]:
        """What is not sound about this run, in sentences without their ends."""
        if self.failed:
            yield self.failed
            return
        (x, t), (a, b), times = self.calls[0], self.end(), [t for _, t in self.calls]
        if t < 0.9 * (len(self.ab) - 1):
            yield "It takes x_T for a later time than 0.9 T"
        if b / a > 1.01 * math.sqrt(1 / self.ab[1] - 1):
            yield "It ends above the σ of t = 1"
        if min(times) < 1:
            yield "It calls the model at t < 1"
        if b > ZERO and (self.x - self.calls[-1][0]).abs().max() < 1e-6:
            yield "Its last step has length 0"
        if any(t == s and (x == y).all() for (x, t), (y, s) in pairwise(self.calls)):
            yield "It calls the model twice with the same x and t"
        if any(s > t for t, s in pairwise(times)):
            yield "It goes back to a noisier time"
        if abs(x[0] / X_T[0] - 1) > 0.01:
            yield f"It scales x_T by {x[0] / X_T[0]:.3f}"


def slope(counts: tuple[int, ...], errors: list[float]) -> float:
    """The order: how fast the error falls with 1/n, at the last pair that is not yet rounding."""
    pairs = list(pairwise(zip(counts, errors, strict=True)))
    (n, e), (more, less) = ([p for p in pairs if p[1][1] > ROUNDING] or pairs[:1])[-1]
    return math.log(e / less) / math.log(more / n) if e > 0 < less else math.nan


@dataclass(frozen=True)
class Audit:
    """What was measured of one solver; str() is a table and, below it, the verdicts."""

    name: str
    claims: float | None  # the order that the solver's name or paper claims
    counts: tuple[int, ...]
    errors: list[float]  # in float64, for each count
    middle: list[float]  # the same from the first to the third quarter of the calls
    noise: list[float]  # float32 less float64
    calls: list[int]
    missed: float  # how far constant ε or x0 is missed, in float64
    strange: dict[str, list[int]]  # what happened with which step counts, in float32

    @property
    def order(self) -> float:
        """The better of the orders of `errors` and of `middle`: a solver has its order on a grid
        whose every step shrinks, after the start; on times that are uniform in t, σ halves at the
        end however many steps there are, and every solver has order 1 or less there."""
        both = [slope(self.counts, errors) for errors in (self.errors, self.middle)]
        return max((order for order in both if not math.isnan(order)), default=math.nan)

    def verdicts(self) -> list[str]:
        """A sentence for each thing that is not as claimed or not sound."""
        found = []
        if self.claims and self.order < self.claims - 0.25:
            found.append(f"It claims order {self.claims:g}; measured is {self.order:.2f}.")
        if self.missed > 1e-8:
            found.append(f"It misses constant ε or x0 by {self.missed:.0e}, which should be exact.")
        noisy = [(e, n) for e, n in zip(self.noise, self.counts, strict=True) if e > NOISE]
        if noisy:
            worst, n = max(noisy)
            found.append(f"Its float32 run is {worst:.0e} from its float64 run at {n} steps.")
        for what, where in self.strange.items():
            found.append(f"{what} with {len(where)} step counts, {where[0]} to {where[-1]}.")
        return found

    def __str__(self) -> str:
        rows = zip(self.counts, self.calls, self.errors, self.middle, self.noise, strict=True)
        lines = [f"{self.name}: order {self.order:.2f}"]
        lines += ["steps  calls    error   middle  float32"]
        lines += [f"{n:5} {c:6} {e:8.1e} {m:8.1e} {f:8.1e}" for n, c, e, m, f in rows]
        return "\n".join(lines + self.verdicts())


def audit(
    solve: Callable,
    ab: Tensor,
    name: str = "solver",
    claims: float | None = None,
    counts: tuple[int, ...] = (48, 96, 192, 384),
    every: Iterable[int] = range(1, 101),
) -> Audit:
    """Run solve(model, x_T, n) -> x_0 with all `counts` in float64 and float32, and with `every`
    count in float32, and measure it. model(x, t) -> ε; ab: ᾱ_0..ᾱ_T; claims: the order."""
    wide = [Run(solve, ab, n, torch.float64) for n in counts]
    narrow = {n: Run(solve, ab, n, torch.float32) for n in sorted({*every, *counts})}
    strange = {}
    for n, run in narrow.items():
        for what in run.strange():
            strange.setdefault(what, []).append(n)
    measures = [
        [math.nan if run.failed else measure(run) for run in wide]
        for measure in (Run.error, Run.middle, Run.missed)
    ]
    noise = [(run.x - narrow[n].x).abs().max().item() for n, run in zip(counts, wide, strict=True)]
    calls = [len(run.calls) for run in wide]
    errors, middle, missed = measures
    return Audit(name, claims, tuple(counts), errors, middle, noise, calls, max(missed), strange)


def solver_of(sampler: Callable, grid: Callable, ab: Tensor, **own) -> Callable:
    """A sampler of minisd as a black box; grid(n) gives its times, own are its arguments."""
    return lambda model, x, n, **noise: last(sampler(model, x, grid(n), ab, **own, **noise)).x

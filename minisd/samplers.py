"""Samplers: generators that walk a decreasing list of times and yield what happens at each step.

    for step in ddim(eps_model, x, times, ab): ...      # a trajectory
    picture = last(ddim(eps_model, x, times, ab)).x     # a result

Each is its algorithm; `steps.sampler` adds what all share. They have one idea in common: every step
is DDIM's (eq. 12), with a better ε or x0 than the network's one answer at t. A multistep solver
averages the last answers, a single-step solver evaluates at times between, and an ancestral step
goes too far down and comes back with fresh noise, by DDPM's eq. 2.
"""

import functools
import math
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from .equations import (
    ancestral_sigmas,
    dir_xt,
    forward_variance,
    improved_euler_eps,
    multistep_eps,
    polynomial_mean,
    posterior_mean,
    posterior_variance,
    q_sample,
    runge_kutta_eps,
    sde_sigma,
    sigma,
    sqrt,
    step_moments,
    transfer,
    unipc_moments,
)
from .prediction import EpsModel, ask, check_eta, check_inputs, move, predict
from .schedules import check_choice, check_count, check_number
from .steps import Step, Steps, brownian, churning, last, sampler

__all__ = ["MULTISTEP", "Multistep", "Step", "ddim", "ddim_invert", "ddpm", "deis"]
__all__ += ["dpm_solver_2", "dpm_solver_3", "dpm_solver_multistep", "dpmpp_2m", "dpmpp_2m_sde"]
__all__ += ["dpmpp_2s", "dpmpp_3m", "dpmpp_3m_sde", "dpmpp_3s", "dpmpp_sde", "euler"]
__all__ += ["fixed_large", "fixed_small", "heun", "last", "lcm", "lms", "plms", "pndm", "restart"]
__all__ += ["s_pndm", "unipc"]

Noise = Callable | None  # a function x -> N(0, I) like x; None where nothing is drawn
fixed_small, fixed_large = posterior_variance, forward_variance  # DDPM §3.2's two choices of σ²


@sampler()
def ddpm(model, x, times, ab, noise: Callable, variance: Callable = fixed_small) -> Steps:
    """DDPM Algorithm 2: ancestral sampling, x_s ~ N(μ̃(x̂0, x_t), σ²I), no noise in the last step.

    noise: a function x -> fresh noise like x (see noise.py). variance: fixed_small (β̃) or
    fixed_large (β). `times` may skip: eq. 7 holds for any s < t.
    Official: `p_sample_loop`
    """
    for t, s in pairwise(times):
        eps, x0 = model.predict(x, t)
        x = posterior_mean(x0, x, ab[t], ab[s])
        if s > 0:
            var = check_number("variance", variance(ab[t], ab[s]))
            x = x + sqrt(var) * noise(x)
        x = yield Step(s, x, x0, eps)


@sampler()
def ddim(model, x, times, ab, eta: float = 0.0, noise: Noise = None) -> Steps:
    """DDIM eqs. 12 and 16: x_s = √ᾱ_s x̂0 + √(1-ᾱ_s-σ²) ε + σ z with σ = σ(η). η = 0 draws no z.

    noise: a function x -> fresh noise like x (see noise.py), needed where η > 0.
    Official: `DDIMSampler.p_sample_ddim`
    """
    check_eta(eta, noise, times, ab)
    for t, s in pairwise(times):
        eps, x0 = model.predict(x, t)
        sigma_t = sigma(ab[t], ab[s], eta)
        x = sqrt(ab[s]) * x0 + dir_xt(eps, ab[s], sigma_t)
        if sigma_t > 0:
            x = x + sigma_t * noise(x)
        x = yield Step(s, x, x0, eps)


@sampler()
def lcm(model, x, times, ab, noise: Callable) -> Steps:
    """Consistency Models Algorithm 1, as LCM samples: noise the predicted x0 to the next time.

    The published code mixes in c_skip x, less than 1e-4 x at an LCM's times."""
    for t, s in pairwise(times):
        eps, x0 = model.predict(x, t)
        x = q_sample(x0, noise(x), ab[s]) if s > 0 else x0
        x = yield Step(s, x, x0, eps)


# ---- answers at times between: single-step solvers -----------------------------------------


@sampler(finite=True)
def euler(
    model, x, times, ab, churn=0.0, s_min=0.0, s_max=math.inf, s_noise=1.0, noise: Noise = None
) -> Steps:
    """EDM Algorithm 2 without its second half: Euler's method in σ, which is `ddim`; with churn
    (S_churn), fresh noise, S_noise times, before each step whose σ is from s_min to s_max.

    σ̂ stays at most σ_T, where training ends; the official code goes above it.
    Official: `EulerEDMSampler`, k-diffusion's `sample_euler`
    """
    churned = churning(model, times, churn, s_min, s_max, s_noise, noise)
    for t, s in pairwise(times):
        x, t = churned(x, t)
        eps = model.eps(x, t)
        x, x0 = model.move(x, eps, t, s)
        x = yield Step(s, x, x0, eps)


@sampler(finite=True)
def heun(
    model, x, times, ab, churn=0.0, s_min=0.0, s_max=math.inf, s_noise=1.0, noise: Noise = None
) -> Steps:
    """EDM Algorithms 1 and 2: Heun's method in σ, a mean of ε at both ends; Euler's to σ = 0.

    churn, s_min, s_max, s_noise and noise are those of `euler`. Two calls of the model a step.
    Official: `HeunEDMSampler`, k-diffusion's `sample_heun`
    """
    churned = churning(model, times, churn, s_min, s_max, s_noise, noise)
    for t, s in pairwise(times):
        x, t = churned(x, t)
        x, x0, eps = _heun_step(model, x, t, s)
        x = yield Step(s, x, x0, eps)


@sampler(finite=True)
def restart(
    model, x, times, ab, noise: Callable, low=0.1, high=0.3, steps: int = 3, again: int = 2
) -> Steps:
    """Restart Algorithm 1: Heun's method; on the way, where σ first falls
    to low, `again` times: noise x up to σ = high, and come down in `steps` steps of Heun's.

    noise: a function x -> fresh noise like x. What happens between is not yielded.
    """
    check_count("steps", steps)
    check_count("again", again, least=0)
    check_number("low", low, least=ab.sigma(1), below=check_number("high", high, below=ab.largest))
    for t, s in pairwise(times):
        x, x0, eps = _heun_step(model, x, t, s)
        if ab.sigma(t) > low >= ab.sigma(s) > 0:
            inner = [ab.part(ab.time(high), s, i / steps) for i in range(steps)] + [s]
            for _ in range(again):
                x = model.rise(x, s, inner[0], noise)
                for a, b in pairwise(inner):
                    x, x0, eps = _heun_step(model, x, a, b)
        x = yield Step(s, x, x0, eps)


@sampler(finite=True)
def dpm_solver_2(model, x, times, ab, eta: float = 0.0, noise: Noise = None) -> Steps:
    """DPM-Solver Algorithm 1 (DPM-Solver-2), r = ½: the ε half way in λ leads the whole step.

    It is k-diffusion's "DPM2" too; η = 1, which needs noise, is "DPM2 a". Two calls a step.
    Official: `sample_dpm_2`, `sample_dpm_2_ancestral`
    """
    yield from _half_way(model, x, times, ab, "eps", eta, noise)


@sampler(finite=True)
def dpmpp_2s(model, x, times, ab, eta: float = 0.0, noise: Noise = None) -> Steps:
    """DPM-Solver++ Algorithm 1 (2S), r = ½: the x0 half way in λ leads the whole step.

    η = 1, which needs noise, is "DPM++ 2S a". Two calls of the model a step.
    Official: `DPMPP2SAncestralSampler`, k-diffusion's `sample_dpmpp_2s_ancestral`
    """
    yield from _half_way(model, x, times, ab, "x0", eta, noise)


def _half_way(model, x, times, ab, of, eta, noise) -> Steps:
    """The answer half way in λ leads the step to σ_down; fresh noise leads up to σ_s."""
    check_eta(eta, noise, [], ab)
    for t, s in pairwise(times):
        down = ab.time(ancestral_sigmas(ab.sigma(t), ab.sigma(s), eta)[0]) if eta else s
        value = model.answer(of, x, t)
        if ab[down] < 1:
            mid = ab.part(t, down, 1 / 2)
            x_mid, *_ = model.step(of, x, value, t, mid)
            value = model.answer(of, x_mid, mid)
        x, x0, eps = model.step(of, x, value, t, down)
        x = yield Step(s, model.rise(x, down, s, noise), x0, eps)


@sampler(finite=True)
def dpmpp_sde(model, x, times, ab, eta: float = 1.0, noise: Noise = None) -> Steps:
    """DPM-Solver++ §5 (SDE), single-step, r = ½: DDIM eq. 12 with fresh noise to the middle in λ,
    and again from t to s with the x0 found there. Two calls of the model a step.

    Both noises, which η > 0 needs, are of one Brownian path in σ: drawn apart they cost an order.
    Official: k-diffusion's `sample_dpmpp_sde`
    """
    check_eta(eta, noise, times, ab)
    for t, s in pairwise(times):
        x0, to_s = model.x0(x, t), noise
        if ab[s] < 1:
            mid = ab.part(t, s, 1 / 2)
            share = (ab.sigma(t) - ab.sigma(mid)) / (ab.sigma(t) - ab.sigma(s))
            to_mid, to_s = brownian(noise, share)
            x_mid, _ = model.toward(x, x0, t, mid, sigma(ab[t], ab[mid], eta), to_mid)
            x0 = model.x0(x_mid, mid)
        x, eps = model.toward(x, x0, t, s, sigma(ab[t], ab[s], eta), to_s)
        x = yield Step(s, x, x0, eps)


@sampler(finite=True)
def dpm_solver_3(model, x, times, ab) -> Steps:
    """DPM-Solver Algorithm 2 (DPM-Solver-3), r₁ = ⅓ and r₂ = ⅔: three ε a step."""
    yield from _thirds(model, x, times, ab, "eps")


@sampler(finite=True)
def dpmpp_3s(model, x, times, ab) -> Steps:
    """DPM-Solver++ Algorithm 1 of order 3 (3S): `dpm_solver_3` with x0 for ε; three x0 a step."""
    yield from _thirds(model, x, times, ab, "x0")


def _thirds(model, x, times, ab, of) -> Steps:
    """The answers at t and ⅓ of the way lead to ⅔ of it, those at t and ⅔ to s."""
    for t, s in pairwise(times):
        first = value = model.answer(of, x, t)
        for here, there in ((1 / 3, 2 / 3), (2 / 3, 1)) if ab[s] < 1 else ():
            at = ab.part(t, s, here)
            x_at, *_ = model.step(of, x, value, t, at)
            nodes = [(ab.lam(t), first), (ab.lam(at), model.answer(of, x_at, at))]
            value = polynomial_mean(nodes, ab.lam(ab.part(t, s, there)), step_moments(of))
        x, x0, eps = model.step(of, x, value, t, s)
        x = yield Step(s, x, x0, eps)


# ---- the last answers, averaged: multistep solvers -----------------------------------------


class Multistep(NamedTuple):
    """What a multistep solver draws its polynomial through, over which clock, through how many."""

    of: str  # "eps" or "x0"
    over: str  # "step", "sigma" or "lambda"
    order: int


MULTISTEP = {
    "plms": Multistep("eps", "step", 4),
    "s_pndm": Multistep("eps", "step", 2),
    "lms": Multistep("eps", "sigma", 4),
    "dpm_solver_multistep": Multistep("eps", "lambda", 2),
    "deis": Multistep("eps", "lambda", 3),
    "dpmpp_2m": Multistep("x0", "lambda", 2),
    "dpmpp_3m": Multistep("x0", "lambda", 3),
    "dpmpp_2m_sde": Multistep("x0", "lambda", 2),
    "dpmpp_3m_sde": Multistep("x0", "lambda", 3),
}


@sampler(deterministic=True)
def plms(model, x, times, ab) -> Steps:
    """PNDM eq. 12 (PLMS): SD's first sampler, DDIM's step with an ε averaged over four times.

    The order rises: improved Euler (two calls), then Adams-Bashforth 2, 3, 4, 4, ...
    Steps + 1 calls of the model. eta must be 0: the history is one of a deterministic path.
    Official: `PLMSSampler.p_sample_plms`
    """
    yield from _multistep(model, x, times, ab, "plms", start=_heun_eps)


@sampler(deterministic=True)
def s_pndm(model, x, times, ab) -> Steps:
    """PNDM appendix (S-PNDM): improved Euler, then Adams-Bashforth 2. Steps + 1 calls."""
    yield from _multistep(model, x, times, ab, "s_pndm", start=_heun_eps)


@sampler(finite=True)
def lms(model, x, times, ab, order: int = 4) -> Steps:
    """DEIS ρAB, "LMS": Adams-Bashforth over σ and its unequal steps; orders 1, 2, 3, 4, 4, ...

    Official: `LinearMultistepSampler`, k-diffusion's `sample_lms`
    """
    yield from _multistep(model, x, times, ab, "lms", order)


@sampler(finite=True)
def dpm_solver_multistep(model, x, times, ab, order: int = 2, published: bool = False) -> Steps:
    """DPM-Solver §3.4, multistep: exponential Adams-Bashforth, ε over λ, with its exact weights.

    published: the formulas of the published code instead (see `published_moments`), orders 2 and 3.
    Official: `DPMSolverMultistepScheduler(algorithm_type="dpmsolver")`
    """
    yield from _multistep(model, x, times, ab, "dpm_solver_multistep", order, published)


@sampler(finite=True)
def deis(model, x, times, ab, order: int = 3) -> Steps:
    """DEIS log-ρAB, as diffusers has it: ε over ln σ = -λ, so `dpm_solver_multistep` with its exact
    weights. (The paper's own favourite, tAB, is a polynomial over t.)
    Official: `DEISMultistepScheduler`
    """
    yield from _multistep(model, x, times, ab, "deis", order)


@sampler(finite=True)
def dpmpp_2m(model, x, times, ab, published: bool = True) -> Steps:
    """DPM-Solver++ Algorithm 2 (2M): x0 over λ, from two times; Euler's step to σ = 0.

        D = (1 + 1/(2r)) x̂0(t) - 1/(2r) x̂0(before),  r = h_before/h

    published=False: the exact weights ("heun" in diffusers) instead of this midpoint form.
    Official: `DPMPP2MSampler`, k-diffusion's `sample_dpmpp_2m`
    """
    yield from _multistep(model, x, times, ab, "dpmpp_2m", published=published)


@sampler(finite=True)
def dpmpp_3m(model, x, times, ab, published: bool = True) -> Steps:
    """DPM-Solver++ Algorithm 2, as its code has it for three times (3M): x0 over λ. Its order is 2,
    for want of a factor 2 (`published_moments`); published=False: the exact weights, of order 3.

    Official: `DPMSolverMultistepScheduler(solver_order=3)`
    """
    yield from _multistep(model, x, times, ab, "dpmpp_3m", published=published)


@sampler(finite=True)
def dpmpp_2m_sde(
    model, x, times, ab, eta: float = 1.0, noise: Noise = None, published: bool = True
) -> Steps:
    """DPM-Solver++ §5 (SDE), 2M: `dpmpp_2m`'s x0 in DDIM eq. 12, with σ of `sde_sigma`, which
    needs noise where η > 0.

    Official: k-diffusion's `sample_dpmpp_2m_sde`
    """
    yield from _multistep(model, x, times, ab, "dpmpp_2m_sde", None, published, eta, noise)


@sampler(finite=True)
def dpmpp_3m_sde(
    model, x, times, ab, eta: float = 1.0, noise: Noise = None, published: bool = True
) -> Steps:
    """DPM-Solver++ §5 (SDE), 3M: `dpmpp_3m`'s x0 in DDIM eq. 12, with σ of `sde_sigma`, which
    needs noise where η > 0.

    Official: k-diffusion's `sample_dpmpp_3m_sde`
    """
    yield from _multistep(model, x, times, ab, "dpmpp_3m_sde", None, published, eta, noise)


def _multistep(
    model, x, times, ab, name, order=None, published=False, eta=0.0, noise=None, start=None
) -> Steps:
    """A multistep solver: DDIM's step with a mean of the last predictions in place of the newest.

    MULTISTEP[name] says what is averaged (ε or x0), over which clock (step, σ or λ), and how many
    predictions at most. `polynomial_mean` puts a polynomial through them and averages it over the
    step. published: with the weights of the published code. start: what replaces the mean in the
    first step, where there is only one prediction.
    """
    of, over, usual = MULTISTEP[name]
    order = check_count("order", usual if order is None else order, most=4)
    check_eta(eta, noise, [], ab)
    clock = {"step": times.index, "sigma": ab.sigma, "lambda": ab.lam}[over]
    moments = step_moments(of if over == "lambda" else None, eta, order if published else None)
    old = deque(maxlen=order)
    for t, s in pairwise(times):
        old.appendleft((clock(t), model.answer(of, x, t)))
        value = polynomial_mean(old, clock(s), moments)
        if start and len(old) == 1:
            value = start(model, x, value, t, s)
        x, x0, eps = model.step(of, x, value, t, s, sde_sigma(ab[t], ab[s], eta), noise)
        x = yield Step(s, x, x0, eps)


@sampler(finite=True)
def unipc(model, x, times, ab, order: int = 2, b: str = "bh2") -> Steps:
    """UniPC Algorithms 1 and 2: each step is predicted (UniP), and once the x0 at its end is known,
    taken once more (UniC), which costs no call and gains an order. x0 over λ.

    order: of the predictor; it rises to it, and falls to 1 at the end. b: "bh1" or "bh2", the
    paper's B(h) (see `unipc_moments`). A Step's x is the predicted one.
    Official: `UniPCMultistepScheduler`
    """
    order, b = check_count("order", order, most=4), check_choice("b", b, ("bh1", "bh2"))
    old, used, begin = deque(maxlen=order), [], x
    moments = functools.partial(unipc_moments, b=b)
    for left, (t, s) in zip(range(len(times) - 1, 0, -1), pairwise(times), strict=True):
        here = (ab.lam(t), model.x0(x, t))
        if used:
            corrected = polynomial_mean([*used, here], ab.lam(t), moments)
            x, _ = model.toward(begin, corrected, times[-left - 2], t)
        old.appendleft(here)
        used, begin = list(old)[: min(order, left)], x
        x0 = polynomial_mean(used, ab.lam(s), moments)
        x, eps = model.toward(x, x0, t, s)
        x = yield Step(s, x, x0, eps)


@sampler(deterministic=True)
def pndm(model, x, times, ab) -> Steps:
    """PNDM Algorithm 2 (F-PNDM): three Runge-Kutta steps (eq. 13), then order 4 (eq. 12).

    Steps + 9 calls of the model. Half way is (t+s)//2, a time that the network knows.
    """
    history = []
    for t, s in pairwise(times):
        e1 = model.eps(x, t)
        history = [e1, *history][:4]
        if len(history) < 4:
            mid = (t + s) // 2
            e2 = model.eps(transfer(x, e1, ab[t], ab[mid]), mid)
            e3 = model.eps(transfer(x, e2, ab[t], ab[mid]), mid)
            e4 = model.eps(transfer(x, e3, ab[t], ab[s]), s)
            eps = runge_kutta_eps(e1, e2, e3, e4)
        else:
            eps = multistep_eps(history)
        x, x0 = model.move(x, eps, t, s)
        x = yield Step(s, x, x0, eps)


def _heun_eps(model, x, eps: Tensor, t: float, s: float) -> Tensor:
    """Improved Euler (Heun): the mean of ε at t and at where it leads to at s."""
    x_s, _ = model.move(x, eps, t, s)
    return improved_euler_eps(eps, model.eps(x_s, s))


def _heun_step(model, x, t: float, s: float) -> tuple[Tensor, Tensor, Tensor]:
    """A step of Heun's method in σ, Euler's to σ = 0: x_s, x0, ε."""
    eps = model.eps(x, t)
    return model.step("eps", x, _heun_eps(model, x, eps, t, s) if s > 0 else eps, t, s)


def ddim_invert(
    eps_model: EpsModel, x: Tensor, times: list[float], ab: Tensor, refine: int = 0
) -> Steps:
    """DDIM §4.3: the η = 0 steps run backwards, from x at times[-1] to its noise at times[0].

    `ddim` evaluates the network at x_t, where its step begins. On the way back x_t is what we look
    for, so the network is evaluated at x_s, and then `refine` times at the x_t found last. If these
    x_t converge, `ddim` leads from the limit back to x_s exactly. The official `encode` passes the
    index that its loop counts: that of t with use_original_steps=True, else that of a wrong time.
    """
    times, ab = check_inputs(x, times, ab)
    check_count("refine", refine, least=0)
    for s, t in pairwise(reversed(times)):
        x_s = x
        eps, x0 = predict(eps_model, x_s, s, ab)
        x = sqrt(ab[t]) * x0 + dir_xt(eps, ab[t], 0.0)
        for _ in range(refine):
            eps = ask(eps_model, x, t).eps
            x, x0 = move(x_s, eps, ab[s], ab[t])
        yield Step(t, x, x0, eps)

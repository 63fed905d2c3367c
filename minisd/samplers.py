"""Samplers: generators that walk a decreasing list of times and yield what happens at each step.

    for step in ddim(eps_model, x, times, ab): ...      # a trajectory
    picture = last(ddim(eps_model, x, times, ab)).x     # a result

Each is its algorithm and nothing else; `steps.sampler` adds what all of them share.
"""

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

from .equations import (
    dir_xt,
    forward_variance,
    improved_euler_eps,
    multistep_eps,
    posterior_mean,
    posterior_variance,
    runge_kutta_eps,
    sigma,
    sqrt,
    transfer,
)
from .prediction import EpsModel, ask, check_eta, check_inputs, move, predict
from .schedules import check_count, check_number
from .steps import Step, Steps, last, sampler

__all__ = ["Step", "ddim", "ddim_invert", "ddpm", "fixed_large", "fixed_small", "last"]
__all__ += ["plms", "pndm", "s_pndm"]

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
def ddim(model, x, times, ab, eta: float = 0.0, noise: Callable | None = None) -> Steps:
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


@sampler(deterministic=True)
def plms(model, x, times, ab) -> Steps:
    """PNDM eq. 12 (PLMS): SD's first sampler, DDIM's step with an ε averaged over four times.

    The order rises: improved Euler (two calls), then Adams-Bashforth 2, 3, 4, 4, ...
    Steps + 1 calls of the model. eta must be 0: the history is one of a deterministic path.
    Official: `PLMSSampler.p_sample_plms`
    """
    yield from _linear_multistep(model, x, times, order=4)


@sampler(deterministic=True)
def s_pndm(model, x, times, ab) -> Steps:
    """PNDM appendix (S-PNDM): improved Euler, then Adams-Bashforth 2. Steps + 1 calls."""
    yield from _linear_multistep(model, x, times, order=2)


def _linear_multistep(model, x, times, order) -> Steps:
    """PNDM eq. 12 over the last `order` ε, once there are as many; improved Euler begins."""
    history = []
    for t, s in pairwise(times):
        e_t = model.eps(x, t)
        history = [e_t, *history][:order]
        if len(history) == 1:
            x_s, _ = model.move(x, e_t, t, s)
            eps = improved_euler_eps(e_t, model.eps(x_s, s))
        else:
            eps = multistep_eps(history)
        x, x0 = model.move(x, eps, t, s)
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


def ddim_invert(
    eps_model: EpsModel, x: Tensor, times: list[int], ab: Tensor, refine: int = 0
) -> Steps:
    """DDIM §4.3: the η = 0 steps backwards, from x at times[-1] up to the noise at times[0].

    A step down asked for ε where it began, at t; going up, that x_t is not known yet. So query the
    network where x is, at s, and then `refine` times at the x_t so found: that converges to a fixed
    point, from which `ddim` comes back to x exactly. The official `encode` queries at the index
    that its loop counts: with use_original_steps=True that is t, on a shorter grid a wrong time.
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

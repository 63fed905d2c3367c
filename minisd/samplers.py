"""Samplers: generators that walk a decreasing list of times and yield what happens at each step.

    for step in ddim(eps_model, x, times, ab): ...      # a trajectory
    picture = last(ddim(eps_model, x, times, ab)).x     # a result

What a sampler is given, in the order of its arguments:
    eps_model   a function (x, t) -> ε, t the paper's; network, prompt and guidance are inside it.
                It may return `Prediction(eps, x0)` instead, which works at ᾱ_t = 0 too.
    x           x_T, usually torch.randn of a Generator; the caller owns dtype and device
    times       the times to visit, T ≥ t > s > ... ≥ 0 (see `schedules`); the last is where x ends
    ab          ᾱ_0..ᾱ_T (see `schedules.alpha_bar`)
    noise       a function x -> fresh noise like x (see noise.py), where a step draws any
    project     a function x0 -> x0, applied to every prediction: clipping, a codebook's quantiser
    constrain   a function (x, t) -> x, applied before every step and, with t = 0, to the result
                (see noise.py's `keep`)

Times and numbers are checked before the first step, and what each of these functions returns where
it is used: a ValueError says in a sentence what is wrong.

A Step's tensors are those that the sampler goes on with, not copies: change a clone. Where weights
in eps_model require gradients, the graph of all steps is kept, which guidance by a classifier may
need; put torch.no_grad() round the loop where nothing does, or the memory grows with every step.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from itertools import pairwise
from typing import NamedTuple

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
from .prediction import (
    EpsModel,
    ask,
    check_deterministic,
    check_eta,
    check_inputs,
    drawn,
    move,
    predict,
    same_shape,
)
from .schedules import check_count, check_number

fixed_small, fixed_large = posterior_variance, forward_variance  # DDPM §3.2's two choices of σ²


class Step(NamedTuple):
    """One step: x has arrived at time t, moved by eps, which said that the clean picture is x0."""

    t: int
    x: Tensor
    x0: Tensor
    eps: Tensor


Steps = Generator[Step, None, None]


def ddpm(
    eps_model: EpsModel,
    x: Tensor,
    times: list[int],
    ab: Tensor,
    noise: Callable[[Tensor], Tensor],
    variance: Callable = fixed_small,
    project: Callable | None = None,
    constrain: Callable | None = None,
) -> Steps:
    """DDPM Algorithm 2: ancestral sampling, x_s ~ N(μ̃(x̂0, x_t), σ²I), no noise in the last step.

    variance: fixed_small (β̃) or fixed_large (β). `times` may skip: eq. 7 holds for any s < t.
    Official: `p_sample_loop`
    """
    times, ab = check_inputs(x, times, ab)
    for t, s in pairwise(times):
        x = _constrained(constrain, x, t)
        eps, x0 = predict(eps_model, x, t, ab, project)
        x = posterior_mean(x0, x, ab[t], ab[s])
        if s > 0:
            var = check_number("variance", variance(ab[t], ab[s]))
            x = x + sqrt(var) * drawn(noise, x)
        yield Step(s, _finished(constrain, x, s, times), x0, eps)


def ddim(
    eps_model: EpsModel,
    x: Tensor,
    times: list[int],
    ab: Tensor,
    eta: float = 0.0,
    noise: Callable[[Tensor], Tensor] | None = None,
    project: Callable | None = None,
    constrain: Callable | None = None,
) -> Steps:
    """DDIM eqs. 12 and 16: x_s = √ᾱ_s x̂0 + √(1-ᾱ_s-σ²) ε + σ z with σ = σ(η). η = 0 draws no z.

    Official: `DDIMSampler.p_sample_ddim`
    """
    times, ab = check_inputs(x, times, ab)
    check_eta(eta, noise, times, ab)
    for t, s in pairwise(times):
        x = _constrained(constrain, x, t)
        eps, x0 = predict(eps_model, x, t, ab, project)
        sigma_t = sigma(ab[t], ab[s], eta)
        x = sqrt(ab[s]) * x0 + dir_xt(eps, ab[s], sigma_t)
        if sigma_t > 0:
            x = x + sigma_t * drawn(noise, x)
        yield Step(s, _finished(constrain, x, s, times), x0, eps)


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


def plms(
    eps_model: EpsModel,
    x: Tensor,
    times: list[int],
    ab: Tensor,
    eta: float = 0.0,
    project: Callable | None = None,
    constrain: Callable | None = None,
) -> Steps:
    """PNDM eq. 12 (PLMS): SD's first sampler, DDIM's step with an ε averaged over four times.

    The order rises: improved Euler (two calls), then Adams-Bashforth 2, 3, 4, 4, ...
    Steps + 1 calls of the model. eta must be 0: the history is one of a deterministic path.
    Official: `PLMSSampler.p_sample_plms`
    """
    yield from _linear_multistep(4, eps_model, x, times, ab, eta, project, constrain)


def s_pndm(
    eps_model: EpsModel,
    x: Tensor,
    times: list[int],
    ab: Tensor,
    eta: float = 0.0,
    project: Callable | None = None,
    constrain: Callable | None = None,
) -> Steps:
    """PNDM appendix (S-PNDM): improved Euler, then Adams-Bashforth 2. Steps + 1 calls."""
    yield from _linear_multistep(2, eps_model, x, times, ab, eta, project, constrain)


def _linear_multistep(order, eps_model, x, times, ab, eta, project, constrain) -> Steps:
    """PNDM eq. 12 over the last `order` ε, once there are as many; improved Euler begins."""
    times, ab = check_inputs(x, times, ab)
    check_deterministic(eta)
    x, times = yield from _leave_zero_snr(eps_model, x, times, ab, project, constrain)
    history = []
    for t, s in pairwise(times):
        x = _constrained(constrain, x, t)
        e_t = ask(eps_model, x, t).eps
        history = [e_t, *history][:order]
        if len(history) == 1:
            x_s, _ = move(x, e_t, ab[t], ab[s], project)
            eps = improved_euler_eps(e_t, ask(eps_model, x_s, s).eps)
        else:
            eps = multistep_eps(history)
        x, x0 = move(x, eps, ab[t], ab[s], project)
        yield Step(s, _finished(constrain, x, s, times), x0, eps)


def pndm(
    eps_model: EpsModel,
    x: Tensor,
    times: list[int],
    ab: Tensor,
    eta: float = 0.0,
    project: Callable | None = None,
    constrain: Callable | None = None,
) -> Steps:
    """PNDM Algorithm 2 (F-PNDM): three Runge-Kutta steps (eq. 13), then order 4 (eq. 12).

    Steps + 9 calls of the model. Half way is (t+s)//2, a time that the network knows.
    """
    times, ab = check_inputs(x, times, ab)
    check_deterministic(eta)
    x, times = yield from _leave_zero_snr(eps_model, x, times, ab, project, constrain)
    history = []
    for t, s in pairwise(times):
        x = _constrained(constrain, x, t)
        e1 = ask(eps_model, x, t).eps
        history = [e1, *history][:4]
        if len(history) < 4:
            mid = (t + s) // 2
            e2 = ask(eps_model, transfer(x, e1, ab[t], ab[mid]), mid).eps
            e3 = ask(eps_model, transfer(x, e2, ab[t], ab[mid]), mid).eps
            e4 = ask(eps_model, transfer(x, e3, ab[t], ab[s]), s).eps
            eps = runge_kutta_eps(e1, e2, e3, e4)
        else:
            eps = multistep_eps(history)
        x, x0 = move(x, eps, ab[t], ab[s], project)
        yield Step(s, _finished(constrain, x, s, times), x0, eps)


def last(steps: Iterable[Step]) -> Step:
    """The last step of a sampler: `last(plms(...)).x` is the result. Keeps no other in memory."""
    kept = deque(steps, maxlen=1)
    if not kept:
        raise ValueError("there is no last step: a sampler gives its steps once, so call it again")
    return kept.pop()


def _leave_zero_snr(eps_model, x, times, ab, project, constrain):
    """At ᾱ_T = 0, ε is x itself and there is nothing to average: the first step is DDIM's."""
    t, s = times[:2]
    if ab[t] > 0:
        return x, times
    eps, x0 = predict(eps_model, _constrained(constrain, x, t), t, ab, project)
    x = sqrt(ab[s]) * x0 + dir_xt(eps, ab[s], 0.0)
    yield Step(s, _finished(constrain, x, s, times), x0, eps)
    return x, times[1:]


def _constrained(constrain, x, t) -> Tensor:
    return same_shape("what constrain returns", constrain(x, t), x) if constrain else x


def _finished(constrain, x, s, times) -> Tensor:
    return _constrained(constrain, x, 0) if s == times[-1] else x

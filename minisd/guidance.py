"""Adapters: from a network, with its index, its prompt and its parametrisation, to eps_model(x, t).

They wrap one another, and each does one thing. For a v-network under guidance:

    model = paper_time(network)                    # t - 1 is the index it was trained with
    guided = cfg(model, cond, uncond, scale=7.5)   # the prompt goes in, one output comes out
    eps_model = from_v(guided, ab)                 # v becomes ε (and x0), before any averaging
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .clocks import Clock, sigmas_of
from .equations import (
    eps_from_u,
    eps_from_v,
    eps_from_x0,
    flow_scale,
    flow_time,
    guided_eps,
    pred_x0,
    rescale_guidance,
    sigma_from_ab,
    sqrt,
    straight_velocity,
    x0_from_u,
    x0_from_v,
)
from .prediction import EpsModel, Prediction, checked, predict, same_shape
from .schedules import ab_at, at, check_number, check_t


def paper_time(network: Callable) -> Callable:
    """A network called by the paper's t = 1..T, one number or one for each sample.

    network(x, index, ...) -> model(x, t, ...) with index = t - 1, (b,): the one place where 1 is
    subtracted. It is int64 for a whole t; between two whole ones it is a real number, of which the
    sinusoids make an embedding like any other. ValueError for a t below 1.
    Official: `apply_model`
    """

    def model(x: Tensor, t: float | Tensor, *condition):
        check_t(t, real=True)
        index = torch.as_tensor(t, device=x.device).expand(len(x)) - 1
        return network(x, index, *condition)

    return model


def nearest_time(model: EpsModel, ab: Tensor) -> EpsModel:
    """An eps_model that is evaluated at whole times only, the nearest in σ: generative-models' way.

    Its denoiser is given EDM's x with a σ that it rounds to the nearest σ_k that the network was
    trained with: D = x̄ - σ_k ε(c_in(σ_k) x̄, k). So x_t is scaled as if it were at k, and the x0
    that comes out belongs to it. At whole times it changes nothing.
    Official: `DiscreteDenoiser`, `possibly_quantize_sigma`
    """
    sigmas = sigmas_of(ab, range(len(ab)))

    def eps_model(x: Tensor, t: float) -> Tensor | Prediction:
        if t == math.floor(t):
            return model(x, int(t))
        ab_t = ab_at(ab, t, x)
        k = 1 + int((sigmas[1:] - sigma_from_ab(ab_t)).abs().argmin())
        ab_k, scaled = at(ab, k, x), sqrt(at(ab, k, x) / ab_t)
        eps, x0 = checked(model(scaled * x, k), x)
        x0 = pred_x0(scaled * x, eps, ab_k) if x0 is None else x0
        return Prediction(eps_from_x0(x, x0, ab_t), x0)

    return eps_model


def cfg(
    model: Callable,
    cond,
    uncond=None,
    scale: float | Callable[[float], float] = 1.0,
    rescale: float = 0.0,
) -> Callable[[Tensor, float], Tensor]:
    """CFG eq. 6: a network under guidance, both predictions from one call on a doubled batch.

        ε̃ = ε_u + g (ε_c - ε_u)

    model(x, t, c) -> (b, ...); cond and uncond are tensors (b, ...) or dicts of such, of one shape;
    uncond is the empty prompt, or a negative one. scale 1 calls the model with cond alone, scale 0
    gives uncond; a function t -> scale sets it for each time (`interval`, `per_step`). Works on ε,
    v and x0 alike; rescale, the share κ of Zero-SNR §3.4, is for v and x0: the spread of ε is near
    1 with guidance and without, so there it does nearly nothing.
    Official: `get_model_output`, `unconditional_guidance_scale`, `unconditional_conditioning`
    """
    if not callable(scale):
        check_number("scale", scale, least=-math.inf)
    check_number("rescale", rescale)
    if uncond is None and scale != 1:
        raise ValueError(f"guidance scale={scale} needs uncond, the empty prompt's conditioning")

    def guided(x: Tensor, t: float) -> Tensor:
        g = check_number("scale", scale(t), least=-math.inf) if callable(scale) else scale
        if g == 1:
            return model(x, t, cond)
        x_in = torch.cat([x, x])
        out = model(x_in, t, _concat(uncond, cond, len(x)))
        out_u, out_c = same_shape("what model returns", out, x_in).chunk(2)
        out = guided_eps(out_u, out_c, g)
        return rescale_guidance(out, out_c, rescale) if rescale else out

    return guided


def interval(scale: float, first: float, last: float) -> Callable[[float], float]:
    """Guidance from t = first down to t = last alone (arXiv 2404.07724), and none outside, where
    a step costs half: a function t -> scale for `cfg`."""
    if not first > last:
        raise ValueError(f"the interval must fall from first to last, got {first} to {last}")
    return lambda t: scale if last <= t <= first else 1.0


def per_step(scales: Sequence[float], times: Sequence[float]) -> Callable[[float], float]:
    """A scale for each step of a grid, the first for the first: a function t -> scale for `cfg`.

    Official: Stability's `unconditional_guidance_scale`, where it is a list
    """
    if len(scales) != len(times) - 1:
        raise ValueError(f"{len(times) - 1} steps need as many scales, got {len(scales)}")
    begins = dict(zip(times, scales, strict=False))
    return lambda t: begins[min(b for b in begins if b >= t)]


def triangle(largest: float, T: int, least: float = 1.0) -> Callable[[float], float]:
    """A scale that rises evenly from least at both ends of time to largest half way.

    generative-models has such scales over the frames of a video; here they are over time.
    Official: `TrianglePredictionGuider`
    """
    return lambda t: least + (largest - least) * (1 - abs(2 * t / T - 1))


def trapezoid(
    largest: float, T: int, least: float = 1.0, edge: float = 0.1
) -> Callable[[float], float]:
    """A scale of largest, but for the share `edge` at both ends of time, where it falls to least.

    The official guider's middle is 1, whatever its max_scale.
    Official: `TrapezoidPredictionGuider`
    """
    return lambda t: least + (largest - least) * min(1.0, min(t, T - t) / (edge * T))


def dynamic_threshold(percentile: float = 0.995, limit: float = 1.0) -> Callable[[Tensor], Tensor]:
    """Imagen §2.3 (arXiv 2205.11487), for a sampler's `project`: x0 clipped at s and brought back.

        x̂0 ← clip(x̂0, -s, s) · limit/s,  s = max(limit, the percentile of |x̂0|), for each sample

    limit: what pictures stay within, 1 for pixels; latents have no such limit of their own.
    """
    check_number("percentile", percentile, below=1 + 1e-9)
    check_number("limit", limit, least=1e-9)

    def project(x0: Tensor) -> Tensor:
        s = x0.flatten(1).abs().float().quantile(percentile, dim=1).clamp(min=limit).to(x0)
        s = s.reshape(-1, *[1] * (x0.ndim - 1))
        return x0.clamp(-s, s) * (limit / s)

    return project


def norm_threshold(limit: float = 1.0, spatial: bool = False) -> Callable[[Tensor], Tensor]:
    """Stability's threshold for latents, for a sampler's `project`: x0 is shrunk where the root of
    its mean square is above limit: each sample's, or (spatial) each pixel's over its channels.

    Official: `norm_thresholding`, `spatial_norm_thresholding`
    """
    check_number("limit", limit, least=1e-9)

    def project(x0: Tensor) -> Tensor:
        over = 1 if spatial else tuple(range(1, x0.ndim))
        return x0 * (limit / x0.pow(2).mean(over, keepdim=True).sqrt().clamp(min=limit))

    return project


def from_v(v_model: Callable[[Tensor, int], Tensor], ab: Tensor) -> EpsModel:
    """An eps_model made of a model that predicts v: it returns ε and x0, both computed from v.

    So it also works at ᾱ_t = 0, where no x0 can be computed from ε.

    Official: `parameterization="v"`
    """

    def eps_model(x: Tensor, t: int) -> Prediction:
        v, ab_t = same_shape("what v_model returns", v_model(x, t), x), ab_at(ab, t, x)
        return Prediction(eps_from_v(x, v, ab_t), x0_from_v(x, v, ab_t))

    return eps_model


def from_x0(x0_model: Callable[[Tensor, int], Tensor], ab: Tensor) -> EpsModel:
    """An eps_model made of a model that predicts x0: it returns that x0, and ε computed from it.

    So it also works at ᾱ_t = 0, where no x0 can be computed from ε.

    Official: `parameterization="x0"`
    """

    def eps_model(x: Tensor, t: int) -> Prediction:
        x0 = same_shape("what x0_model returns", x0_model(x, t), x)
        return Prediction(eps_from_x0(x, x0, ab_at(ab, t, x)), x0)

    return eps_model


def from_flow(u_model: Callable[[Tensor, Tensor], Tensor], ab: Tensor) -> EpsModel:
    """An eps_model made of a flow, so that every sampler here samples it: SD 3 §3.1, turned round.

    u_model(x_straight, t) predicts u at the straight path's t, from 0 to 1, where the SNR is that
    of ᾱ; x_straight is x times `flow_scale`. It returns ε and x0, both computed from u, so also at
    ᾱ_t = 0.
    """

    def eps_model(x: Tensor, t: float) -> Prediction:
        time = flow_time(ab_at(ab, t, x))
        x_straight = flow_scale(time) * x
        u = same_shape("what u_model returns", u_model(x_straight, time), x)
        return Prediction(eps_from_u(x_straight, u, time), x0_from_u(x_straight, u, time))

    return eps_model


def to_flow(eps_model: EpsModel, ab: Tensor) -> Callable[[Tensor, float], Tensor]:
    """The flow u(x_straight, t) that a model of ε, v or x0 is: `from_flow` turned round.

    It is evaluated at the time of equal SNR, a real one (see `clocks`), and at t = 1 at T, where ᾱ
    must be 0. x_straight (b, ...); t in (0, 1] -> (b, ...). ValueError for a t with more noise than
    ᾱ_T.
    """
    clock = Clock(ab)
    T = len(clock) - 1

    def u_model(x_straight: Tensor, t: float) -> Tensor:
        sigma = t / (1 - t) if t < 1 else math.inf
        same_snr = T if t == 1 and clock[T] == 0 else clock.time(sigma)
        eps, x0 = predict(eps_model, x_straight / flow_scale(t), same_snr, clock)
        return straight_velocity(x0, eps)

    return u_model


def corrected(eps_model: EpsModel, corrector: Callable, **corrector_kwargs) -> EpsModel:
    """ε after corrector(eps, x, t, **corrector_kwargs), e.g. a classifier's gradient (ADM Alg. 2).

    Official: `score_corrector.modify_score`, `corrector_kwargs`
    """

    def corrected_eps(x: Tensor, t: int) -> Tensor:
        eps = checked(eps_model(x, t), x).eps
        return same_shape("what corrector returns", corrector(eps, x, t, **corrector_kwargs), x)

    return corrected_eps


def _concat(uncond, cond, n: int):
    """Unconditional first, as the official code has it."""
    if isinstance(cond, dict):
        if not isinstance(uncond, dict) or uncond.keys() != cond.keys():
            raise ValueError(f"cond and uncond must have the same keys, {sorted(cond)}")
        return {key: _concat(uncond[key], cond[key], n) for key in cond}
    if not (isinstance(cond, Tensor) and isinstance(uncond, Tensor)):
        raise ValueError(f"cond and uncond must be tensors or dicts of such, got {cond!r:.60}")
    if uncond.shape != cond.shape or cond.shape[:1] != (n,):
        raise ValueError(
            f"cond and uncond must have one shape, with the {n} samples of x as its first number, "
            f"got {tuple(cond.shape)} and {tuple(uncond.shape)}"
        )
    return torch.cat([uncond, cond])

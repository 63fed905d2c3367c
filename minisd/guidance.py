"""Adapters: from a network, with its index, its prompt and its parametrisation, to eps_model(x, t).

They wrap one another, and each does one thing. For a v-network under guidance:

    model = paper_time(network)                    # t - 1 is the index it was trained with
    guided = cfg(model, cond, uncond, scale=7.5)   # the prompt goes in, one output comes out
    eps_model = from_v(guided, ab)                 # v becomes ε (and x0), before any averaging
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .equations import eps_from_v, eps_from_x0, guided_eps, rescale_guidance, x0_from_v
from .prediction import EpsModel, Prediction, checked, same_shape
from .schedules import ab_at, check_number, check_t


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


def cfg(
    model: Callable, cond, uncond=None, scale: float = 1.0, rescale: float = 0.0
) -> Callable[[Tensor, int], Tensor]:
    """CFG eq. 6: a network under guidance, both predictions from one call on a doubled batch.

        ε̃ = ε_u + s (ε_c - ε_u)

    model(x, t, c) -> (b, ...); cond and uncond are tensors (b, ...) or dicts of such, of one shape;
    uncond is the empty prompt, or a negative one. scale 1 calls the model with cond alone, scale 0
    gives uncond. Works on ε, v and x0 alike; rescale, Zero-SNR §3.4's φ, is meant for v and x0: the
    spread of ε is near 1 with guidance and without, so there it does nearly nothing.
    Official: `get_model_output`, `unconditional_guidance_scale`, `unconditional_conditioning`
    """
    check_number("scale", scale, least=-math.inf)
    check_number("rescale", rescale)
    if uncond is None and scale != 1:
        raise ValueError(f"guidance scale={scale} needs uncond, the empty prompt's conditioning")

    def guided(x: Tensor, t: int) -> Tensor:
        if scale == 1:
            return model(x, t, cond)
        x_in = torch.cat([x, x])
        out = model(x_in, t, _concat(uncond, cond, len(x)))
        out_u, out_c = same_shape("what model returns", out, x_in).chunk(2)
        out = guided_eps(out_u, out_c, scale)
        return rescale_guidance(out, out_c, rescale) if rescale else out

    return guided


def from_v(v_model: Callable[[Tensor, int], Tensor], ab: Tensor) -> EpsModel:
    """A model that predicts v, as an eps_model. Gives x0 as well, so ᾱ_t = 0 is no exception.

    Official: `parameterization="v"`
    """

    def eps_model(x: Tensor, t: int) -> Prediction:
        v, ab_t = same_shape("what v_model returns", v_model(x, t), x), ab_at(ab, t, x)
        return Prediction(eps_from_v(x, v, ab_t), x0_from_v(x, v, ab_t))

    return eps_model


def from_x0(x0_model: Callable[[Tensor, int], Tensor], ab: Tensor) -> EpsModel:
    """A model that predicts x0, as an eps_model. Gives x0 as well, so ᾱ_t = 0 is no exception.

    Official: `parameterization="x0"`
    """

    def eps_model(x: Tensor, t: int) -> Prediction:
        x0 = same_shape("what x0_model returns", x0_model(x, t), x)
        return Prediction(eps_from_x0(x, x0, ab_at(ab, t, x)), x0)

    return eps_model


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

"""What a model says about x_t, and the checks that turn a mistake into a sentence."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from .equations import dir_xt, pred_x0, sigma, sqrt
from .schedules import check_times


class Prediction(NamedTuple):
    """The noise in x_t and the clean x0: one statement, as two tensors."""

    eps: Tensor
    x0: Tensor | None


EpsModel = Callable[[Tensor, int], Tensor | Prediction]


def ask(eps_model: EpsModel, x: Tensor, t: int) -> Prediction:
    """The model's ε at time t, with its x0 if it gives one. At t = 0 it is asked about t = 1."""
    said = eps_model(x, max(t, 1))
    said = said if isinstance(said, Prediction) else Prediction(said, None)
    if said.eps.shape != x.shape:
        raise ValueError(
            f"eps_model must return the shape of x, {tuple(x.shape)}, got {tuple(said.eps.shape)}"
        )
    return said


def predict(
    eps_model: EpsModel, x: Tensor, t: int, ab: list[float], project: Callable | None = None
) -> Prediction:
    """The model's ε and x0 at time t, x0 by eq. 15 where the model gives none, and projected."""
    eps, x0 = ask(eps_model, x, t)
    if x0 is None:
        if ab[t] == 0:
            raise ValueError(
                f"alpha_bar is 0 at t={t}: x is all noise there, and eps alone tells no x0; use "
                "a v- or x0-model (guidance.from_v, from_x0) or times that start lower"
            )
        x0 = pred_x0(x, eps, ab[t])
    return Prediction(eps, project(x0) if project else x0)


def move(
    x: Tensor, eps: Tensor, ab_t: float, ab_s: float, project: Callable | None = None
) -> tuple[Tensor, Tensor]:
    """PNDM's transfer, by way of x0 so that x0 can be projected: the DDIM step with σ = 0."""
    x0 = pred_x0(x, eps, ab_t)
    x0 = project(x0) if project else x0
    return dir_xt(eps, ab_s, 0.0).add(x0, alpha=sqrt(ab_s)), x0  # one pass over x0, not two


def check_inputs(x: Tensor, times, ab: Tensor) -> tuple[list[int], list[float]]:
    """Times as ints and ᾱ as Python floats, which is float64 on every device."""
    if ab.ndim != 1 or len(ab) < 2 or ab[0] != 1 or not (ab.diff() < 0).all() or ab[-1] < 0:
        raise ValueError(
            "ab must fall from alpha_bar[0] = 1 to at least 0: use schedules.alpha_bar(betas)"
        )
    if not x.is_floating_point():
        raise ValueError(f"x must be floating-point numbers, got {x.dtype}")
    if not x.isfinite().all():
        raise ValueError("x must be finite, but it holds nan or inf")
    return check_times(times, len(ab) - 1), ab.tolist()


def check_eta(eta: float, noise: Callable | None, times: list[int], ab: list[float]) -> None:
    """ValueError unless 0 ≤ η, noise is given where η > 0, and every σ² fits into 1-ᾱ_s."""
    if not eta >= 0:
        raise ValueError(f"eta must be at least 0, got {eta}")
    if eta > 0 and noise is None:
        raise ValueError(f"eta={eta} draws noise: pass noise=gaussian(seed), from minisd.noise")
    for t, s in pairwise(times):
        if sigma(ab[t], ab[s], eta) ** 2 > 1 - ab[s] + 1e-12:
            raise ValueError(
                f"eta={eta} asks for more noise than x holds at t={s}; eta from 0 to 1 always fits"
            )


def check_deterministic(eta: float) -> None:
    """ValueError unless η = 0: PLMS and PNDM average ε along one path, which noise would leave."""
    if eta != 0:
        raise ValueError(f"eta must be 0 for PLMS and PNDM, which follow one path, got {eta}")

"""What a model says about x_t, and the checks that turn a mistake into a sentence."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .clocks import Clock
from .equations import dir_xt, pred_x0, sigma, sqrt
from .schedules import check_number, check_times


class Prediction(NamedTuple):
    """The noise in x_t and the clean x0: one statement, as two tensors."""

    eps: Tensor
    x0: Tensor | None


EpsModel = Callable[[Tensor, float], Tensor | Prediction]


def same_shape(what: str, given, x: Tensor) -> Tensor:
    """What a caller's function returned for x; ValueError unless it is a tensor of x's shape, since
    another would be broadcast in silence: one channel, or one sample, would stand for all."""
    if isinstance(given, Tensor):
        if given.shape == x.shape:
            return given
        got = str(tuple(given.shape))
    elif given is None:
        got = "None (is a return missing?)"
    else:
        got = f"a {type(given).__name__} (return the tensor in it)"
    raise ValueError(f"{what} must be a tensor of the shape of x, {tuple(x.shape)}, got {got}")


def checked(said, x: Tensor) -> Prediction:
    """What an eps_model returned for x, as a Prediction whose tensors have the shape of x."""
    eps, x0 = said if isinstance(said, Prediction) else (said, None)
    same_shape("what eps_model returns", eps, x)
    if x0 is not None:
        same_shape("the x0 of eps_model's Prediction", x0, x)
    return Prediction(eps, x0)


def ask(eps_model: EpsModel, x: Tensor, t: float) -> Prediction:
    """The model's ε at time t, with its x0 if it gives one. Below t = 1 it is asked about t = 1."""
    return checked(eps_model(x, max(t, 1)), x)


def projected(project: Callable | None, x0: Tensor) -> Tensor:
    """project(x0), or x0 where there is no project."""
    return same_shape("what project returns", project(x0), x0) if project else x0


def drawn(noise: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Fresh noise like x."""
    return same_shape("what noise returns", noise(x), x)


def predict(
    eps_model: EpsModel, x: Tensor, t: float, ab: Clock, project: Callable | None = None
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
    return Prediction(eps, projected(project, x0))


def move(
    x: Tensor, eps: Tensor, ab_t: float, ab_s: float, project: Callable | None = None
) -> tuple[Tensor, Tensor]:
    """PNDM's transfer, by way of x0 so that x0 can be projected: the DDIM step with σ = 0."""
    x0 = projected(project, pred_x0(x, eps, ab_t))
    return dir_xt(eps, ab_s, 0.0).add(x0, alpha=sqrt(ab_s)), x0  # one pass over x0, not two


def check_inputs(x: Tensor, times, ab: Tensor) -> tuple[list[float], Clock]:
    """Times as numbers and ᾱ as a Clock of Python floats, which is float64 on every device."""
    for name, value in (("x", x), ("ab", ab)):
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} must be a torch.Tensor, got a {type(value).__name__}")
    if ab.dtype not in (torch.float64, torch.float32):
        raise ValueError(
            f"ab must be float64, as schedules.alpha_bar gives it, or float32, got {ab.dtype}: "
            "shorter numbers spoil 1 - ab near t = 0"
        )
    if ab.ndim != 1 or len(ab) < 2 or ab[0] != 1 or not (ab.diff() < 0).all() or ab[-1] < 0:
        raise ValueError(
            "ab must fall from alpha_bar[0] = 1 to at least 0: use schedules.alpha_bar(betas)"
        )
    if not x.is_floating_point():
        raise ValueError(f"x must be floating-point numbers, got {x.dtype}")
    if not x.isfinite().all():
        raise ValueError("x must be finite, but it holds nan or inf")
    times, clock = check_times(times, len(ab) - 1), Clock(ab)
    for t in times:
        clock[t]  # says what is wrong where ᾱ_T = 0 and t is a real number after the last before T
    return times, clock


def check_eta(eta: float, noise: Callable | None, times: list[float], ab: Clock) -> None:
    """ValueError unless 0 ≤ η, noise is given where η > 0, and every σ² fits into 1-ᾱ_s."""
    check_number("eta", eta)
    check_noise("eta", eta, noise)
    for t, s in pairwise(times):
        if sigma(ab[t], ab[s], eta) ** 2 > 1 - ab[s] + 1e-12:
            raise ValueError(
                f"eta={eta} is too large for the step from t={t} to t={s}: its noise would exceed "
                f"all the noise of x at t={s}; eta from 0 to 1 is always allowed"
            )


def check_noise(name: str, value: float, noise: Callable | None) -> None:
    """ValueError where a value above 0 draws noise, and there is none to draw."""
    if value > 0 and noise is None:
        raise ValueError(
            f"{name}={value} draws noise: pass noise=gaussian(seed), from minisd.noise"
        )


def check_deterministic(eta: float) -> None:
    """ValueError unless η = 0: PLMS and PNDM average ε along one path, which noise would leave."""
    check_number("eta", eta)
    if eta != 0:
        raise ValueError(f"eta must be 0 for PLMS and PNDM, which follow one path, got {eta}")

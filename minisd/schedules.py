"""Noise schedules and time grids.

Time is the paper's: t = 1..T, and `alpha_bar` has length T+1 with alpha_bar[0] = 1 (no noise).
The official code counts 0..T-1 instead, so its `alphas_cumprod[i]` is `alpha_bar[i + 1]` here.
A time grid is a decreasing list of such t; a sampler walks its neighbours (t, s), s the earlier.
A time may be a real number, between two whole ones (`ab_at`; grids of such are in clocks.py).
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor

# ---- betas: how much noise each step adds -------------------------------------------------


def scaled_linear_betas(T: int = 1000, start: float = 0.00085, end: float = 0.012) -> Tensor:
    """LDM's "linear" schedule, diffusers' "scaled_linear": linear in √β. SD 1, 2 and XL use it.

        √β_t = √start + (t-1)/(T-1) · (√end - √start)

    Returns float64 (T,); entry i is β_{i+1}.
    Official: `make_beta_schedule("linear")`
    """
    return _line(start, end, T, math.sqrt) ** 2


def linear_betas(T: int = 1000, start: float = 1e-4, end: float = 0.02) -> Tensor:
    """DDPM §4: β grows linearly. (The official LDM code calls this one "sqrt_linear".)

        β_t = start + (t-1)/(T-1) · (end - start)

    Returns float64 (T,); entry i is β_{i+1}.
    Official: `make_beta_schedule("sqrt_linear")`
    """
    return _line(start, end, T)


def sqrt_betas(T: int = 1000, start: float = 1e-4, end: float = 0.02) -> Tensor:
    """LDM's "sqrt" schedule: the square root of a line.

        β_t = √(start + (t-1)/(T-1) · (end - start))

    Returns float64 (T,); entry i is β_{i+1}.
    Official: `make_beta_schedule("sqrt")`
    """
    return _line(start, end, T) ** 0.5


def cosine_betas(T: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> Tensor:
    """iDDPM eq. 17: ᾱ follows a squared cosine; β is read off it and clipped.

        ᾱ_t = f(t)/f(0),  f(t) = cos²((t/T + offset)/(1 + offset) · π/2)
        β_t = min(1 - ᾱ_t/ᾱ_{t-1}, max_beta)

    Returns float64 (T,); entry i is β_{i+1}.
    Official: `make_beta_schedule("cosine")`
    """
    check_count("T", T)
    t = torch.arange(T + 1, dtype=torch.float64)
    f = torch.cos((t / T + offset) / (1 + offset) * math.pi / 2) ** 2
    return _checked((1 - f[1:] / f[:-1]).clamp(max=max_beta))


def zero_terminal_snr(betas: Tensor) -> Tensor:
    """Zero-SNR Algorithm 1: shift and stretch √ᾱ so that it ends at 0 and still starts at √ᾱ_1.

        √ᾱ_t ← (√ᾱ_t - √ᾱ_T) · √ᾱ_1 / (√ᾱ_1 - √ᾱ_T)

    betas (T,) with T > 1 -> betas (T,), the last of them 1: x_T holds no trace of x0.
    """
    _checked(betas)
    if len(betas) < 2 or (betas[:-1] == 1).any():
        raise ValueError("zero_terminal_snr needs at least 2 betas, all but the last below 1")
    root = alpha_bar(betas)[1:].sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    ab = torch.cat([torch.ones(1, dtype=root.dtype), root**2])
    return 1 - ab[1:] / ab[:-1]


# ---- alpha_bar and what is read off it ----------------------------------------------------


def alpha_bar(betas: Tensor) -> Tensor:
    """DDPM §2: ᾱ_t = ∏_{i≤t} (1 - β_i), with ᾱ_0 = 1 (the empty product).

    betas (T,) in (0, 1] -> float64 (T+1,), indexed by the paper's t.
    Official: `alphas_cumprod` = alpha_bar[1:], `alphas_cumprod_prev` = alpha_bar[:-1]
    """
    _checked(betas)
    alpha = 1 - betas.double()
    return torch.cat([alpha.new_ones(1), alpha]).cumprod(0)


def snr(ab: Tensor) -> Tensor:
    """VDM §3.1: the signal-to-noise ratio, a ratio of variances.

        SNR(t) = ᾱ_t / (1 - ᾱ_t)

    ∞ at t = 0, where there is no noise.
    """
    return ab / (1 - ab)


def log_snr(ab: Tensor) -> Tensor:
    """VDM §3.1: the natural logarithm of `snr`.

    log SNR(t) = log ᾱ_t - log(1 - ᾱ_t)
    """
    return ab.log() - (1 - ab).log()


def at(values: Tensor, t: int | Tensor, like: Tensor) -> Tensor | float:
    """values[t], a line by the paper's t = 0..T, to multiply `like` (b, ...) with.

    One t gives a Python float, which is float64 on every device; b of them give (b, 1, ..., 1) in
    like's dtype. They are converted before they are moved: Apple's GPUs have no float64.
    Official: `extract_into_tensor`, `extract`
    """
    t = t.to(values.device) if isinstance(t, Tensor) else t
    check_t(t, len(values) - 1, first=0)
    picked = values[t]
    if not picked.ndim:
        return picked.item()
    return picked.to(like.dtype).to(like.device).reshape(-1, *[1] * (like.ndim - 1))


def ab_at(ab: Tensor, t: float | Tensor, like: Tensor) -> Tensor | float:
    """ᾱ at time t, as `at` gives it; t may be one real number (see `between`)."""
    return at(ab, t, like) if isinstance(t, Tensor | Integral) else between(ab, t)


def between(ab: Sequence[float] | Tensor, t: float) -> float:
    """ᾱ at a real time t from 0 to T: ln σ is linear between two whole times, σ = √((1-ᾱ)/ᾱ).

        ln σ(t) = (1-w) ln σ(k) + w ln σ(k+1),  k = ⌊t⌋, w = t - k

    Below t = 1, where no network was trained, σ itself goes linearly to 0. ValueError outside 0..T,
    and after the last t where ᾱ is above 0. DPM-Solver's code draws the line in ln √ᾱ instead.
    Official: k-diffusion's `sigma_to_t` and `t_to_sigma` with quantize=False
    """
    k = math.floor(t) if 0 <= t <= len(ab) - 1 else -1
    if k == t:
        return float(ab[k])
    if k < 0 or ab[k + 1] == 0:
        last = len(ab) - 1 - int(ab[-1] == 0)
        raise ValueError(f"a time between two whole ones must be from 0 to {last:g}, got {t}")
    low, high = (math.sqrt((1 - a) / a) for a in (float(ab[k]), float(ab[k + 1])))
    w = t - k
    sigma = w * high if k == 0 else low ** (1 - w) * high**w
    return 1 / (1 + sigma**2)


def official_buffers(betas: Tensor) -> dict[str, Tensor]:
    """The thirteen buffers the official `register_schedule` makes, under its names, in float64.

    Entry i belongs to the paper's t = i + 1. The official code stores them as float32.
    betas (T,) with T > 1, all below 1. Official: `DDPM.register_schedule` (ddpm.py)
    """
    ab = alpha_bar(betas)
    if len(betas) < 2 or (ab == 0).any():
        raise ValueError("official_buffers needs at least 2 betas, all below 1: it divides by ᾱ_t")
    betas, ab_t, ab_s = betas.double(), ab[1:], ab[:-1]
    variance = betas * (1 - ab_s) / (1 - ab_t)
    # Written so, β_t²/(2 β̃_t α_t (1-ᾱ_t)) is 1/0 at t = 1; the official code copies the next entry.
    weights = betas / (2 * (1 - betas) * (1 - ab_s))
    return {
        "betas": betas,
        "alphas_cumprod": ab_t,
        "alphas_cumprod_prev": ab_s,
        "sqrt_alphas_cumprod": ab_t.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - ab_t).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - ab_t).log(),
        "sqrt_recip_alphas_cumprod": (1 / ab_t).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / ab_t - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": betas * ab_s.sqrt() / (1 - ab_t),
        "posterior_mean_coef2": (1 - ab_s) * (1 - betas).sqrt() / (1 - ab_t),
        "lvlb_weights": torch.cat([weights[1:2], weights[1:]]),
    }


# ---- time grids: which t a sampler visits -------------------------------------------------


def all_times(T: int) -> list[int]:
    """[T, T-1, ..., 1, 0]: every step, as DDPM samples. Official: `use_original_steps=True`"""
    check_count("T", T)
    return list(range(T, -1, -1))


def ldm_uniform_times(T: int, steps: int) -> list[int]:
    """SD's grid: [982, 962, ..., 22, 2, 1] for 50 of 1000. It ends at t = 1, not 0.

        t_i = 2 + i ⌊T/steps⌋  up to T+1

    The official grid holds T/⌊T/steps⌋ times, rounded up: 63 for steps=60. Its t = T+1 is an
    IndexError there; here it is T. Returns as many steps as that leaves, the last one to t = 1.
    Official: `make_ddim_timesteps("uniform")`
    """
    _check_steps(T, steps)
    return _ldm_grid(range(2, T + 2, T // steps), T)


def ldm_quad_times(T: int, steps: int) -> list[int]:
    """LDM's "quad" grid: denser near t = 0, and it starts at 0.8 T, so x_T is not N(0, I) there.

        t_i = 2 + ⌊(i √(0.8 T) / (steps-1))²⌋,  i = 0..steps-1

    Where the official list repeats a time, it stands here once. Ends at t = 1.
    Official: `make_ddim_timesteps("quad")`
    """
    _check_steps(T, steps)
    end = math.sqrt(T * 0.8)
    roots = [i * (end / (steps - 1)) for i in range(steps - 1)] + [end] if steps > 1 else [0]
    return _ldm_grid([2 + int(root**2) for root in roots], T)


def leading_times(T: int, steps: int, offset: int = 0, end: int = 0) -> list[int]:
    """Zero-SNR Table 2, "leading": [T+1-⌊T/steps⌋, ..., 1] and then `end`.

        t_i = 1 + offset + i ⌊T/steps⌋,  i = 0..steps-1

    Always exactly `steps` steps. offset=1, end=1 are diffusers' settings for SD (`steps_offset=1,
    set_alpha_to_one=False`); ValueError where they leave 1..T.
    """
    _check_steps(T, steps)
    times = [1 + offset + i * (T // steps) for i in reversed(range(steps))] + [end]
    if times[0] > T or not 0 <= end < times[-2]:
        raise ValueError(
            f"leading times with steps={steps}, offset={offset}, end={end} do not fit into "
            f"1..T={T}; offset=0, end=0 always do"
        )
    return times


def trailing_times(T: int, steps: int) -> list[int]:
    """Zero-SNR Table 2, "trailing": starts at T, where the noise is, and ends at 0.

        t_i = round(T (steps - i)/steps),  i = 0..steps

    Always exactly `steps` steps. Halves round to even, as numpy's do.
    """
    _check_steps(T, steps)
    return [round(T * (steps - i) / steps) for i in range(steps + 1)]


def linspace_times(T: int, steps: int) -> list[int]:
    """Zero-SNR Table 2, "linspace": evenly from T to 1, both visited, then 0.

        t_i = 1 + round((T-1) (steps-1-i)/(steps-1)),  i = 0..steps-1

    Always exactly `steps` steps; a single step goes from T to 0.
    """
    _check_steps(T, steps)
    if steps == 1:
        return [T, 0]
    return [1 + round((T - 1) * i / (steps - 1)) for i in reversed(range(steps))] + [0]


def sgm_times(T: int, steps: int) -> list[int]:
    """SDXL's own grid, generative-models': [1000, 980, ..., 60, 40, 20, 0] for 50 of 1000.

        t_i = 1 + ⌊(T-1) (steps-i)/steps⌋,  i = 0..steps-1, and then 0

    Always exactly `steps` steps. It is trailing, rounded down: the same list for 21 of the step
    counts below 1000. In floats, as officially, which takes 1 off some times of 34 step counts.
    Official: `LegacyDDPMDiscretization`, `generate_roughly_equally_spaced_steps`
    """
    _check_steps(T, steps)
    indices = np.linspace(T - 1, 0, steps, endpoint=False).astype(int)
    return [*(indices + 1).tolist(), 0]


def turbo_times(T: int, steps: int) -> list[int]:
    """The first of [T, 0.9 T, 0.8 T, ...], and then 0: what SD-Turbo and SDXL-Turbo were made for.

    1 to 10 steps; the official demo has 1 to 4. Official: `SubstepSampler.steps_subset`
    """
    _check_steps(T, steps)
    if steps > 10:
        raise ValueError(f"the turbo grid has 1 to 10 steps, got steps={steps}")
    return [T - i * T // 10 for i in range(steps)] + [0]


def check_times(times, T: int) -> list[float]:
    """`times` as a list of numbers, ints where they are whole; ValueError unless they are two or
    more, decreasing, within T..1 or 0: below t = 1 there is nothing but the clean picture."""
    try:
        checked = [t.item() if isinstance(t, Tensor | np.generic) else t for t in times]
        checked = [int(t) if t == math.floor(t) else float(t) for t in checked]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise ValueError(f"times must be a list of numbers, got {times!r:.60}") from None
    if len(checked) < 2 or any(t <= s for t, s in pairwise(checked)):
        raise ValueError(
            "times must be at least two numbers, each smaller than the one before, "
            f"got {_short(checked)}"
        )
    if checked[0] > T or checked[-1] < 0:
        raise ValueError(
            f"times must decrease from at most T={T} to at least 0, got {_short(checked)}"
        )
    if any(0 < t < 1 for t in checked):
        raise ValueError(f"times must be 0 or from 1 to T={T}, got {_short(checked)}")
    return checked


def check_t(t: int | Tensor, T: float = math.inf, first: int = 1, real: bool = False) -> None:
    """ValueError unless t, a whole (or real) number or a tensor of such, is from `first` to T.

    The numbers of a tensor on a GPU are not looked at: the CPU would have to wait for them.
    """
    given = torch.as_tensor(t)
    whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
    whole = whole or real and given.is_floating_point()
    seen = given.device.type == "cpu"
    if not whole or seen and not ((given >= first) & (given <= T)).all():
        raise ValueError(
            f"t must be a {'' if real else 'whole '}number from {first} to "
            f"{T if T < math.inf else 'T'}, got {t}: "
            "the paper's times count from 1, and only the network's index counts from 0"
        )


def check_count(name: str, value: int, least: int = 1, most: float = math.inf) -> int:
    """The value; ValueError unless it is a whole number, from `least` to `most`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or not least <= value <= most:
        limits = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
        raise ValueError(f"{name} must be a whole number {limits}, got {value!r:.60}")
    return int(value)


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """The value; ValueError unless it is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r:.60}")
    return value


def check_number(name: str, value: float, least: float = 0.0, below: float = math.inf) -> float:
    """The value; ValueError unless it is one number (no tensor) and in [least, below)."""
    if not isinstance(value, Real) or not least <= value < below:
        raise ValueError(f"{name} must be a number in [{least:g}, {below:g}), got {value!r:.60}")
    return value


def _line(start: float, end: float, T: int, of: Callable = float) -> Tensor:
    check_count("T", T)
    if not (0 < start <= 1 and 0 < end <= 1):
        raise ValueError(f"betas must be in (0, 1], but the line goes from {start} to {end}")
    return torch.linspace(of(start), of(end), T, dtype=torch.float64)


def _ldm_grid(times, T: int) -> list[int]:
    times = sorted({min(t, T) for t in times} | {1}, reverse=True)
    return times if len(times) > 1 else [1, 0]  # T = 1 leaves nothing but the step to 0


def _check_steps(T: int, steps: int) -> None:
    check_count("T", T)
    check_count("steps", steps)
    if steps > T:
        raise ValueError(f"steps must be at most T={T}, got {steps}")


def _checked(betas: Tensor) -> Tensor:
    if betas.ndim != 1 or len(betas) == 0 or not ((betas > 0) & (betas <= 1)).all():
        shape = tuple(betas.shape)
        raise ValueError(f"betas must be a line of numbers in (0, 1], got {betas} of shape {shape}")
    return betas


def _short(times: list) -> str:
    return str(times) if len(times) <= 8 else f"[{str(times[:6])[1:-1]}, ..., {times[-1]}]"

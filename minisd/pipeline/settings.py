"""How to sample: the schedule, grid and usual numbers of each family, and what a user may set."""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..models.configs import T, UNetConfig
from ..samplers import ddim, ddpm, plms, pndm, s_pndm
from ..schedules import (
    alpha_bar,
    cosine_betas,
    ldm_uniform_times,
    leading_times,
    linear_betas,
    linspace_times,
    scaled_linear_betas,
    trailing_times,
    zero_terminal_snr,
)
from .conditioning import Conditioning, Frame

SAMPLERS = {"plms": plms, "ddim": ddim, "s_pndm": s_pndm, "pndm": pndm, "ddpm": ddpm}
Prompt = str | Sequence[str] | Conditioning


class Usual(NamedTuple):
    """What a family was trained for: a side in pixels, a guidance scale, the ends of its betas."""

    size: int = 512
    scale: float = 7.5
    betas: tuple[float, float] = (0.00085, 0.012)


BETAS = {
    "linear": linear_betas,
    "scaled_linear": scaled_linear_betas,
    "squaredcos_cap_v2": lambda T, *_: cosine_betas(T),
}
VQ_BETAS = (0.0015, 0.0195)
USUAL = {
    "tiny": Usual(64, 2.0),
    "sd2": Usual(scale=9.0),  # its 768-v: 768 pixels
    "sd2-inpaint": Usual(scale=9.0),
    "sd2-depth": Usual(scale=9.0),
    "unclip-h": Usual(768, 10.0),
    "unclip-l": Usual(768, 10.0),
    "upscaler": Usual(128, 9.0, (1e-4, 0.02)),
    "sdxl": Usual(1024, 5.0),
    "sdxl-refiner": Usual(1024, 5.0),
    "ldm-txt2img": Usual(256, 5.0),
    "ldm-text2img256": Usual(256, 5.0, VQ_BETAS),
    "ldm-cin256": Usual(256, 3.0, VQ_BETAS),
    "ldm-ffhq256": Usual(256, 1.0, VQ_BETAS),
}


def schedule(config: UNetConfig, family: str = "") -> Tensor:
    """ᾱ_0..ᾱ_T that a U-Net was trained with."""
    kind, *ends = config.betas or ("scaled_linear", *USUAL.get(family, Usual()).betas)
    betas = BETAS[kind](T, *ends)
    return alpha_bar(zero_terminal_snr(betas) if config.zero_terminal_snr else betas)


def times(config: UNetConfig, steps: int) -> list[int]:
    """The official grid, whose last step leads to t = 1 (60 steps are 63 there, and so here); for a
    model with zero terminal SNR the grid that begins at T and ends at 0. A config may tell another.
    """
    if config.grid is None:
        return (trailing_times if config.zero_terminal_snr else ldm_uniform_times)(T, steps)
    spacing, offset, end = config.grid
    if spacing == "leading":
        return leading_times(T, steps, offset, end)
    grid = (trailing_times if spacing == "trailing" else linspace_times)(T, steps)
    return [*(t for t in grid if t > end), end]


def usual_sampler(config: UNetConfig) -> str:
    """PLMS, which Stable Diffusion came with; DDIM for a model with zero terminal SNR. Near T an
    error in such a model's ε is a much larger one in its x0, and PLMS extrapolates ε there: in few
    steps, or at high guidance, the tiny model obeys DDIM and not PLMS (weights/README.md)."""
    return "ddim" if config.zero_terminal_snr else "plms"


def last_times(grid: list[int], strength: float) -> list[int]:
    """The end of a grid, that share of its steps: where a given picture is joined.

    The picture is to be noised to the first of these times. The official img2img scripts noise it
    to the time before that one, so that the first step finds more noise than it is told of.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be from 0 to 1, got {strength}")
    count = int((len(grid) - 1) * strength + 1e-9)  # 0.58 of 50 is 28.999999999999996 in floats
    if count == 0:
        raise ValueError(f"strength={strength} of {len(grid) - 1} steps leaves none to take")
    return grid[-count - 1 :]


def whole(name: str, value) -> int:
    """A whole number, numpy's too, as an int; ValueError where it is none: 64.0, "64", True."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {value!r:.60}") from None


def own_noise(seed: int, count: int) -> Callable[[Tensor], Tensor]:
    """A function x -> N(0, I) like x, for each of count pictures from its own generator, on the
    CPU. As diffusers does with a list of generators, and in the same order: one seed, one picture.
    """
    generators = [torch.Generator().manual_seed(seed + i) for i in range(count)]

    def draw(x: Tensor) -> Tensor:
        shape = (1, *x.shape[1:])
        return torch.cat([torch.randn(shape, generator=g) for g in generators]).to(x)

    return draw


@dataclass(frozen=True)
class Settings:
    """All that a picture depends on beside its prompt and the picture it begins with."""

    negative: Prompt = ""
    scale: float | None = None  # s of ε_u + s (ε_c - ε_u); 1: no guidance, None: the family's usual
    rescale: float = 0.0  # Zero-SNR §3.4's φ
    steps: int = 50
    sampler: str | None = None  # of SAMPLERS; None: usual_sampler's
    eta: float = 0.0  # of ddim
    seed: int = 0  # of the first picture; seed + 1 of the next
    n: int = 1  # pictures of each prompt
    sample: bool = True  # a sample of a given picture's posterior, or its mean
    frame: Frame = Frame()  # SDXL's

    def __post_init__(self):
        for name in ("steps", "seed", "n"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
        if self.sampler is not None and self.sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {self.sampler!r}")
        if self.scale is not None and not 0 <= self.scale < math.inf:
            raise ValueError(f"the guidance scale must be at least 0, got {self.scale}")
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"rescale must be from 0 to 1, got {self.rescale}")
        if self.n < 1:
            raise ValueError(f"n must be a whole number of at least 1, got {self.n}")
        if not 0 <= self.seed <= 2**63 - self.n:
            last = f", and {self.seed + self.n - 1} for the last of {self.n}" if self.n > 1 else ""
            raise ValueError(
                f"seed must be a whole number from 0 to 2^63 - 1, got {self.seed}{last}"
            )
        if not 0 <= self.eta <= 1 or self.eta and self.sampler != "ddim":
            raise ValueError(f"eta must be from 0 to 1, and 0 unless sampler is ddim: {self.eta}")
        ldm_uniform_times(T, self.steps)  # says what is wrong with the steps

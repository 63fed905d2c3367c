"""How to sample: the schedule, grid and usual numbers of each family, and what a user may set."""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models.configs import T, UNetConfig
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
from .menu import GRIDS, SAMPLERS, find_grid, find_sampler, having

OPTIONS = ("eta", "order", "churn", "s_min", "s_max", "s_noise", "published")  # of samplers
REAL = ("scale", "guide_from", "guide_until", "rescale", "eta", "churn", "s_min", "s_max")
REAL += ("s_noise", "control_scale", "control_from", "control_until")
Prompt = str | Sequence[str] | Conditioning


class Usual(NamedTuple):
    """What a family was trained for, a side in pixels, a guidance scale and the ends of its betas;
    and how its official code samples unless it is told otherwise."""

    size: int = 512
    scale: float = 7.5
    betas: tuple[float, float] = (0.00085, 0.012)
    sampler: str = "ddim"
    grid: str = "ldm"
    steps: int = 50


BETAS = {
    "linear": linear_betas,
    "scaled_linear": scaled_linear_betas,
    "squaredcos_cap_v2": lambda T, *_: cosine_betas(T),
}
VQ_BETAS = (0.0015, 0.0195)
USUAL = {
    "tiny": Usual(64, 3.0, sampler="dpmpp_2m_sde", grid="trailing", steps=30),  # its card has why
    "sd1": Usual(sampler="plms"),  # as the README calls its script, which has DDIM without --plms
    "sd2": Usual(scale=9.0),  # its 768-v: 768 pixels
    "sd2-inpaint": Usual(scale=9.0),
    "sd2-depth": Usual(scale=9.0),
    "unclip-h": Usual(768, 10.0),
    "unclip-l": Usual(768, 10.0),
    "upscaler": Usual(128, 9.0, (1e-4, 0.02)),
    "sdxl": Usual(1024, 5.0, sampler="euler", grid="sgm"),  # its demo; its API: DPM++ 2M
    "sdxl-refiner": Usual(1024, 5.0, sampler="euler", grid="sgm"),
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


def official_times(
    config: UNetConfig, steps: int, family: str = "", grid: str | None = None
) -> list[int] | list[float]:
    """The times of a grid of GRIDS, or of usual_grid's, or, where the config of a diffusers folder
    tells one, of that. The LDM grid may take more steps than it is told: 60 are 63."""
    grid = grid or usual_grid(config, family)
    if grid is None:
        spacing, offset, end = config.grid
        if spacing == "leading":
            found = leading_times(T, steps, offset, end)
        else:
            found = (trailing_times if spacing == "trailing" else linspace_times)(T, steps)
            found = [*(t for t in found if t > end), end]
    else:
        table = {"table": "sdxl" if family.startswith("sdxl") else "sd1"} if grid == "ays" else {}
        found = GRIDS[grid].times(schedule(config, family), steps, **table)
    return found


def times(
    config: UNetConfig, steps: int, family: str = "", grid: str | None = None
) -> list[int] | list[float]:
    """The times to visit: the official ones, where they begin in noise.

    The official grid of 1 step begins at t = 2, of 2 at t = 502, where more than a tenth of x's
    variance is the picture's (ᾱ > 0.1). Noise has none: such a grid begins at T here, evenly.
    """
    found = official_times(config, steps, family, grid)
    if schedule(config, family)[math.ceil(found[0])] > 0.1:
        return [*(t for t in trailing_times(T, steps) if t > found[-1]), found[-1]]
    return found


def usual_sampler(config: UNetConfig, family: str = "") -> str:
    """The official code's, of SAMPLERS; the tiny model's best one by its judge (its card). Other
    models with zero terminal SNR have DDIM: near T an error in ε is a much larger one in x0, and
    what PLMS extrapolates there is ε."""
    if config.solver is not None:  # a diffusers folder's
        return find_sampler(config.solver[0])[0]
    usual = USUAL.get(family, Usual())
    return "ddim" if config.zero_terminal_snr and usual.grid != "trailing" else usual.sampler


def usual_order(config: UNetConfig) -> int | None:
    """A diffusers folder's, where its solver has another one here; None: the sampler's own."""
    return config.solver[2] if config.solver is not None and len(config.solver) > 2 else None


def usual_grid(config: UNetConfig, family: str = "") -> str | None:
    """The official code's, of GRIDS; for a model with zero terminal SNR the one that begins at T
    and ends at 0. None where the config tells it."""
    if config.solver is not None and config.solver[1]:
        return config.solver[1]
    if config.grid is not None:
        return None
    return "trailing" if config.zero_terminal_snr else USUAL.get(family, Usual()).grid


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


def first_times(grid: list[int], share: float) -> list[int]:
    """The beginning of a grid, that share of its steps: `last_times(grid, 1 - share)` is the rest.

    Official: `Txt2NoisyDiscretizationWrapper`, whose strength is 1 - share
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    rest = int((len(grid) - 1) * (1 - share) + 1e-9)
    if rest == len(grid) - 1:
        raise ValueError(f"share={share} of {rest} steps leaves none to take")
    return grid[: len(grid) - rest]


def whole(name: str, value) -> int:
    """A whole number, numpy's too, as an int; ValueError where it is none: 64.0, "64", True."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {value!r:.60}") from None


def check_real(name: str, value) -> None:
    """ValueError for what is no number, "3" among it."""
    try:
        if isinstance(value, (bool, str)):
            raise TypeError
        float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number, got {value!r:.60}") from None


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
    scale: float | None = None  # g of ε_u + g (ε_c - ε_u); 1: no guidance, None: the family's usual
    guide_from: float = float(T)  # guidance acts at times from this one ...
    guide_until: float = 0.0  # ... down to this one
    rescale: float = 0.0  # Zero-SNR §3.4's φ
    steps: int | None = None  # None: the family's usual, 50 or 30
    sampler: str | None = None  # of SAMPLERS, by any name; None: usual_sampler's
    grid: str | None = None  # of GRIDS, by any name; None: the sampler's name's, or usual_grid's
    eta: float | None = None  # this and the following are the sampler's own; None: as it has it
    order: int | None = None
    churn: float | None = None  # EDM's S_churn
    s_min: float | None = None
    s_max: float | None = None
    s_noise: float | None = None
    published: bool | None = None  # the published code's weights, or the exact ones
    seed: int = 0  # of the first picture; seed + 1 of the next
    n: int = 1  # pictures of each prompt
    sample: bool = True  # a sample of a given picture's posterior, or its mean
    frame: Frame = Frame()  # SDXL's
    hint: Any = field(default=None, compare=False)  # a ControlNet's picture, as as_picture takes it
    control_scale: float = 1.0  # how much of what the ControlNet adds is taken
    control_from: float = float(T)  # the ControlNet leads at times from this one ...
    control_until: float = 0.0  # ... down to this one
    guess: bool = False  # lead the prompted prediction alone, by deep layers the most

    def __post_init__(self):
        for name in ("steps", "seed", "n"):
            if (told := getattr(self, name)) is not None or name != "steps":
                object.__setattr__(self, name, whole(name, told))
        for name in REAL:
            if (told := getattr(self, name)) is not None:
                check_real(name, told)
        self._find()
        if self.scale is not None and not 0 <= self.scale < math.inf:
            raise ValueError(f"the guidance scale must be at least 0, got {self.scale}")
        for name, what in (("guide", "guidance"), ("control", "a ControlNet")):
            first, last = (getattr(self, f"{name}_{end}") for end in ("from", "until"))
            if not 0 <= last < first:
                raise ValueError(
                    f"{what} goes from a time down to a time of at least 0, got "
                    f"{name}_from={first}, {name}_until={last}"
                )
        if not 0 <= self.control_scale < math.inf:
            raise ValueError(f"control_scale must be at least 0, got {self.control_scale}")
        how = (self.guess, self.control_scale, self.control_from, self.control_until)
        if self.hint is None and how != (False, 1, T, 0):
            raise ValueError(
                "guess, control_scale, control_from and control_until need a hint, the picture "
                "that leads"
            )
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"rescale must be from 0 to 1, got {self.rescale}")
        if self.n < 1:
            raise ValueError(f"n must be a whole number of at least 1, got {self.n}")
        if not 0 <= self.seed <= 2**63 - self.n:
            last = f", and {self.seed + self.n - 1} for the last of {self.n}" if self.n > 1 else ""
            raise ValueError(
                f"seed must be a whole number from 0 to 2^63 - 1, got {self.seed}{last}"
            )
        if self.steps is not None:
            ldm_uniform_times(T, self.steps)  # says what is wrong with the steps

    def _find(self) -> None:
        """The sampler and the grid under their names here; ValueError for what is none."""
        for name in ("sampler", "grid"):
            if not isinstance(told := getattr(self, name), str | None):
                raise ValueError(f"{name} must be a name, got {told!r:.60}")
        grid = None if self.grid is None else find_grid(self.grid)
        if self.sampler is not None:
            sampler, named = find_sampler(self.sampler)
            if grid and named and grid != named:
                raise ValueError(
                    f"sampler {self.sampler!r} names the grid {named}, and grid is {grid}: "
                    "name one of them"
                )
            grid = grid or named
            object.__setattr__(self, "sampler", sampler)
            for name in OPTIONS:
                told = getattr(self, name) is not None and (name != "eta" or self.eta != 0)
                if told and name not in SAMPLERS[sampler].takes():
                    raise ValueError(f"{sampler} takes no {name}; those that do are {having(name)}")
        object.__setattr__(self, "grid", grid)
        if self.eta is not None and not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be from 0 to 1, got {self.eta}")

    def options(self) -> dict[str, float]:
        """What the sampler is given of its own: its name's, and over that what is set here."""
        row = SAMPLERS[self.sampler]
        told = {name: getattr(self, name) for name in OPTIONS if name in row.takes()}
        return row.own | {name: value for name, value in told.items() if value is not None}

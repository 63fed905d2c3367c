"""The menu: the samplers and grids that a user may name, and what other programs call them.

The same algorithm stands under four names in four programs. `find_sampler` and `find_grid` take all
of them, without regard to case, spaces, underscores and dashes; docs/SAMPLERS.md prints the tables.
"""

import difflib
import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .. import clocks, samplers, schedules


class Sampler(NamedTuple):
    """A sampler with the arguments that make it the one of this name, and its names elsewhere.

    Names with " / " between them mean the same; "" where a program has none. What a program does
    otherwise under its name is said in `note`.
    """

    run: Callable
    own: dict[str, Any] = {}  # noqa: RUF012 - nobody writes into it
    a1111: str = ""
    diffusers: str = ""  # with Scheduler at its end
    comfyui: str = ""
    sgm: str = ""  # of generative-models
    note: str = ""

    def takes(self) -> list[str]:
        """The algorithm's own arguments: eta, order, noise, ..."""
        return [*inspect.signature(self.run.__wrapped__).parameters][4:]


class Grid(NamedTuple):
    """A grid of times as a function (ab, steps) -> times, and its names elsewhere."""

    times: Callable
    a1111: str = ""
    diffusers: str = ""
    comfyui: str = ""
    sgm: str = ""
    note: str = ""


def _whole(times: Callable) -> Callable:
    return lambda ab, steps: times(len(ab) - 1, steps)


def turbo_times(T: int, steps: int) -> list[int]:
    """The first of [T, 0.9 T, 0.8 T, ...], and then 0: what SD-Turbo and SDXL-Turbo were made for.

    1 to 10 steps; the official demo has 1 to 4. Official: `SubstepSampler.steps_subset`
    """
    if not 1 <= steps <= 10:
        raise ValueError(f"the turbo grid has 1 to 10 steps, got steps={steps}")
    return [T - i * T // 10 for i in range(steps)] + [0]


A = {"eta": 1.0}  # ancestral
SAMPLERS = {
    "ddim": Sampler(samplers.ddim, {}, "DDIM", "DDIM", "ddim"),
    "plms": Sampler(samplers.plms, {}, "PLMS", "PNDM", note="diffusers: skip_prk_steps=True"),
    "s_pndm": Sampler(samplers.s_pndm),
    "pndm": Sampler(samplers.pndm),
    "ddpm": Sampler(samplers.ddpm, {}, "", "DDPM", "ddpm"),
    "euler": Sampler(samplers.euler, {}, "Euler", "EulerDiscrete", "euler", "EulerEDMSampler"),
    "euler_a": Sampler(
        samplers.ddim,
        A,
        "Euler a",
        "EulerAncestralDiscrete",
        "euler_ancestral",
        "EulerAncestralSampler",
    ),
    "heun": Sampler(samplers.heun, {}, "Heun", "HeunDiscrete", "heun", "HeunEDMSampler"),
    "dpm2": Sampler(
        samplers.dpm_solver_2,
        {},
        "DPM2",
        "KDPM2Discrete",
        "dpm_2",
        note="A1111 and ComfyUI leave out the last time but one",
    ),
    "dpm2_a": Sampler(
        samplers.dpm_solver_2, A, "DPM2 a", "KDPM2AncestralDiscrete", "dpm_2_ancestral"
    ),
    "dpm3": Sampler(samplers.dpm_solver_3),
    "lms": Sampler(samplers.lms, {}, "LMS", "LMSDiscrete", "lms", "LinearMultistepSampler"),
    "dpm_2m": Sampler(samplers.dpm_solver_multistep),
    "deis": Sampler(samplers.deis, {}, "DEIS", "DEISMultistep", "deis"),
    "dpmpp_2s": Sampler(
        samplers.dpmpp_2s,
        {},
        "",
        "DPMSolverSinglestep",
        note="a step of diffusers is one call, half a step",
    ),
    "dpmpp_2s_a": Sampler(
        samplers.dpmpp_2s, A, "DPM++ 2S a", "", "dpmpp_2s_ancestral", "DPMPP2SAncestralSampler"
    ),
    "dpmpp_3s": Sampler(samplers.dpmpp_3s),
    "dpmpp_sde": Sampler(samplers.dpmpp_sde, {}, "DPM++ SDE", "DPMSolverSDE", "dpmpp_sde"),
    "dpmpp_2m": Sampler(
        samplers.dpmpp_2m, {}, "DPM++ 2M", "DPMSolverMultistep", "dpmpp_2m", "DPMPP2MSampler"
    ),
    "dpmpp_3m": Sampler(samplers.dpmpp_3m),
    "dpmpp_2m_sde": Sampler(samplers.dpmpp_2m_sde, {}, "DPM++ 2M SDE", "", "dpmpp_2m_sde"),
    "dpmpp_3m_sde": Sampler(samplers.dpmpp_3m_sde, {}, "DPM++ 3M SDE", "", "dpmpp_3m_sde"),
    "unipc": Sampler(
        samplers.unipc,
        {},
        "UniPC",
        "UniPCMultistep",
        "uni_pc / uni_pc_bh2",
        note="A1111 and ComfyUI: order 3, and bh1 unless the name says bh2",
    ),
    "unipc_bh1": Sampler(samplers.unipc, {"b": "bh1"}),
    "lcm": Sampler(samplers.lcm, {}, "LCM", "LCM", "lcm"),
    "restart": Sampler(samplers.restart, {}, "Restart"),
}
GRIDS = {
    "ldm": Grid(
        _whole(schedules.ldm_uniform_times),
        "DDIM",
        "",
        "ddim_uniform",
        note="it ends at t = 1; in A1111 and ComfyUI at 0",
    ),
    "quad": Grid(_whole(schedules.ldm_quad_times)),
    "leading": Grid(_whole(schedules.leading_times), "", "timestep_spacing='leading'"),
    "trailing": Grid(
        _whole(schedules.trailing_times),
        "Simple",
        "timestep_spacing='trailing'",
        "simple",
        note="A1111 and ComfyUI round up where it rounds",
    ),
    "linspace": Grid(
        _whole(schedules.linspace_times),
        "Normal",
        "timestep_spacing='linspace'",
        "normal",
        note="A1111 and ComfyUI do not round it",
    ),
    "sgm": Grid(
        _whole(schedules.sgm_times),
        "SGM Uniform",
        "",
        "sgm_uniform",
        "LegacyDDPMDiscretization",
        note="A1111 and ComfyUI do not round it",
    ),
    "turbo": Grid(_whole(turbo_times), "", "", "SDTurboScheduler", "SubstepSampler"),
    "uniform": Grid(clocks.uniform_times, note="A1111's Uniform is its Normal"),
    "karras": Grid(
        clocks.karras_times,
        "Karras",
        "use_karras_sigmas",
        "karras",
        "EDMDiscretization",
        "the demo of generative-models has ρ = 3, and not 7",
    ),
    "exponential": Grid(
        clocks.exponential_times, "Exponential", "use_exponential_sigmas", "exponential"
    ),
    "polyexponential": Grid(clocks.polyexponential_times, "Polyexponential"),
    "lambda": Grid(clocks.lambda_times, "", "use_lu_lambdas"),
    "quadratic": Grid(clocks.quadratic_times),
    "beta": Grid(
        clocks.beta_times,
        "Beta",
        "use_beta_sigmas",
        "beta",
        note="A1111 and diffusers spread σ so, and not t; ComfyUI rounds t",
    ),
    "ays": Grid(clocks.ays_times, "Align Your Steps", "", "AlignYourStepsScheduler"),
}


def plain(name: str) -> str:
    """A name without what its spellings differ in: "k_DPM++ 2M" and "dpmpp_2m" are dpmpp2m."""
    name = re.sub(r"^(k|sample)[ _-]", "", name.strip().lower()).replace("++", "pp")
    return re.sub(r"[^a-z0-9]", "", name).removesuffix("gpu")


def spellings(menu: dict[str, NamedTuple]) -> dict[str, str]:
    """From every plain name of a table's rows to the row's own name."""
    named = {plain(own): own for own in menu}
    for own, row in menu.items():
        full = f"{row.diffusers}Scheduler" if row.diffusers and menu is SAMPLERS else ""
        for cell in (row.a1111, full, row.diffusers, row.comfyui, row.sgm):
            for name in cell.split(" / "):
                for spelt in (name, name.split("=")[-1].removeprefix("use_")):
                    named.setdefault(plain(spelt), own)
    named.pop("", None)
    return named


def find_sampler(name: str) -> tuple[str, str | None]:
    """The row of SAMPLERS that a name means, and the row of GRIDS that stands at its end, or None.

    "DPM++ 2M Karras" -> ("dpmpp_2m", "karras"). ValueError with the nearest names for others.
    """
    if plain(name) == "ddimuniform":  # ComfyUI's name of a grid
        return "ddim", "ldm"
    known, grids = spellings(SAMPLERS), spellings(GRIDS)
    ends = sorted(grids, key=len, reverse=True)
    for end in ("", *ends):
        if plain(name).endswith(end) and plain(name).removesuffix(end) in known:
            return known[plain(name).removesuffix(end)], grids.get(end)
    raise unknown("sampler", name, known)


def find_grid(name: str) -> str:
    """The row of GRIDS that a name means; ValueError with the nearest names for others."""
    known = spellings(GRIDS)
    if plain(name) not in known:
        raise unknown("grid", name, known)
    return known[plain(name)]


def unknown(what: str, name: str, known: dict[str, str]) -> ValueError:
    """A sentence with the names that are nearest, or with all of them."""
    near = difflib.get_close_matches(plain(name), known, 5, 0.5)
    near = list(dict.fromkeys(known[one] for one in near))[:3]
    near = f"the nearest are {listed(near)}" if near else f"there are {listed(known.values())}"
    return ValueError(f"there is no {what} {name!r:.60}: {near}")


def listed(names: Iterable[str]) -> str:
    """Each name once, with commas."""
    return ", ".join(dict.fromkeys(names))


def having(argument: str) -> str:
    """The samplers that take an argument, for a sentence."""
    return listed(name for name, row in SAMPLERS.items() if argument in row.takes())

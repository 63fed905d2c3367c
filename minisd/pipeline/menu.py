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
    sgm: str = ""  # generative-models
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


def _rows(table: str, notes: dict[str, str]) -> dict[str, dict[str, str]]:
    """A table's rows by the names here: what the other programs call them, and a note."""
    programs = ("a1111", "diffusers", "comfyui", "sgm")
    lines = [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]
    return {
        name: dict(zip(programs, names, strict=True)) | {"note": notes.get(name, "")}
        for name, *names in lines
    }


# here      | A1111 | diffusers, without its Scheduler | ComfyUI | generative-models
SAMPLERS_TABLE = """
ddim         | DDIM         | DDIM                   | ddim                |
plms         | PLMS         | PNDM                   |                     |
s_pndm       |              |                        |                     |
pndm         |              |                        |                     |
ddpm         |              | DDPM                   | ddpm                |
euler        | Euler        | EulerDiscrete          | euler               | EulerEDMSampler
euler_a      | Euler a      | EulerAncestralDiscrete | euler_ancestral     | EulerAncestralSampler
heun         | Heun         | HeunDiscrete           | heun                | HeunEDMSampler
dpm2         | DPM2         | KDPM2Discrete          | dpm_2               |
dpm2_a       | DPM2 a       | KDPM2AncestralDiscrete | dpm_2_ancestral     |
dpm3         |              |                        |                     |
lms          | LMS          | LMSDiscrete            | lms                 | LinearMultistepSampler
dpm_2m       |              |                        |                     |
deis         | DEIS         | DEISMultistep          | deis                |
dpmpp_2s     |              | DPMSolverSinglestep    |                     |
dpmpp_2s_a   | DPM++ 2S a   |                        | dpmpp_2s_ancestral  | DPMPP2SAncestralSampler
dpmpp_3s     |              |                        |                     |
dpmpp_sde    | DPM++ SDE    | DPMSolverSDE           | dpmpp_sde           |
dpmpp_2m     | DPM++ 2M     | DPMSolverMultistep     | dpmpp_2m            | DPMPP2MSampler
dpmpp_3m     |              |                        |                     |
dpmpp_2m_sde | DPM++ 2M SDE |                        | dpmpp_2m_sde        |
dpmpp_3m_sde | DPM++ 3M SDE |                        | dpmpp_3m_sde        |
unipc        | UniPC        | UniPCMultistep         | uni_pc / uni_pc_bh2 |
unipc_bh1    |              |                        |                     |
lcm          | LCM          | LCM                    | lcm                 |
restart      | Restart      |                        |                     |
"""
NOTES = {
    "plms": "diffusers: skip_prk_steps=True",
    "dpm2": "A1111 and ComfyUI leave out the last time but one",
    "dpm2_a": "A1111 and ComfyUI leave out the last time but one",
    "deis": "ComfyUI: a polynomial over t unless deis_mode says rhoab",
    "dpmpp_2s": "a step of diffusers is one call, half a step",
    "unipc": "A1111 and ComfyUI: order 3, and bh1 unless the name says bh2",
}
RUNS = {  # those that are not the function of that name, without arguments
    "euler_a": (samplers.ddim, {"eta": 1.0}),
    "dpm2": (samplers.dpm_solver_2, {}),
    "dpm2_a": (samplers.dpm_solver_2, {"eta": 1.0}),
    "dpm3": (samplers.dpm_solver_3, {}),
    "dpm_2m": (samplers.dpm_solver_multistep, {}),
    "dpmpp_2s_a": (samplers.dpmpp_2s, {"eta": 1.0}),
    "unipc_bh1": (samplers.unipc, {"b": "bh1"}),
}
SAMPLERS = {
    name: Sampler(*(RUNS[name] if name in RUNS else (getattr(samplers, name), {})), **row)
    for name, row in _rows(SAMPLERS_TABLE, NOTES).items()
}

# here      | A1111 | diffusers: timestep_spacing, or use_... | ComfyUI | generative-models
GRIDS_TABLE = """
ldm             | DDIM             |                    | ddim_uniform |
quad            |                  |                    |              |
leading         |                  | leading            |              |
trailing        | Simple           | trailing           | simple       |
linspace        | Normal           | linspace           | normal       |
sgm             | SGM Uniform      |                    | sgm_uniform  | LegacyDDPMDiscretization
turbo           |                  |                    |              | SubstepSampler
uniform         |                  |                    |              |
karras          | Karras           | karras_sigmas      | karras       | EDMDiscretization
exponential     | Exponential      | exponential_sigmas / lu_lambdas | exponential |
polyexponential | Polyexponential  |                    |              |
lambda          |                  |                    |              |
quadratic       |                  |                    |              |
beta            | Beta             | beta_sigmas        | beta         |
ays             | Align Your Steps |                    |              |
"""
GRID_NOTES = {
    "ldm": "it ends at t = 1; in A1111 and ComfyUI at 0",
    "trailing": "A1111 and ComfyUI round up where it rounds",
    "linspace": "A1111 and ComfyUI do not round it",
    "sgm": "A1111 and ComfyUI do not round it",
    "turbo": "ComfyUI has a node for it, SDTurboScheduler",
    "exponential": "diffusers rounds the times, and its two differ by that alone",
    "lambda": "DPM-Solver's own: it ends at t = 1",
    "uniform": "A1111's Uniform is its Normal",
    "karras": "the demo of generative-models has ρ = 3, and not 7",
    "ays": "ComfyUI has a node for it, AlignYourStepsScheduler",
    "beta": "A1111 and diffusers spread σ so, and not t; ComfyUI rounds t",
}
WHOLE = {  # of T, and not of ᾱ
    "ldm": schedules.ldm_uniform_times,
    "quad": schedules.ldm_quad_times,
    "leading": schedules.leading_times,
    "trailing": schedules.trailing_times,
    "linspace": schedules.linspace_times,
    "sgm": schedules.sgm_times,
    "turbo": schedules.turbo_times,
}


def _times(name: str) -> Callable:
    if name in WHOLE:
        return lambda ab, steps: WHOLE[name](len(ab) - 1, steps)
    return getattr(clocks, f"{name}_times")


GRIDS = {name: Grid(_times(name), **row) for name, row in _rows(GRIDS_TABLE, GRID_NOTES).items()}


def plain(name: str) -> str:
    """A name without what its spellings differ in: "k_DPM++ 2M" and "dpmpp_2m" are dpmpp2m."""
    name = re.sub(r"^(k|sample)[ _-]", "", name.strip().lower()).replace("++", "pp")
    return re.sub(r"[^a-z0-9]", "", name).removesuffix("gpu")


def spellings(menu: dict[str, NamedTuple]) -> dict[str, str]:
    """From every plain name of a table's rows to the row's own name."""
    named = {plain(own): own for own in menu}
    for own, row in menu.items():
        theirs = [f"{name}Scheduler / {name} / use_{name}" for name in row.diffusers.split(" / ")]
        for cell in (row.a1111, *(theirs if row.diffusers else ()), row.comfyui, row.sgm):
            for name in (*cell.split(" / "), cell):
                named.setdefault(plain(name), own)
                named.setdefault(plain(name.removesuffix("_sigmas")), own)
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
    verb = "is" if len(near) == 1 else "are"
    near = f"the nearest {verb} {listed(near)}" if near else f"there are {listed(known.values())}"
    return ValueError(f"there is no {what} {name!r:.60}: {near}")


def listed(names: Iterable[str]) -> str:
    """Each name once, with commas."""
    return ", ".join(dict.fromkeys(names))


def having(argument: str) -> str:
    """The samplers that take an argument, for a sentence."""
    return listed(name for name, row in SAMPLERS.items() if argument in row.takes())

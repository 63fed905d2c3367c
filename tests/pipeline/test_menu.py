"""The menu: names of other programs find what they mean, and docs/SAMPLERS.md prints it."""

from pathlib import Path

import diffusers
import pytest
import torch

from minisd import samplers
from minisd.noise import gaussian
from minisd.pipeline import menu
from minisd.pipeline.menu import GRIDS, SAMPLERS, find_grid, find_sampler
from minisd.pipeline.settings import Settings
from minisd.schedules import alpha_bar, scaled_linear_betas

PAGE = (Path(__file__).parents[2] / "docs" / "SAMPLERS.md").read_text()
AB = alpha_bar(scaled_linear_betas())

NAMES = {
    # A1111's menu, in its two spellings
    "Euler a": ("euler_a", None),
    "Euler": ("euler", None),
    "LMS": ("lms", None),
    "Heun": ("heun", None),
    "DPM2": ("dpm2", None),
    "DPM2 a": ("dpm2_a", None),
    "DPM++ 2S a": ("dpmpp_2s_a", None),
    "DPM++ 2M": ("dpmpp_2m", None),
    "DPM++ SDE": ("dpmpp_sde", None),
    "DPM++ 2M SDE": ("dpmpp_2m_sde", None),
    "DPM++ 3M SDE": ("dpmpp_3m_sde", None),
    "LMS Karras": ("lms", "karras"),
    "DPM2 a Karras": ("dpm2_a", "karras"),
    "DPM++ 2M Karras": ("dpmpp_2m", "karras"),
    "DPM++ 2M SDE Exponential": ("dpmpp_2m_sde", "exponential"),
    "DPM++ 3M SDE Polyexponential": ("dpmpp_3m_sde", "polyexponential"),
    "Euler SGM Uniform": ("euler", "sgm"),
    "Restart": ("restart", None),
    "DDIM": ("ddim", None),
    "PLMS": ("plms", None),
    "UniPC": ("unipc", None),
    "k_euler": ("euler", None),
    "k_dpmpp_2s_a": ("dpmpp_2s_a", None),
    # ComfyUI
    "euler_ancestral": ("euler_a", None),
    "dpm_2_ancestral": ("dpm2_a", None),
    "dpmpp_2m_sde": ("dpmpp_2m_sde", None),
    "dpmpp_3m_sde_gpu": ("dpmpp_3m_sde", None),
    "uni_pc_bh2": ("unipc", None),
    "ddim_uniform": ("ddim", "ldm"),
    # diffusers
    "DPMSolverMultistepScheduler": ("dpmpp_2m", None),
    "EulerAncestralDiscreteScheduler": ("euler_a", None),
    "PNDMScheduler": ("plms", None),
    "KDPM2Discrete": ("dpm2", None),
    # generative-models, k-diffusion, and ours
    "EulerEDMSampler": ("euler", None),
    "DPMPP2SAncestralSampler": ("dpmpp_2s_a", None),
    "sample_dpmpp_2m": ("dpmpp_2m", None),
    "pndm": ("pndm", None),
    " dpm++_2M-karras ": ("dpmpp_2m", "karras"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_finds_its_sampler_and_grid(name):
    assert find_sampler(name) == NAMES[name]
    settings = Settings(sampler=name.upper())
    assert (settings.sampler, settings.grid) == NAMES[name]


def test_grids_are_found():
    names = {"Karras": "karras", "SGM Uniform": "sgm", "sgm_uniform": "sgm", "Normal": "linspace"}
    names |= {"timestep_spacing": None, "trailing": "trailing", "use_karras_sigmas": "karras"}
    names |= {"karras_sigmas": "karras", "use_lu_lambdas": "exponential", "lambda": "lambda"}
    names |= {"use_beta_sigmas": "beta", "use_exponential_sigmas": "exponential"}
    names |= {"Align Your Steps": "ays", "EDMDiscretization": "karras", "Simple": "trailing"}
    for name, meant in names.items():
        if meant:
            assert find_grid(name) == meant == Settings(grid=name).grid
        else:
            with pytest.raises(ValueError, match="there is no grid"):
                find_grid(name)


@pytest.mark.parametrize("table", [SAMPLERS, GRIDS], ids=["samplers", "grids"])
def test_the_page_prints_the_table(table):
    """Every row, every name of it, and no other row."""
    printed = [line for line in PAGE.splitlines() if line.startswith("| `")]
    for name, row in table.items():
        cells = [row.a1111, row.diffusers, row.comfyui, row.sgm]
        if table is SAMPLERS and row.diffusers:
            cells[1] += "Scheduler"
        elif row.diffusers.endswith(("_sigmas", "_lambdas")):
            cells[1] = " / ".join(f"use_{one}" for one in row.diffusers.split(" / "))
        assert f"| `{name}` | {' | '.join(cells)} | {row.note} |".replace("  ", " ") in [
            line.replace("  ", " ") for line in printed
        ], name
    assert len(printed) == len(SAMPLERS) + len(GRIDS)


def test_diffusers_has_the_classes_that_are_named():
    for row in SAMPLERS.values():
        assert not row.diffusers or hasattr(diffusers, f"{row.diffusers}Scheduler")


def test_no_name_means_two_things():
    for table in (SAMPLERS, GRIDS):
        for own, row in table.items():
            for cell in (row.a1111, row.comfyui, row.sgm):
                for name in filter(None, cell.split(" / ")):
                    assert menu.spellings(table)[menu.plain(name)] == own
    assert {find_sampler(name) for name in SAMPLERS} == {(name, None) for name in SAMPLERS}


def half(x, t):
    """A model that is no exact answer for anything."""
    return 0.5 * x + 0.1 * torch.sin(torch.as_tensor(t / 100))


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_a_row_takes_is_what_its_sampler_takes(name):
    """Every argument is passed by its name and does something, or the row does not have it."""
    row, x = SAMPLERS[name], torch.ones(1, 1, 4, 4, dtype=torch.float64)
    noise = {"noise": gaussian(3)} if "noise" in row.takes() else {}
    grid = GRIDS["karras"].times(AB, 8)

    def end(**own):
        noise = {"noise": gaussian(3)} if "noise" in row.takes() else {}
        return samplers.last(row.run(half, x, grid, AB, **noise, **row.own | own)).x

    tried = {"eta": 0.5, "order": 1, "churn": 20.0, "published": None}
    for argument, value in tried.items():
        if argument in row.takes() and value is not None:
            assert (end(**{argument: value}) - end()).abs().max() > 1e-6, argument
    if "eta" not in row.takes():
        with pytest.raises((TypeError, ValueError)):
            end(eta=0.5)
    assert bool(noise) == ("eta" in row.takes() or "churn" in row.takes() or name in DRAWING)


DRAWING = ("ddpm", "lcm", "restart")  # always


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: find_sampler("eulr"), "there is no sampler 'eulr': the nearest are euler"),
        (lambda: find_sampler("DPM adaptive"), "there is no sampler 'DPM adaptive': the nearest"),
        (lambda: find_sampler("?"), "there is no sampler '\\?': there are ddim, plms"),
        (lambda: find_sampler("karras"), "there is no sampler 'karras'"),
        (lambda: find_grid("karas"), "there is no grid 'karas': the nearest are karras"),
        (lambda: GRIDS["turbo"].times(AB, 11), "the turbo grid has 1 to 10 steps, got steps=11"),
        (lambda: Settings(sampler="DPM++ 2M Karras", grid="sgm"), "names the grid karras, and"),
        (lambda: Settings(sampler="heun", eta=0.5), "heun takes no eta; those that do are ddim"),
        (lambda: Settings(sampler="plms", eta=0.5), "plms takes no eta; those that do are ddim"),
        (lambda: Settings(sampler="ddim", order=2), "ddim takes no order; those that do are lms"),
        (lambda: Settings(sampler="lms", churn=2.0), "lms takes no churn; those that do are euler"),
    ],
)
def test_a_mistake_is_one_sentence(call, says):
    with pytest.raises(ValueError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)

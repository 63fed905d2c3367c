"""Solvers in pipelines: each family's own, real times, the hand-over to a refiner, few steps.

Compared with diffusers' pipelines, or with the sampler's formula written out here.
"""

import dataclasses
import math

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler
from pipeline_pairs import SD_BETAS, ours
from test_pipeline import NEGATIVE, PROMPT, TINY, compare, tiny

from minisd import samplers
from minisd.checkpoints.families import FAMILIES
from minisd.clocks import karras_times
from minisd.pipeline.menu import GRIDS, SAMPLERS
from minisd.pipeline.settings import (
    USUAL,
    Settings,
    first_times,
    last_times,
    official_times,
    own_noise,
    schedule,
    times,
    usual_grid,
    usual_sampler,
)

HOW = {"scale": 5.0, "steps": 10, "seed": 3}
KARRAS = {"use_karras_sigmas": True, "steps_offset": 1}


# ---- what each family samples with --------------------------------------------------------


def test_each_family_samples_as_its_official_code():
    """Read in the scripts of CompVis, runwayml, Stability AI and generative-models."""
    official = dict.fromkeys(FAMILIES, ("ddim", "ldm"))
    official["sd1"] = ("plms", "ldm")  # the README's --plms
    official["sdxl"] = official["sdxl-refiner"] = ("euler", "sgm")
    for name, family in FAMILIES.items():
        config = family.parts["unet"].config
        assert (usual_sampler(config, name), usual_grid(config, name)) == official[name]
        zero = dataclasses.replace(config, zero_terminal_snr=True)
        assert (usual_sampler(zero, name), usual_grid(zero, name)) == ("ddim", "trailing")
    assert {*USUAL} - {"tiny"} <= {*FAMILIES}
    settled = ours("sdxl").settled(Settings())
    assert (settled.sampler, settled.grid, settled.scale) == ("euler", "sgm", 5.0)
    run = TINY.txt2img(PROMPT, steps=4)
    assert (
        run.times == [1000, 750, 500, 250, 0] and TINY.settled(Settings()).sampler == "dpmpp_2m_sde"
    )


def sgm_timesteps(steps):
    """generative-models' `generate_roughly_equally_spaced_steps`, largest first."""
    return np.linspace(999, 0, steps, endpoint=False).astype(int).tolist()


def euler():
    """With its sigmas at whole timesteps, and x_T at √(1+σ²), as generative-models has both."""
    return EulerDiscreteScheduler(**SD_BETAS, timestep_spacing="leading", steps_offset=1)


@pytest.mark.parametrize("steps", [5, 7])
def test_sdxl_is_diffusers_with_euler_on_its_own_grid(steps, theirs):
    """From a prompt to a picture, with no word about the solver. The grid of 7 is not trailing."""
    how = HOW | {"steps": steps}
    run = ours("sdxl").txt2img(PROMPT, (64, 32), **how, negative=NEGATIVE)
    given = {"scheduler": euler(), "timesteps": sgm_timesteps(steps), "height": 64, "width": 32}
    compare(run, theirs("sdxl")("txt2img", PROMPT, NEGATIVE, sampler="euler", **how, **given))
    assert run.times == [*(t + 1 for t in sgm_timesteps(steps)), 0]


def test_the_refiner_ends_what_the_base_begins(theirs):
    """SDXL's base for 8 of 10 steps, its refiner for 2, as one run and as two, and diffusers'."""
    base, refiner = ours("sdxl"), ours("sdxl-refiner")
    given = {"timesteps": sgm_timesteps(10), "sampler": "euler", **HOW}
    half, _ = theirs("sdxl")(
        *("txt2img", PROMPT, NEGATIVE),
        **(given | {"scheduler": euler(), "denoising_end": 0.8, "height": 64, "width": 64}),
    )
    whole = theirs("sdxl-refiner")(
        *("img2img", PROMPT, NEGATIVE),
        **(given | {"scheduler": euler(), "denoising_start": 0.8, "image": half}),
    )
    told = HOW | {"negative": NEGATIVE}
    run = base.txt2img(PROMPT, 64, refiner, **told)
    assert len(run) == 10 and [step.t for step in run] == run.times[1:]
    compare(run, whole)
    first = base.txt2img(PROMPT, 64, share=0.8, **told)
    assert first.times == run.times[:9]
    # diffusers' latents are x/√ᾱ
    ab = base.ab[first.times[-1]].sqrt()
    assert (first.latents() - ab * half).abs().max() <= 5e-5 * (ab * half).abs().max()
    compare(refiner.denoise(first.latents(), PROMPT, 1 - 0.8, **told), whole)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_sd2_with_dpmpp_2m_karras_is_diffusers(prediction, theirs):
    """diffusers rounds the times that it asks the network at, and has ᾱ in float32, whose errors
    move the real times by a thousandth; both are mended here."""

    class Unrounded(DPMSolverMultistepScheduler):
        def set_timesteps(self, *args, **kwargs):
            betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
            self.alphas_cumprod = (1 - betas).cumprod(0)
            super().set_timesteps(*args, **kwargs)
            logs = ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt().log().numpy()
            sigmas = self.sigmas[:-1].double().log().numpy()
            self.timesteps = torch.from_numpy(np.interp(sigmas, logs, np.arange(1000))).float()

    kind = {"eps": "epsilon", "v": "v_prediction"}[prediction]
    scheduler = Unrounded(**SD_BETAS, prediction_type=kind, **KARRAS)
    run = ours("sd2", prediction).txt2img(PROMPT, 64, sampler="DPM++ 2M Karras", **HOW)
    given = {"scheduler": scheduler, "sampler": "dpmpp_2m", "height": 64, "width": 64}
    compare(run, theirs("sd2", prediction)("txt2img", PROMPT, **HOW, **given))


# ---- real times ---------------------------------------------------------------------------


@pytest.mark.parametrize("index", [499.0, 0.25, 499.37, 998.9])
@torch.no_grad()
def test_the_network_at_a_real_time_is_diffusers(index, theirs):
    mine, other, draw = ours("sd1"), theirs("sd1"), torch.Generator().manual_seed(0)
    x, context = torch.randn(2, 4, 8, 8, generator=draw), torch.randn(2, 7, 32, generator=draw)
    out = mine.checkpoint.unet(x, torch.tensor([index] * 2), context)
    wanted = other.unet(x, torch.tensor(index), context)[0]
    assert (out - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    if index.is_integer():
        whole = mine.checkpoint.unet(x, torch.tensor([int(index)] * 2), context)
        assert (out - whole).abs().max() <= 1e-5 * whole.abs().max()
    else:  # and not what it says at the whole time below
        below = mine.checkpoint.unet(x, torch.tensor([int(index)] * 2), context)
        assert (out - below).abs().max() > 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_dtype_rounds_a_time(dtype):
    pipe, seen = tiny(dtype=dtype), []
    with pipe.part("unet") as unet:
        hook = unet.register_forward_pre_hook(lambda _, args: seen.append(args[1][0].item()))
        run = pipe.txt2img(PROMPT, sampler="dpmpp_2m", grid="karras", steps=7, scale=1)
        assert run.latents().isfinite().all()
        hook.remove()
    assert any(index % 1 for index in seen)
    assert np.abs(np.array(seen) + 1 - run.times[:-1]).max() <= 1e-4


@pytest.mark.parametrize("grid", GRIDS)
def test_each_grid_is_walked_whatever_the_model(grid):
    """By SDXL's, SD 1's and by one with zero terminal SNR: from T down, in 2 steps or more."""
    for pipe in (ours("sdxl"), ours("sd1"), TINY):
        for steps in (2, 8):
            if grid == "quad":
                first = 802
            else:
                first = 1000
            found = times(pipe.config, steps, pipe.family, grid)
            assert found == sorted(found, reverse=True) and found[-1] in (0, 1)
            assert found[0] >= (800 if grid in ("ldm", "leading", "quad") else first - 0.5)
    run = TINY.txt2img(PROMPT, sampler="heun", grid=grid, steps=4)
    assert run.latents().isfinite().all() and len(run) >= 4


# ---- few steps ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_one_step_begins_where_x_is_noise(family):
    """Official grids of 1 and 2 steps do not; from 3 steps on they are taken as they are."""
    config = FAMILIES[family].parts["unet"].config
    ab = schedule(config, family)
    for steps in range(1, 51):
        official, taken = (f(config, steps, family) for f in (official_times, times))
        if steps < 3:
            assert taken[0] == 1000 and len(taken) == steps + 1 and taken[-1] == official[-1]
        else:
            assert taken == official
        assert ab[taken[0]] < 0.1
    offset = dataclasses.replace(config, grid=("leading", 1, 1))  # as diffusers' folders
    assert official_times(offset, 1) == [2, 1] and times(offset, 1) == [1000, 1]


def ancestral_step(x, x0, sigma, down, up, noise):
    """k-diffusion's, in x/√ᾱ."""
    x = x + (x - x0) / sigma * (down - sigma)
    return x + noise * up if up else x


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_turbo_model_in_a_few_steps_without_guidance(steps):
    """The recipe of docs/SAMPLERS.md, and generative-models' `SubstepSampler` by hand: Euler a at
    the indices 0, 100, 200, 300 of 1000 steps and then 1000, from x_T √(1+σ²)."""
    pipe, seen = ours("sdxl"), []
    how = {"sampler": "Euler a", "grid": "turbo", "steps": steps, "scale": 1.0, "seed": 4}
    hook = pipe.checkpoint.unet.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        mine = pipe.txt2img(PROMPT, 64, **how).latents()
    finally:
        hook.remove()
    assert len(seen) == steps and all(len(x) == 1 for x in seen)
    ab = pipe.ab[1:].flip(0)
    sigmas = torch.cat([((1 - ab) / ab).sqrt(), torch.zeros(1)])
    sigmas = sigmas[[0, 100, 200, 300][:steps] + [1000]].tolist()
    noise, cond = own_noise(4, 1), pipe.encode(PROMPT, 64)
    x = noise(torch.empty(1, 4, 8, 8)).double() * math.sqrt(1 + sigmas[0] ** 2)
    for i, (sigma, s) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
        index = torch.tensor([999 - 100 * i])
        with torch.no_grad():
            eps = pipe.checkpoint.unet((x / math.sqrt(1 + sigma**2)).float(), index, *cond[:2])
        up = math.sqrt(s**2 * (sigma**2 - s**2) / sigma**2)
        z = noise(torch.empty(1, 4, 8, 8)) if s else None
        x = ancestral_step(x, x - sigma * eps, sigma, math.sqrt(s**2 - up**2), up, z)
    assert (mine - x).abs().max() <= 5e-5 * x.abs().max()


# ---- the solver's own options, and guidance by time ---------------------------------------


def test_options_reach_the_sampler():
    """As it is called by hand, with the noise that follows x_T."""
    pipe, grid = ours("sd1"), karras_times(ours("sd1").ab, 6)
    how = {"steps": 6, "grid": "karras", "scale": 1.0, "seed": 2}
    own = {"churn": 3.0, "s_min": 0.1, "s_max": 9.0, "s_noise": 1.01}
    cases = [("heun", own), ("lms", {"order": 3}), ("DPM++ 2M SDE", {"eta": 0.7})]
    for name, options in cases:
        run = pipe.txt2img(PROMPT, 64, sampler=name, **how, **options)
        plain = pipe.txt2img(PROMPT, 64, sampler=name, **how).latents()
        told, noise = pipe._told(PROMPT, (64, 64), how | {"sampler": name}), own_noise(2, 1)
        x = noise(torch.empty(1, 4, 8, 8))
        row = SAMPLERS[told.settings.sampler]
        if "noise" in row.takes():
            options = options | {"noise": noise}
        model = pipe.eps_model(pipe.checkpoint.unet.eval(), told)
        wanted = samplers.last(row.run(model, x, grid, pipe.ab, **options)).x
        assert (run.latents() - wanted).abs().max() <= 1e-4 < (plain - wanted).abs().max()


def test_guidance_acts_from_a_time_to_a_time():
    """Twice as wide a batch where it does; from T to 0 it is guidance as before."""
    how, seen = {"sampler": "ddim", "steps": 10, "scale": 3.0}, []
    hook = TINY.checkpoint.unet.register_forward_pre_hook(lambda _, args: seen.append(args))
    try:
        some = TINY.txt2img(PROMPT, guide_from=800, guide_until=300, **how).latents()
    finally:
        hook.remove()
    guided = {args[1][0].item() + 1 for args in seen if len(args[0]) == 2}
    assert guided == {800, 700, 600, 500, 400, 300} and len(seen) == 10
    every = TINY.txt2img(PROMPT, **how).latents()
    none = TINY.txt2img(PROMPT, **how | {"scale": 1.0}).latents()
    assert min((some - every).abs().max(), (some - none).abs().max()) > 0.01


# ---- the hand-over ------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["ddim", "euler_a", "heun"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8, 1.0])
def test_a_model_that_refines_its_own_picture_changes_nothing(sampler, share):
    """What follows is drawn after what was drawn: no noise comes twice."""
    how = {"sampler": sampler, "steps": 7, "scale": 2.0, "seed": 5, "n": 2}
    whole, run = TINY.txt2img(PROMPT, **how), TINY.txt2img(PROMPT, refiner=TINY, share=share, **how)
    assert run.times == whole.times and len(run) == 7
    assert (run.latents() - whole.latents()).abs().max() <= 1e-4


def test_a_share_and_the_rest_make_a_grid():
    for steps in range(1, 60):
        grid = [*range(steps, -1, -1)]
        for hundredth in range(1, 101):
            share = hundredth / 100
            rest = steps * (100 - hundredth) // 100
            if rest == steps:
                continue
            first = first_times(grid, share)
            assert len(first) - 1 == steps - rest
            if rest:
                assert first[:-1] + last_times(grid, 1 - share) == grid


# ---- mistakes -----------------------------------------------------------------------------

MISTAKES = [
    (lambda: Settings(sampler="eulr"), "there is no sampler 'eulr': the nearest are euler"),
    (lambda: Settings(grid="trail"), "there is no grid 'trail': the nearest are trailing"),
    (lambda: Settings(guide_from=100, guide_until=200), "guidance goes from a time down to a time"),
    (lambda: Settings(guide_until=-1), "guidance goes from a time down to a time of at least 0"),
    (lambda: TINY.txt2img(PROMPT, steps=1, grid="karras"), "needs at least 2 steps, got 1"),
    (lambda: TINY.txt2img(PROMPT, steps=11, grid="turbo"), "the turbo grid has 1 to 10 steps"),
    (lambda: TINY.txt2img(PROMPT, eta=0.5, sampler="heun"), "heun takes no eta; those that do"),
    (lambda: ours("sd1").txt2img(PROMPT, 64, eta=0.5), "plms takes no eta; those that do are ddim"),
    (lambda: TINY.txt2img(PROMPT, order=9, sampler="unipc").latents(), "order"),
    (lambda: TINY.txt2img(PROMPT, order=0, sampler="lms").latents(), "order"),
    (lambda: TINY.txt2img(PROMPT, churn=-1.0, sampler="heun").latents(), "churn"),
    (lambda: TINY.txt2img(PROMPT, share=0), "share must be above 0 and at most 1, got 0"),
    (lambda: TINY.txt2img(PROMPT, share=1.5), "share must be above 0 and at most 1, got 1.5"),
    (lambda: TINY.txt2img(PROMPT, share=math.nan), "share must be above 0 and at most 1, got nan"),
    (lambda: TINY.txt2img(PROMPT, steps=5, share=0.1).latents() is None, None),
    (lambda: TINY.txt2img(PROMPT, refiner=ours("sd1")), "sd1 cannot refine what tiny begins"),
    (lambda: ours("sdxl").txt2img(PROMPT, 64, ours("sd1")), "sd1 cannot refine what sdxl begins"),
]


@pytest.mark.parametrize(
    "call, says", [m for m in MISTAKES if m[1]], ids=lambda v: v[:40] if isinstance(v, str) else ""
)
def test_a_mistake_is_one_sentence(call, says):
    with pytest.raises(ValueError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)

"""Samplers step by step against diffusers' schedulers, and against what theory says of them.

The model is the ideal denoiser of a Gaussian mixture, in closed form and float64, so the only
difference two samplers can show is their own. diffusers counts its timesteps from 0: its t is ours
minus 1. Where its settings or its behaviour depart, the test says so.
"""

import inspect
import math
import typing
from collections.abc import Callable
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch

from minisd import equations as eq
from minisd import samplers
from minisd.guidance import cfg, from_v, from_x0
from minisd.noise import gaussian, keep, replay
from minisd.prediction import Prediction
from minisd.samplers import (
    Steps,
    ddim,
    ddim_invert,
    ddpm,
    fixed_large,
    fixed_small,
    last,
    plms,
    pndm,
    s_pndm,
)
from minisd.schedules import (
    all_times,
    alpha_bar,
    ldm_uniform_times,
    leading_times,
    linspace_times,
    scaled_linear_betas,
    trailing_times,
    zero_terminal_snr,
)
from minisd.toy import GaussianMixture, IdealDenoiser

AB = alpha_bar(scaled_linear_betas())
MEANS = torch.tensor([[2.0, 0.5, -1.0], [-1.0, 1.5, 0.0], [0.0, -2.0, 1.0]]).double()
MIXTURE = GaussianMixture(MEANS, std=[0.1, 0.5, 0.3], weights=[0.5, 0.3, 0.2])
IDEAL = IdealDenoiser(MIXTURE, AB)
COND, ANY = torch.tensor([0, 1, 2, 1]), torch.full((4,), -1)
SAMPLERS = [ddim, plms, s_pndm, pndm]


def draw(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X_T = draw(4, 3)


def guided(scale):
    return cfg(IDEAL, COND, ANY, scale)


def scheduler(cls, T=1000, **settings):
    made = cls(
        num_train_timesteps=T,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        **{"clip_sample": False} if cls is not diffusers.PNDMScheduler else {},
        **settings,
    )
    # diffusers keeps its table in float32; give it ours, so that 1e-10 can be asked of its steps.
    betas = scaled_linear_betas(T)
    made.betas, made.alphas, made.alphas_cumprod = betas, 1 - betas, alpha_bar(betas)[1:]
    first = made.alphas_cumprod[0]
    made.final_alpha_cumprod = first if settings.get("set_alpha_to_one") is False else 1 + 0 * first
    made.one = torch.tensor(1.0, dtype=torch.float64)
    return made


def sd_settings(steps, T=1000):
    """SD's: offset 1, ending at t = 1. With all T steps there is no room for the offset."""
    if steps == T:
        return {"steps_offset": 0, "set_alpha_to_one": True}, leading_times(T, T)
    return {"steps_offset": 1, "set_alpha_to_one": False}, ldm_uniform_times(T, steps)


def run_diffusers(made, steps, eps_model, **step_arguments):
    """diffusers' loop: set the steps, call the model at each timestep, step."""
    made.set_timesteps(steps)
    x, path = X_T, []
    for t in made.timesteps.tolist():
        out = made.step(eps_model(x, t + 1), t, x, return_dict=False, **step_arguments)
        x = out[0]
        path.append(x)
    return torch.stack(path)


def close(a, b, tolerance=1e-10):
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance


def xs(steps):
    return torch.stack([step.x for step in steps])


# ---- parity with diffusers ----------------------------------------------------------------

STEPS = [5, 10, 20, 50, 1000]


@pytest.mark.parametrize("scale", [1.0, 7.5])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_ddim_is_diffusers(steps, eta, scale):
    settings, times = sd_settings(steps)
    made = scheduler(diffusers.DDIMScheduler, **settings)
    noises = list(draw(steps, 4, 3, seed=1))
    recorded = iter(noises)
    made.set_timesteps(steps)
    x, path = X_T, []
    for t in made.timesteps.tolist():
        z = next(recorded) if eta else None
        out = made.step(guided(scale)(x, t + 1), t, x, eta=eta, variance_noise=z)
        x = out.prev_sample
        path.append((x, out.pred_original_sample))
    ours = list(ddim(guided(scale), X_T, times, AB, eta, replay(noises)))
    assert len(ours) == steps
    close(xs(ours), torch.stack([p[0] for p in path]))
    close(torch.stack([step.x0 for step in ours]), torch.stack([p[1] for p in path]))


@pytest.mark.parametrize("scale", [1.0, 7.5])
@pytest.mark.parametrize("steps", STEPS)
def test_plms_is_diffusers(steps, scale):
    settings, times = sd_settings(steps)
    made = scheduler(diffusers.PNDMScheduler, skip_prk_steps=True, **settings)
    theirs = run_diffusers(made, steps, guided(scale))
    # Its first step is two: improved Euler as one prediction, then the corrected one.
    close(xs(plms(guided(scale), X_T, times, AB)), theirs[1:])


@pytest.mark.parametrize("scale", [1.0, 7.5])
@pytest.mark.parametrize(
    ("steps", "T"), [(5, 1000), (10, 1000), (20, 1000), (50, 1000), (1000, 2000)]
)
def test_pndm_is_diffusers(steps, T, scale):
    """1000 steps of T = 2000: with T = 1000, neighbours have no time half way between them, and
    diffusers' first half step then has length 0."""
    settings, times = sd_settings(steps, T)
    ab = alpha_bar(scaled_linear_betas(T))
    model = cfg(IdealDenoiser(MIXTURE, ab), COND, ANY, scale)
    made = scheduler(diffusers.PNDMScheduler, T=T, skip_prk_steps=False, **settings)
    theirs = run_diffusers(made, steps, model)
    ends = [3, 7, 11, *range(12, len(theirs))]  # each Runge-Kutta step is four of its steps
    close(xs(pndm(model, X_T, times, ab)), theirs[ends])


@pytest.mark.parametrize("scale", [1.0, 7.5])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("variance", [fixed_small, fixed_large])
def test_ddpm_is_diffusers(steps, variance, scale, monkeypatch):
    noises = list(draw(steps, 4, 3, seed=2))
    recorded = iter(noises)
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: next(recorded)
    )
    name = "fixed_small" if variance is fixed_small else "fixed_large"
    made = scheduler(diffusers.DDPMScheduler, variance_type=name)
    theirs = run_diffusers(made, steps, guided(scale))
    times = leading_times(1000, steps)
    ours = xs(ddpm(guided(scale), X_T, times, AB, replay(noises), variance))
    close(ours, theirs)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_grids_are_diffusers(spacing):
    make = {"leading": leading_times, "trailing": trailing_times, "linspace": linspace_times}
    made = scheduler(diffusers.DDIMScheduler, timestep_spacing=spacing, set_alpha_to_one=True)
    equal = 0
    for steps in range(2 if spacing == "linspace" else 1, 1001):
        made.set_timesteps(steps)
        theirs = [t + 1 for t in made.timesteps.tolist()]
        ours = make[spacing](1000, steps)[:-1]
        equal += theirs == ours
        if len(theirs) != steps:  # np.arange took a step too many, to our t = 0
            assert spacing == "trailing" and theirs.pop() == 0
        for i, (a, b) in enumerate(zip(theirs, ours, strict=True)):
            if a != b:  # exactly a half, which floating point has moved off the half there
                twice = {"trailing": 2 * 1000 * (steps - i) / steps}.get(
                    spacing, 2 * 999 * (steps - 1 - i) / max(steps - 1, 1)
                )
                assert twice == int(twice) and twice % 2 == 1 and abs(a - b) == 1
    assert equal == {"leading": 1000, "trailing": 889, "linspace": 907}[spacing]
    if spacing == "linspace":  # one step: diffusers takes x_T to be at t = 1, we at T
        made.set_timesteps(1)
        assert made.timesteps.tolist() == [0] and linspace_times(1000, 1) == [1000, 0]


# ---- numbers of calls ---------------------------------------------------------------------


def counting(model):
    def counted(x, t):
        counted.times.append(t)
        return model(x, t)

    counted.times = []
    return counted


@pytest.mark.parametrize("steps", [4, 5, 20, 50])
@pytest.mark.parametrize(("sampler", "more"), [(ddim, 0), (plms, 1), (s_pndm, 1), (pndm, 9)])
def test_model_calls(sampler, more, steps):
    model = counting(IDEAL)
    made = list(sampler(model, X_T, ldm_uniform_times(1000, steps), AB))
    assert len(made) == steps and len(model.times) == steps + more


def test_times_the_model_is_asked_at():
    asked = {}
    for sampler in SAMPLERS:
        model = counting(IDEAL)
        last(sampler(model, X_T, [1000, 800, 600, 400, 200, 0], AB))
        asked[sampler] = model.times
    assert asked[ddim] == [1000, 800, 600, 400, 200]
    assert asked[plms] == asked[s_pndm] == [1000, 800, 800, 600, 400, 200]
    prk = [1000, 900, 900, 800, 800, 700, 700, 600, 600, 500, 500, 400]
    assert asked[pndm] == [*prk, 400, 200]
    model = counting(IDEAL)
    last(ddim_invert(model, X_T, [1000, 500, 1, 0], AB))
    assert model.times == [1, 1, 500]  # at t = 0 there is no noise to ask about


# ---- what each sampler is -----------------------------------------------------------------


def test_linear_multistep_by_hand():
    """PLMS and S-PNDM, written out with the DDIM step and the published table."""
    times = ldm_uniform_times(1000, 5)
    pairs = list(zip(times, times[1:], strict=False))
    for sampler, table in {
        plms: {1: [3, -1], 2: [23, -16, 5], 3: [55, -59, 37, -9]},
        s_pndm: {1: [3, -1], 2: [3, -1], 3: [3, -1]},
    }.items():
        x, old, expected = X_T, [], []
        for t, s in pairs:
            e = IDEAL(x, t)
            if not old:
                x_s = eq.ddim_step(x, e, AB[t], AB[s])
                mean = (e + IDEAL(x_s, s)) / 2
            else:
                weights = table[min(len(old), 3)]
                terms = [w * o for w, o in zip(weights, [e, *old], strict=False)]
                mean = sum(terms) / sum(weights)
            x = eq.ddim_step(x, mean, AB[t], AB[s])
            old = [e, *old][:3]
            expected.append((s, x, mean))
        for step, (s, x, mean) in zip(sampler(IDEAL, X_T, times, AB), expected, strict=True):
            assert step.t == s
            close(step.x, x)
            close(step.eps, mean)


def test_runge_kutta_by_hand():
    t, s, mid = 900, 701, 800  # (900 + 701) // 2
    e1 = IDEAL(X_T, t)
    e2 = IDEAL(eq.ddim_step(X_T, e1, AB[t], AB[mid]), mid)
    e3 = IDEAL(eq.ddim_step(X_T, e2, AB[t], AB[mid]), mid)
    e4 = IDEAL(eq.ddim_step(X_T, e3, AB[t], AB[s]), s)
    mean = (e1 + 2 * e2 + 2 * e3 + e4) / 6
    step = last(pndm(IDEAL, X_T, [t, s], AB))
    close(step.x, eq.ddim_step(X_T, mean, AB[t], AB[s]))
    close(step.x0, eq.pred_x0(X_T, mean, AB[t]))


def test_a_step_says_what_it_did():
    times = ldm_uniform_times(1000, 10)
    for sampler in SAMPLERS:
        x = X_T
        for t, step in zip(times, sampler(IDEAL, X_T, times, AB), strict=False):
            close(step.x0, eq.pred_x0(x, step.eps, AB[t]))
            close(step.x, eq.transfer(x, step.eps, AB[t], AB[step.t]))
            x = step.x
        assert step.t == times[-1]


def gaussian_case():
    """One Gaussian: the ODE's exact solution is known in closed form."""
    mean, std = torch.tensor([1.0, -0.5]).double(), 0.4
    model = IdealDenoiser(GaussianMixture(mean[None], std), AB)

    def exact(x, t, s):
        width = [(AB[r] * std**2 + 1 - AB[r]).sqrt() for r in (t, s)]
        return AB[s].sqrt() * mean + width[1] / width[0] * (x - AB[t].sqrt() * mean)

    return model, exact


@pytest.mark.parametrize(("sampler", "order"), [(ddim, 1), (s_pndm, 2), (plms, 2), (pndm, 2)])
def test_samplers_converge_to_the_exact_solution(sampler, order):
    """Halving the step divides the error by 2^order: PNDM Property 3.2 says 2, not 4."""
    model, exact = gaussian_case()
    x = draw(6, 2, seed=3)
    errors = [
        (last(sampler(model, x, list(range(920, 119, -step)), AB)).x - exact(x, 920, 120))
        .abs()
        .max()
        for step in (8, 4, 2)
    ]
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert abs(math.log2(coarse / fine) - order) < 0.1
    assert errors[-1] < 1e-3


def test_ddim_inversion_returns():
    """Up and down again: the round trip's error falls as steps grow, and first-order so."""
    x0, _ = MIXTURE.sample(50, torch.Generator().manual_seed(0))
    errors = []
    for steps in (50, 100, 200):
        times = trailing_times(1000, steps)
        x_T = last(ddim_invert(IDEAL, x0, times, AB))
        assert x_T.t == 1000
        errors.append((last(ddim(IDEAL, x_T.x, times, AB)).x - x0).abs().mean())
    assert errors[0] < 0.05 and errors[1] < 0.65 * errors[0] and errors[2] < 0.6 * errors[1]


def test_ddim_inversion_refined_is_exact():
    """Each asking again divides the round trip's error; ten of them leave nothing of it."""
    model, _ = gaussian_case()
    x, times = draw(6, 2, seed=4), trailing_times(1000, 25)
    errors = []
    for refine in (0, 1, 2, 30):
        counted = counting(model)
        top = last(ddim_invert(counted, x, times, AB, refine))
        assert len(counted.times) == 25 * (1 + refine)
        errors.append((last(ddim(model, top.x, times, AB)).x - x).abs().max())
    assert errors[1] < errors[0] / 2 and errors[2] < errors[1] / 2 and errors[3] < 1e-12
    t, s = 500, 480
    step = last(ddim_invert(model, x, [t, s], AB, refine=1))
    first = eq.transfer(x, model(x, s), AB[s], AB[t])
    close(step.eps, model(first, t))
    close(step.x, eq.transfer(x, step.eps, AB[s], AB[t]))
    close(step.x0, eq.pred_x0(x, step.eps, AB[s]))


def test_ddim_inversion_inverts_the_exact_solution():
    model, exact = gaussian_case()
    x = draw(6, 2, seed=4)
    times = list(range(920, 119, -5))
    close(last(ddim_invert(model, x, times, AB)).x, exact(x, 120, 920), 0.02)
    one = last(ddim_invert(model, x, [500, 480], AB))
    close(one.x, eq.transfer(x, model(x, 480), AB[480], AB[500]))
    assert one.t == 500


def test_ddpm_reaches_the_data():
    """10,000 points of all 1000 steps: component shares and means within 4 standard errors."""
    x = last(ddpm(IDEAL, draw(10_000, 3), trailing_times(1000, 100), AB, gaussian(1))).x
    nearest = torch.cdist(x, MEANS).argmin(1)
    shares = torch.bincount(nearest, minlength=3) / len(x)
    assert (shares - MIXTURE.weights).abs().max() < 0.03
    for k in range(3):
        assert (x[nearest == k].mean(0) - MEANS[k]).abs().max() < 0.06


def test_ddpm_draws_noise_everywhere_but_at_the_end():
    zs = list(draw(3, 4, 3, seed=9))
    for variance in (fixed_small, fixed_large):
        x, zs_left = X_T, iter(zs)
        for t, s in [(1000, 600), (600, 20), (20, 0)]:
            x = eq.reverse_mean(x, IDEAL(x, t), AB[t], AB[s])
            x = x + variance(AB[t], AB[s]).sqrt() * next(zs_left) if s else x
        close(last(ddpm(IDEAL, X_T, [1000, 600, 20, 0], AB, replay(zs[:2]), variance)).x, x)
    # A grid that ends at t = 1 ends at a noisy x_1, so its last step does draw.
    with pytest.raises(ValueError, match="no noise left"):
        last(ddpm(IDEAL, X_T, [500, 2, 1], AB, replay(zs[:1])))


def test_eta_1_on_adjacent_times_is_ddpm():
    zs = list(draw(1000, 4, 3, seed=5))
    a = ddim(IDEAL, X_T, all_times(1000), AB, 1.0, replay(zs))
    b = ddpm(IDEAL, X_T, all_times(1000), AB, replay(zs))
    close(xs(a), xs(b))


# ---- options ------------------------------------------------------------------------------


def test_project_reaches_every_prediction():
    """quantize_denoised: x moves by the projected x0 and by the unprojected ε (as officially)."""
    grid = lambda x0: (x0 * 2).round() / 2  # noqa: E731
    times = [1000, 700, 400, 1]
    for sampler in SAMPLERS:
        x = X_T
        for t, step in zip(times, sampler(IDEAL, X_T, times, AB, project=grid), strict=False):
            close(step.x0, grid(eq.pred_x0(x, step.eps, AB[t])))
            close(step.x, AB[step.t].sqrt() * step.x0 + (1 - AB[step.t]).sqrt() * step.eps)
            x = step.x
    x = X_T
    zs = list(draw(3, 4, 3))
    for t, z, step in zip(
        times, zs, ddpm(IDEAL, X_T, times, AB, replay(zs), project=grid), strict=False
    ):
        s = step.t
        mean = eq.posterior_mean(step.x0, x, AB[t], AB[s])
        close(step.x, mean + eq.posterior_variance(AB[t], AB[s]).sqrt() * z)
        x = step.x


def test_project_reaches_the_first_guess_of_plms():
    seen = []
    model = counting(lambda x, t: seen.append(x) or IDEAL(x, t))
    last(plms(model, X_T, [1000, 500], AB, project=torch.zeros_like))
    close(seen[1], (1 - AB[500]).sqrt() * IDEAL(X_T, 1000))


def test_constrain_is_applied_before_every_step_and_to_the_result():
    calls, zs = [], gaussian(0)

    def constrain(x, t):
        calls.append(t)
        return x

    for run in (
        lambda: ddpm(IDEAL, X_T, [1000, 500, 2, 1], AB, zs, constrain=constrain),
        *(lambda f=f: f(IDEAL, X_T, [1000, 500, 2, 1], AB, constrain=constrain) for f in SAMPLERS),
    ):
        calls.clear()
        last(run())
        assert calls == [1000, 500, 2, 0]


def test_keep_inpaints():
    """The kept part ends as x0 exactly; on the way it is q(x_t|x0); the rest is painted to fit."""
    x0 = MEANS[:1].expand(4, 3)
    mask = torch.tensor([1.0, 0.0, 0.0]).double()
    times = trailing_times(1000, 50)
    for sampler in SAMPLERS:
        step = last(sampler(IDEAL, X_T, times, AB, constrain=keep(mask, x0, AB, gaussian(0))))
        assert torch.equal(step.x[:, 0], x0[:, 0])
        assert (step.x - x0).abs().max() < 0.6  # only the first component has x = 2 there
    z = draw(4, 3, seed=8)
    kept = keep(mask, x0, AB, replay([z, z]))(X_T, 300)
    close(kept[:, 0], eq.q_sample(x0, z, AB[300])[:, 0])
    assert torch.equal(kept[:, 1:], X_T[:, 1:])


def test_gaussian_options():
    x = torch.zeros(64, 8, 8, 8)
    plain = gaussian(3)(x)
    assert torch.equal(plain, gaussian(torch.Generator().manual_seed(3))(x))
    assert torch.equal(plain.double(), gaussian(3)(x.double()))  # a seed means one thing
    assert torch.equal(plain * 0.5, gaussian(3, temperature=0.5)(x))
    assert torch.equal(x, gaussian(3, temperature=0)(x))
    repeated = gaussian(3, repeat=True)(x)
    assert (repeated == repeated[:1]).all() and repeated[0].std() > 0.9
    assert not torch.equal(repeated[0, 0], repeated[0, 1])  # repeated over the batch alone
    dropped = gaussian(3, dropout=0.25)(x)
    zero = dropped == 0
    assert abs(zero.double().mean() - 0.25) < 0.01
    close(dropped[~zero], plain[~zero] / 0.75, 1e-6)
    assert abs(dropped.var() - 1 / 0.75) < 0.03  # the variance grows: 0.75 · (1/0.75)²


def test_repeated_noise_is_dropped_sample_by_sample():
    """As the official code has it: repeat first, then torch's dropout over the whole batch."""
    x = torch.zeros(64, 8, 8, 8)
    both, repeated = gaussian(3, repeat=True, dropout=0.25)(x), gaussian(3, repeat=True)(x)
    zero = both == 0
    assert abs(zero.double().mean() - 0.25) < 0.01
    together = (zero[:-1] & zero[1:]).double().mean()  # neighbours in the batch: independent
    assert abs(together - 0.25**2) < 0.01
    close(both[~zero], repeated[~zero] / 0.75, 1e-6)


def test_x_T_is_not_changed_in_place():
    x = X_T.clone()
    for sampler in SAMPLERS:
        last(sampler(IDEAL, x, [1000, 500, 0], AB))
    last(ddpm(IDEAL, x, [1000, 500, 0], AB, gaussian(0)))
    assert torch.equal(x, X_T)


def test_float32_stays_float32_and_close():
    x = X_T.float()
    for sampler in SAMPLERS:
        step = last(sampler(IDEAL, x, ldm_uniform_times(1000, 20), AB))
        assert step.x.dtype == step.x0.dtype == torch.float32
        exact = last(sampler(IDEAL, x.double(), ldm_uniform_times(1000, 20), AB))
        close(step.x.double(), exact.x, 1e-3)


# ---- v, x0 and zero terminal SNR ----------------------------------------------------------


def v_of(ideal):
    def v_model(x, t):
        ab, eps = ideal.ab[t], ideal(x, t)
        x0 = eq.pred_x0(x, eps, ab) if ab > 0 else (MIXTURE.weights[:, None] * MEANS).sum(0)
        return eq.velocity(x0, eps, ab)

    return v_model


def test_v_and_x0_models_sample_the_same():
    times = ldm_uniform_times(1000, 20)
    x0_model = lambda x, t: eq.pred_x0(x, IDEAL(x, t), AB[t])  # noqa: E731
    for sampler in SAMPLERS:
        expected = xs(sampler(IDEAL, X_T, times, AB))
        close(xs(sampler(from_v(v_of(IDEAL), AB), X_T, times, AB)), expected, 1e-9)
        close(xs(sampler(from_x0(x0_model, AB), X_T, times, AB)), expected, 1e-9)


def test_zero_terminal_snr():
    """At ᾱ_T = 0 the first step of every sampler is √ᾱ_s x̂0 + √(1-ᾱ_s) x_T, by one call."""
    ab = alpha_bar(zero_terminal_snr(scaled_linear_betas()))
    v_model = from_v(v_of(IdealDenoiser(MIXTURE, ab)), ab)
    times = trailing_times(1000, 20)
    x0 = (MIXTURE.weights[:, None] * MEANS).sum(0)
    for sampler, more in [(ddim, 0), (plms, 1), (s_pndm, 1), (pndm, 9)]:
        model = counting(v_model)
        first, *rest = sampler(model, X_T, times, ab)
        assert first.t == 950 and len(rest) == 19 and len(model.times) == 20 + more
        close(first.x, ab[950].sqrt() * x0 + (1 - ab[950]).sqrt() * X_T)
        close(first.x0, x0.expand(4, 3))
        rest_alone = sampler(v_model, first.x, times[1:], ab)
        close(xs(rest), xs(rest_alone))
        assert [s.t for s in sampler(model, X_T, [1000, 0], ab)] == [0]
    zs = list(draw(19, 4, 3))
    close(
        xs(ddim(v_model, X_T, times, ab, 1.0, replay(zs))),
        xs(ddpm(v_model, X_T, times, ab, replay(zs))),
        1e-7,  # 1-ᾱ_s-σ² is 0 at first, but for rounding: 1e-16, whose root is 1e-8
    )
    for constrained in (plms, pndm):
        seen = []
        keep_time = lambda x, t: seen.append(t) or x  # noqa: E731, B023
        last(constrained(v_model, X_T, [1000, 500, 0], ab, constrain=keep_time))
        assert seen == [1000, 500, 0]
        seen.clear()
        last(constrained(v_model, X_T, [1000, 0], ab, constrain=keep_time))
        assert seen == [1000, 0]


def test_prediction_overrides_eps():
    both = lambda x, t: Prediction(IDEAL(x, t), torch.full_like(x, 7.0))  # noqa: E731
    assert (next(ddim(both, X_T, [1000, 500], AB)).x0 == 7).all()


# ---- mistakes -----------------------------------------------------------------------------

EVERY = [*SAMPLERS, lambda *a: ddpm(*a, noise=gaussian(0)), ddim_invert]
NAN = torch.full((4, 3), math.nan)


@pytest.mark.parametrize("sampler", EVERY)
@pytest.mark.parametrize(
    ("x", "times", "ab", "message"),
    [
        (X_T, [1, 500, 1000], AB, "each smaller than the one before"),
        (X_T, [1000, 500, 500], AB, "each smaller than the one before"),
        (X_T, [1000], AB, "at least two"),
        (X_T, [1001, 1], AB, "at most T=1000"),
        (X_T, [1000, -1], AB, "at least 0"),
        (X_T, [1000, 0.5], AB, "0 or from 1 to T=1000"),
        (NAN, [1000, 0], AB, "x must be finite"),
        (X_T / 0, [1000, 0], AB, "x must be finite"),
        (X_T.long(), [1000, 0], AB, "x must be floating-point"),
        (X_T, [999, 0], AB[1:], r"alpha_bar\[0\] = 1"),
        (X_T, [999, 0], AB.flip(0), r"alpha_bar\[0\] = 1"),
        (X_T, [999, 0], AB[:1], r"alpha_bar\[0\] = 1"),
        (X_T, [1, 0], AB[None], r"alpha_bar\[0\] = 1"),
        (X_T, [1, 0], torch.tensor([1.0, -0.1]), r"alpha_bar\[0\] = 1"),
        (X_T, [1, 0], torch.tensor([1.0, 0.5, -0.1]), r"alpha_bar\[0\] = 1"),
        (X_T, [1, 0], torch.tensor([1.0, 0.5, 0.5]), r"alpha_bar\[0\] = 1"),
        (X_T, [1, 0], torch.tensor([1.0, 0.5, 0.7]), r"alpha_bar\[0\] = 1"),
        (X_T, [1, 0], torch.tensor([1.0, math.nan]), r"alpha_bar\[0\] = 1"),
        (X_T.tolist(), [1, 0], AB, "x must be a torch.Tensor, got a list"),
        (X_T.numpy(), [1, 0], AB, "x must be a torch.Tensor, got a ndarray"),
        (X_T, [1, 0], AB.tolist(), "ab must be a torch.Tensor, got a list"),
        (X_T, [1, 0], AB.numpy(), "ab must be a torch.Tensor, got a ndarray"),
        (X_T, [1, 0], AB.half(), "ab must be float64, .* got torch.float16"),
        (X_T, [1, 0], AB.bfloat16(), "ab must be float64, .* got torch.bfloat16"),
        (X_T, [1, 0], torch.tensor([1, 0]), "ab must be float64, .* got torch.int64"),
    ],
)
def test_mistakes_get_a_sentence(sampler, x, times, ab, message):
    with pytest.raises(ValueError, match=message):
        next(sampler(IDEAL, x, times, ab))


def test_one_step_of_noise_is_enough():
    ab = torch.tensor([1.0, 0.5]).double()
    for sampler in EVERY:
        assert next(sampler(IdealDenoiser(MIXTURE, ab), X_T, [1, 0], ab)).x.isfinite().all()


@pytest.mark.parametrize(("t", "s"), [(1000, 500), (500, 499), (20, 1)])
def test_the_largest_eta_that_fits(t, s):
    """σ² = 1-ᾱ_s is all of x_s's noise: eq. 16 solved for η. Beyond it there is no direction."""
    largest = float(((1 - AB[t]) / (1 - AB[t] / AB[s])).sqrt())
    step = next(ddim(IDEAL, X_T, [t, s], AB, largest, replay([X_T])))
    close(step.x, AB[s].sqrt() * step.x0 + (1 - AB[s]).sqrt() * X_T, 1e-6)
    with pytest.raises(ValueError, match=f"exceed all the noise of x at t={s}"):
        next(ddim(IDEAL, X_T, [t, s], AB, largest * 1.0001, replay([X_T])))


def test_wrong_eta():
    for eta in (-0.1, math.nan, math.inf, None, "1", torch.tensor([0.0, 1.0])):
        for sampler in (ddim, plms, s_pndm, pndm):
            with pytest.raises(ValueError, match=r"eta must be a number in \[0, inf\), got"):
                next(sampler(IDEAL, X_T, [1000, 500, 0], AB, eta))
    with pytest.raises(ValueError, match="is too large for the step"):
        next(ddim(IDEAL, X_T, [1000, 500, 0], AB, 3.0, gaussian(0)))
    with pytest.raises(ValueError, match="pass noise="):
        next(ddim(IDEAL, X_T, [1000, 0], AB, 0.5))
    for sampler in (plms, s_pndm, pndm):
        with pytest.raises(ValueError, match="eta must be 0"):
            next(sampler(IDEAL, X_T, [1000, 0], AB, eta=0.5))


def test_wrong_shapes():
    with pytest.raises(ValueError, match=r"shape of x, \(4, 3\), got \(4, 2\)"):
        next(ddim(lambda x, t: x[:, :2], X_T, [1000, 0], AB))
    with pytest.raises(ValueError, match=r"x must be \(b, 3\) like the data, got \(4, 2\)"):
        next(ddim(IDEAL, X_T[:, :2], [1000, 0], AB))
    with pytest.raises(ValueError, match=r"replayed noise has shape \(3,\), x \(4, 3\)"):
        list(ddim(IDEAL, X_T, [1000, 500], AB, 1.0, replay([X_T[0]])))


# Every sampler of the module and every function that it takes, a new one too, found by its
# signature: all that they return must have the shape of x.

X = draw(3, 4, 2, 2)
WRONG = {
    "one channel": X[:, :1],
    "one sample": X[:1],
    "a sample too many": torch.cat([X, X[:1]]),
    "a dimension too many": X[None],
    "one number": X.sum(),
    "nothing": None,
    "a tuple": (X,),
    "an object": SimpleNamespace(sample=X),
    "an array": X.numpy(),
}
RIGHT = {
    "eps_model": lambda x, t: 0.1 * x,
    "noise": gaussian(0),
    "variance": fixed_small,
    "project": lambda x0: x0.clamp(-1, 1),
    "constrain": lambda x, t: x,
}


def functions_of(sampler):
    """The names of the parameters that are functions."""
    for name, parameter in inspect.signature(sampler).parameters.items():
        kinds = [parameter.annotation, *typing.get_args(parameter.annotation)]
        if Callable in kinds or any(typing.get_origin(kind) is Callable for kind in kinds):
            yield name


ALL_SAMPLERS = [
    f
    for name, f in vars(samplers).items()
    if getattr(f, "__annotations__", {}).get("return") is Steps and not name.startswith("_")
]
TAKEN = [(sampler, name) for sampler in ALL_SAMPLERS for name in functions_of(sampler)]


def sample(sampler, **functions):
    told = inspect.signature(sampler).parameters
    given = {name: RIGHT[name] for name in functions_of(sampler)} | functions
    drawing = {"eta": 1.0, "churn": 1.0} if "noise" in told else {}
    given |= {name: value for name, value in drawing.items() if name in told}
    return list(sampler(x=X, times=[1000, 500, 2, 1], ab=AB, **given))


def test_every_sampler_and_every_function_is_found():
    functions = {name for name in samplers.__all__ if inspect.isfunction(getattr(samplers, name))}
    assert {f.__name__ for f in ALL_SAMPLERS} == functions - {
        "last",
        *("fixed_small", "fixed_large"),
    }
    assert len(ALL_SAMPLERS) == 23
    drawing = sum("noise" in functions_of(sampler) for sampler in ALL_SAMPLERS)
    assert drawing == 11 and len(TAKEN) == 3 * 22 + 1 + drawing + 1  # invert has one, ddpm variance
    assert all(len(sample(sampler)) == 3 for sampler in ALL_SAMPLERS)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(("sampler", "name"), TAKEN)
def test_what_a_function_returns_must_have_the_shape_of_x(sampler, name, wrong):
    message = "variance must be a number" if name == "variance" else f"what {name} returns must be"
    with pytest.raises(ValueError, match=message):
        sample(sampler, **{name: lambda *_: WRONG[wrong]})


def test_what_came_and_what_is_expected_is_said():
    for wrong, said in {
        "one channel": r"\(3, 1, 2, 2\)",
        "nothing": r"None \(is a return missing\?\)",
        "a tuple": r"a tuple \(return the tensor in it\)",
        "an object": r"a SimpleNamespace \(return the tensor in it\)",
    }.items():
        expected = (
            r"what eps_model returns must be a tensor of the shape of x, \(3, 4, 2, 2\), got "
        )
        with pytest.raises(ValueError, match=expected + said):
            sample(ddim, eps_model=lambda x, t, wrong=wrong: WRONG[wrong])


PARTS = {"channel": (slice(None), slice(1)), "sample": (slice(1),)}
ADAPTED = {
    "v": lambda part: from_v(lambda x, t: x[part], AB),
    "x0": lambda part: from_x0(lambda x, t: x[part], AB),
    "Prediction's x0": lambda part: lambda x, t: Prediction(x, x[part]),
    "Prediction's eps": lambda part: lambda x, t: Prediction(x[part], x),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("adapted", ADAPTED)
@pytest.mark.parametrize("sampler", ALL_SAMPLERS)
def test_adapters_hide_no_wrong_shape(sampler, adapted, part):
    with pytest.raises(ValueError, match="must be a tensor of the shape of x"):
        sample(sampler, eps_model=ADAPTED[adapted](PARTS[part]))


@pytest.mark.parametrize("wrong", [-1, 1.5, None, True, "1"])
def test_wrong_refine(wrong):
    with pytest.raises(ValueError, match="refine must be a whole number of at least 0"):
        next(ddim_invert(IDEAL, X_T, [1000, 500], AB, wrong))


def test_no_last_step():
    steps = ddim(IDEAL, X_T, [1000, 500], AB)
    assert last(steps).t == 500
    for none_left in ([], steps):
        with pytest.raises(ValueError, match="there is no last step"):
            last(none_left)


def test_keep_takes_what_fits():
    """The mask broadcasts; x0, and the noise for it, have the shape of x."""
    mask = torch.ones(2, 2).double()
    for x0, noise in ((X[:1], gaussian(0)), (X[:, :1], gaussian(0)), (X, lambda x: x[:, :1])):
        with pytest.raises(ValueError, match="must be a tensor of the shape of x"):
            sample(ddim, constrain=keep(mask, x0, AB, noise))
    with pytest.raises(ValueError, match="what constrain returns must be"):
        sample(ddim, constrain=keep(mask[None, None, None], X, AB, gaussian(0)))
    assert torch.equal(sample(ddim, constrain=keep(mask, X, AB, gaussian(0)))[-1].x, X)
    for t in (-1, 1001):
        with pytest.raises(ValueError, match="t must be a whole number from 0 to 1000"):
            keep(mask, X, AB, gaussian(0))(X, t)


def test_eps_at_zero_snr_is_refused():
    ab = alpha_bar(zero_terminal_snr(scaled_linear_betas()))
    for sampler in SAMPLERS:
        with pytest.raises(ValueError, match="alpha_bar is 0 at t=1000"):
            next(sampler(IdealDenoiser(MIXTURE, ab), X_T, [1000, 0], ab))


@pytest.mark.parametrize(
    ("name", "bad"),
    [*(("temperature", t) for t in (-1, math.nan, math.inf, None, "1"))]
    + [*(("dropout", p) for p in (1.0, -0.1, math.nan, None))]
    + [*(("generator", g) for g in (None, "0", 0.0, -1, True))],
)
def test_wrong_noise(name, bad):
    with pytest.raises(ValueError, match=rf"{name}.* must be"):
        gaussian(**{"generator": 0, name: bad})


def test_noise_of_numpys_seed():
    assert torch.equal(gaussian(np.int64(3))(X), gaussian(3)(X))

"""The solvers of sigma and lambda against k-diffusion (recorded), diffusers (live) and theory.

The model is the ideal denoiser of a Gaussian mixture at a real noise level, in closed form and
float64, so the only difference two samplers can show is their own. k-diffusion's numbers are in
data/k_diffusion.json, which tools/record_k_diffusion.py wrote. diffusers' schedulers work in
float32: here they run in float64, and walk the sigmas that they are given. Both keep x/√ᾱ or x as
they like; all comparisons are of x, in minisd's scale.
"""

import functools
import importlib
import json
import math
import pathlib
from itertools import pairwise

import diffusers
import numpy as np
import pytest
import torch

from minisd import equations as eq
from minisd.clocks import (
    Clock,
    beta_times,
    exponential_times,
    karras_times,
    lambda_times,
    polyexponential_times,
    sigmas_of,
    times_of,
    uniform_times,
)
from minisd.noise import gaussian, replay
from minisd.prediction import Prediction
from minisd.samplers import (
    ddim,
    deis,
    dpm_solver_2,
    dpm_solver_3,
    dpm_solver_multistep,
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_2s,
    dpmpp_3m,
    dpmpp_3m_sde,
    dpmpp_3s,
    dpmpp_sde,
    euler,
    heun,
    last,
    lcm,
    lms,
    restart,
    unipc,
)
from minisd.schedules import (
    alpha_bar,
    scaled_linear_betas,
    trailing_times,
    zero_terminal_snr,
)
from minisd.toy import GaussianMixture, IdealDenoiser

AB = alpha_bar(scaled_linear_betas())
CLOCK = Clock(AB)
SIGMA = ((1 - AB) / AB).sqrt()  # at whole times
MEANS = torch.tensor([[2.0, 0.5, -1.0], [-1.0, 1.5, 0.0], [0.0, -2.0, 1.0]]).double()
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
MIXTURE = GaussianMixture(MEANS, std=[0.1, 0.5, 0.3], weights=WEIGHTS)
RECORD = json.loads((pathlib.Path(__file__).parent / "data" / "k_diffusion.json").read_text())
X_T, NOISE = (torch.tensor(RECORD[name], dtype=torch.float64) for name in ("x_T", "noise"))


def ideal(x, sigma, mixture=MIXTURE):
    """E[ε | x] of the mixture where the noise has this sigma, whatever a clock says."""
    ab = torch.tensor([1.0, 1 / (1 + float(sigma) ** 2)], dtype=torch.float64)
    return IdealDenoiser(mixture, ab)(x, 1)


def model(x, t):
    return ideal(x, CLOCK.sigma(t))


def xs(steps):
    return torch.stack([step.x for step in steps])


def close(a, b, tolerance=1e-10):
    assert a.shape == b.shape
    difference = (a - b).abs().max()
    assert difference <= tolerance, f"differ by {difference:.1e}"


def root_ab(sigmas):
    """√ᾱ of these sigmas, to multiply k-diffusion's x with."""
    return (1 / (1 + torch.as_tensor(sigmas, dtype=torch.float64) ** 2)).sqrt()


def walk(sampler, sigmas, eps_model=model, x=X_T, **own):
    """The x at every sigma but the first, by one of minisd's samplers."""
    return xs(sampler(eps_model, x, times_of(AB, sigmas), AB, **own))


GRIDS = {name: torch.tensor(s, dtype=torch.float64) for name, s in RECORD["sigmas"].items()}

# ---- parity with k-diffusion, recorded ------------------------------------------------------


def churned(sampler):
    """k-diffusion draws noise in every step, and uses it where the step is churned."""

    def run(sigmas, s_churn=0.0, s_tmin=0.0, s_tmax=math.inf, s_noise=1.0):
        used = [z for z, s in zip(NOISE, sigmas, strict=False) if s_tmin <= s <= s_tmax]
        own = {"s_min": s_tmin, "s_max": s_tmax, "s_noise": s_noise, "noise": replay(used)}
        return walk(sampler, sigmas, churn=s_churn, **(own if s_churn else {}))

    return run


def noisy(sampler, **fixed):
    """eta = 0 draws nothing, so it is given nothing to draw from."""

    def run(sigmas, eta, solver_type=None):
        own = fixed | ({"published": solver_type == "midpoint"} if solver_type else {})
        return walk(sampler, sigmas, eta=eta, **own, **({"noise": replay(NOISE)} if eta else {}))

    return run


def along_a_path(sigmas, eta):
    """k-diffusion was given a noise to the middle, and one to the end, drawn apart. As one Brownian
    path in σ has them, the second holds √share of the first: what is left of it is ours to draw."""
    own = []
    for i, (start, end) in enumerate(pairwise(sigmas)):
        if end > 0:
            share = (start - (start * end).sqrt()) / (start - end)
            to_middle, to_end = NOISE[2 * i], NOISE[2 * i + 1]
            own += [to_middle, (to_end - share.sqrt() * to_middle) / (1 - share).sqrt()]
    return walk(dpmpp_sde, sigmas, eta=eta, **({"noise": replay(own)} if eta else {}))


OURS = {
    "euler": churned(euler),
    "heun": churned(heun),
    "euler_ancestral": noisy(ddim),
    "dpm_2": functools.partial(walk, dpm_solver_2),
    "dpm_2_ancestral": noisy(dpm_solver_2),
    "lms": functools.partial(walk, lms),
    "dpmpp_2s_ancestral": noisy(dpmpp_2s),
    "dpmpp_sde": along_a_path,
    "dpmpp_2m": functools.partial(walk, dpmpp_2m),
    "dpmpp_2m_sde": noisy(dpmpp_2m_sde),
    "dpmpp_3m_sde": noisy(dpmpp_3m_sde),
}
RUNS = [(grid, name) for grid in GRIDS for name in OURS]


@pytest.mark.parametrize(("grid", "name"), RUNS)
def test_samplers_are_k_diffusions(grid, name):
    sigmas = GRIDS[grid]
    runs = [run for run in RECORD["runs"] if (run["grid"], run["name"]) == (grid, name)]
    assert runs
    for run in runs:
        ours = OURS[name](sigmas, **run["settings"])
        for at, x in ((run["at"], run["seen"]), (len(sigmas) - 1, run["x"])):
            close(ours[at - 1], torch.tensor(x, dtype=torch.float64) * root_ab(sigmas[at]))


def test_what_was_recorded():
    """Every sampler on every grid, with every η; and churn that was cut off at √2 - 1 too."""
    assert "0.1.1.post1" in RECORD["source"]
    assert {(run["grid"], run["name"]) for run in RECORD["runs"]} == set(RUNS)
    many = {name: sum(run["name"] == name for run in RECORD["runs"]) for name in OURS}
    assert [many[name] // 3 for name in OURS] == [3, 3, 3, 1, 3, 4, 3, 3, 1, 6, 3]
    assert max(400 / (len(sigmas) - 1) for sigmas in GRIDS.values()) > math.sqrt(2) - 1


def test_grids_are_k_diffusions():
    ours = {
        "karras": karras_times,
        "karras, rho 3": functools.partial(karras_times, rho=3.0),
        "exponential": exponential_times,
        "polyexponential, rho 2": functools.partial(polyexponential_times, rho=2.0),
    }
    assert ours.keys() == RECORD["grids"].keys()
    for name, grids in RECORD["grids"].items():
        for grid in grids:
            theirs = torch.tensor(grid, dtype=torch.float64)
            times = ours[name](AB, len(grid) - 1)
            close(sigmas_of(AB, times), theirs)
            assert times[0] == 1000 and times[-1] == 0 and isinstance(times, list)
    for make in (karras_times, exponential_times, polyexponential_times):
        whole = make(AB, 9, end=1)  # the same sigmas as 10 steps of which the last goes to 0
        close(sigmas_of(AB, whole), sigmas_of(AB, make(AB, 10))[:-1])
        assert whole[-1] == 1 and len(whole) == 10
    close(sigmas_of(AB, lambda_times(AB, 9)), sigmas_of(AB, exponential_times(AB, 10))[:-1])


def test_beta_grid_is_scipys():
    for found in RECORD["beta quantiles"]:
        for steps in (20, 40):
            times = beta_times(AB, steps, found["a"], found["b"])
            i = round((1 - found["p"]) * steps)
            assert abs(times[i] - (1 + 999 * found["q"] if i < steps else 0)) < 1e-8


def test_scalings_are_k_diffusions():
    """EDM eq. 7's c_skip, c_out and c_in, of which ε's c_skip is 1, and not written there."""
    sigma, *theirs = (
        torch.tensor(RECORD["scalings"][name], dtype=torch.float64)
        for name in ("sigma", "edm", "eps", "v")
    )
    theirs[1] = torch.cat([torch.ones(1, len(sigma)), theirs[1]])
    for scaling, expected in zip(
        (eq.edm_scaling, eq.eps_scaling, eq.v_scaling), theirs, strict=True
    ):
        close(torch.stack(scaling(sigma)[:3]), expected, 1e-12)


def test_the_clock_is_k_diffusions():
    """log σ is interpolated linearly between whole times; its index counts from 0."""
    there, back = RECORD["t_to_sigma"], RECORD["sigma_to_t"]
    for index, sigma in zip(there["index"], there["sigma"], strict=True):
        assert abs(CLOCK.sigma(index + 1) / sigma - 1) < 1e-12
    for index, nearest, sigma in zip(back["index"], back["nearest"], back["sigma"], strict=True):
        assert abs(CLOCK.time(sigma) - (index + 1)) < 1e-10
        whole = min(range(1, 1001), key=lambda t: abs(math.log(SIGMA[t]) - math.log(sigma)))
        assert whole == nearest + 1


# ---- parity with diffusers, live and in float64 ----------------------------------------------

MODULES = """euler_discrete euler_ancestral_discrete heun_discrete k_dpm_2_discrete lcm
deis_multistep unipc_multistep dpmsolver_multistep dpmsolver_singlestep"""


class InDouble:
    """torch or numpy, whose float32 is float64."""

    def __init__(self, library):
        self.library, self.float32 = library, library.float64

    def __getattr__(self, name):
        return getattr(self.library, name)


@pytest.fixture
def double(monkeypatch):
    """diffusers' schedulers say float32 in their tables, their sigmas and their steps."""
    for name in MODULES.split():
        module = importlib.import_module(f"diffusers.schedulers.scheduling_{name}")
        for library in (torch, np):
            short = "np" if library is np else "torch"
            if hasattr(module, short):
                monkeypatch.setattr(module, short, InDouble(library))


def scheduler(name, **settings):
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    made = getattr(diffusers, f"{name}Scheduler")(**betas, **settings)
    assert (made.alphas_cumprod - AB[1:]).abs().max() < 1e-14
    return made


def walk_theirs(made, sigmas, noise=None, before=lambda made, i: None):
    """diffusers' loop over sigmas that it is told: x in minisd's scale at every one but the first.

    Euler, Heun and KDPM2 keep x/√ᾱ. Heun's list names each sigma twice, and KDPM2's too, with those
    between beside it; both want a grid that ends at 0.
    """
    scaled, steps = "Discrete" in type(made).__name__, len(sigmas) - 1
    made.set_timesteps(steps)
    seen = list(sigmas[:-1])  # the sigma of the x that step is given
    if type(made).__name__.startswith(("Heun", "KDPM2")):
        twice = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
        middle = (sigmas[:-1] * sigmas[1:]).sqrt()
        seen = twice[:-1].tolist()
        if type(made).__name__.startswith("KDPM2"):
            between = torch.cat([sigmas[:1], middle.repeat_interleave(2)])
            made.sigmas_interpol, seen[1::2] = between, middle[:-1].tolist()
        made.sigmas = twice
    else:
        made.sigmas = sigmas
    made.timesteps = torch.arange(len(seen)).double()
    made.set_begin_index(0)
    x, path = X_T, []
    for i, sigma in enumerate(seen):
        before(made, i)
        eps = ideal(x, sigma)
        extra = {} if noise is None else {"variance_noise": noise[i]}
        root = root_ab(sigma) if scaled else 1.0
        if scaled:
            made.is_scale_input_called = True
        x = made.step(eps, made.timesteps[i], x / root, return_dict=False, **extra)[0]
        x = x * root_ab(seen[i + 1] if i + 1 < len(seen) else sigmas[-1]) if scaled else x
        path.append(x)
    return torch.stack(path)


KARRAS, ODD = GRIDS["karras"], GRIDS["odd"]
LAMBDA = torch.logspace(math.log10(14.0), math.log10(0.03), 17, dtype=torch.float64)
TO_ZERO, TO_NOISE = [KARRAS, ODD, GRIDS["ldm"][::5]], [KARRAS[:-1], ODD[:-1], LAMBDA]
TO_ZERO[2] = torch.cat([TO_ZERO[2], torch.zeros(1).double()])


@pytest.mark.parametrize("sigmas", TO_ZERO)
def test_euler_heun_and_dpm_2_are_diffusers(sigmas, double):
    theirs = walk_theirs(scheduler("EulerDiscrete"), sigmas)
    close(walk(euler, sigmas), theirs)
    close(walk(ddim, sigmas), theirs)
    for name, sampler in (("HeunDiscrete", heun), ("KDPM2Discrete", dpm_solver_2)):
        close(
            walk(sampler, sigmas),
            walk_theirs(scheduler(name), sigmas)[[*range(1, 2 * len(sigmas) - 4, 2), -1]],
        )


@pytest.mark.parametrize("sigmas", TO_ZERO)
def test_ancestral_euler_is_diffusers(sigmas, double, monkeypatch):
    z = iter(NOISE)
    module = "diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor"
    monkeypatch.setattr(module, lambda *_, **__: next(z))
    theirs = walk_theirs(scheduler("EulerAncestralDiscrete"), sigmas)
    close(walk(ddim, sigmas, eta=1.0, noise=replay(NOISE)), theirs)


def test_churned_euler_of_diffusers_asks_before_the_churn(double, monkeypatch):
    """There the model has been asked at σ, where x has no fresh noise yet, and x goes from σ̂ on:
    by hand, its first churned step and ours, which is EDM's Algorithm 2."""
    z = iter(NOISE)
    module = "diffusers.schedulers.scheduling_euler_discrete.randn_tensor"
    monkeypatch.setattr(module, lambda *_, **__: next(z))
    made = scheduler("EulerDiscrete")
    made.step = functools.partial(made.step, s_churn=2.0, s_tmax=10.0)
    theirs = walk_theirs(made, ODD)
    ours = walk(euler, ODD, churn=2.0, s_max=10.0, noise=replay(NOISE))
    before, sigma, end = theirs[0], ODD[1], ODD[2]
    raised = sigma * (1 + 2 / 7)
    x = before / root_ab(sigma) + NOISE[0] * (raised**2 - sigma**2).sqrt()
    close(theirs[1], (x + (end - raised) * ideal(before, sigma)) * root_ab(end))
    close(ours[1], (x + (end - raised) * ideal(x * root_ab(raised), raised)) * root_ab(end))
    assert (ours[1] - theirs[1]).abs().max() > 0.01


MULTISTEP = {  # diffusers' (algorithm, order, solver_type): ours
    ("dpmsolver", 1, "midpoint"): (ddim, {}),
    ("dpmsolver", 2, "midpoint"): (dpm_solver_multistep, {"order": 2, "published": True}),
    ("dpmsolver", 2, "heun"): (dpm_solver_multistep, {"order": 2}),
    ("dpmsolver", 3, "heun"): (dpm_solver_multistep, {"order": 3, "published": True}),
    ("dpmsolver++", 1, "midpoint"): (ddim, {}),
    ("dpmsolver++", 2, "midpoint"): (dpmpp_2m, {}),
    ("dpmsolver++", 2, "heun"): (dpmpp_2m, {"published": False}),
    ("dpmsolver++", 3, "heun"): (dpmpp_3m, {}),
    ("sde-dpmsolver++", 1, "midpoint"): (ddim, {"eta": 1.0}),
    ("sde-dpmsolver++", 2, "midpoint"): (dpmpp_2m_sde, {"eta": 1.0}),
    ("sde-dpmsolver++", 2, "heun"): (dpmpp_2m_sde, {"eta": 1.0, "published": False}),
}


def multistep(algorithm, order, solver_type, sigmas):
    end = "zero" if sigmas[-1] == 0 else "sigma_min"
    return scheduler(
        "DPMSolverMultistep",
        algorithm_type=algorithm,
        solver_order=order,
        solver_type=solver_type,
        final_sigmas_type=end,
        lower_order_final=False,
    )


@pytest.mark.filterwarnings("ignore:.*deprecated.*:FutureWarning")
@pytest.mark.parametrize("key", MULTISTEP, ids=str)
def test_multistep_dpm_solvers_are_diffusers(key, double):
    """DPM-Solver of ε ends at a sigma above 0 there; x0's ends in Euler's step into 0. In order 3,
    "heun" and "midpoint" differ in the one step of order 2: ours is exact, as k-diffusion's is."""
    sampler, own = MULTISTEP[key]
    for sigmas in TO_NOISE + (TO_ZERO if "++" in key[0] else []):
        noise = NOISE if "sde" in key[0] else None
        theirs = walk_theirs(multistep(*key, sigmas), sigmas, noise)
        close(
            walk(sampler, sigmas, **own, **({"noise": replay(NOISE)} if "sde" in key[0] else {})),
            theirs,
        )


def test_the_third_order_sde_of_diffusers_has_a_wrong_sign(double):
    """Its coefficient of D2 is (1 - e^-2h - 2h)/(2h)² - 1/2; with + 1/2, as k-diffusion has it, it
    vanishes as h does. The first step of order 3 differs by α D2, and diffusers' order is lost."""
    sigmas = ODD[:-1]
    theirs = walk_theirs(multistep("sde-dpmsolver++", 3, "heun", sigmas), sigmas, NOISE)
    ours = walk(dpmpp_3m_sde, sigmas, eta=1.0, noise=replay(NOISE))
    close(theirs[:2], ours[:2])
    at = [X_T, *ours]
    m2, m1, m0 = (
        eq.pred_x0(at[i], ideal(at[i], s), root_ab(s) ** 2) for i, s in enumerate(sigmas[:3])
    )
    h1, h0, h = (sigmas[:3] / sigmas[1:4]).log()
    D2 = ((m0 - m1) / (h0 / h) - (m1 - m2) / (h1 / h)) / ((h0 + h1) / h)
    close(ours[2] - theirs[2], root_ab(sigmas[3]) * D2)
    assert (ours[2] - theirs[2]).abs().max() > 0.1


def refined(sigmas, k):
    """k steps for one, evenly in log sigma: where a single-step solver of order k asks."""
    parts = [a * (b / a) ** (j / k) for a, b in pairwise(sigmas) for j in range(k)]
    return torch.stack([*parts, sigmas[-1]])


SINGLESTEP = {
    ("dpmsolver", 1): ddim,
    ("dpmsolver", 2): dpm_solver_2,
    ("dpmsolver", 3): dpm_solver_3,
    ("dpmsolver++", 1): ddim,
    ("dpmsolver++", 2): dpmpp_2s,
    ("dpmsolver++", 3): dpmpp_3s,
}


@pytest.mark.filterwarnings("ignore:.*deprecated.*:FutureWarning")
@pytest.mark.parametrize("key", SINGLESTEP, ids=str)
def test_singlestep_dpm_solvers_are_diffusers(key, double):
    """diffusers groups `order` of its steps. In order 3 one setting serves both of its formulas;
    the paper's Algorithm 2 has "heun" for the second point and "midpoint" for the whole step."""
    algorithm, order = key

    def walked(sigmas, before=lambda made, i: None):
        made = scheduler(
            "DPMSolverSinglestep",
            algorithm_type=algorithm,
            solver_order=order,
            final_sigmas_type="sigma_min",
            lower_order_final=False,
        )
        return walk_theirs(made, refined(sigmas, order), before=before)[order - 1 :: order]

    def as_in_the_paper(made, i):
        made.register_to_config(solver_type="heun" if order == 3 and i % 3 == 1 else "midpoint")

    for sigmas in TO_NOISE:
        ours = walk(SINGLESTEP[key], sigmas)
        close(ours, walked(sigmas, as_in_the_paper))
        difference = (ours - walked(sigmas)).abs().max()
        assert difference > 1e-6 if order == 3 else difference < 1e-10


@pytest.mark.parametrize("b", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_is_diffusers(order, b, double):
    """Both hand out the predicted x, and correct it once ε is known there. The order falls towards
    the end. Into σ = 0, bh1 of diffusers is ∞ · 0, which is NaN at its default settings."""
    for sigmas in TO_ZERO + [grid[: k + 1] for grid in TO_NOISE for k in (1, 2, 4, len(grid) - 1)]:
        end = "zero" if sigmas[-1] == 0 else "sigma_min"
        made = scheduler("UniPCMultistep", solver_order=order, solver_type=b, final_sigmas_type=end)
        theirs, ours = walk_theirs(made, sigmas), walk(unipc, sigmas, order=order, b=b)
        if len(ours) > 1:
            close(ours[:-1], theirs[:-1])
        if b == "bh1" and sigmas[-1] == 0:
            assert theirs[-1].isnan().all() and ours[-1].isfinite().all()
        else:
            close(ours[-1], theirs[-1])


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis_is_diffusers(order, double):
    for sigmas in TO_NOISE:
        made = scheduler("DEISMultistep", solver_order=order, lower_order_final=False)
        close(walk(deis, sigmas, order=order), walk_theirs(made, sigmas))


def test_lcm_is_diffusers(double, monkeypatch):
    """diffusers mixes some of x_t into its x0, by c_skip and c_out of (timestep · scaling): at
    the default scaling of 10 that is 1e-8 and less; scaled by 1e9 it is nothing."""
    paths = {}
    for scaling in (10.0, 1e9):
        z = iter(NOISE)
        module = "diffusers.schedulers.scheduling_lcm.randn_tensor"
        monkeypatch.setattr(module, lambda *_, z=z, **__: next(z))
        made = scheduler("LCM", timestep_scaling=scaling)
        made.set_timesteps(4, original_inference_steps=50)
        x, path = X_T, []
        for t in made.timesteps.tolist():
            x = made.step(ideal(x, SIGMA[t + 1]), t, x, return_dict=False)[0]
            path.append(x)
        paths[scaling] = torch.stack(path)
    times = [t + 1 for t in made.timesteps.tolist()] + [0]
    assert times == [1000, 760, 500, 260, 0]
    ours = xs(lcm(model, X_T, times, AB, noise=replay(NOISE)))
    close(ours, paths[1e9])
    assert 1e-10 < (ours - paths[10.0]).abs().max() < 1e-6


def test_grids_are_diffusers(double):
    for steps in (2, 5, 10, 31):
        for setting, make in {
            "use_karras_sigmas": karras_times,
            "use_exponential_sigmas": exponential_times,
            "use_lu_lambdas": exponential_times,
        }.items():
            made = scheduler("DPMSolverMultistep", **{setting: True})
            made.set_timesteps(steps)
            close(sigmas_of(AB, make(AB, steps)), made.sigmas)
        made = scheduler("EulerDiscrete")
        made.set_timesteps(steps + 1)  # of which the last goes to 0, where DPM-Solver has none
        close(torch.tensor(uniform_times(AB, steps), dtype=torch.float64), made.timesteps + 1)


# ---- identities ------------------------------------------------------------------------------

REAL_TIMES = [1000, 871.3, 640.25, 333.3, 120.75, 20.5, 0]
MULTI = {
    "lms": (lms, {}),
    "deis": (deis, {}),
    "2M of eps": (dpm_solver_multistep, {}),
    "2M of eps, published": (dpm_solver_multistep, {"published": True}),
    "3M of eps": (dpm_solver_multistep, {"order": 3}),
    "3M of eps, published": (dpm_solver_multistep, {"order": 3, "published": True}),
    "2M": (dpmpp_2m, {}),
    "2M exact": (dpmpp_2m, {"published": False}),
    "3M": (dpmpp_3m, {}),
    "3M exact": (dpmpp_3m, {"published": False}),
    "UniPC": (unipc, {}),
    "UniPC 3 bh1": (unipc, {"order": 3, "b": "bh1"}),
}
SINGLE = {
    "euler": (euler, {}),
    "heun": (heun, {}),
    "DPM2": (dpm_solver_2, {}),
    "DPM3": (dpm_solver_3, {}),
    "2S": (dpmpp_2s, {}),
    "3S": (dpmpp_3s, {}),
}
DETERMINISTIC = MULTI | SINGLE
STOCHASTIC = {
    "euler churned": (euler, {"churn": 1.0, "s_max": 8.0}),
    "heun churned": (heun, {"churn": 1.0, "s_max": 8.0}),
    "DPM2 a": (dpm_solver_2, {"eta": 1.0}),
    "2S a": (dpmpp_2s, {"eta": 1.0}),
    "SDE": (dpmpp_sde, {}),
    "2M SDE": (dpmpp_2m_sde, {}),
    "3M SDE": (dpmpp_3m_sde, {}),
    "restart": (restart, {"low": 0.5, "high": 1.0}),
    "lcm": (lcm, {}),
}


def test_first_order_is_ddim_and_pndm_equation_11():
    """Euler over sigma, LMS-1, DEIS-1 and DPM-Solver-1 are one step."""
    expected = xs(ddim(model, X_T, REAL_TIMES, AB))
    x = X_T
    for (t, s), x_s in zip(pairwise(REAL_TIMES), expected, strict=True):
        x = eq.transfer(x, model(x, t), CLOCK[t], CLOCK[s])
        close(x_s, x)
    for sampler, own in (
        (euler, {}),
        (lms, {"order": 1}),
        (deis, {"order": 1}),
        (dpm_solver_multistep, {"order": 1}),
        (dpm_solver_multistep, {"order": 1, "published": True}),
    ):
        close(xs(sampler(model, X_T, REAL_TIMES, AB, **own)), expected)
    for name, (sampler, own) in MULTI.items():
        if name.startswith("UniPC"):
            continue  # its first step is corrected once ε is known there
        close(next(sampler(model, X_T, REAL_TIMES, AB, **own)).x, expected[0])


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_every_step_is_ddims_with_a_better_answer(name):
    """One x0 and one ε make up both ends of a step. (UniPC begins it at the corrected x.)"""
    sampler, own = DETERMINISTIC[name]
    x, t = X_T, REAL_TIMES[0]
    for step in sampler(model, X_T, REAL_TIMES, AB, **own):
        for at, there in ((t, x), (step.t, step.x)):
            if at == step.t or not name.startswith("UniPC"):
                ab = CLOCK[at]
                close(there, math.sqrt(ab) * step.x0 + math.sqrt(1 - ab) * step.eps)
        x, t = step.x, step.t


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_last_step_into_0_is_ddims(name):
    """Where it begins at the model's x0: x_0 is x0. LMS alone goes on with its polynomial."""
    sampler, own = DETERMINISTIC[name]
    *_, before, end = sampler(model, X_T, REAL_TIMES, AB, **own)
    if name == "lms":
        assert (end.x - eq.pred_x0(before.x, model(before.x, 20.5), CLOCK[20.5])).abs().max() > 1e-5
    elif not name.startswith("UniPC"):
        close(end.x, eq.pred_x0(before.x, model(before.x, 20.5), CLOCK[20.5]))


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_point_is_reproduced(name):
    """One point m: ε = (x - √ᾱ m)/√(1-ᾱ) is constant on the path, so no solver errs."""
    sampler, own = DETERMINISTIC[name]
    point = GaussianMixture(MEANS[:1], std=0.0)
    denoiser = lambda x, t: ideal(x, CLOCK.sigma(t), point)  # noqa: E731
    eps = denoiser(X_T, 1000)
    for times in (REAL_TIMES, REAL_TIMES[:-1], trailing_times(1000, 20)):
        for step in sampler(denoiser, X_T, times, AB, **own):
            ab = CLOCK[step.t]
            close(step.x, math.sqrt(ab) * MEANS[0] + math.sqrt(1 - ab) * eps)
            close(step.x0, MEANS[:1].expand(4, 3))
            close(step.eps, eps)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_point_is_reproduced_with_noise_too(name):
    sampler, own = STOCHASTIC[name]
    point = GaussianMixture(MEANS[:1], std=0.0)
    denoiser = lambda x, t: ideal(x, CLOCK.sigma(t), point)  # noqa: E731
    close(
        last(sampler(denoiser, X_T, REAL_TIMES, AB, noise=gaussian(0), **own)).x,
        MEANS[:1].expand(4, 3),
    )


@pytest.mark.parametrize("name", [name for name in STOCHASTIC if name != "lcm"])
def test_noise_keeps_the_law(name):
    """From x_T of one Gaussian N(2, 0.5²) to x_1 of it: of 20,000 points, the standard error of the
    mean is 0.0035 and of the deviation 0.0025, and the steps err by up to 0.01."""
    sampler, own = STOCHASTIC[name]
    gauss = GaussianMixture(MEANS[:1, :1], std=0.5)
    denoiser = lambda x, t: ideal(x, CLOCK.sigma(t), gauss)  # noqa: E731
    start, end = AB[1000], AB[1]
    z = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0)).double()
    x = 2 * start.sqrt() + (1 - 0.75 * start).sqrt() * z
    x = last(sampler(denoiser, x, karras_times(AB, 200, end=1), AB, noise=gaussian(1), **own)).x
    assert abs(x.mean() - 2 * end.sqrt()) < 0.02
    assert abs(x.std() - (1 - 0.75 * end).sqrt()) < 0.02


@pytest.mark.parametrize("sigmas", [*TO_ZERO, *TO_NOISE])
def test_sde_solvers_without_noise_are_their_deterministic_ones(sigmas):
    for published in (True, False):
        for sde, ode in ((dpmpp_2m_sde, dpmpp_2m), (dpmpp_3m_sde, dpmpp_3m)):
            with_eta_0 = walk(sde, sigmas, eta=0.0, published=published)
            close(with_eta_0, walk(ode, sigmas, published=published))
    close(walk(dpmpp_sde, sigmas, eta=0.0), walk(dpmpp_2s, sigmas))


def test_first_sde_step_is_ddim_with_eta_1():
    expected = next(ddim(model, X_T, REAL_TIMES, AB, eta=1.0, noise=replay(NOISE))).x
    for sampler in (dpmpp_2m_sde, dpmpp_3m_sde):
        for published in (True, False):
            steps = sampler(model, X_T, REAL_TIMES, AB, noise=replay(NOISE), published=published)
            close(next(steps).x, expected)


def test_restart_by_hand():
    """Heun's method; where σ falls to low, up to high with fresh noise and down again, twice."""
    sigmas = torch.tensor([9.0, 3.0, 1.2, 0.4, 0.1, 0.0], dtype=torch.float64)
    ours = walk(restart, sigmas, low=0.5, high=2.0, steps=4, again=2, noise=replay(NOISE[:2]))
    x = walk(heun, sigmas[:4])[-1]
    down = torch.logspace(math.log10(2.0), math.log10(0.4), 5, dtype=torch.float64)
    for z in NOISE[:2]:
        up = x / root_ab(0.4) + (2.0**2 - 0.4**2) ** 0.5 * z
        x = walk(heun, down, x=up * root_ab(2.0))[-1]
    close(ours[2], x)
    close(ours[3:], walk(heun, sigmas[3:], x=x))
    close(walk(restart, sigmas, again=0, noise=gaussian(0)), walk(heun, sigmas))


# What an exact k-point rule integrates without error: polynomials of degree k-1 in its clock.
EXACT = {
    ("eps", "sigma"): [(lms, {"order": k}, k) for k in (1, 2, 3, 4)],
    ("eps", "lambda"): [(deis, {"order": k}, k) for k in (1, 2, 3)]
    + [(dpm_solver_multistep, {"order": k}, k) for k in (1, 2, 3)],
    ("x0", "lambda"): [
        (dpmpp_2m, {"published": False}, 2),
        (dpmpp_3m, {"published": False}, 3),
        (dpmpp_2m_sde, {"published": False, "eta": 0.0}, 2),
        (dpmpp_3m_sde, {"published": False, "eta": 0.0}, 3),
    ],
}


@pytest.mark.parametrize("what", EXACT, ids=" over ".join)
def test_polynomials_are_integrated_exactly(what):
    """d(x/√ᾱ) = ε dσ, and d(x/√(1-ᾱ)) = x0 d(1/σ), by 40-point Gauss-Legendre quadrature.

    The increments are compared once there are as many old values as the order has: the first steps
    of a multistep solver are of lower order. One degree more is no longer exact."""
    of, over = what
    sigmas = GRIDS["odd"][:-1]
    nodes, weights = np.polynomial.legendre.leggauss(40)
    for sampler, own, k in EXACT[what]:
        for degree, exact in ((k - 1, True), (k, False)):
            clock = (lambda s: s / 4) if over == "sigma" else (lambda s: -math.log(s))
            said = lambda s: 0.3 + sum((clock(s) - 0.4) ** j for j in range(1, degree + 1))  # noqa: E731, B023

            def polynomial(x, t):
                value, ab = said(CLOCK.sigma(t)), CLOCK[t]  # noqa: B023
                if of == "eps":
                    return torch.full_like(x, value)
                x0 = torch.full_like(x, value)
                return Prediction((x - math.sqrt(ab) * x0) / math.sqrt(1 - ab), x0)

            path = torch.stack([X_T, *walk(sampler, sigmas, polynomial, **own)])
            scale = root_ab(sigmas) * (1 if of == "eps" else sigmas)
            ours = (path / scale[:, None, None]).diff(dim=0).mean((1, 2))
            errors = []
            for (a, b), increment in list(zip(pairwise(sigmas.tolist()), ours, strict=True))[k:]:
                low, high = math.log(a), math.log(b)
                u = np.exp((low + high) / 2 + (high - low) / 2 * nodes)
                rate = u if of == "eps" else -1 / u  # dσ and d(1/σ) over d(log σ)
                integral = (weights * rate * [said(s) for s in u]).sum() * (high - low) / 2
                errors.append(abs(increment - integral) / abs(integral))
            assert (max(errors) < 1e-10) == exact, (sampler.__name__, own, degree, max(errors))


# ---- orders ----------------------------------------------------------------------------------

GAUSS = torch.tensor([[0.25], [0.5], [1.0]]).double()  # three standard deviations
CENTRE = torch.tensor([1.0, -0.5]).double()


def error(sampler, sigmas, **own):
    """Against the exact solution of the ODE for one Gaussian N(m, s²): x/√ᾱ - m grows as the
    standard deviation √(s² + σ²) does. σ alone tells the model where it is, so the kinks of the
    clock at whole times are no matter."""

    def gaussian_model(x, t):
        ab = CLOCK[t]
        return math.sqrt(1 - ab) * (x - math.sqrt(ab) * CENTRE) / (ab * GAUSS**2 + 1 - ab)

    x = torch.tensor([[0.7, -0.4]]).double().expand(3, 2)
    got = walk(sampler, sigmas, gaussian_model, x, **own)[-1] / root_ab(sigmas[-1])
    wide, narrow = ((GAUSS**2 + sigma**2).sqrt() for sigma in (sigmas[0], sigmas[-1]))
    exact = CENTRE + narrow / wide * (x / root_ab(sigmas[0]) - CENTRE)
    return (got - exact).abs().max().item()


def grid_of(steps, even=False):
    """From σ = 8 to 0.08. Not evenly in ln σ, but with tiny steps at both ends: what a multistep
    solver loses in its first steps of lower order, and UniPC in its last, is nothing there."""
    u = torch.arange(steps + 1, dtype=torch.float64) / steps
    return 8 * 0.01 ** (u if even else u**3 * (10 - 15 * u + 6 * u**2))


ORDERS = [  # sampler, its arguments, its order
    (euler, {}, 1),
    (heun, {}, 2),
    (dpm_solver_2, {}, 2),
    (dpm_solver_3, {}, 3),
    (dpmpp_2s, {}, 2),
    (dpmpp_3s, {}, 3),
    (lms, {"order": 1}, 1),
    (lms, {"order": 2}, 2),
    (lms, {"order": 3}, 3),
    (lms, {"order": 4}, 4),
    (deis, {"order": 1}, 1),
    (deis, {"order": 2}, 2),
    (deis, {"order": 3}, 3),
    (dpm_solver_multistep, {"order": 2}, 2),
    (dpm_solver_multistep, {"order": 2, "published": True}, 2),
    (dpm_solver_multistep, {"order": 3}, 3),
    (dpm_solver_multistep, {"order": 3, "published": True}, 2),  # for want of a factor 2
    (dpm_solver_multistep, {"order": 4}, 4),
    (dpmpp_2m, {}, 2),
    (dpmpp_2m, {"published": False}, 2),
    (dpmpp_3m, {}, 2),  # for want of a factor 2
    (dpmpp_3m, {"published": False}, 3),
    (unipc, {"order": 1}, 2),
    (unipc, {"order": 2}, 3),
    (unipc, {"order": 2, "b": "bh1"}, 3),
    (unipc, {"order": 3}, 4),
    (unipc, {"order": 3, "b": "bh1"}, 4),
]


@pytest.mark.parametrize(
    ("sampler", "own", "order"), ORDERS, ids=lambda v: getattr(v, "__name__", str(v))
)
def test_orders(sampler, own, order):
    """Twice the steps divide the error by 2^order."""
    coarse, fine = (error(sampler, grid_of(steps), **own) for steps in (320, 640))
    assert abs(math.log2(coarse / fine) - order) < 0.1, f"{math.log2(coarse / fine):.3f}"


def test_a_first_order_start_costs_orders_in_the_end():
    """On an even grid, Euler's first step of LMS-4 errs as h², once; with more steps that is what
    is left, so the measured order falls towards 2."""
    errors = [error(lms, grid_of(steps, even=True)) for steps in (40, 80, 640, 1280)]
    early, late = math.log2(errors[0] / errors[1]), math.log2(errors[2] / errors[3])
    assert early > 2.5 and abs(late - 2) < 0.1, (early, late)


# ---- beginnings and ends ------------------------------------------------------------------------


@pytest.mark.parametrize("name", DETERMINISTIC | STOCHASTIC)
def test_from_zero_terminal_snr_the_first_step_is_ddims(name):
    sampler, own = (DETERMINISTIC | STOCHASTIC)[name]
    ab = alpha_bar(zero_terminal_snr(scaled_linear_betas()))
    clock, mean = Clock(ab), (WEIGHTS[:, None] * MEANS).sum(0).expand(4, 3)

    def x0_model(x, t):
        if clock[t] == 0:
            return Prediction(x, mean)
        eps = ideal(x, clock.sigma(t))
        return Prediction(eps, eq.pred_x0(x, eps, clock[t]))

    noise = {"noise": lambda x: torch.zeros_like(x)} if name in STOCHASTIC else {}
    times = [1000, 900, 700.5, 400, 100, 0]
    steps = list(sampler(x0_model, X_T, times, ab, **own, **noise))
    assert [step.t for step in steps] == times[1:]
    assert all(step.x.isfinite().all() for step in steps)
    close(steps[0].x0, mean)
    if name in DETERMINISTIC:
        close(steps[0].x, math.sqrt(clock[900]) * mean + math.sqrt(1 - clock[900]) * X_T)


def test_calls_of_the_model():
    """Per step, with one call alone in the step to σ = 0, which is Euler's."""
    for name, (sampler, own) in DETERMINISTIC.items():
        asked = []
        counted = lambda x, t: asked.append(t) or model(x, t)  # noqa: E731, B023
        last(sampler(counted, X_T, REAL_TIMES, AB, **own))
        each = {"heun": 2, "DPM2": 2, "2S": 2, "DPM3": 3, "3S": 3}.get(name, 1)
        assert len(asked) == 5 * each + 1, name


def test_unipcs_default_is_order_2_bh2():
    default = walk(unipc, ODD)
    close(default, walk(unipc, ODD, order=2, b="bh2"))


def test_churn_stays_within_the_clock():
    """k-diffusion's σ̂ leaves the network's times where it churns at T; here σ̂ is at most σ(T)."""
    asked = []
    counted = lambda x, t: asked.append(t) or model(x, t)  # noqa: E731
    for sampler in (euler, heun):
        asked.clear()
        times = [1000, 990, 600, 0]
        last(sampler(counted, X_T, times, AB, churn=1.2, noise=gaussian(0)))
        assert max(asked) <= 1000 and asked[0] == 1000
        at = [t for t in asked if t not in times]
        assert abs(CLOCK.sigma(at[-1]) / (1.4 * CLOCK.sigma(600)) - 1) < 1e-12


# ---- mistakes --------------------------------------------------------------------------------

GRID_MISTAKES = [
    ([500, 900.5, 0], "each smaller than the one before"),
    ([900.5, 900.5, 0], "each smaller than the one before"),
    ([1000, 0, 0], "each smaller than the one before"),
    ([1000, 0, 500], "each smaller than the one before"),
    ([1000.5, 500, 0], "at most T=1000"),
    ([1000, 500, -0.5], "at least 0"),
    ([1000, 0.5, 0], "0 or from 1 to T=1000"),
    ([1000, 500, 0.999], "0 or from 1 to T=1000"),
    ([1000, math.nan, 0], "must be a list of numbers"),
    ([math.inf, 500, 0], "must be a list of numbers"),
    ([1000, None, 0], "must be a list of numbers"),
    ([1000, "500", 0], "must be a list of numbers"),
    ([1000, torch.tensor([5, 4]), 0], "must be a list of numbers"),
    (1000, "must be a list of numbers"),
    ([1000.0], "at least two"),
]


@pytest.mark.parametrize(("times", "message"), GRID_MISTAKES, ids=str)
def test_wrong_times(times, message):
    for sampler, own in ({"ddim": (ddim, {})} | DETERMINISTIC).values():
        with pytest.raises(ValueError, match=message):
            next(sampler(model, X_T, times, AB, **own))


MISTAKES = [
    *((f, {"order": n}, "order must be") for f in (lms, deis, dpm_solver_multistep, unipc)
      for n in (0, 5, -1, 1.5, True, "2", math.nan)),
    *((f, {"eta": 1.0}, "pass noise=") for f in (dpm_solver_2, dpmpp_2s, dpmpp_sde)),
    *((f, {"eta": 1.0}, "pass noise=") for f in (dpmpp_2m_sde, dpmpp_3m_sde, ddim)),
    *((f, {"eta": eta, "noise": gaussian(0)}, "eta must be a number")
      for f in (dpm_solver_2, dpmpp_2s, dpmpp_sde, dpmpp_2m_sde, dpmpp_3m_sde)
      for eta in (-0.1, math.nan, math.inf, None, "1")),
    *((f, {"churn": 1.0}, "pass noise=") for f in (euler, heun)),
    *((f, {name: value, "noise": gaussian(0)}, f"{name} must be a number")
      for f in (euler, heun) for name in ("churn", "s_min", "s_noise")
      for value in (-0.1, math.nan, None, "1")),
    *((unipc, {"b": b}, "b must be one of bh1, bh2") for b in ("bh3", "", None, 1)),
    *((restart, {"noise": gaussian(0)} | own, f"{next(iter(own))} must be")
      for own in ({"steps": 0}, {"again": -1}, {"low": 0.0}, {"low": 0.3}, {"high": 15.0})),
]  # fmt: skip


@pytest.mark.parametrize(
    ("sampler", "own", "message"), MISTAKES, ids=lambda v: getattr(v, "__name__", None)
)
def test_mistakes_get_a_sentence(sampler, own, message):
    with pytest.raises(ValueError, match=message):
        list(sampler(model, X_T, [1000, 500.5, 20, 0], AB, **own))

"""The auditor, on solvers that are known to be sound, on ones that are known not to be, and blind.

The solvers here walk x/√ᾱ over σ, from σ of T down to 0, on a geometric grid.
"""

import math
import pathlib
import re
import sys

import diffusers
import pytest
import torch

from minisd import samplers
from minisd.clocks import exponential_times
from minisd.samplers import ddim, last, plms
from minisd.schedules import alpha_bar, scaled_linear_betas, trailing_times
from minisd.teaching.audit import C, audit, carry, solver_of
from minisd.teaching.spread import STD, spread
from minisd.toy import GaussianMixture, IdealDenoiser

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tools"))
import audit as tool  # noqa: E402

AB = alpha_bar(scaled_linear_betas())
SIGMAS = (1 / AB[1:] - 1).sqrt()
COUNTS, EVERY = (24, 48, 96), (1, 2, 10)


def rate(model, x, sigma):
    """d(x/√ᾱ)/dσ = ε, at the real t of σ."""
    log, table = math.log(sigma), SIGMAS.log()
    i = int((table < log - 1e-12).sum().clamp(1, 999))
    t = i + (log - table[i - 1]) / (table[i] - table[i - 1])
    t = min(max(float(t), 1.0), 1000.0)
    return model(x / math.sqrt(1 + sigma**2), t)


def euler(model, x, sigma, to):
    return x + (to - sigma) * rate(model, x, sigma)


def heun(model, x, sigma, to, weight=0.5):
    first = rate(model, x, sigma)
    if to == 0:
        return x + (to - sigma) * first
    second = rate(model, x + (to - sigma) * first, to)
    return x + (to - sigma) * ((1 - weight) * first + weight * second)


def solver(step, start=1000, end=0.0, **own):
    def solve(model, x, n):
        high, low = SIGMAS[start - 1].log(), SIGMAS[0].log()
        sigmas = [*torch.linspace(high, low, n + 1).double().exp().tolist()[: n + (n == 1)], end]
        sigmas = sigmas[:1] + sigmas[2:] if n == 1 else sigmas
        x = x * math.sqrt(1 + sigmas[0] ** 2)
        for sigma, to in zip(sigmas, sigmas[1:], strict=False):
            x = step(model, x, sigma, to, **own)
        return x / math.sqrt(1 + end**2)

    return solve


def audited(solve, claims=None, counts=COUNTS, every=EVERY):
    return audit(solve, AB, claims=claims, counts=counts, every=every)


def said(solve, claims=None):
    return " ".join(audited(solve, claims).verdicts())


# ---- what it compares with ----------------------------------------------------------------


def test_the_exact_solution_is_that_of_a_fine_runge_kutta():
    mixture = GaussianMixture(torch.tensor([[-1.0], [0.8]]).double(), [0.5, 0.4], [0.4, 0.6])
    x = torch.linspace(-2, 2, 9).double()

    def eps(x, sigma):
        ab = torch.tensor([1 / (1 + sigma**2)], dtype=torch.float64)
        return IdealDenoiser(mixture, ab)(x[:, None] / math.sqrt(1 + sigma**2), 0)[:, 0]

    ab_t, ab_s = AB[900].item(), AB[50].item()
    high, low = (math.log(math.sqrt(1 / ab - 1)) for ab in (ab_t, ab_s))
    h, y = (low - high) / 400, x / math.sqrt(ab_t)
    f = lambda y, u: math.exp(u) * eps(y, math.exp(u))  # noqa: E731
    for u in (high + i * h for i in range(400)):
        k1 = f(y, u)
        k2 = f(y + h / 2 * k1, u + h / 2)
        k3 = f(y + h / 2 * k2, u + h / 2)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + f(y + h * k3, u + h))
    assert (carry(x, ab_t, ab_s) - y * math.sqrt(ab_s)).abs().max() < 1e-8


# ---- sound solvers ------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "order", "calls"), [(euler, 1, 24), (heun, 2, 47)])
def test_a_sound_solver_has_its_order_and_no_verdicts(step, order, calls):
    found = audited(solver(step), order, (24, 48, 96, 192))
    assert abs(found.order - order) < 0.1 and found.verdicts() == []
    assert found.calls[0] == calls and found.missed < 1e-12 and max(found.noise) < 1e-4
    assert f"order {found.order:.2f}" in str(found) and len(str(found).splitlines()) == 6


@pytest.mark.parametrize(("sampler", "order"), [(ddim, 1), (plms, 2)])
def test_the_samplers_of_minisd_are_black_boxes_too(sampler, order):
    solve = solver_of(sampler, lambda n: trailing_times(1000, n), AB)
    found = audited(solve, order, (25, 50, 125, 250))
    assert abs(found.order - order) < 0.1 and found.verdicts() == []
    assert found.calls[0] == 25 + (sampler is plms)


# ---- broken ones, each in its way ---------------------------------------------------------


def test_a_wrong_order_is_measured():
    found = audited(solver(heun, weight=0.2), 2)
    assert abs(found.order - 1) < 0.2
    assert found.verdicts() == [f"It claims order 2; measured is {found.order:.2f}."]


def test_nan_and_errors_are_counted():
    sound = solver(euler)
    nan = lambda model, x, n: sound(model, x, n) * (math.nan if n >= 10 else 1)  # noqa: E731
    found = audited(nan)
    assert found.strange["It returns NaN or inf"] == [10, 24, 48, 96]
    assert math.isnan(found.order) and math.isnan(found.missed)

    def picky(model, x, n):
        return sound(model, x, n) if n > 1 else sound(model, x, 1 // 0)

    assert "It raises ZeroDivisionError with 1 step counts, 1 to 1." in said(picky)


def test_noise_of_float32_is_measured():
    def noisy(model, x, sigma, to):
        return euler(model, x, sigma, to) + 1e4 - 1e4

    found = audited(solver(noisy), 1)
    assert 1e-4 < max(found.noise) < 1 and abs(found.order - 1) < 0.1
    assert "Its float32 run is" in " ".join(found.verdicts())


def test_a_wrong_fixed_point_is_measured():
    sound = solver(euler)
    found = audited(lambda model, x, n: 1.001 * sound(model, x, n))
    assert abs(found.missed - (1.001**2 - 1)) < 1e-9
    shifted = audited(lambda model, x, n: sound(model, x, n) + torch.eye(12)[-1].to(x) * 0.1 * C)
    assert abs(shifted.missed - 0.1 * C) < 1e-6


def test_a_wasted_call_is_seen():
    def twice(model, x, sigma, to):
        rate(model, x, sigma)
        return euler(model, x, sigma, to)

    assert audited(solver(twice)).calls == [48, 96, 192]
    assert "It calls the model twice with the same x and t with 6 step" in said(solver(twice))


def test_a_wrong_start_and_a_wrong_end_are_seen():
    assert "It takes x_T for a later time than 0.9 T" in said(solver(euler, start=800))
    assert "It ends above the σ of t = 1" in said(solver(euler, end=0.05))
    again = said(solver(euler, end=SIGMAS[0].item()))
    assert "It ends above" not in again and "length 0" not in again
    doubled = lambda model, x, n: solver(euler)(model, 2 * x, n)  # noqa: E731
    assert "It scales x_T by 2.000" in said(doubled)


def test_a_last_step_of_length_0_and_a_way_back_are_seen():
    def stopping(model, x, n):
        x = solver(euler, end=SIGMAS[0].item())(model, x, n)
        model(x, 1)
        return x

    assert "Its last step has length 0" in said(stopping)

    def back(model, x, sigma, to):
        rate(model, x, min(1.5 * sigma, 14.0))
        return euler(model, x, sigma, to)

    assert "It goes back to a noisier time" in said(solver(back))


# ---- solvers that draw noise --------------------------------------------------------------


def ancestral(model, x, n, noise):
    return solver_of(ddim, lambda n: trailing_times(1000, n), AB, eta=1.0)(model, x, n, noise=noise)


def test_the_spread_is_that_of_many_samples():
    drawn, last = torch.Generator().manual_seed(0), []

    def model(x, t):  # the ideal ε of data N(0, STD²)
        last[:] = x, AB[t] * STD**2 + 1 - AB[t]
        return (1 - AB[t]).sqrt() / last[1] * x

    x = torch.randn(200_000, generator=drawn).double() * (AB[-1] * STD**2 + 1 - AB[-1]).sqrt()
    ancestral(model, x, 10, lambda x: torch.randn(x.shape, generator=drawn).double())
    sampled = last[0].std() / last[1].sqrt() - 1
    exact = spread(ancestral, AB, 10)
    assert abs(sampled - exact) < 4e-3 < 0.05 < abs(exact)  # 0.16 % is one standard error


def test_the_spread_is_right_in_the_end():
    errors = [abs(spread(ancestral, AB, n)) for n in (50, 500)]
    assert errors[1] < errors[0] / 4 < 0.05


# ---- diffusers, blind ---------------------------------------------------------------------


def verdicts(*words):
    """What the auditor finds in the rows of its table that hold these words."""
    how = {"counts": (48, 96, 192), "every": (1, 14, 20)}
    return {found.name: found for found in tool.audits(words, **how)}


def test_the_third_order_multistep_solvers_have_order_2_and_give_nan():
    found = verdicts("dpmsolver++ 3 midpoint", "Karras")
    assert len(found) == 4
    for name, one in found.items():
        single = "Singlestep" in name
        assert abs(one.order - (3 if single else 2)) < 0.1, name
        assert ("It claims order 3" in " ".join(one.verdicts())) != single
        nan = one.strange.get("It returns NaN or inf", [])
        assert nan == ([20, 48, 96, 192] if not single and "sigma_min" in name else []), name


def test_deis_3_is_noisy_in_float32_alone():
    by_order = {p: verdicts(f"DEIS {p}", "Karras")[f"DEIS {p} Karras"] for p in (1, 2, 3)}
    for p, one in by_order.items():
        assert one.order > p - 0.15 and "Its last step has length 0" in one.strange
        assert (max(one.noise) > 1e-3) == (p == 3)
    assert by_order[3].noise[0] < by_order[3].noise[2]


def test_the_third_order_sde_solver_is_of_weak_order_1():
    solvers = {name: solve for name, _, solve in tool.stochastic()}
    orders = {}
    for p in (1, 2, 3):
        solve = solvers[f"DPMSolverMultistep sde-dpmsolver++ {p} midpoint"]
        errors = [abs(spread(solve, tool.AB, n)) for n in (25, 50)]
        orders[p] = math.log2(errors[0] / errors[1])
    assert abs(orders[1] - 1) < 0.1 and abs(orders[2] - 2) < 0.1 and orders[3] < 1.3


def test_ddim_of_diffusers_steps_past_its_own_times():
    found = verdicts("DDIM")
    assert {name: one.missed > 0.01 for name, one in found.items()} == {
        "DDIM linspace": True, "DDIM leading": False, "DDIM trailing": True,
    }  # fmt: skip
    solve = tool.solver(diffusers.DDIMScheduler, clip_sample=False, timestep_spacing="trailing")
    found = audited(solve, counts=(35, 40), every=(61,))
    assert found.strange["It calls the model at t < 1"] == [61]


# ---- docs/AUDIT.md ------------------------------------------------------------------------

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "AUDIT.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.S)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_reproductions_of_the_page_print_what_it_says(number, capsys):
    code, says = BLOCKS[number]
    if "use_beta_sigmas" in code:
        pytest.importorskip("scipy")
    exec(code, {})
    printed = capsys.readouterr().out.split()
    assert len(printed) == len(says.split())
    for word, said in zip(printed, says.split(), strict=True):
        if word != said:  # the last bits of float32 differ between machines
            a, b = (float(w.strip("[],;")) for w in (word, said))
            factor = 10 if "float32" in says else 1.1
            assert abs(a - b) < 2e-6 or 1 / factor < a / b < factor, (word, said)


def test_the_page_has_every_finding():
    assert len(BLOCKS) == 12 and "minisd" not in "".join(code for code, _ in BLOCKS)
    assert all(len(code.splitlines()) <= 30 for code, _ in BLOCKS)


# ---- minisd's own samplers that draw noise --------------------------------------------------

WEAK = {  # sampler, its arguments, its weak order
    "Euler a": ("ddim", {"eta": 1.0}, 1),
    "DPM++ 2S a": ("dpmpp_2s", {"eta": 1.0}, 2),
    "DPM2 a": ("dpm_solver_2", {"eta": 1.0}, 2),
    "DPM++ SDE": ("dpmpp_sde", {}, 2),
    "DPM++ 2M SDE": ("dpmpp_2m_sde", {}, 2),
    "DPM++ 2M SDE, exact": ("dpmpp_2m_sde", {"published": False}, 2),
    "DPM++ 3M SDE": ("dpmpp_3m_sde", {}, 2),
}


@pytest.mark.parametrize("name", WEAK)
def test_weak_order_of_samplers_that_draw_noise(name):
    """The error of the standard deviation falls by 2^order when the steps are doubled."""
    sampler, own, order = WEAK[name]
    sampler = getattr(samplers, sampler)

    def solve(model, x, n, noise):
        return last(sampler(model, x, exponential_times(AB, n), AB, noise=noise, **own)).x

    coarse, fine = (spread(solve, AB, n) for n in (60, 120))
    assert abs(math.log2(abs(coarse / fine)) - order) < 0.25

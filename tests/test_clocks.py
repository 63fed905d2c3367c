"""The clocks t, ᾱ, σ and λ, and the grids of real times."""

import math

import numpy as np
import pytest
import torch
from diffusers.schedulers import AysSchedules

from minisd import clocks
from minisd.clocks import Clock, sigmas_of, times_of
from minisd.schedules import (
    ab_at,
    alpha_bar,
    between,
    check_times,
    log_snr,
    scaled_linear_betas,
    sgm_times,
    trailing_times,
    zero_terminal_snr,
)

AB = alpha_bar(scaled_linear_betas())
ZERO = alpha_bar(zero_terminal_snr(scaled_linear_betas()))
CLOCK = Clock(AB)
SIGMA = ((1 - AB) / AB).sqrt()
GRIDS = {
    name: getattr(clocks, f"{name}_times")
    for name in (
        *("karras", "exponential", "polyexponential", "lambda", "uniform", "quadratic"),
        *("beta", "ays"),
    )
}
TO_ONE = {"lambda", "uniform", "quadratic"}  # DPM-Solver's grids end at t = 1


# ---- the clocks -----------------------------------------------------------------------------


def test_the_clocks_agree_at_whole_times():
    """σ_T of SD is 14.61, σ_1 0.029, as k-diffusion and generative-models have them."""
    assert abs(CLOCK.sigma(1000) - 14.614641) < 1e-6 and abs(CLOCK.sigma(1) - 0.029167) < 1e-6
    for t in (1, 2, 500, 999, 1000):
        assert abs(CLOCK.sigma(t) - SIGMA[t]) < 1e-12 and CLOCK[t] == AB[t]
        assert abs(CLOCK.lam(t) - log_snr(AB)[t] / 2) < 1e-12
        assert CLOCK.time(CLOCK.sigma(t)) == t and isinstance(CLOCK.time(CLOCK.sigma(t)), int)
    assert CLOCK.sigma(0) == CLOCK.time(0) == 0 and CLOCK.lam(0) == math.inf
    assert len(CLOCK) == 1001 and Clock(ZERO).sigma(1000) == math.inf


def test_between_whole_times_log_sigma_is_linear():
    """Half way the σ is the geometric mean; below t = 1 σ goes to 0 in a line."""
    for k in (1, 7, 500, 999):
        for w in (0.1, 0.5, 0.9):
            sigma = SIGMA[k] ** (1 - w) * SIGMA[k + 1] ** w
            assert abs(CLOCK.sigma(k + w) - sigma) < 1e-12 * sigma
            assert abs(CLOCK.time(float(sigma)) - (k + w)) < 1e-9
            assert abs(between(AB, k + w) - 1 / (1 + sigma**2)) < 1e-14
    assert abs(CLOCK.sigma(0.25) - SIGMA[1] / 4) < 1e-13
    assert abs(CLOCK.time(float(SIGMA[1]) / 4) - 0.25) < 1e-12
    assert ab_at(AB, 3, AB) == AB[3] and ab_at(AB, 3.0, AB) == AB[3]
    assert ab_at(AB, torch.tensor([3, 5]), torch.zeros(2, 4)).shape == (2, 1)


def test_part_is_a_share_of_lambda():
    lam = 0.7 * CLOCK.lam(900) + 0.3 * CLOCK.lam(20)
    assert abs(CLOCK.lam(CLOCK.part(900, 20, 0.3)) - lam) < 1e-12
    assert CLOCK.part(900, 20, 1) == 20 and CLOCK.part(900, 20, 0) == 900


def test_sigmas_and_times_are_one_another():
    times = [1000, 700.5, 33.3, 1, 0]
    sigmas = sigmas_of(AB, times)
    assert sigmas.dtype == torch.float64 and sigmas[-1] == 0
    assert np.allclose(times_of(AB, sigmas), times, rtol=0, atol=1e-8)
    assert times_of(AB, [float(SIGMA[1000]), 0]) == [1000, 0]


# ---- the grids ------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 50, 999])
@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_has_its_steps_and_its_ends(name, steps):
    for ab in (AB, ZERO) if steps > 1 else (AB,):
        times = GRIDS[name](ab, steps)
        assert len(times) == steps + 1 and times[0] == 1000
        assert times[-1] == (1 if name in TO_ONE else 0)
        assert check_times(times, 1000)
        if ab is ZERO and name != "ays":  # its published sigmas begin at 14.6
            assert times[1] == trailing_times(1000, steps)[1]


def evenness(grid, of):
    """The differences of a function of σ, along the grid, but for the step to 0: all alike?"""
    values = np.array([of(s) for s in sigmas_of(AB, grid).tolist() if s > 0])
    steps = np.diff(values)
    return np.abs(steps - steps.mean()).max()


def test_each_grid_is_even_in_its_clock():
    assert evenness(clocks.karras_times(AB, 20), lambda s: s ** (1 / 7)) < 1e-9
    assert evenness(clocks.karras_times(AB, 20, rho=3), lambda s: s ** (1 / 3)) < 1e-9
    assert evenness(clocks.exponential_times(AB, 20), math.log) < 1e-9
    assert evenness(clocks.lambda_times(AB, 20), math.log) < 1e-9
    low, high = float(SIGMA[1]), float(SIGMA[1000])
    share = lambda s: math.log(s / low) / math.log(high / low)  # noqa: E731
    poly = clocks.polyexponential_times(AB, 20, rho=2.0)
    assert evenness(poly[:-2] + [0], lambda s: share(s) ** 0.5) < 1e-9
    assert np.abs(np.diff(clocks.uniform_times(AB, 20), 2)).max() < 1e-9
    assert np.abs(np.diff(np.sqrt(clocks.quadratic_times(AB, 20)), 2)).max() < 1e-9
    # one more step to t = 1 instead of the one to 0
    assert clocks.karras_times(AB, 20, end=1)[:-1] != clocks.karras_times(AB, 20)[:-1]
    assert clocks.karras_times(AB, 19, end=1) == clocks.karras_times(AB, 20)[:-1]


def test_karras_grid_by_its_published_numbers():
    """Ten sigmas of k-diffusion's get_sigmas_karras(10, 0.0291675, 14.614642, 7), as printed."""
    printed = [14.61464, 9.10293, 5.47839, 3.1686, 1.74942, 0.91407, 0.44692, 0.2014, 0.08191]
    sigmas = sigmas_of(AB, clocks.karras_times(AB, 10)).tolist()
    assert np.allclose(sigmas, [*printed, 0.02917, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("a", "b", "quantile"),
    [
        (1, 1, lambda p: p),
        (0.5, 0.5, lambda p: math.sin(math.pi * p / 2) ** 2),  # the arcsine law
        (2, 1, math.sqrt),
        (1, 3, lambda p: 1 - (1 - p) ** (1 / 3)),
    ],
)
def test_beta_grid_in_closed_form(a, b, quantile):
    times = clocks.beta_times(AB, 25, a, b)
    expected = [1 + 999 * quantile(1 - i / 25) for i in range(25)] + [0]
    assert np.allclose(times, expected, rtol=0, atol=1e-6)


def test_beta_grid_by_brute_force():
    """The usual a = b = 0.6: the share of the density's area below each quantile, by summing."""
    u = (torch.arange(4_000_000, dtype=torch.float64) + 0.5) / 4_000_000
    area = (u * (1 - u)).pow(-0.4).cumsum(0)
    shares = [(t - 1) / 999 for t in clocks.beta_times(AB, 8)[1:-1]]
    found = [float(area[int(share * 4_000_000) - 1] / area[-1]) for share in shares]
    assert np.allclose(found, [1 - i / 8 for i in range(1, 8)], rtol=0, atol=1e-4)


def test_ays_tables():
    """The ten published sigmas, as diffusers has them too; other step counts lie between them."""
    for table, key in {"sd1": "StableDiffusionSigmas", "sdxl": "StableDiffusionXLSigmas"}.items():
        sigmas = sigmas_of(AB, clocks.ays_times(AB, 10, table)).tolist()
        assert np.allclose(sigmas, AysSchedules[key], rtol=0, atol=4e-4)
    ten, twenty = (sigmas_of(AB, clocks.ays_times(AB, n)) for n in (10, 20))
    assert np.allclose(twenty[:-1:2], ten[:-1], rtol=1e-9)
    assert np.allclose(twenty[1:-2:2] ** 2, ten[:-2] * ten[1:-1], rtol=1e-4)


def test_sgm_grid():
    """generative-models' linspace, cut to whole numbers; trailing's list for 21 counts of 999."""
    equal = 0
    for steps in range(1, 1001):
        official = np.linspace(999, 0, steps, endpoint=False).astype(int)
        assert sgm_times(1000, steps) == [*(int(i) + 1 for i in official), 0]
        equal += steps < 1000 and sgm_times(1000, steps) == trailing_times(1000, steps)
    assert equal == 21
    assert sgm_times(1000, 50)[:3] == [1000, 980, 960] and sgm_times(1000, 4) == [
        1000,
        750,
        500,
        250,
        0,
    ]


# ---- mistakes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clocks.karras_times(AB, 0), "steps must be a whole number of at least 1"),
        (lambda: clocks.karras_times(AB, 2.5), "steps must be a whole number"),
        (lambda: clocks.karras_times(AB, 1001), "steps must be at most T=1000"),
        (lambda: clocks.karras_times(AB, 5, rho=0), "rho must be a number in"),
        (lambda: clocks.karras_times(AB, 5, end=2), "end must be 0 or 1, got 2"),
        (lambda: clocks.polyexponential_times(AB, 5, rho=-1), "rho must be a number in"),
        (lambda: clocks.beta_times(AB, 5, a=0), "a must be a number in"),
        (lambda: clocks.beta_times(AB, 5, b=math.nan), "b must be a number in"),
        (lambda: clocks.ays_times(AB, 5, "sd3"), "table must be one of sd1, sdxl, got 'sd3'"),
        (lambda: clocks.karras_times(ZERO, 1), "needs at least 2 steps, got 1"),
        (lambda: times_of(AB, [20.0, 0]), "sigma must be from 0 to 14.6146, got 20.0"),
        (lambda: times_of(AB, [1.0, -1.0]), "sigma must be from 0 to 14.6146, got -1.0"),
        (lambda: times_of(AB, [1.0, math.nan]), "sigma must be from 0 to"),
        (lambda: times_of(AB, [1.0, 0.01]), "sigmas must be 0 or at least 0.0291"),
        (lambda: between(AB, 1000.5), "must be from 0 to 1000, got 1000.5"),
        (lambda: between(AB, -0.5), "must be from 0 to 1000, got -0.5"),
        (lambda: between(AB, math.nan), "must be from 0 to 1000, got nan"),
        (lambda: between(ZERO, 999.5), "must be from 0 to 999, got 999.5"),
    ],
)
def test_mistakes_get_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()

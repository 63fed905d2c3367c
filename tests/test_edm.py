"""EDM's frame and the weights of solvers, against k-diffusion (recorded), DDIM and closed forms."""

import json
import math
import pathlib

import pytest
import torch

from minisd import equations as eq
from minisd.clocks import Clock
from minisd.schedules import alpha_bar, scaled_linear_betas

AB = alpha_bar(scaled_linear_betas())
RECORD = json.loads((pathlib.Path(__file__).parent / "data" / "k_diffusion.json").read_text())
SIGMA = torch.tensor(RECORD["scalings"]["sigma"], dtype=torch.float64)
ALL = [eq.edm_scaling, eq.eps_scaling, eq.v_scaling, eq.v_edm_noise_scaling]


def draw(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(a, b, tolerance=1e-12):
    assert a.shape == b.shape and (a - b).abs().max() <= tolerance


def test_scalings_are_k_diffusions():
    for scaling, name in ((eq.edm_scaling, "edm"), (eq.v_scaling, "v"), (eq.eps_scaling, "eps")):
        *first, noise = scaling(SIGMA)
        theirs = torch.tensor(RECORD["scalings"][name], dtype=torch.float64)
        if name == "eps":  # its c_skip is 1, and not written
            theirs = torch.stack([torch.ones_like(SIGMA), *theirs])
        close(torch.stack(first), theirs)
        close(noise, SIGMA.log() / 4 if name == "edm" else SIGMA)
    *ours, noise = eq.v_edm_noise_scaling(SIGMA)
    close(torch.stack(ours), torch.stack(eq.v_scaling(SIGMA)[:3]))
    close(noise, SIGMA.log() / 4)


@pytest.mark.parametrize("t", [1, 250, 1000])
def test_the_denoiser_is_pred_x0(t):
    """EDM's D of an ε- or v-network at x/√ᾱ is DDIM eq. 15's x̂0; the network sees x and σ."""
    x, said, sigma = draw(2, 3), draw(2, 3, seed=1), ((1 - AB[t]) / AB[t]).sqrt()

    def network(x_in, c_noise):
        close(x_in, x)
        close(c_noise, sigma)
        return said

    close(eq.denoise(network, x / AB[t].sqrt(), sigma, eq.eps_scaling), eq.pred_x0(x, said, AB[t]))
    close(eq.denoise(network, x / AB[t].sqrt(), sigma, eq.v_scaling), eq.x0_from_v(x, said, AB[t]))


@pytest.mark.parametrize("scaling", ALL)
def test_a_network_that_hits_its_target_denoises(scaling):
    x0, z, sigma = draw(4, 3), draw(4, 3, seed=1), torch.tensor([[0.05], [0.5], [3.0], [14.0]])
    sigma = sigma.double()
    target = eq.raw_target(x0, sigma * z, sigma, scaling)
    close(eq.denoise(lambda *_: target, x0 + sigma * z, sigma, scaling), x0)
    known = {
        eq.eps_scaling: z,
        eq.v_scaling: eq.velocity(x0, z, 1 / (1 + sigma**2)),
    }
    if scaling in known:
        close(target, known[scaling])


def test_edm_scaling_keeps_the_variance():
    """Of data with deviation σ_d: the network's input and its target have variance 1 at every σ."""
    for data in (0.5, 1.0, 2.0):
        c = eq.edm_scaling(SIGMA, data)
        close(c.c_in**2 * (data**2 + SIGMA**2), torch.ones_like(SIGMA))
        target = ((1 - c.c_skip) ** 2 * data**2 + c.c_skip**2 * SIGMA**2) / c.c_out**2
        close(target, torch.ones_like(SIGMA))


def test_weights_count_the_networks_errors():
    """λ(σ) ‖D - x0‖² = ‖F - F*‖², so λ = 1/c_out²."""
    for weight, scaling in (
        (eq.edm_weight, eq.edm_scaling),
        (eq.eps_weight, eq.eps_scaling),
        (eq.v_weight, eq.v_scaling),
    ):
        close(weight(SIGMA) * scaling(SIGMA).c_out ** 2, torch.ones_like(SIGMA))
    data = 2.0
    c_out = eq.edm_scaling(SIGMA, data).c_out
    close(eq.edm_weight(SIGMA, data) * c_out**2, torch.ones_like(SIGMA))


def test_training_sigmas():
    """ln σ ~ N(-1.2, 1.2²), EDM Table 1."""
    logs = eq.log_normal_sigma(draw(100_000)).log()
    assert abs(logs.mean() + 1.2) < 0.015 and abs(logs.std() - 1.2) < 0.015
    close(
        eq.log_normal_sigma(torch.tensor([1.0]).double(), 0.5, 2.0),
        torch.tensor([2.5]).double().exp(),
    )


def test_clocks_turn_into_one_another():
    ab = AB[1:]
    sigma, lam = eq.sigma_from_ab(ab), eq.lambda_from_ab(ab)
    close(sigma**2, (1 - ab) / ab, 1e-10)
    close(lam, -sigma.log())
    close(eq.ab_from_sigma(sigma), ab)
    close(eq.ab_from_lambda(lam), ab)
    assert eq.sigma_from_ab(0.0) == math.inf and eq.sigma_from_ab(1.0) == 0
    assert abs(eq.ab_from_lambda(0.3) - 1 / (1 + math.exp(-0.6))) < 1e-15
    assert abs(eq.lambda_from_ab(0.3) - math.log(0.3 / 0.7) / 2) < 1e-15


def test_first_order_integrals_are_ddim():
    x, said = draw(2, 3), draw(2, 3, seed=1)
    for t, s in ((1000, 900), (500, 20), (20, 1)):
        for ab_t, ab_s in ((AB[t], AB[s]), (AB[t].item(), AB[s].item())):
            expected = eq.transfer(x, said, AB[t], AB[s])
            close(eq.eps_integral_step(x, said, ab_t, ab_s), expected)
            x0 = eq.pred_x0(x, said, AB[t])
            close(eq.x0_integral_step(x, x0, ab_t, ab_s), expected)


def test_sde_and_ancestral_noise_are_ddims_at_eta_0_and_1():
    """Between them they differ: √(1-ᾱ_s) √(1 - e^{-2ηh}) against η √(1-ᾱ_s) √(1 - e^{-2h})."""
    clock = Clock(AB)
    for t, s in ((1000, 900), (500, 20), (20, 1)):
        sigma_t, sigma_s = clock.sigma(t), clock.sigma(s)
        for eta in (0.0, 0.4, 1.0):
            ddim = eq.sigma(AB[t].item(), AB[s].item(), eta)
            down, up = eq.ancestral_sigmas(sigma_t, sigma_s, eta)
            assert abs(up * math.sqrt(AB[s]) - ddim) < 1e-12
            assert abs(down**2 + up**2 - sigma_s**2) < 1e-12
            sde = eq.sde_sigma(AB[t].item(), AB[s].item(), eta)
            h = math.log(sigma_t / sigma_s)
            assert abs(sde - math.sqrt((1 - AB[s]) * -math.expm1(-2 * eta * h))) < 1e-12
            assert (abs(sde - ddim) < 1e-12) == (eta != 0.4)
    assert eq.ancestral_sigmas(2.0, 1.0, eta=9.0) == (0.0, 1.0)


def test_churned_sigma():
    assert abs(eq.churned_sigma(2.0, 4.0, 20) - 2.4) < 1e-12
    assert abs(eq.churned_sigma(2.0, 40.0, 20) - 2 * math.sqrt(2)) < 1e-12


def test_moments_and_weights():
    """The moments' closed forms, and PNDM eq. 12's table as weights of equal steps."""
    for rate in (-3.0, -0.1, 0.1, 3.0, 12.0):
        m = eq.exponential_moments(rate, 3)
        whole = math.expm1(rate) / rate
        first = (math.exp(rate) - whole) / rate
        second = (math.exp(rate) - 2 * first) / rate
        assert (
            max(abs(a - b) for a, b in zip(m, [1, first / whole, second / whole], strict=True))
            < 1e-10
        )
    assert max(abs(a - 1 / (k + 1)) for k, a in enumerate(eq.exponential_moments(0.0, 4))) < 1e-14
    adams = eq.node_weights([0, -1, -2, -3], [1, 1 / 2, 1 / 3, 1 / 4])
    assert max(abs(24 * a - b) for a, b in zip(adams, [55, -59, 37, -9], strict=True)) < 1e-11

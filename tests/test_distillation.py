"""What students of few calls learn: against DDIM's steps, a closed form, or diffusers."""

import pytest
import torch

from minisd import equations as eq
from minisd.noise import gaussian
from minisd.prediction import Prediction
from minisd.samplers import last, lcm
from minisd.schedules import alpha_bar, scaled_linear_betas, zero_terminal_snr
from minisd.toy import GaussianMixture, IdealDenoiser

AB = alpha_bar(zero_terminal_snr(scaled_linear_betas()))  # ᾱ_1000 = 0


def draw(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X, E, V = draw(3, 2, 4, 4, 4)
TRIPLES = [(1000, 900, 800), (1000, 999, 0), (700, 350, 0), (400, 20, 19)]


@pytest.mark.parametrize("t, mid, s", TRIPLES)
def test_two_steps_of_ddim_are_one_to_the_x0_of_progressive_distillation(t, mid, s):
    """The teacher's two steps, each with an answer of its own, by eq. 12 alone."""
    x = X
    for a, b, x0 in ((t, mid, E), (mid, s, V)):
        eps = (x - AB[a].sqrt() * x0) / (1 - AB[a]).sqrt()
        x = AB[b].sqrt() * x0 + (1 - AB[b]).sqrt() * eps
    x0 = eq.distilled_x0(X, x, AB[t], AB[s])
    eps = (X - AB[t].sqrt() * x0) / (1 - AB[t]).sqrt()
    once = AB[s].sqrt() * x0 + (1 - AB[s]).sqrt() * eps
    assert (once - x).abs().max() <= 1e-12 and (x0 - E).abs().max() > 1e-2
    v = eq.v_from_x0(X, x0, AB[t])  # what a student that predicts v learns
    assert (eq.x0_from_v(X, v, AB[t]) - x0).abs().max() <= 1e-12
    assert (eq.turned(X, v, AB[t], AB[s]) - x).abs().max() <= 1e-12


@pytest.mark.parametrize("t, s", [(999, 998), (700, 350), (20, 1), (20, 900)])
def test_a_turn_is_the_step_of_ddim(t, s):
    """eq. 12 by way of x0 and ε, forwards and backwards; and a turn there is a turn back."""
    x0, eps = eq.x0_from_v(X, V, AB[t]), eq.eps_from_v(X, V, AB[t])
    step = AB[s].sqrt() * x0 + (1 - AB[s]).sqrt() * eps
    assert (eq.turned(X, V, AB[t], AB[s]) - step).abs().max() <= 1e-12
    v = eq.velocity(x0, eps, AB[s])
    assert (eq.turned(step, v, AB[s], AB[t]) - X).abs().max() <= 1e-12


def test_a_turn_to_the_picture_is_x0_and_is_defined_at_zero_snr():
    for t in (1000, 500, 1):
        assert (eq.turned(X, V, AB[t], AB[0]) - eq.x0_from_v(X, V, AB[t])).abs().max() <= 1e-12
    assert (eq.turned(X, V, AB[1000], AB[0]) + V).abs().max() <= 1e-12


# ---- consistency functions ----------------------------------------------------------------


def test_a_consistency_function_is_the_identity_where_paths_start():
    """Whatever the raw network says; for the paper's scalings, LCM's, and a network of v."""
    raw = 7 * V
    for c_skip, c_out in (eq.consistency_scaling(torch.tensor(0.002)), eq.lcm_scaling(0)):
        assert ((c_skip * X + c_out * raw) - X).abs().max() <= 1e-12
    assert (eq.x0_from_v(X, raw, AB[0]) - X).abs().max() <= 1e-12


def test_the_scalings_against_their_formulas_and_diffusers():
    from diffusers import LCMScheduler

    sigma = torch.tensor([0.002, 0.3, 0.5, 80.0], dtype=torch.float64)
    c_skip, c_out = eq.consistency_scaling(sigma)
    for i, s in enumerate(sigma.tolist()):
        way = s - 0.002
        assert abs(float(c_skip[i]) - 1 / (1 + (2 * way) ** 2)) <= 1e-12
        assert abs(float(c_out[i]) - way / (4 * s**2 + 1) ** 0.5) <= 1e-12
    plain = eq.edm_scaling(sigma[1:])  # with paths that start at σ = 0 they are EDM's
    moved = eq.consistency_scaling(sigma[1:], sigma_min=0.0)
    assert torch.stack(moved).sub(torch.stack(plain[:2])).abs().max() <= 1e-12
    for scaling in (10.0, 3.0):
        theirs = LCMScheduler(timestep_scaling=scaling)
        for index in (0, 1, 19, 999):
            pair = theirs.get_scalings_for_boundary_condition_discrete(index)
            assert eq.lcm_scaling(index, scaling) == pytest.approx(pair, abs=1e-12)


MEAN, STD = 0.7, 0.4


def ideal(x, t):
    """That of N(MEAN, STD²): along a path, (x_t - √ᾱ m)/√(ᾱ s² + 1 - ᾱ) stays."""
    ab = AB[int(t)]
    return MEAN + STD * (x - ab.sqrt() * MEAN) / (ab * STD**2 + 1 - ab).sqrt()


@pytest.mark.parametrize("t", [1000, 600, 50])
def test_the_ideal_consistency_function_of_a_gaussian_leads_to_the_path_s_start(t):
    """Against 2,000 turns of DDIM with the ideal denoiser, evenly in the angle."""
    n = 2_000
    angle = torch.acos(AB[t].sqrt()) * torch.linspace(1, 0, n + 1, dtype=torch.float64)
    ab = angle.cos() ** 2
    ab[0] = AB[t]
    x = draw(5)
    start = x
    for a, b in zip(ab[:-1], ab[1:], strict=True):
        var = a * STD**2 + 1 - a
        x0 = MEAN + a.sqrt() * STD**2 / var * (x - a.sqrt() * MEAN)  # E[x0 | x_t]
        x = eq.turned(x, eq.v_from_x0(x, x0, a), a, b)
    assert (ideal(start, t) - x).abs().max() <= 2e-3


def test_multistep_consistency_sampling_keeps_the_gaussian():
    """1 and 4 calls of the ideal one give N(MEAN, STD²); 4 calls of the denoiser's x0 do not."""
    x = draw(200_000, seed=3)
    mixture = GaussianMixture(torch.tensor([[MEAN]], dtype=torch.float64), STD)
    denoiser = IdealDenoiser(mixture, AB)

    def student(x, t):
        return Prediction(x, ideal(x, t))

    def teacher(x, t):
        eps = denoiser(x[:, None], t)[:, 0]
        ab = AB[int(t)]
        return Prediction(eps, (x - (1 - ab).sqrt() * eps) / ab.sqrt() if ab > 0 else 0 * x + MEAN)

    for times in ([1000, 0], [1000, 750, 500, 250, 0]):
        found = last(lcm(student, x, times, AB, noise=gaussian(0))).x
        assert abs(float(found.mean()) - MEAN) < 5e-3 and abs(float(found.std()) - STD) < 5e-3
    blurred = last(lcm(teacher, x, times, AB, noise=gaussian(0))).x
    assert float(blurred.std()) < 0.9 * STD

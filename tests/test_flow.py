"""Flow matching: its formulas by closed forms and derivatives, its sampling beside diffusers'."""

import math
from itertools import pairwise

import diffusers
import numpy as np
import pytest
import torch

from minisd import equations as eq
from minisd import guidance, losses, samplers
from minisd.clocks import Clock
from minisd.schedules import alpha_bar, scaled_linear_betas, trailing_times, zero_terminal_snr
from minisd.toy import GaussianMixture, IdealDenoiser, IdealVelocity

AB = alpha_bar(zero_terminal_snr(scaled_linear_betas()))
TIMES = torch.tensor([0.0, 0.03, 0.3, 0.5, 0.9, 1.0], dtype=torch.float64)


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def far(a, b):
    return float((torch.as_tensor(a) - torch.as_tensor(b)).abs().max())


def mixture():
    means = torch.tensor([[1.0, 0.3], [-0.8, 0.9], [-0.2, -1.1]], dtype=torch.float64)
    return GaussianMixture(means, torch.tensor([0.1, 0.5, 0.3]).double(), [0.5, 0.2, 0.3])


# ---- paths and velocities -----------------------------------------------------------------


def test_a_path_goes_from_the_picture_to_noise_at_its_velocity():
    x0, eps = randn(2, 3), randn(2, 3, seed=1)
    assert far(eq.straight_path(x0, eps, 0.0), x0) == far(eq.straight_path(x0, eps, 1.0), eps) == 0
    t = torch.tensor(0.3, dtype=torch.float64)
    made = torch.func.jacfwd(lambda t: eq.straight_path(x0, eps, t))(t)
    assert far(made, eq.straight_velocity(x0, eps)) <= 1e-12


@pytest.mark.parametrize("sigma_min", [0.0, 0.1])
def test_lipmans_path_is_the_other_way_round(sigma_min):
    x1, noise = randn(2, 3), randn(2, 3, seed=1)
    t = torch.tensor(0.3, dtype=torch.float64)
    made = torch.func.jacfwd(lambda t: eq.conditional_path(x1, noise, t, sigma_min))(t)
    assert far(made, eq.conditional_velocity(x1, noise, sigma_min)) <= 1e-12
    end = eq.conditional_path(x1, noise, 1.0, sigma_min)  # N(x1, σ_min² I)
    assert far(end, x1 + sigma_min * noise) <= 1e-12
    if sigma_min == 0:
        assert far(eq.conditional_path(x1, noise, t), eq.straight_path(x1, noise, 1 - t)) <= 1e-12
        assert far(eq.conditional_velocity(x1, noise), -eq.straight_velocity(x1, noise)) == 0


def test_a_turning_path_has_v_as_its_velocity():
    """α = cos(πt/2), σ = sin(πt/2): diffusion's path, and π/2 times Salimans' v."""
    x0, eps = randn(2, 3), randn(2, 3, seed=1)
    t = torch.tensor(0.3, dtype=torch.float64)

    def path(t):
        return eq.interpolant(x0, eps, (math.pi / 2 * t).cos(), (math.pi / 2 * t).sin())

    ab = (math.pi / 2 * t).cos() ** 2
    assert far(path(t), eq.q_sample(x0, eps, ab)) <= 1e-12
    u = torch.func.jacfwd(path)(t)
    assert far(u, math.pi / 2 * eq.velocity(x0, eps, ab)) <= 1e-12
    assert far(eq.interpolant(x0, eps, 1 - t, t), eq.straight_path(x0, eps, t)) == 0


@pytest.mark.parametrize("t", TIMES.tolist())
def test_u_says_the_picture_and_the_noise(t):
    x0, eps = randn(2, 3), randn(2, 3, seed=1)
    x_t, u = eq.straight_path(x0, eps, t), eq.straight_velocity(x0, eps)
    assert far(eq.x0_from_u(x_t, u, t), x0) <= 1e-12
    assert far(eq.eps_from_u(x_t, u, t), eps) <= 1e-12


# ---- diffusion in other clothes -----------------------------------------------------------


def test_times_of_equal_snr():
    t = eq.flow_time(AB)
    assert t[0] == 0 and t[-1] == 1 and (t.diff() > 0).all()
    assert far(eq.ab_from_flow_time(t), AB) <= 1e-12
    assert far(t[1:-1] / (1 - t[1:-1]), eq.sigma_from_ab(AB[1:-1])) <= 1e-9
    x0, eps, t = randn(6, 3), randn(6, 3, seed=1), TIMES[:, None]
    x_t = eq.q_sample(x0, eps, eq.ab_from_flow_time(t))
    assert far(eq.flow_scale(t) * x_t, eq.straight_path(x0, eps, t)) <= 1e-12
    assert eq.flow_time(0.5) == 0.5 and eq.flow_scale(0.5) == math.sqrt(0.5)


def test_the_ideal_velocity_is_the_mean_over_all_lines():
    """By a sum over a fine grid of x0: ε is what is left, (x - (1-t) x0)/t."""
    means = torch.tensor([[1.0], [-0.6]], dtype=torch.float64)
    data = GaussianMixture(means, torch.tensor([0.3, 0.2]).double(), [0.7, 0.3])
    x0 = torch.linspace(-4, 4, 8001, dtype=torch.float64)
    weights = torch.tensor([0.7, 0.3], dtype=torch.float64) / data.std
    prior = (weights * (-((x0[:, None] - means[:, 0]) ** 2) / (2 * data.std**2)).exp()).sum(1)
    for t in (0.2, 0.5, 0.9):
        for x in (-1.0, 0.1, 0.8):
            eps = (x - (1 - t) * x0) / t
            p = prior * (-(eps**2) / 2).exp()
            want = float((p * (eps - x0)).sum() / p.sum())
            got = IdealVelocity(data)(torch.tensor([[x]], dtype=torch.float64), t)
            assert abs(float(got) - want) <= 1e-9, (t, x)


def test_the_ideal_velocity_is_the_ideal_denoiser():
    data, x = mixture(), randn(6, 2)
    u, eps_model = IdealVelocity(data), IdealDenoiser(data, AB)
    as_flow, as_eps = guidance.to_flow(eps_model, AB), guidance.from_flow(u, AB)
    for t in (0.03, 0.3, 0.9):
        assert far(as_flow(x, t), u(x, t)) <= 1e-10
    for t in (1000, 999, 500, 20.5, 1):
        eps, x0 = as_eps(x, t)
        assert far(eps, eps_model(x, t)) <= 1e-10
        if t < 1000:
            assert far(x0, eq.pred_x0(x, eps, Clock(AB)[t])) <= 1e-9
    each = u(x, TIMES[1:-1].repeat(2)[:6])
    for i, t in enumerate(TIMES[1:-1].repeat(2)[:6]):
        assert far(each[i], u(x[i : i + 1], float(t))[0]) <= 1e-12
    picture = GaussianMixture(randn(3, 1, 2, 2), 0.0)
    assert IdealVelocity(picture)(randn(5, 1, 2, 2), 0.4).shape == (5, 1, 2, 2)


def test_to_flow_begins_in_noise_alone():
    data = mixture()
    v_model = guidance.from_flow(IdealVelocity(data), AB)  # knows x0 at ᾱ = 0 too
    x = randn(4, 2)
    assert far(guidance.to_flow(v_model, AB)(x, 1), IdealVelocity(data)(x, 1)) <= 1e-12
    with pytest.raises(ValueError, match="what u_model returns"):
        guidance.from_flow(lambda x, t: x[:1], AB)(x, 500)


def test_what_has_no_velocity_says_so():
    eps_model = IdealDenoiser(mixture(), alpha_bar(scaled_linear_betas()))  # ends above 0
    u = guidance.to_flow(eps_model, eps_model.ab)
    for t in (1, 0.99):
        with pytest.raises(ValueError, match="sigma must be from 0 to 14.6"):
            u(randn(2, 2), t)
    with pytest.raises(ValueError, match="raise t"):
        IdealVelocity(GaussianMixture(randn(3, 2)))(randn(2, 2), 0.0)


# ---- samplers -----------------------------------------------------------------------------


def euler(u_model, x, times):
    for t, s in pairwise(times):
        x = eq.flow_step(x, u_model(x, t), t, s)
    return x


def heun(u_model, x, times):
    """The last step is Euler's, as in diffusers."""
    for t, s in pairwise(times):
        x = eq.flow_heun_step(u_model, x, t, s) if s > 0 else eq.flow_step(x, u_model(x, t), t, s)
    return x


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_eulers_method_on_the_straight_path_is_ddim(steps):
    data, x, times = mixture(), randn(7, 2), trailing_times(1000, steps)
    u = IdealVelocity(data)
    ddim = samplers.last(samplers.ddim(guidance.from_flow(u, AB), x, times, AB)).x
    flow = euler(u, x, [eq.flow_time(float(AB[t])) for t in times])
    assert far(ddim, flow) <= 1e-12


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_any_grid_of_flow_times_is_a_schedule(shift):
    """ᾱ at the grid's own times: then the k-th time of the sampler is the grid's k-th."""
    data, x = mixture(), randn(7, 2)
    times = eq.shifted_time(torch.linspace(1, 0, 9, dtype=torch.float64), shift)
    ab, u = eq.ab_from_flow_time(times.flip(0)), IdealVelocity(data)
    ddim = samplers.last(samplers.ddim(guidance.from_flow(u, ab), x, range(8, -1, -1), ab)).x
    assert far(ddim, euler(u, x, times.tolist())) <= 1e-12


@pytest.fixture
def doubles(monkeypatch):
    """diffusers' flow schedulers round sigmas and samples to float32 by name: here that is float64,
    so that their algebra is compared, and not their rounding."""
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(np, "float32", np.float64)


def theirs(scheduler, u_model, x):
    for t in scheduler.timesteps:
        x = scheduler.step(u_model(x, float(t) / 1000), t, x).prev_sample
    return x


def grid(steps, shift):
    """Their times: evenly from 1 to the smallest one, which they shift twice, and 0."""
    line = torch.linspace(1, eq.shifted_time(0.001, shift), steps, dtype=torch.float64)
    return [*eq.shifted_time(line, shift).tolist(), 0.0]


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [2, 10])
@pytest.mark.parametrize(("kind", "ours"), [("Euler", euler), ("Heun", heun)])
def test_it_samples_as_diffusers_does(doubles, kind, ours, steps, shift):
    scheduler = getattr(diffusers, f"FlowMatch{kind}DiscreteScheduler")(shift=shift)
    scheduler.set_timesteps(steps)
    times = grid(steps, shift)
    assert far(scheduler.sigmas.unique().flip(0), torch.tensor(times, dtype=torch.float64)) <= 1e-12
    u, x = IdealVelocity(mixture()), randn(7, 2)
    assert far(theirs(scheduler, u, x), ours(u, x, times)) <= 1e-10


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(("kind", "ours"), [("Euler", euler), ("Heun", heun)])
def test_their_rounding_is_float32s(kind, ours, shift):
    scheduler = getattr(diffusers, f"FlowMatch{kind}DiscreteScheduler")(shift=shift)
    scheduler.set_timesteps(10)
    u, x = IdealVelocity(mixture()), randn(7, 2)
    off = far(theirs(scheduler, u, x), ours(u, x, grid(10, shift)))
    assert 1e-10 < off <= 1e-6


@pytest.mark.parametrize("kind", ["Euler", "Heun"])
def test_diffusers_shifts_the_end_of_its_grid_twice(kind):
    """The trap: the smallest sigma is shifted with the scheduler, and once more with its grid."""
    scheduler = getattr(diffusers, f"FlowMatch{kind}DiscreteScheduler")(shift=3.0)
    scheduler.set_timesteps(10)
    assert abs(float(scheduler.sigmas[-2]) - eq.shifted_time(0.001, 9.0)) <= 1e-7
    assert abs(float(scheduler.sigma_min) - eq.shifted_time(0.001, 3.0)) <= 1e-7


def order(step, exact, x, counts=(20, 40, 80)):
    errors = []
    for n in counts:
        times = torch.linspace(1, 0.1, n + 1, dtype=torch.float64).tolist()
        y = x
        for t, s in pairwise(times):
            y = step(y, t, s)
        errors.append(far(y, exact))
    return math.log2(errors[-2] / errors[-1])


def test_heun_has_order_two_and_euler_one():
    data, x = mixture(), randn(5, 2)
    u = IdealVelocity(data)
    fine = torch.linspace(1, 0.1, 2001, dtype=torch.float64).tolist()
    exact = x
    for t, s in pairwise(fine):
        exact = eq.flow_heun_step(u, exact, t, s)
    first = order(lambda y, t, s: eq.flow_step(y, u(y, t), t, s), exact, x)
    second = order(lambda y, t, s: eq.flow_heun_step(u, y, t, s), exact, x)
    assert abs(first - 1) <= 0.1 and abs(second - 2) <= 0.2


# ---- straightness, times, shift -----------------------------------------------------------


def test_straightness_is_0_for_lines_and_known_for_half_a_circle():
    t = torch.linspace(1, 0, 2001, dtype=torch.float64)
    line = eq.straight_path(randn(1, 5, 2), randn(1, 5, 2, seed=1), t[:, None, None])
    assert eq.straightness(line, t) <= 1e-20
    half = torch.stack([(math.pi * t).cos(), (math.pi * t).sin()], dim=1)[:, None]
    assert abs(eq.straightness(half, t) - (math.pi**2 - 4)) <= 1e-4
    assert abs(eq.straightness(half.flip(0), t.flip(0)) - (math.pi**2 - 4)) <= 1e-4
    uneven = t**2  # the same curve at other points: the speed counts too
    curve = torch.stack([(math.pi * t).cos(), (math.pi * t).sin()], dim=1)[:, None]
    assert eq.straightness(curve, uneven) > math.pi**2 - 4


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.5, 0.6)])
def test_logit_normal_times_have_their_density(mean, std):
    z = torch.linspace(-4, 4, 81, dtype=torch.float64, requires_grad=True)
    t = eq.logit_normal_time(z, mean, std)
    (slope,) = torch.autograd.grad(t.sum(), z)
    normal = (-(z**2) / 2).exp() / math.sqrt(2 * math.pi)
    assert far((eq.logit_normal_density(t, mean, std) * slope).detach(), normal.detach()) <= 1e-12
    line = torch.linspace(1e-6, 1 - 1e-6, 200_001, dtype=torch.float64)
    total = torch.trapezoid(eq.logit_normal_density(line, mean, std), line)
    assert abs(float(total) - 1) <= 1e-4


def test_a_shift_multiplies_sigma():
    t = TIMES[1:-1]
    shifted = eq.shifted_time(t, 3.0)
    assert far(shifted / (1 - shifted), 3 * t / (1 - t)) <= 1e-12
    assert far(eq.shifted_time(eq.shifted_time(t, 3.0), 2.0), eq.shifted_time(t, 6.0)) <= 1e-12
    assert eq.shifted_time(0.0, 3.0) == 0 and eq.shifted_time(1.0, 3.0) == 1
    assert eq.resolution_shift(1024 * 1024, 512 * 512) == 2


def test_the_shift_keeps_what_a_mean_over_the_picture_tells():
    """A grey picture of n pixels: the mean of x_t/(1-t) has the standard deviation σ/√n."""
    n, m, t = 64, 576, 0.3
    s = eq.shifted_time(t, eq.resolution_shift(m, n))
    assert abs(t / (1 - t) / math.sqrt(n) - s / (1 - s) / math.sqrt(m)) <= 1e-12


@pytest.mark.parametrize("tokens", [256, 1024, 4096])
def test_flux_shift_is_diffusers(tokens):
    mu = np.interp(tokens, [256, 4096], [0.5, 1.15])  # the published ends of the line
    assert abs(eq.flux_shift(tokens) - math.exp(mu)) <= 1e-9
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    t = TIMES[1:]
    assert far(scheduler.time_shift(mu, 1.0, t), eq.shifted_time(t, eq.flux_shift(tokens))) <= 1e-9


# ---- the loss -----------------------------------------------------------------------------


def test_the_loss_by_hand_with_a_time_for_each():
    x0, eps, t = randn(3, 2), randn(3, 2, seed=1), torch.tensor([0.1, 0.5, 1.0]).double()
    got = losses.flow_matching(lambda x, time: x * time[:, None], x0, t, eps)
    for i in range(3):
        x_t = (1 - t[i]) * x0[i] + t[i] * eps[i]
        want = ((eps[i] - x0[i] - t[i] * x_t) ** 2).mean()
        assert abs(float(got[i] - want)) <= 1e-12
    one = losses.flow_matching(lambda x, time: x * time, x0, 0.5, eps)
    assert abs(float(one[1] - got[1])) <= 1e-12


def test_no_model_has_a_smaller_loss_than_the_ideal_velocity():
    """Its error is orthogonal to every function of x_t, here to a few, within 5 standard errors."""
    data, n = mixture(), 200_000
    x0 = data.sample(n, torch.Generator().manual_seed(0))[0]
    eps, t, u = randn(n, 2, seed=2), 0.4, IdealVelocity(data)
    x_t = eq.straight_path(x0, eps, t)
    off = eps - x0 - u(x_t, t)
    for f in (torch.ones_like(x_t), x_t, x_t**2, x_t.sin() * x_t.flip(1)):
        each = (off * f).sum(1)
        assert abs(float(each.mean())) <= 5 * float(each.std()) / math.sqrt(n)
    with pytest.raises(ValueError, match="what u_model returns"):
        losses.flow_matching(lambda x, t: x[:1], x0, t, eps)

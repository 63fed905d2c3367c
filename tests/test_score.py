"""The score, its SDE and its ODE, against densities in closed form."""

import itertools
import math
from itertools import pairwise

import pytest
import torch

from minisd.equations import (
    classifier_guided_eps,
    conditional_score,
    ddim_step,
    divergence,
    flow_drift,
    flow_log_likelihood,
    forward_drift,
    guided_eps,
    hutchinson,
    langevin_step,
    q_sample,
    reverse_drift,
    reverse_mean,
    score_from_eps,
    score_matching_loss,
    sde_step,
    simple_loss,
    vp_alpha_bar,
    vp_beta,
)
from minisd.samplers import ddim, last
from minisd.schedules import alpha_bar, linear_betas, scaled_linear_betas, trailing_times
from minisd.toy import GaussianMixture, IdealDenoiser


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tensor(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


PLANE = GaussianMixture(
    tensor([-1.5, 0.4], [0.6, 1.2], [1.2, -1.0]), tensor(0.3, 0.4, 0.5), [0.2, 0.3, 0.5]
)
LINE = GaussianMixture(tensor([-1.5], [0.0], [1.8]), 0.3, [0.2, 0.5, 0.3])
X = 2 * randn(40, 2, seed=1)


def linspace(start, end, steps):
    return torch.linspace(start, end, steps + 1, dtype=torch.float64).tolist()


def flow_of(data):
    return lambda x, tau: flow_drift(x, data.score(x, vp_alpha_bar(tau)), vp_beta(tau))


def reverse_of(data):
    return lambda x, tau: reverse_drift(x, data.score(x, vp_alpha_bar(tau)), vp_beta(tau))


@pytest.mark.parametrize("ab_t", [1.0, 0.9, 0.5, 0.01])
def test_density_and_score_of_a_mixture(ab_t):
    """The density is torch.distributions', the score its gradient and the ideal denoiser's."""
    x = X.clone().requires_grad_()
    parts = torch.distributions.Independent(
        torch.distributions.Normal(
            math.sqrt(ab_t) * PLANE.means, (ab_t * PLANE.std**2 + 1 - ab_t).sqrt()[:, None]
        ),
        1,
    )
    weights = torch.distributions.Categorical(PLANE.weights)
    expected = torch.distributions.MixtureSameFamily(weights, parts).log_prob(x)
    assert (PLANE.log_density(X, ab_t) - expected).abs().max() <= 1e-10
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    assert (PLANE.score(X, ab_t) - gradient).abs().max() <= 1e-9
    if ab_t < 1:
        eps = IdealDenoiser(PLANE, tensor(1, ab_t))(X, 1)
        assert (score_from_eps(eps, ab_t) - gradient).abs().max() <= 1e-9


def test_the_score_of_pictures_keeps_their_shape():
    pictures = GaussianMixture(randn(3, 2, 4, 4), 0.2)
    x = randn(5, 2, 4, 4, seed=2)
    flat = GaussianMixture(pictures.means.flatten(1), 0.2)
    assert (pictures.score(x, 0.6).flatten(1) - flat.score(x.flatten(1), 0.6)).abs().max() <= 1e-12
    assert pictures.score(x, 0.6).shape == x.shape and pictures.log_density(x).shape == (5,)


@pytest.mark.parametrize("ab_t", [0.9, 0.3])
def test_denoising_score_matching(ab_t):
    """Its target is a gradient, its mean over x0 the score, its loss the loss on ε, weighted."""
    x0, eps, eps_theta = (randn(6, 4, seed=seed) for seed in (1, 2, 3))
    x_t = q_sample(x0, eps, ab_t).requires_grad_()
    normal = torch.distributions.Normal(math.sqrt(ab_t) * x0, math.sqrt(1 - ab_t))
    (gradient,) = torch.autograd.grad(normal.log_prob(x_t).sum(), x_t)
    target = conditional_score(x_t.detach(), x0, ab_t)
    assert (target - gradient).abs().max() <= 1e-12
    loss = score_matching_loss(score_from_eps(eps_theta, ab_t), target)
    assert (2 * (1 - ab_t) * loss - 4 * simple_loss(eps, eps_theta)).abs().max() <= 1e-10

    points = GaussianMixture(PLANE.means, 0.0, PLANE.weights)
    likelihood = [GaussianMixture(m[None], 0.0).log_density(X, ab_t) for m in points.means]
    r = (torch.stack(likelihood, 1) + points.weights.log()).softmax(1)
    targets = torch.stack([conditional_score(X, m, ab_t) for m in points.means], 1)
    assert ((r[..., None] * targets).sum(1) - points.score(X, ab_t)).abs().max() <= 1e-9


def test_langevin_dynamics_of_a_gaussian():
    """A step is linear, so the variance follows exactly; it stays at s²/(1 - a/(4s²))."""
    by_hand = 1 + 0.05 * -0.5 + math.sqrt(0.1) * 2
    assert abs(langevin_step(1.0, -0.5, 0.1, 2.0) - by_hand) <= 1e-12
    for std, step in ((1.0, 0.5), (0.7, 0.3)):
        kept = langevin_step(1.0, -1 / std**2, step, 0.0)
        noise = langevin_step(0.0, 0.0, step, 1.0)
        variance = std**2 / (1 - step / (4 * std**2))
        assert abs(kept**2 * variance + noise**2 - variance) <= 1e-12


def test_alpha_bar_is_the_limit_of_the_chain():
    """The integral of β by a fine sum; and chains of N steps come nearer as 1/N."""
    taus = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    for tau in (0.1, 0.5, 1.0):
        integral = float(vp_beta(taus * tau).mean() * tau)
        assert abs(float(vp_alpha_bar(tau)) - math.exp(-integral)) <= 1e-9
    gaps = []
    for n in (500, 1000, 2000):
        chain = alpha_bar(linear_betas(n, 0.1 / n, 20 / n))
        limit = vp_alpha_bar(torch.linspace(0, 1, n + 1, dtype=torch.float64))
        gaps.append(float((chain - limit).abs().max()))
    assert gaps[1] < 1e-3 and all(1.9 < a / b < 2.1 for a, b in pairwise(gaps))


@pytest.mark.parametrize("tau", [0.05, 0.3, 0.8])
def test_all_three_equations_move_the_same_density(tau):
    """Fokker and Planck's equation, ∂ log q/∂τ, for the SDE forwards, backwards, and the ODE."""
    ab_t, beta, h = vp_alpha_bar(tau), vp_beta(tau), 1e-5
    change = PLANE.log_density(X, vp_alpha_bar(tau + h))
    change = (change - PLANE.log_density(X, vp_alpha_bar(tau - h))) / (2 * h)
    score, curvature = divergence(lambda x: PLANE.score(x, ab_t), X)
    spreads = beta / 2 * (curvature + (score**2).sum(1))  # ½ β ∇²q / q

    def moved(drift):
        value, trace = divergence(drift, X)
        return -trace - (value * score).sum(1)

    forwards = moved(lambda x: forward_drift(x, beta)) + spreads
    backwards = moved(lambda x: reverse_drift(x, PLANE.score(x, ab_t), beta)) - spreads
    smoothly = moved(lambda x: flow_drift(x, PLANE.score(x, ab_t), beta))
    for found in (forwards, backwards, smoothly):
        assert ((found - change) / change.abs().clamp(min=1)).abs().max() <= 1e-6
    half = moved(lambda x: flow_drift(x, PLANE.score(x, ab_t), beta)) - spreads  # the usual slip
    assert (half - change).abs().max() > 0.1


def test_ddpm_and_ddim_are_steps_of_the_two():
    """They part from Euler's by the square of the length."""
    x, tau = torch.linspace(-3, 3, 61, dtype=torch.float64)[:, None], 0.5
    ab_t, beta = vp_alpha_bar(tau), vp_beta(tau)
    eps = -(1 - ab_t).sqrt() * LINE.score(x, ab_t)
    gaps = []
    for length in (0.004, 0.002, 0.001):
        ab_s = vp_alpha_bar(tau - length)
        sde = sde_step(x, reverse_of(LINE)(x, tau), beta, -length)
        ode = sde_step(x, flow_of(LINE)(x, tau), beta, -length)
        pairs = ((reverse_mean(x, eps, ab_t, ab_s), sde), (ddim_step(x, eps, ab_t, ab_s), ode))
        gaps.append([float((a - b).abs().max()) for a, b in pairs])
    for k in (0, 1):
        assert all(3.8 < a[k] / b[k] < 4.2 for a, b in pairwise(gaps))
    z = randn(61, 1)
    noise = sde_step(x, 0 * x, beta, -0.001, z) - x
    assert (noise - math.sqrt(beta * 0.001) * z).abs().max() <= 1e-12


def test_euler_and_ddim_have_order_one_on_the_ode_of_a_gaussian():
    """Its solution is known: (x - √ᾱ m)/√v stays along a path."""
    data, x = GaussianMixture(tensor([0.8]), 0.5), torch.linspace(-2, 2, 41).double()[:, None]
    var = float(vp_alpha_bar(1.0) * 0.25 + 1 - vp_alpha_bar(1.0))
    exact = 0.8 + 0.5 * (x - 0.8 * vp_alpha_bar(1.0).sqrt()) / math.sqrt(var)

    def euler(x, tau, s):
        return sde_step(x, flow_of(data)(x, tau), vp_beta(tau), s - tau)

    def ddims(x, tau, s):
        ab_t = vp_alpha_bar(tau)
        eps = -(1 - ab_t).sqrt() * data.score(x, ab_t)
        return ddim_step(x, eps, ab_t, vp_alpha_bar(s))

    for step in (euler, ddims):
        errors = []
        for n in (200, 400, 800):
            end = x
            for tau, s in pairwise(linspace(1, 0, n)):
                end = step(end, tau, s)
            errors.append(float((end - exact).abs().max()))
        assert all(1.8 < a / b < 2.2 for a, b in pairwise(errors)), errors


def test_divergences():
    """A linear field; and all signs as probes, whose products have the mean I exactly."""
    matrix, x = randn(3, 3, seed=4), randn(5, 3, seed=5)
    value, trace = divergence(lambda x: x @ matrix.T, x)
    assert (value - x @ matrix.T).abs().max() <= 1e-12
    assert (trace - matrix.trace()).abs().max() <= 1e-12
    signs = tensor(*itertools.product((-1, 1), repeat=3))
    found = torch.stack([hutchinson(lambda x: x @ matrix.T, x, z.expand(5, 3))[1] for z in signs])
    assert (found.mean(0) - matrix.trace()).abs().max() <= 1e-12
    assert found.std(0).min() > 0.1
    z = randn(5, 3, seed=6)  # and Gaussian probes, one for each row
    expected = torch.stack([row @ matrix @ row for row in z])
    assert (hutchinson(lambda x: x @ matrix.T, x, z)[1] - expected).abs().max() <= 1e-12


def test_the_likelihood_is_exact():
    """To 1e-4 in 80 steps, of fourth order, and by Hutchinson's estimate over all signs."""
    x0, _ = PLANE.sample(100, torch.Generator().manual_seed(3))
    exact = PLANE.log_density(x0)

    def found(steps, trace=divergence):
        def end(x):
            return PLANE.log_density(x, vp_alpha_bar(1.0))

        return flow_log_likelihood(flow_of(PLANE), x0, linspace(0, 1, steps), end, trace)

    errors = [float((found(n) - exact).abs().max()) for n in (40, 80)]
    assert errors[1] <= 1e-4 and errors[0] / errors[1] > 2**3.8
    signs = [tensor(1, 1), tensor(1, -1)]  # -z gives what z gives
    probes = [found(40, lambda f, x, z=z: hutchinson(f, x, z.expand(x.shape))) for z in signs]
    assert ((probes[0] + probes[1]) / 2 - found(40)).abs().max() <= 1e-9
    assert (probes[0] - probes[1]).abs().max() > 0.1


def test_the_models_density_has_the_integral_one():
    """With N(0, I) at the end: a density all the same, a little off the data's."""
    grid = torch.linspace(-4, 4, 801, dtype=torch.float64)[:, None]

    def normal(x):
        return -(x**2).sum(1) / 2 - math.log(2 * math.pi) / 2

    log_p = flow_log_likelihood(flow_of(LINE), grid, linspace(0, 1, 100), normal)
    assert abs(float(log_p.exp().sum()) * 0.01 - 1) <= 1e-4
    gap = (log_p - LINE.log_density(grid)).abs()[100:-100].max()
    assert 1e-3 < gap < 0.05


def largest_gap(a, b):
    points = torch.cat([a, b])
    return ((a <= points[:, None]).double().mean(1) - (b <= points[:, None]).double().mean(1)).abs()


def test_sde_and_ode_have_the_same_marginals():
    """Kolmogorov and Smirnov's test at one in a thousand; it refuses a forgotten or added half."""
    n, generator = 2000, torch.Generator().manual_seed(5)

    def of_the_data(tau, seed):
        x0, _ = LINE.sample(n, torch.Generator().manual_seed(seed))
        return q_sample(x0, randn(n, 1, seed=seed + 1), vp_alpha_bar(tau))

    def gaps(drift, noisy):
        x, found = of_the_data(1.0, 20), []
        for tau, s in pairwise(linspace(1, 0, 200)):
            z = torch.randn(x.shape, dtype=x.dtype, generator=generator) if noisy else 0.0
            x = sde_step(x, drift(x, tau), vp_beta(tau), s - tau, z)
            if abs(s - 0.3) < 1e-9 or s == 0:
                found.append(float(largest_gap(x[:, 0], of_the_data(s, 40)[:, 0]).max()))
        return found

    critical = 1.95 * math.sqrt(2 / n)
    assert max(gaps(reverse_of(LINE), True)) < critical
    assert max(gaps(flow_of(LINE), False)) < critical
    assert min(gaps(flow_of(LINE), True)) > 2 * critical
    assert min(gaps(reverse_of(LINE), False)) > 2 * critical


def test_a_classifiers_gradient_guides_as_two_predictions_do():
    both = GaussianMixture(tensor([-1.0, 0.0], [1.0, 0.5]), 0.7)
    wanted = GaussianMixture(tensor([1.0, 0.5]), 0.7)
    ab_t, x = 0.6, X.clone().requires_grad_()
    log_c = math.log(0.5) + wanted.log_density(x, ab_t) - both.log_density(x, ab_t)
    assert (log_c < 0).all()
    (gradient,) = torch.autograd.grad(log_c.sum(), x)
    eps_u, eps_c = (-math.sqrt(1 - ab_t) * m.score(X, ab_t) for m in (both, wanted))
    for g in (0.0, 1.0, 4.0):
        by_classifier = classifier_guided_eps(eps_u, gradient, ab_t, g)
        assert (by_classifier - guided_eps(eps_u, eps_c, g)).abs().max() <= 1e-9


def test_the_ideal_denoiser_of_a_set_repeats_the_set():
    """Every sample of it is one of the pictures that it was made of."""
    ab, pictures = alpha_bar(scaled_linear_betas()), randn(20, 3, 4, 4, seed=6)
    ideal = IdealDenoiser(GaussianMixture(pictures), ab)
    x = last(ddim(ideal, randn(10, 3, 4, 4, seed=7), trailing_times(1000, 30), ab)).x
    away = torch.cdist(x.flatten(1), pictures.flatten(1))
    assert away.amin(1).max() <= 1e-6 and len(set(away.argmin(1).tolist())) > 3

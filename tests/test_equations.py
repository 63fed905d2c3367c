"""Every formula against something independent: brute force, exact arithmetic, an identity."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch

from minisd import equations as eq
from minisd.schedules import alpha_bar, linear_betas, scaled_linear_betas

SD = alpha_bar(scaled_linear_betas())
PAIRS = [(1000, 999), (1000, 980), (982, 962), (500, 499), (22, 2), (2, 1), (1, 0), (20, 0)]


def draw(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X, E, Z = draw(3, 2, 4, 4, 4)


def close(a, b, tolerance=1e-12):
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance


@pytest.fixture(params=PAIRS, ids=str)
def abs_(request):
    t, s = request.param
    return SD[t], SD[s]


# ---- DDPM ---------------------------------------------------------------------------------


def test_sqrt_of_tensors_and_numbers():
    close(eq.sqrt(torch.tensor([4.0, 9.0])), torch.tensor([2.0, 3.0]))
    assert eq.sqrt(2.25) == 1.5 and eq.sqrt(-1e-17) == eq.sqrt(-1e-12) == 0
    for negative in (-0.1, -1e-9):
        with pytest.raises(ValueError, match=f"negative number: {negative}"):
            eq.sqrt(negative)


def test_q_step_many_times_is_q_sample_once():
    """Eq. 2 applied t times to x0 with recorded noise = eq. 4 with the noise that adds up."""
    betas, x, noise = scaled_linear_betas(7, 0.1, 0.3), X, torch.zeros_like(X)
    ab = alpha_bar(betas)
    for t, beta in enumerate(betas, 1):
        z = draw(*X.shape, seed=t)
        x = eq.q_step(x, z, beta)
        noise = (1 - beta) ** 0.5 * noise + beta**0.5 * z
        close(x, eq.q_sample(X, noise / (1 - ab[t]) ** 0.5, ab[t]))


def test_q_step_keeps_unit_variance():
    """x and ε orthonormal: the squared weights of a step add up to 1."""
    for beta in (0.00085, 0.3, 1.0):
        one, zero = torch.ones(1).double(), torch.zeros(1).double()
        share = eq.q_step(one, zero, beta) ** 2, eq.q_step(zero, one, beta) ** 2
        close(sum(share), one)
        close(share[1], one * beta)


def test_q_sample_ends():
    close(eq.q_sample(X, E, 1.0), X)
    close(eq.q_sample(X, E, 0.0), E)
    close(eq.q_sample(X, E, 0.64), 0.8 * X + 0.6 * E)


def bayes(x0, x_t, ab_t, ab_s):
    """Posterior of x_s on a fine grid: prior q(x_s|x0) times likelihood q(x_t|x_s), normalised."""
    ab_t, ab_s = float(ab_t), float(ab_s)
    alpha = ab_t / ab_s
    mid, width = ab_s**0.5 * x0, (1 - ab_s) ** 0.5
    ends = mid, x_t / alpha**0.5  # where the prior and where the likelihood is largest
    grid = np.linspace(min(ends) - 9 * width, max(ends) + 9 * width, 400_001)
    log_p = -((grid - mid) ** 2) / (2 * (1 - ab_s)) - (x_t - alpha**0.5 * grid) ** 2 / (
        2 * (1 - alpha)
    )
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    mean = (p * grid).sum()
    return mean, (p * (grid - mean) ** 2).sum()


@pytest.mark.parametrize("pair", [p for p in PAIRS if p[1] > 0], ids=str)
def test_posterior_is_bayes_on_a_grid(pair):
    ab_t, ab_s = SD[pair[0]], SD[pair[1]]
    for x0, x_t in product([-1.0, 0.3], [-0.7, 1.9]):
        mean, variance = bayes(x0, x_t, ab_t, ab_s)
        got_mean, got_variance = eq.posterior(x0, x_t, ab_t, ab_s)
        assert abs(got_mean - mean) <= 1e-6 and abs(got_variance - variance) <= 1e-6 * variance


def test_posterior_at_the_end_is_x0():
    close(eq.posterior_mean(X, E, SD[1], SD[0]), X)
    assert eq.posterior_variance(SD[1], SD[0]) == 0


def test_variances_add_up(abs_):
    """Var x_s = Var(mean of x_s given x_t, x0) + β̃: 1 - ᾱ_s, when x_t is spread as q says."""
    ab_t, ab_s = abs_
    one, zero = torch.ones(1).double(), torch.zeros(1).double()
    of_x0, of_xt = (eq.posterior_mean(a, b, ab_t, ab_s) for a, b in [(one, zero), (zero, one)])
    close(of_xt**2 * (1 - ab_t) + eq.posterior_variance(ab_t, ab_s), one * (1 - ab_s))
    close(of_x0 + of_xt * ab_t**0.5, one * ab_s**0.5)


def test_forward_variance_is_beta():
    betas = linear_betas(10)
    ab = alpha_bar(betas)
    close(eq.forward_variance(ab[1:], ab[:-1]), betas, 1e-15)
    # Over a gap: noise upon noise, v <- (1-β) v + β.
    v = 0.0
    for beta in betas[3:8].tolist():
        v = (1 - beta) * v + beta
    assert abs(eq.forward_variance(ab[8], ab[3]) - v) <= 1e-15


def test_eq_8_is_the_kl_of_equal_variances():
    from torch.distributions import Independent, Normal, kl_divergence

    for variance in (0.01, 0.7):
        std = torch.tensor(variance).double().sqrt()
        p, q = (Independent(Normal(m, std.expand_as(m)), X.ndim - 1) for m in (X, E))
        got = eq.mean_matching_loss(X, E, torch.tensor(variance).double())
        close(got, kl_divergence(p, q), 1e-9)


def test_eq_11_is_eq_7_with_pred_x0(abs_):
    ab_t, ab_s = abs_
    x0 = eq.pred_x0(X, E, ab_t)
    close(eq.reverse_mean(X, E, ab_t, ab_s), eq.posterior_mean(x0, X, ab_t, ab_s), 1e-11)


def test_eq_11_by_hand():
    """α = 0.64, β = 0.36, ᾱ_t = 0.36 (so ᾱ_s = 0.5625): (x - 0.36/0.8 ε) / 0.8."""
    close(eq.reverse_mean(X, E, 0.36, 0.5625), (X - 0.45 * E) / 0.8)


def test_eq_12_is_eq_8_with_eq_11(abs_):
    """The weight turns an ε error into the distance of the two means, eq. 8."""
    ab_t, ab_s = abs_
    variance = torch.tensor(0.07).double()
    mean, mean_theta = (eq.reverse_mean(X, e, ab_t, ab_s) for e in (E, Z))
    weight = eq.eps_loss_weight(ab_t, ab_s, variance)
    squares = ((E - Z) ** 2).flatten(1).sum(1)
    expected = eq.mean_matching_loss(mean, mean_theta, variance)
    close(weight * squares / expected, torch.ones(len(X)).double(), 1e-10)


def test_eq_12_is_lvlb_weights():
    """Official, measured: entries 1, 2, 500, 999 (the paper's t is one more)."""
    for i, value in {1: 0.50319399, 2: 0.2523954, 500: 0.00334906, 999: 0.00610165}.items():
        ab_t, ab_s = SD[i + 1], SD[i]
        weight = eq.eps_loss_weight(ab_t, ab_s, eq.posterior_variance(ab_t, ab_s))
        assert abs(weight - value) <= 1e-7


def test_simple_loss_is_mse_of_each_sample():
    expected = [torch.nn.functional.mse_loss(e, z) for e, z in zip(E, Z, strict=True)]
    close(eq.simple_loss(E, Z), torch.stack(expected))


def test_pred_x0_undoes_q_sample():
    for t in (1, 2, 500, 1000):
        close(eq.pred_x0(eq.q_sample(X, E, SD[t]), E, SD[t]), X)
    each = SD[[1, 1000]].reshape(-1, 1, 1, 1)
    close(eq.pred_x0(eq.q_sample(X, E, each), E, each), X)


# ---- DDIM ---------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_every_eta_has_the_same_marginals(abs_, eta):
    """DDIM Lemma 1: q_σ(x_s | x0) = N(√ᾱ_s x0, (1-ᾱ_s) I) whatever σ is."""
    ab_t, ab_s = abs_
    sigma_t = eq.sigma(ab_t, ab_s, eta)
    one, zero = torch.ones(1).double(), torch.zeros(1).double()
    of_x0, of_xt = (eq.ddim_mean(a, b, ab_t, ab_s, sigma_t) for a, b in [(one, zero), (zero, one)])
    close(of_x0 + of_xt * ab_t**0.5, one * ab_s**0.5)
    close(of_xt**2 * (1 - ab_t) + sigma_t**2, one * (1 - ab_s))


def test_eta_1_is_ddpms_posterior(abs_):
    ab_t, ab_s = abs_
    sigma_t = eq.sigma(ab_t, ab_s, 1.0)
    close(sigma_t**2, eq.posterior_variance(ab_t, ab_s))
    close(eq.ddim_mean(X, E, ab_t, ab_s, sigma_t), eq.posterior_mean(X, E, ab_t, ab_s))


def test_eq_12_is_eq_7_with_pred_x0(abs_):
    ab_t, ab_s = abs_
    sigma_t = eq.sigma(ab_t, ab_s, 0.4)
    x0 = eq.pred_x0(X, E, ab_t)
    mean = eq.ddim_mean(x0, X, ab_t, ab_s, sigma_t)
    close(eq.ddim_step(X, E, ab_t, ab_s, sigma_t, Z), mean + sigma_t * Z, 1e-11)
    close(eq.ddim_step(X, E, ab_t, ab_s, sigma_t), mean, 1e-11)


def test_dir_xt_by_hand():
    close(eq.dir_xt(E, 0.5, 0.3), 0.41**0.5 * E)
    close(eq.dir_xt(E, 0.36, 0.0), 0.8 * E)


def test_sigma_is_linear_in_eta_and_the_official_table():
    """ddim_sigmas of the official code at 50 steps, η = 1: entries 0, 1, 25, 48, 49."""
    times = {0: (2, 1), 1: (22, 2), 25: (502, 482), 48: (962, 942), 49: (982, 962)}
    measured = {0: 0.02064832, 1: 0.03947955, 25: 0.29478454, 48: 0.44828244, 49: 0.45446327}
    for i, (t, s) in times.items():
        assert abs(eq.sigma(SD[t], SD[s], 1.0) - measured[i]) <= 1e-8
        assert abs(eq.sigma(SD[t], SD[s], 0.3) - 0.3 * eq.sigma(SD[t], SD[s], 1.0)) <= 1e-15
    assert eq.sigma(SD[500], SD[480], 0.0) == 0


# ---- three ways to write the η = 0 step ----------------------------------------------------


def test_transfer_ode_step_and_difference_are_the_ddim_step(abs_):
    ab_t, ab_s = abs_
    step = eq.ddim_step(X, E, ab_t, ab_s)
    close(eq.transfer(X, E, ab_t, ab_s), step)
    close(eq.ddim_ode_step(X, E, ab_t, ab_s), step)
    close(X + eq.pndm_difference(X, E, ab_t, ab_s), step)


def test_a_step_with_the_true_noise_stays_on_the_path(abs_):
    ab_t, ab_s = abs_
    for step in (eq.transfer, eq.ddim_ode_step, eq.ddim_step):
        close(step(eq.q_sample(X, E, ab_t), E, ab_t, ab_s), eq.q_sample(X, E, ab_s))
    close(eq.transfer(eq.transfer(X, E, ab_t, ab_s), E, ab_s, ab_t), X)


# ---- PNDM ---------------------------------------------------------------------------------


def test_adams_bashforth_is_the_published_table():
    published = {
        1: [1],
        2: [Fraction(3, 2), Fraction(-1, 2)],
        3: [Fraction(n, 12) for n in (23, -16, 5)],
        4: [Fraction(n, 24) for n in (55, -59, 37, -9)],
    }
    for order, weights in published.items():
        assert list(eq.adams_bashforth(order)) == weights


@pytest.mark.parametrize("order", range(1, 11))
def test_adams_bashforth_integrates_polynomials_exactly(order):
    """The k-th moment: Σ b_j (-j)^k = ∫₀¹ u^k du = 1/(k+1), for every k below the order."""
    weights = eq.adams_bashforth(order)
    assert len(weights) == order and all(isinstance(w, Fraction) for w in weights)
    for k in range(order):
        assert sum(w * Fraction(-j) ** k for j, w in enumerate(weights)) == Fraction(1, k + 1)


@pytest.mark.parametrize("order", [0, -1, 1.5, "4", True, None])
def test_adams_bashforth_wants_a_whole_number(order):
    with pytest.raises(ValueError, match="order must be a whole number"):
        eq.adams_bashforth(order)


def test_multistep_eps_by_hand():
    history = list(draw(4, 2, 3))
    e, e1, e2, e3 = history
    close(eq.multistep_eps(history[:1]), e)
    close(eq.multistep_eps(history[:2]), (3 * e - e1) / 2)
    close(eq.multistep_eps(history[:3]), (23 * e - 16 * e1 + 5 * e2) / 12)
    close(eq.multistep_eps(history), (55 * e - 59 * e1 + 37 * e2 - 9 * e3) / 24)


def test_runge_kutta_and_improved_euler_by_hand():
    e1, e2, e3, e4 = draw(4, 2, 3)
    close(eq.runge_kutta_eps(e1, e2, e3, e4), e1 / 6 + e2 / 3 + e3 / 3 + e4 / 6)
    close(eq.improved_euler_eps(e1, e2), 0.5 * e1 + 0.5 * e2)


# ---- v, guidance, weights -----------------------------------------------------------------


@pytest.mark.parametrize("ab_t", [0.0, 0.0047, 0.5, 0.99, 1.0])
def test_v_and_back(ab_t):
    x_t = eq.q_sample(X, E, ab_t)
    v = eq.velocity(X, E, ab_t)
    close(eq.x0_from_v(x_t, v, ab_t), X)
    close(eq.eps_from_v(x_t, v, ab_t), E)
    if ab_t < 1:
        close(eq.eps_from_x0(x_t, X, ab_t), E, 1e-11)


def test_v_is_the_speed_round_the_circle():
    """v = dx/dφ with √ᾱ = cos φ, by central differences."""
    phi, h = 0.7, 1e-5
    ahead, behind = (eq.q_sample(X, E, np.cos(p) ** 2) for p in (phi + h, phi - h))
    close(eq.velocity(X, E, np.cos(phi) ** 2), (ahead - behind) / (2 * h), 1e-9)


def test_guidance():
    close(eq.guided_eps(X, E, 0.0), X)
    close(eq.guided_eps(X, E, 1.0), E)
    close(eq.guided_eps(X, E, 7.5), 7.5 * E - 6.5 * X)
    close(eq.guided_eps_paper(X, E, 6.5), eq.guided_eps(X, E, 7.5))
    close(eq.guided_eps_paper(X, E, 0.0), E)


def test_guidance_is_the_same_on_v():
    ab, u, c = SD[500], draw(2, 4, 4, 4, seed=5), draw(2, 4, 4, 4, seed=6)
    on_v = eq.eps_from_v(X, eq.guided_eps(u, c, 7.5), ab)
    on_eps = eq.guided_eps(eq.eps_from_v(X, u, ab), eq.eps_from_v(X, c, ab), 7.5)
    close(on_v, on_eps)


def test_rescale_guidance_restores_the_spread():
    guided = eq.guided_eps(X, E, 7.5)
    full = eq.rescale_guidance(guided, E, 1.0)
    close(full.flatten(1).std(1), E.flatten(1).std(1))
    ratio = full / guided  # one number for each sample
    assert (ratio.flatten(1).std(1) <= 1e-12).all() and not torch.isclose(*ratio[:, 0, 0, 0])
    close(eq.rescale_guidance(guided, E, 0.0), guided)
    close(eq.rescale_guidance(guided, E), 0.7 * full + 0.3 * guided)


def test_min_snr_weights_are_one_loss_three_ways():
    """w ‖x0 error‖² is the same number whether the network was asked for x0, ε or v."""
    for t in (1, 50, 300, 1000):
        ab = SD[t]
        snr = ab / (1 - ab)
        x_t, x0 = eq.q_sample(X, E, ab), X + 0.1 * Z
        eps = eq.eps_from_x0(x_t, x0, ab)
        v = eq.velocity(x0, eps, ab)
        expected = min(float(snr), 5.0) * eq.simple_loss(X, x0)
        close(eq.min_snr_weight_x0(snr) * eq.simple_loss(X, x0), expected)
        close(eq.min_snr_weight_eps(snr) * eq.simple_loss(E, eps), expected, 1e-9)
        close(eq.min_snr_weight_v(snr) * eq.simple_loss(eq.velocity(X, E, ab), v), expected, 1e-9)
    assert eq.min_snr_weight_x0(torch.tensor(3.0), gamma=2.0) == 2
    assert eq.min_snr_weight_v(7.1) == 5 / 8.1 and eq.min_snr_weight_eps(0.3) == 1  # plain numbers
    assert eq.min_snr_weight_eps(torch.tensor(8.0), gamma=2.0) == 0.25
    assert eq.min_snr_weight_v(torch.tensor(7.0), gamma=2.0) == 0.25


# ---- all of them --------------------------------------------------------------------------


def test_no_argument_is_changed_and_float32_stays_float32():
    x, e, z = (v.float() for v in (X, E, Z))
    ab_t, ab_s = SD[982], SD[962]
    calls = {
        eq.q_step: (x, e, 1 - ab_t),
        eq.q_sample: (x, e, ab_t),
        eq.posterior_mean: (x, e, ab_t, ab_s),
        eq.reverse_mean: (x, e, ab_t, ab_s),
        eq.pred_x0: (x, e, ab_t),
        eq.ddim_mean: (x, e, ab_t, ab_s, 0.1),
        eq.ddim_step: (x, e, ab_t, ab_s, 0.1, z),
        eq.ddim_ode_step: (x, e, ab_t, ab_s),
        eq.transfer: (x, e, ab_t, ab_s),
        eq.pndm_difference: (x, e, ab_t, ab_s),
        eq.velocity: (x, e, ab_t),
        eq.x0_from_v: (x, e, ab_t),
        eq.eps_from_v: (x, e, ab_t),
        eq.eps_from_x0: (x, e, ab_t),
        eq.guided_eps: (x, e, 7.5),
        eq.rescale_guidance: (x, e),
    }
    before = x.clone(), e.clone(), z.clone()
    for function, arguments in calls.items():
        assert function(*arguments).dtype == torch.float32, function.__name__
    assert all(torch.equal(a, b) for a, b in zip(before, (x, e, z), strict=True))

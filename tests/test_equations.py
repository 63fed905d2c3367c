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


# ---- EDM ------------------------------------------------------------------------------------

SIGMAS = torch.tensor([0.01, 0.3, 1.0, 14.6], dtype=torch.float64)
SCALINGS = {
    "eps": eq.eps_scaling,
    "v": eq.v_scaling,
    "v, EDM's c_noise": eq.v_edm_noise_scaling,
    "EDM": eq.edm_scaling,
}


def test_sigma_and_ab_are_one_another():
    """x/√ᾱ of eq. 4 is x0 + σ ε; numbers and tensors alike."""
    for t in (1, 500, 1000):
        sigma = eq.sigma_from_ab(SD[t])
        close(eq.q_sample(X, E, SD[t]) / SD[t].sqrt(), X + sigma * E, 1e-11)
        close(eq.ab_from_sigma(sigma), SD[t])
        assert abs(eq.sigma_from_ab(float(SD[t])) - sigma) < 1e-12
    assert eq.sigma_from_ab(1.0) == 0 and eq.sigma_from_ab(0.0) == float("inf")


@pytest.mark.parametrize("t", [1, 500, 1000])
def test_a_denoiser_is_pred_x0(t):
    """EDM eq. 7 with the scalings of ε and v: D is DDIM eq. 9's x̂0, and x0_from_v."""
    sigma, x_t = eq.sigma_from_ab(SD[t]), eq.q_sample(X, E, SD[t])
    seen = []
    network = lambda x, c_noise: seen.append((x, c_noise)) or Z  # noqa: E731
    close(eq.denoise(network, x_t / SD[t].sqrt(), sigma, eq.eps_scaling), eq.pred_x0(x_t, Z, SD[t]))
    close(eq.denoise(network, x_t / SD[t].sqrt(), sigma, eq.v_scaling), eq.x0_from_v(x_t, Z, SD[t]))
    for x, c_noise in seen:
        close(x, x_t)
        close(c_noise, sigma)
    other = eq.v_edm_noise_scaling(sigma)
    assert other[:3] == eq.v_scaling(sigma)[:3] and abs(other.c_noise - sigma.log() / 4) < 1e-12


def test_edm_scaling_keeps_variances():
    """EDM appendix B.6: c_in and c_out are what makes input and target of variance 1, and c_skip
    what makes c_out least, for independent x0 of variance σ_d² and noise of variance σ²."""
    for scaling, data in ((eq.edm_scaling, 0.5), (eq.v_scaling, 1.0)):
        for sigma in SIGMAS:
            c = scaling(sigma)
            close(c.c_in**2 * (sigma**2 + data**2), 1.0 + 0 * sigma)
            error = lambda skip: ((1 - skip) * data) ** 2 + (skip * sigma) ** 2  # noqa: E731, B023
            close(error(c.c_skip) / c.c_out**2, 1.0 + 0 * sigma)
            assert error(c.c_skip) < min(error(c.c_skip + 1e-3), error(c.c_skip - 1e-3))
    edm, v = eq.edm_scaling(SIGMAS, 1.0), eq.v_scaling(SIGMAS)
    close(edm.c_skip, v.c_skip)
    close(edm.c_out, -v.c_out)


@pytest.mark.parametrize("name", SCALINGS)
def test_the_raw_target_makes_the_denoiser_right(name):
    for sigma in SIGMAS:
        target = eq.raw_target(X, sigma * E, sigma, SCALINGS[name])
        close(eq.denoise(lambda x, c: target, X + sigma * E, sigma, SCALINGS[name]), X, 1e-10)  # noqa: B023
    if name == "eps":
        close(target, E, 1e-10)
    if name == "v":
        close(target, eq.velocity(X, E, eq.ab_from_sigma(sigma)), 1e-10)


def test_weights_turn_losses_into_one_another():
    """weight · ‖D - x0‖² is the loss on ε, on v, and on EDM's F."""
    for sigma in SIGMAS:
        ab, x0_hat = eq.ab_from_sigma(sigma), X + 0.1 * Z
        x_t = eq.q_sample(X, E, ab)
        loss = (x0_hat - X) ** 2
        eps_hat = eq.eps_from_x0(x_t, x0_hat, ab)
        close(eq.eps_weight(sigma) * loss, (eps_hat - E) ** 2, 1e-10)
        v = eq.velocity(X, E, ab)
        close(eq.v_weight(sigma) * loss, (eq.velocity(x0_hat, eps_hat, ab) - v) ** 2, 1e-8)
        close(eq.edm_weight(sigma), 1 / eq.edm_scaling(sigma).c_out ** 2, 1e-8)


def test_karras_sigma():
    u = torch.linspace(0, 1, 11, dtype=torch.float64)
    for rho in (1.0, 3.0, 7.0):
        sigma = eq.karras_sigma(u, 0.02, 80.0, rho)
        close(sigma[[0, -1]], torch.tensor([80.0, 0.02], dtype=torch.float64), 1e-10)
        close((sigma ** (1 / rho)).diff(n=2), torch.zeros(9).double(), 1e-10)
    geometric = 80.0 * (0.02 / 80.0) ** u
    assert (eq.karras_sigma(u, 0.02, 80.0, 1e6) / geometric - 1).abs().max() < 1e-4


def test_log_normal_sigma():
    shares = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    z = torch.distributions.Normal(0.0, 1.0).icdf(shares)
    mean, std = torch.tensor([-1.2, 1.2], dtype=torch.float64)
    close(eq.log_normal_sigma(z), torch.distributions.LogNormal(mean, std).icdf(shares), 1e-9)
    assert eq.log_normal_sigma(torch.tensor(0.0), mean=0.7, std=1.6) == torch.tensor(0.7).exp()


def test_churned_sigma():
    """γ = min(S_churn/N, √2-1): the variance at most doubles."""
    assert abs(eq.churned_sigma(2.0, 1.0, 10) - 2.2) < 1e-12
    assert abs(eq.churned_sigma(2.0, 100.0, 10) ** 2 - 8) < 1e-12
    assert eq.churned_sigma(2.0, 0.0, 10) == 2.0


def test_ancestral_sigmas_are_ddims(abs_):
    """√ᾱ_s σ_up is eq. 16's σ(η), and the two parts make σ_s: the noise that x_s is to hold."""
    ab_t, ab_s = map(float, abs_)
    sigma_t, sigma_s = eq.sigma_from_ab(ab_t), eq.sigma_from_ab(ab_s)
    for eta in (0.0, 0.5, 1.0):
        down, up = eq.ancestral_sigmas(sigma_t, sigma_s, eta)
        close(ab_s**0.5 * up, eq.sigma(ab_t, ab_s, eta))
        close(down**2 + up**2, sigma_s**2)
    assert eq.ancestral_sigmas(2.0, 1.0, 10.0) == (0.0, 1.0)  # never more than there is


# ---- DPM-Solver -----------------------------------------------------------------------------


def test_lambda_and_ab_are_one_another():
    for t in (1, 500, 1000):
        lam = eq.lambda_from_ab(SD[t])
        close(lam, (SD[t].sqrt() / (1 - SD[t]).sqrt()).log())
        close(lam, -eq.sigma_from_ab(SD[t]).log())
        close(eq.ab_from_lambda(lam), SD[t])
        assert abs(eq.ab_from_lambda(float(lam)) - eq.ab_from_lambda(lam)) < 1e-15
        assert abs(eq.lambda_from_ab(float(SD[t])) - lam) < 1e-12


@pytest.mark.parametrize(("t", "s"), [(1000, 980), (500, 499), (22, 2), (2, 1), (1, 1000)])
def test_the_exact_steps_are_ddims(t, s):
    """DPM-Solver-1 and DPM-Solver++'s first order are DDIM at η = 0, by ε and by x0."""
    expected = eq.ddim_step(X, E, SD[t], SD[s])
    close(eq.eps_integral_step(X, E, SD[t], SD[s]), expected, 1e-10)
    close(eq.x0_integral_step(X, eq.pred_x0(X, E, SD[t]), SD[t], SD[s]), expected, 1e-10)
    numbers = float(SD[t]), float(SD[s])
    close(eq.eps_integral_step(X, E, *numbers), expected, 1e-10)
    close(eq.x0_integral_step(X, eq.pred_x0(X, E, SD[t]), *numbers), expected, 1e-10)


def test_sde_sigma(abs_):
    """η = 0 and 1 are eq. 16's, and e^{-2ηh} is what of the old noise's variance is kept."""
    ab_t, ab_s = abs_
    for eta in (0.0, 1.0):
        close(eq.sde_sigma(ab_t, ab_s, eta), eq.sigma(ab_t, ab_s, eta), 1e-9)
    if ab_s < 1:
        h = eq.lambda_from_ab(ab_s) - eq.lambda_from_ab(ab_t)
        kept = (1 - ab_s) * (-2 * 0.3 * h).exp()
        close(eq.sde_sigma(ab_t, ab_s, 0.3) ** 2, 1 - ab_s - kept)
        assert eq.sde_sigma(ab_t, ab_s, 0.5) > eq.sigma(ab_t, ab_s, 0.5)


@pytest.mark.parametrize("rate", [-6.0, -0.3, -1e-6, 0.0, 1e-6, 0.3, 2.0, 12.0])
def test_exponential_moments(rate):
    """Against a sum of four million strips, and m_1 in closed form."""
    u = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    weight = (rate * (u - 1)).exp()
    moments = eq.exponential_moments(rate, 4)
    for k, moment in enumerate(moments):
        assert abs(moment - (weight * u**k).sum() / weight.sum()) < 1e-10
    if abs(rate) > 0.1:
        assert abs(moments[1] - (1 / (1 - np.exp(-rate)) - 1 / rate)) < 1e-12
    assert np.isfinite(eq.exponential_moments(2000.0, 3)).all()


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_node_weights(order):
    """Equal steps and moments 1/(k+1): PNDM eq. 12. Any nodes: polynomials get their mean."""
    weights = eq.node_weights([-j for j in range(order)], [1 / (k + 1) for k in range(order)])
    close(torch.tensor(weights), torch.tensor([float(b) for b in eq.adams_bashforth(order)]))
    nodes, rate = [0, -0.7, -1.1, -2.9][:order], -1.3
    weights = eq.node_weights(nodes, eq.exponential_moments(rate, order))
    u = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    polynomial = lambda u: sum((k + 2) * u**k for k in range(order))  # noqa: E731
    mean = (polynomial(u) * (rate * u).exp()).sum() / (rate * u).exp().sum()
    assert abs(sum(w * polynomial(n) for w, n in zip(weights, nodes, strict=True)) - mean) < 1e-9


def test_published_moments():
    exact = eq.exponential_moments(0.8, 3)
    assert eq.published_moments(exact[:2], 2) == [1.0, 0.5]
    assert eq.published_moments(exact, 3) == [exact[0], exact[1], exact[2] / 2]
    assert eq.published_moments(exact[:2], 3) == exact[:2]  # the second step of order 3
    assert eq.published_moments([1.0], 2) == eq.published_moments([1.0], 3) == [1.0]
    # As 2M is published: D = (1 + 1/(2r)) D_0 - 1/(2r) D_1, r = h_before/h
    weights = eq.node_weights([0, -0.8], [1.0, 0.5])
    close(torch.tensor(weights), torch.tensor([1 + 1 / 1.6, -1 / 1.6]))


def test_unipc_moments():
    h = 0.7
    assert abs(eq.unipc_moments(h, 2, "bh1")[1] - 0.5 * -h / np.expm1(-h)) < 1e-15
    assert eq.unipc_moments(h, 2, "bh2") == [1.0, 0.5]
    assert eq.unipc_moments(h, 3, "bh1") == eq.exponential_moments(h, 3)


def test_polynomial_mean():
    """A line through two answers, half way on: the midpoint. To an infinite end: the newest."""
    moments = eq.step_moments(None)
    values = [(3.0, X), (2.0, E)]
    close(eq.polynomial_mean(values, 4.0, moments), 1.5 * X - 0.5 * E)
    close(eq.polynomial_mean(values, 3.5, moments), 1.25 * X - 0.25 * E)
    assert eq.polynomial_mean(values, float("inf"), moments) is X
    assert eq.polynomial_mean(values[:1], 4.0, moments) is X
    rates = {"eps": -0.4, "x0": 0.4 * 1.5}
    for of, rate in rates.items():
        close(
            torch.tensor(eq.step_moments(of, eta=0.5 if of == "x0" else 0.0)(0.4, 3)),
            torch.tensor(eq.exponential_moments(rate, 3)),
        )
    close(torch.tensor(eq.step_moments("x0", published=2)(0.4, 2)), torch.tensor([1.0, 0.5]))

"""Losses and the variational bound against closed forms, by quadrature that is exact for them."""

import math

import numpy as np
import pytest
import torch

from minisd import losses
from minisd.equations import (
    forward_variance,
    min_snr_weight_eps,
    posterior_variance,
    q_sample,
    reverse_mean,
)
from minisd.guidance import paper_time
from minisd.schedules import alpha_bar, linear_betas, scaled_linear_betas, snr
from minisd.toy import MLP, GaussianMixture, IdealDenoiser

T = 50
AB = alpha_bar(linear_betas(T, 0.002, 0.3))
MEAN, STD = 0.7, 0.5
IDEAL = IdealDenoiser(GaussianMixture(torch.tensor([[MEAN]]).double(), STD), AB)


def quadrature():
    """x0 ~ N(MEAN, STD²), ε ~ N(0, 1): Gauss-Hermite nodes, exact for polynomials of both."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)
    weights = weights / weights.sum()
    a, b = (torch.tensor(n.ravel()) for n in np.meshgrid(nodes, nodes))
    w = torch.tensor(np.outer(weights, weights).ravel())
    return (MEAN + STD * a)[:, None], b[:, None], w


X0, EPS, W = quadrature()


def optimal(t):
    """E (ε - E[ε|x_t])² for one Gaussian: the share of x_t's variance that is the data's."""
    return float(AB[t] * STD**2 / (AB[t] * STD**2 + 1 - AB[t]))


@pytest.mark.parametrize("t", [1, 2, 25, T])
def test_l_simple_of_the_ideal_denoiser(t):
    assert abs((W * losses.l_simple(IDEAL, X0, t, EPS, AB)).sum() - optimal(t)) <= 1e-12


def test_l_simple_is_the_average_over_numbers_and_takes_times_for_each():
    x0, eps = torch.randn((2, 3, 4, 2, 2), generator=torch.Generator().manual_seed(0)).double()
    t = torch.tensor([1, 25, 50])
    together = losses.l_simple(lambda x, t: 0 * x, x0, t, eps, AB)
    assert (together - (eps**2).mean((1, 2, 3))).abs().max() <= 1e-12
    x_seen = []
    losses.l_simple(lambda x, t: x_seen.append(x) or x, x0, t, eps, AB)
    for i in range(3):
        assert (x_seen[0][i] - q_sample(x0[i], eps[i], AB[t[i]])).abs().max() <= 1e-15


def test_l_weighted():
    weight = min_snr_weight_eps(snr(AB[1:]))
    weight = torch.cat([weight[:1], weight])  # indexed by the paper's t
    t = torch.tensor([3, 40]).repeat(18)
    got = losses.l_weighted(IDEAL, X0, t, EPS, AB, weight)
    expected = weight[t] * losses.l_simple(IDEAL, X0, t, EPS, AB)
    assert (got - expected).abs().max() <= 1e-15
    one = losses.l_weighted(IDEAL, X0, 3, EPS, AB, weight)
    assert (one - weight[3] * losses.l_simple(IDEAL, X0, 3, EPS, AB)).abs().max() <= 1e-15


def chain_terms(variance):
    """Every term of the bound from Gaussian algebra on (x0, ε), with no function of losses.py.

    The ideal x̂0 is linear in x_t, so each KL's mean difference is c · (x0 - E[x0|x_t]).
    """
    terms, betas = [], 1 - AB[1:] / AB[:-1]
    for t in range(1, T + 1):
        ab_t, ab_s, beta = float(AB[t]), float(AB[t - 1]), float(betas[t - 1])
        var = float(variance(AB[t], AB[t - 1]))
        x0_left = STD**2 * (1 - ab_t) / (ab_t * STD**2 + 1 - ab_t)  # Var(x0 | x_t)
        c = math.sqrt(ab_s) * beta / (1 - ab_t)  # posterior_mean_coef1
        if t == 1:
            terms.append((x0_left / var + math.log(2 * math.pi * var)) / 2)
        else:
            tilde = beta * (1 - ab_s) / (1 - ab_t)
            terms.append((c**2 * x0_left + tilde) / (2 * var) - 0.5 + math.log(var / tilde) / 2)
    ab_T = float(AB[T])
    prior = (ab_T * (MEAN**2 + STD**2) + 1 - ab_T - 1 - math.log(1 - ab_T)) / 2
    return terms, prior


def mixed(ab_t, ab_s):
    """fixed_small, but for t = 1, where that is 0 and L_0 no density."""
    return posterior_variance(ab_t, ab_s) if ab_s < 1 else forward_variance(ab_t, ab_s)


@pytest.mark.parametrize("variance", [forward_variance, mixed])
def test_every_term_of_the_bound(variance):
    terms, prior = chain_terms(variance)
    for t in range(1, T + 1):
        got = (W * losses.l_t(IDEAL, X0, t, EPS, AB, variance)).sum()
        assert abs(got - terms[t - 1]) <= 1e-9 * max(1, abs(terms[t - 1]))
    assert abs((W * losses.l_T(X0, AB)).sum() - prior) <= 1e-12
    bound = (W * losses.variational_bound(IDEAL, X0, EPS, AB, variance)).sum()
    assert abs(bound - (sum(terms) + prior)) <= 1e-9


@pytest.mark.parametrize("t", [1, 2, 30])
def test_terms_of_many_numbers_add_up(t):
    """Coordinates that do not mix: each term is the sum of the terms of one coordinate alone."""
    x0, eps = torch.randn((2, 3, 2, 2), generator=torch.Generator().manual_seed(2)).double()
    eps_model = lambda x, t: torch.sin(x) + 0.01 * t  # noqa: E731
    whole = losses.l_t(eps_model, x0, t, eps, AB)
    parts = losses.l_t(eps_model, x0.reshape(-1, 1), t, eps.reshape(-1, 1), AB)
    assert whole.shape == (3,)
    assert (whole - parts.reshape(3, -1).sum(1)).abs().max() <= 1e-9 * whole.abs().max()


def test_the_bound_is_above_the_exact_likelihood_and_tightens():
    """The reverse chain of linear Gaussians has a Gaussian p(x0): E[-log p] is known exactly."""
    gaps = []
    for steps in (10, 50, 200):
        ab = alpha_bar(linear_betas(steps, 0.1 / steps, 9 / steps))
        ideal = IdealDenoiser(GaussianMixture(torch.tensor([[MEAN]]).double(), STD), ab)
        bound = (W * losses.variational_bound(ideal, X0, EPS, ab, mixed)).sum()
        mean, var = 0.0, 1.0
        for t in range(steps, 0, -1):
            # μ_θ is affine in x_t: read off its two coefficients.
            x = torch.tensor([[0.0], [1.0]]).double()
            zero, one = reverse_mean(x, ideal(x, t), ab[t], ab[t - 1]).flatten().tolist()
            slope = one - zero
            mean, var = zero + slope * mean, slope**2 * var + float(mixed(ab[t], ab[t - 1]))
        exact = ((MEAN - mean) ** 2 + STD**2) / (2 * var) + math.log(2 * math.pi * var) / 2
        gaps.append(float(bound) - exact)
        entropy = math.log(2 * math.pi * math.e * STD**2) / 2
        assert exact >= entropy - 1e-9
    assert gaps[0] > gaps[1] > gaps[2] > 0


def test_l_T_is_torchs_kl():
    from torch.distributions import Normal, kl_divergence

    x0 = torch.randn((3, 2, 2, 2), generator=torch.Generator().manual_seed(0)).double()
    q = Normal(AB[-1].sqrt() * x0, (1 - AB[-1]).sqrt())
    expected = kl_divergence(q, Normal(torch.zeros(1).double(), torch.ones(1).double()))
    assert (losses.l_T(x0, AB) - expected.flatten(1).sum(1)).abs().max() <= 1e-12


def test_gaussian_nll_is_torchs():
    from torch.distributions import Normal

    x, m = torch.randn((2, 3, 4), generator=torch.Generator().manual_seed(1)).double()
    var = torch.tensor(0.3).double()
    expected = -Normal(m, var.sqrt()).log_prob(x).sum(1)
    assert (losses.gaussian_nll(x, m, var) - expected).abs().max() <= 1e-12


WEIGHT = torch.ones(T + 1)
LOSSES = [
    lambda model, t, eps: losses.l_simple(model, X0, t, eps, AB),
    lambda model, t, eps: losses.l_weighted(model, X0, t, eps, AB, WEIGHT),
    lambda model, t, eps: losses.l_t(model, X0, t, eps, AB),
]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("t", [0, -1, T + 1, 1.5])
def test_a_time_that_the_paper_does_not_have(loss, t):
    with pytest.raises(ValueError, match=f"t must be a whole number from 1 to {T}, got"):
        loss(IDEAL, t, EPS)


@pytest.mark.parametrize("loss", LOSSES)
def test_wrong_shapes(loss):
    for wrong in (EPS[:1], EPS[:, 0], None):
        with pytest.raises(ValueError, match="what eps_model returns must be a tensor"):
            loss(lambda x, t, wrong=wrong: wrong, 5, EPS)
        with pytest.raises(ValueError, match="eps must be a tensor of the shape of x"):
            loss(IDEAL, 5, wrong)


def test_times_of_a_batch_are_looked_at():
    t = torch.ones(len(X0), dtype=torch.long)
    for wrong in (0, T + 1):
        with pytest.raises(ValueError, match=f"t must be a whole number from 1 to {T}, got"):
            LOSSES[0](IDEAL, t.index_fill(0, torch.tensor(3), wrong), EPS)


def test_fixed_small_has_no_l_0():
    with pytest.raises(ValueError, match="variance above 0 at t=1"):
        losses.l_t(IDEAL, X0, 1, EPS, AB, posterior_variance)


def test_the_mlp_learns_the_ideal_denoiser():
    """Algorithm 1 for a few seconds: the loss comes near the best possible one."""
    ab = alpha_bar(scaled_linear_betas())
    g = torch.Generator().manual_seed(0)
    means = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.5]])
    mixture = GaussianMixture(means, 0.2)
    torch.manual_seed(0)
    network = MLP(2, 64, classes=3)
    model = paper_time(network)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(600):
        x0, label = mixture.sample(256, g)
        t, eps = torch.randint(1, 1001, (256,), generator=g), torch.randn(x0.shape, generator=g)
        loss = losses.l_simple(lambda x, t, c=label: model(x, t, c), x0, t, eps, ab).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x0, label = mixture.sample(4000, g)
    t, eps = torch.randint(1, 1001, (4000,), generator=g), torch.randn(x0.shape, generator=g)
    ideal = IdealDenoiser(mixture, ab)
    with torch.no_grad():
        learnt = losses.l_simple(lambda x, t: model(x, t, label), x0, t, eps, ab).mean()
    best = losses.l_simple(lambda x, t: ideal(x, t, label), x0, t, eps, ab).mean()
    assert best < learnt < 1.35 * best + 0.02

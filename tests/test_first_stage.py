"""The first stage's losses against closed forms, loops, and torch's own."""

import pytest
import torch
import torch.nn.functional as F
from network_pairs import draw

from minisd.equations.first_stage import (
    adaptive_weight,
    adopt_weight,
    frechet_distance,
    generator_loss,
    hinge_d_loss,
    lpips,
    nll_loss,
    vanilla_d_loss,
)


def drawn(*shape, seed):
    return draw(*shape, seed=seed).double()


def test_lpips_one_position_at_a_time():
    shapes = ((2, 3, 4, 5), (2, 6, 2, 3))
    x, y = ([drawn(*shape, seed=k + s) for s, shape in enumerate(shapes)] for k in (1, 7))
    y[0][1, :, 2, 3] = 0  # the unit of nothing is nothing
    weights = [drawn(shape[1], seed=3).abs() for shape in shapes]
    expected = torch.zeros(2).double()
    for a, b, w in zip(x, y, weights, strict=True):
        _, c, h, wide = a.shape
        for n, i, j in torch.cartesian_prod(*(torch.arange(k) for k in (2, h, wide))):
            p, q = a[n, :, i, j], b[n, :, i, j]
            p, q = (v / v.norm() if v.norm() > 0 else v for v in (p, q))
            expected[n] += sum(w[k] * (p[k] - q[k]) ** 2 for k in range(c)) / (h * wide)
    assert (lpips(x, y, weights) - expected).abs().max() < 1e-9
    cosine = F.cosine_similarity(x[1], y[1]).mean((1, 2))  # what weights of 1 measure
    assert (lpips(x[1:], y[1:], [torch.ones(6)]) - (2 - 2 * cosine)).abs().max() < 1e-9
    assert not lpips(x, [3 * layer for layer in x], weights).gt(1e-15).any()


def test_the_discriminators_losses():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 0.5])
    assert hinge_d_loss(real, fake) == pytest.approx((2.5 / 3 + 2.5 / 3) / 2)
    logits, ones = torch.cat([real, fake]), torch.tensor([1.0] * 3 + [0.0] * 3)
    expected = F.binary_cross_entropy_with_logits(logits, ones)  # the mean of six: half of each
    assert vanilla_d_loss(real, fake) == pytest.approx(float(expected))
    assert generator_loss(fake) == pytest.approx(2.5 / 3)


def test_lambda_where_both_gradients_are_known():
    """y = W z, so the gradient of Σ A ⊙ y at W is A zᵀ, whose norm is ‖A‖ ‖z‖."""
    w, z = drawn(3, 4, seed=1).requires_grad_(), drawn(4, seed=2)
    a, b = drawn(3, seed=3), drawn(3, seed=4)
    y = w @ z
    found = adaptive_weight((a * y).sum(), (b * y).sum(), w)
    expected = a.norm() * z.norm() / (b.norm() * z.norm() + 1e-4)
    assert abs(found - expected) < 1e-12 and not found.requires_grad
    assert adaptive_weight((a * y).sum(), (0 * b * y).sum(), w) == pytest.approx(
        float(a.norm() * z.norm()) / 1e-4 if a.norm() * z.norm() < 1 else 1e4
    )
    assert adaptive_weight((1e6 * a * y).sum(), (b * y).sum(), w) == 1e4
    (y**2).sum().backward()  # the graph is still there


def test_the_late_start():
    assert [adopt_weight(0.5, step, 2) for step in range(4)] == [0, 0, 0.5, 0.5]


@pytest.mark.parametrize("logvar", [0.0, -0.7])
def test_nll_is_laplaces_without_its_constant(logvar):
    x, y, apart = drawn(2, 3, 4, 4, seed=1), drawn(2, 3, 4, 4, seed=2), drawn(2, seed=3).abs()
    width = torch.tensor(logvar, dtype=torch.float64).exp()
    density = torch.distributions.Laplace(y, width).log_prob(x)
    expected = -(density + torch.log(torch.tensor(2.0).double())).sum() / 2
    assert abs(nll_loss(x, y, 0.0, logvar) - expected) < 1e-6
    more = nll_loss(x, y, apart, logvar) - expected  # once for each of 48 numbers of a picture
    assert abs(more - 48 * apart.mean() / width) < 1e-6


def test_frechets_distance():
    x, y = drawn(50, 4, seed=1), 2 * drawn(40, 4, seed=2) + 1
    product = torch.linalg.eigvals(x.T.cov() @ y.T.cov()).sqrt().real.sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + x.T.cov().trace() + y.T.cov().trace()
    assert abs(frechet_distance(x, y) - (expected - 2 * product)) < 1e-9
    assert abs(frechet_distance(x, x)) < 1e-9
    a, b = x[:, :1], y[:, :1]  # of one number it is a difference of means and of deviations
    by_hand = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    assert abs(frechet_distance(a, b) - by_hand) < 1e-9

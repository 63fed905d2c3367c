"""The ideal denoiser against brute force: E[ε | x_t] by summing over a finite data set."""

import pytest
import torch

from minisd.schedules import alpha_bar, scaled_linear_betas
from minisd.toy import MLP, GaussianMixture, IdealDenoiser

AB = alpha_bar(scaled_linear_betas())
G = torch.Generator().manual_seed(0)
MEANS = torch.randn((4, 3), generator=G).double()
X = torch.randn((6, 3), generator=G).double()


@pytest.mark.parametrize("t", [1, 300, 1000])
def test_points_by_bayes(t):
    """std 0: the posterior over the four points, each explicit."""
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    got = IdealDenoiser(GaussianMixture(MEANS, 0.0, weights), AB)(X, t)
    for i, x in enumerate(X):
        eps = (x - AB[t].sqrt() * MEANS) / (1 - AB[t]).sqrt()  # the noise, if it was point k
        likelihood = weights * torch.exp(-(eps**2).sum(1) / 2 + (eps**2).sum(1).min() / 2)
        expected = (likelihood[:, None] * eps).sum(0) / likelihood.sum()
        assert (got[i] - expected).abs().max() <= 1e-9


@pytest.mark.parametrize("t", [1, 300, 1000])
def test_it_is_the_score(t):
    """ε* = -√(1-ᾱ) ∇ log q(x_t), the gradient by autograd of the mixture's density."""
    std = torch.tensor([0.1, 0.2, 0.5, 1.0]).double()
    mixture = GaussianMixture(MEANS, std)
    x = X.clone().requires_grad_()
    components = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(mixture.weights),
        torch.distributions.Independent(
            torch.distributions.Normal(
                AB[t].sqrt() * MEANS, (AB[t] * std**2 + 1 - AB[t]).sqrt()[:, None]
            ),
            1,
        ),
    )
    components.log_prob(x).sum().backward()
    expected = -(1 - AB[t]).sqrt() * x.grad
    assert (IdealDenoiser(mixture, AB)(X, t) - expected).abs().max() <= 1e-9


def test_conditions():
    labels = torch.tensor([0, 0, 1, 5])
    ideal = IdealDenoiser(GaussianMixture(MEANS, 0.3, labels=labels), AB)
    alone = IdealDenoiser(GaussianMixture(MEANS[:2], 0.3), AB)
    c = torch.zeros(6, dtype=torch.long)
    assert (ideal(X, 400, c) - alone(X, 400)).abs().max() <= 1e-12
    assert (ideal(X, 400, c - 1) - ideal(X, 400)).abs().max() <= 1e-12
    with pytest.raises(ValueError, match="no component has the label 3"):
        ideal(X, 400, c + 3)


def test_a_time_for_each_sample_and_pictures():
    ideal = IdealDenoiser(GaussianMixture(torch.randn((5, 3, 2, 2), generator=G), 0.1), AB)
    x, t = torch.randn((3, 3, 2, 2), generator=G), torch.tensor([1, 500, 1000])
    for i in range(3):
        assert (ideal(x, t)[i] - ideal(x[i : i + 1], int(t[i]))[0]).abs().max() <= 1e-5


def test_samples_follow_the_weights():
    mixture = GaussianMixture(MEANS, 0.1, [0.5, 0.5, 0, 0], labels=[3, 7, 8, 9])
    x, labels = mixture.sample(20_000, torch.Generator().manual_seed(1))
    assert set(labels.tolist()) == {3, 7} and abs((labels == 3).double().mean() - 0.5) < 0.02
    for label, mean in zip((3, 7), MEANS, strict=False):
        assert (x[labels == label].mean(0) - mean).abs().max() < 0.01
        assert (x[labels == label].std(0) - 0.1).abs().max() < 0.01


def test_mistakes():
    for bad in ({"weights": [1.0]}, {"weights": [1, 1, 1, -1.0]}, {"labels": [1, 2]}):
        with pytest.raises(ValueError, match="one entry for each of the 4 means"):
            GaussianMixture(MEANS, **bad)


def test_mlp_shapes_and_dependence():
    network = MLP(2, 16, classes=3)
    x, index = torch.randn((5, 2), generator=G), torch.tensor([0, 1, 500, 998, 999])
    plain, labelled = network(x, index), network(x, index, torch.zeros(5, dtype=torch.long))
    assert plain.shape == (5, 2) and not torch.allclose(plain, labelled)
    assert not torch.allclose(plain, network(x, index.flip(0)))

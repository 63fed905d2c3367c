"""Two small models to sample with: the ideal denoiser, exact and untrained, and an MLP to train."""

import math

import torch
from torch import Tensor, nn

from .schedules import ab_at


class GaussianMixture:
    """Σ_k w_k N(m_k, s_k² I): data whose every noised version is again a Gaussian mixture.

    means (k, d) or (k, ...) for pictures; std a number or (k,), 0 for a finite set of pictures;
    weights (k,), equal by default; labels int64 (k,), the class each component belongs to.
    """

    def __init__(self, means: Tensor, std=0.0, weights=None, labels=None):
        k = len(means)
        self.means = means
        self.std = torch.as_tensor(std, dtype=means.dtype).expand(k)
        weights = torch.as_tensor([1.0] * k if weights is None else weights, dtype=means.dtype)
        self.weights = weights / weights.sum()
        self.labels = torch.arange(k) if labels is None else torch.as_tensor(labels)
        if weights.shape != (k,) or self.labels.shape != (k,) or (weights < 0).any():
            raise ValueError(f"weights and labels need one entry for each of the {k} means")

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n samples (n, ...) and their labels (n,)."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn((n, *self.means.shape[1:]), dtype=self.means.dtype, generator=generator)
        std = self.std[k].reshape(-1, *[1] * (z.ndim - 1))
        return self.means[k] + std * z, self.labels[k]

    def log_density(self, x: Tensor, ab_t: float | Tensor = 1.0) -> Tensor:
        """log q(x_t) of the data noised to ᾱ_t, or clean at 1: x (b, ...) -> (b,), in nats.

        log Σ_k w_k N(x; √ᾱ_t m_k, v_k I),  v_k = ᾱ_t s_k² + 1 - ᾱ_t, above 0
        """
        return self._log_parts(x, ab_t).logsumexp(1)

    def score(self, x: Tensor, ab_t: float | Tensor = 1.0) -> Tensor:
        """∇ log q(x_t) in closed form, also at ᾱ_t = 1 where every s_k > 0: (b, ...) -> (b, ...).

        -Σ_k r_k (x - √ᾱ_t m_k) / v_k,  r_k the probability that x_t came from component k
        """
        ab_t = torch.as_tensor(ab_t, dtype=x.dtype)
        r = self._log_parts(x, ab_t).softmax(1) / (ab_t * self.std**2 + 1 - ab_t)  # (b, k)
        away = x.flatten(1)[:, None] - ab_t.sqrt() * self.means.flatten(1)  # (b, k, d)
        return -(r[..., None] * away).sum(1).reshape(x.shape)

    def _log_parts(self, x: Tensor, ab_t: float | Tensor) -> Tensor:
        """(b, k): the log of each component's part of q(x_t)."""
        ab_t = torch.as_tensor(ab_t, dtype=x.dtype)
        var = ab_t * self.std**2 + 1 - ab_t
        away = x.flatten(1)[:, None] - ab_t.sqrt() * self.means.flatten(1)  # (b, k, d)
        d = away.shape[2]
        return self.weights.log() - (away**2).sum(2) / (2 * var) - d / 2 * (2 * math.pi * var).log()


class IdealDenoiser:
    """The best possible ε_θ for a Gaussian mixture, E[ε | x_t], in closed form: an eps_model.

    At time t component k, of mean m_k and standard deviation σ_k, has become N(√ᾱ_t m_k, v_k I)
    with v_k = ᾱ_t σ_k² + 1 - ᾱ_t. With r_k the probability that x_t came from it (Bayes' rule),

        E[ε | x_t] = √(1-ᾱ_t) Σ_k r_k (x_t - √ᾱ_t m_k) / v_k  = -√(1-ᾱ_t) ∇ log q(x_t)

    model(x, t) for x (b, ...); model(x, t, c) with c int64 (b,) knows the class; -1 is "any class",
    the unconditional model. t is a number, whole or real, or int64 (b,).
    """

    def __init__(self, mixture: GaussianMixture, ab: Tensor):
        self.mixture, self.ab = mixture, ab

    def __call__(self, x: Tensor, t: float | Tensor, c: Tensor | None = None) -> Tensor:
        if x.shape[1:] != self.mixture.means.shape[1:]:
            shape = ", ".join(map(str, self.mixture.means.shape[1:]))
            raise ValueError(f"x must be (b, {shape}) like the data, got {tuple(x.shape)}")
        means = self.mixture.means.flatten(1)  # (k, d)
        ab = torch.as_tensor(ab_at(self.ab, t, means), dtype=means.dtype)
        ab = ab.reshape(-1, 1)  # (1 or b, 1)
        var = ab * self.mixture.std**2 + 1 - ab  # (1 or b, k)
        away = x.flatten(1).to(means.dtype)[:, None] - ab.sqrt()[..., None] * means  # (b, k, d)
        log_density = -(away**2).sum(2) / (2 * var) - means.shape[1] / 2 * var.log()
        r = (self._log_weights(c) + log_density).softmax(1)  # (b, k)
        return ((1 - ab).sqrt() * ((r / var)[..., None] * away).sum(1)).reshape(x.shape).to(x)

    def _log_weights(self, c: Tensor | None) -> Tensor:
        log_w = self.mixture.weights.log()
        if c is None:
            return log_w
        unknown = set(c.tolist()) - {-1, *self.mixture.labels.tolist()}
        if unknown:
            raise ValueError(f"no component has the label {min(unknown)}; -1 means any class")
        allowed = (c[:, None] == self.mixture.labels) | (c[:, None] == -1)  # (b, k)
        return log_w.masked_fill(~allowed, -math.inf)


class IdealVelocity:
    """The velocity of the straight paths from a Gaussian mixture to noise, E[ε - x_0 | x_t], in
    closed form (Flow Matching eq. 8): u(x, t), t from 0 at the data to 1 at the noise.

    At time t component k has become N((1-t) m_k, v_k I) with v_k = (1-t)² σ_k² + t². With r_k the
    probability that x_t came from it (Bayes' rule),

        u(x, t) = Σ_k r_k ((t - (1-t) σ_k²) (x - (1-t) m_k) / v_k - m_k)

    x (b, ...); t a number or (b,) -> (b, ...). ValueError at t = 0 where a σ_k is 0.
    """

    def __init__(self, mixture: GaussianMixture):
        self.mixture = mixture

    def __call__(self, x: Tensor, t: float | Tensor) -> Tensor:
        means, std = self.mixture.means.flatten(1), self.mixture.std  # (k, d), (k,)
        t = torch.as_tensor(t, dtype=means.dtype).reshape(-1, 1)  # (1 or b, 1)
        var = (1 - t) ** 2 * std**2 + t**2  # (1 or b, k)
        if (var == 0).any():
            raise ValueError("at t = 0 there is no velocity off the data where std is 0: raise t")
        away = x.flatten(1).to(means.dtype)[:, None] - (1 - t)[..., None] * means  # (b, k, d)
        log_density = -(away**2).sum(2) / (2 * var) - means.shape[1] / 2 * var.log()
        r = (self.mixture.weights.log() + log_density).softmax(1)[..., None]  # (b, k, 1)
        slope = ((t - (1 - t) * std**2) / var)[..., None]
        return (r * (slope * away - means)).sum(1).reshape(x.shape).to(x)


class MLP(nn.Module):
    """A small network for 2-D data: ε_θ(x, index[, label]), index = t - 1 as for any network here.

    Time enters as sines and cosines, the label as a learned vector (label `classes`: "any class").
    """

    def __init__(self, dim: int = 2, width: int = 128, classes: int = 0):
        super().__init__()
        frequencies = 2.0 ** torch.arange(8) * math.pi / 1024
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.inward = nn.Linear(dim + 16, width)
        self.layers = nn.Sequential(
            nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.outward = nn.Linear(width, dim)

    def forward(self, x: Tensor, index: Tensor, label: Tensor | None = None) -> Tensor:
        phase = index[:, None] * self.frequencies  # (b, 8)
        h = self.inward(torch.cat([x, phase.sin(), phase.cos()], dim=1))
        if label is not None:
            h = h + self.label(label)
        return self.outward(self.layers(h))

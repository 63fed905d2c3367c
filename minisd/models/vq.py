"""VQ-VAE's codebook (arXiv 1711.00937), and LDM's first stage with one."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .autoencoder import Decoder, Encoder, check_latent, check_picture
from .configs import AutoencoderConfig


class VectorQuantizer(nn.Module):
    """VQ-VAE eqs. 1-3: each latent vector replaced by the nearest of n_embed codes.

        z_q = e_k,  k = argmin_j ‖z - e_j‖;   loss = ‖sg[z] - e‖² + β ‖z - sg[e]‖²

    The straight-through estimator copies the gradient of z_q to z. legacy=True puts β on the other
    term, as the published code does by default.
    """

    def __init__(self, codes: int, dim: int, beta: float = 0.25, legacy: bool = False):
        super().__init__()
        self.beta, self.legacy = beta, legacy
        self.embedding = nn.Embedding(codes, dim)
        nn.init.uniform_(self.embedding.weight, -1 / codes, 1 / codes)

    def indices(self, z: Tensor) -> Tensor:
        """VQ-VAE eq. 1: the nearest code of each vector: (b, c, h, w) -> int64 (b, h, w)."""
        flat, codes = z.movedim(1, -1).flatten(0, -2), self.embedding.weight
        distance = (flat**2).sum(1, keepdim=True) + (codes**2).sum(1) - 2 * flat @ codes.T
        return distance.argmin(1).reshape(z.shape[0], *z.shape[2:])

    def lookup(self, indices: Tensor) -> Tensor:
        """VQ-VAE eq. 2: codes by index: int64 (b, h, w) -> (b, c, h, w)."""
        return self.embedding(indices).movedim(-1, 1)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z (b, c, h, w) -> z_q with z's gradient, the loss (a mean), the indices (b, h, w)."""
        indices = self.indices(z)
        codes = self.lookup(indices)
        embed, commit = ((codes - z.detach()) ** 2).mean(), ((codes.detach() - z) ** 2).mean()
        loss = commit + self.beta * embed if self.legacy else embed + self.beta * commit
        return z + (codes - z).detach(), loss, indices


class EMAVectorQuantizer(VectorQuantizer):
    """VQ-VAE appendix A.1: codes as moving means of the vectors that chose them, not by gradient.

        N_i ← γ N_i + (1 - γ) n_i,   m_i ← γ m_i + (1 - γ) Σ_j z_{i,j},   e_i = m_i / N_i

    The n_i vectors z_{i,j} of a batch are those nearest to e_i. N_i is smoothed,
    N (N_i + ε) / (N + K ε) with N = Σ N_i, so that no code divides by 0. All begin with N_i = 1.
    Codes move in training mode only, after the batch was quantised by the old ones; the loss is
    β ‖z - sg[e]‖² alone.
    """

    def __init__(
        self, codes: int, dim: int, beta: float = 0.25, gamma: float = 0.99, eps: float = 1e-5
    ):
        super().__init__(codes, dim, beta)
        self.gamma, self.eps = gamma, eps
        self.embedding.weight.requires_grad_(False)
        self.register_buffer("counts", torch.ones(codes))  # N_i
        self.register_buffer("sums", self.embedding.weight.clone())  # m_i

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z (b, c, h, w) -> z_q with z's gradient, the loss (a mean), the indices (b, h, w)."""
        indices = self.indices(z)
        codes = self.lookup(indices)
        loss = self.beta * ((codes - z) ** 2).mean()
        if self.training:
            self.update(z.detach(), indices)
        return z + (codes - z).detach(), loss, indices

    @torch.no_grad()
    def update(self, z: Tensor, indices: Tensor) -> None:
        """One step of the moving means: z (b, c, h, w), the indices (b, h, w) of its codes."""
        chosen = F.one_hot(indices.flatten(), len(self.counts)).to(z.dtype)  # (b h w, codes)
        vectors = z.movedim(1, -1).flatten(0, -2)
        self.counts.lerp_(chosen.sum(0), 1 - self.gamma)
        self.sums.lerp_(chosen.T @ vectors, 1 - self.gamma)
        total, smooth = self.counts.sum(), self.counts + self.eps
        smooth = total * smooth / (total + len(smooth) * self.eps)
        self.embedding.weight.copy_(self.sums / smooth[:, None])


class VQModel(nn.Module):
    """LDM's other first stage. encode gives the continuous latent: the decoder quantises it."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quantize = VectorQuantizer(config.codes, config.embed_dim)
        self.quant_conv = nn.Conv2d(config.z_channels, config.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.z_channels, 1)

    def encode(self, x: Tensor) -> Tensor:
        """x (b, 3, h, w) in -1..1 -> (b, embed, h/f, w/f), continuous."""
        check_picture(x, self.config)
        return self.quant_conv(self.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        """z (b, embed, h/f, w/f) -> quantised -> (b, 3, h, w)."""
        check_latent(z, self.config)
        return self.decoder(self.post_quant_conv(self.quantize(z)[0]))

    def decode_indices(self, indices: Tensor) -> Tensor:
        """int64 (b, h/f, w/f) -> (b, 3, h, w)."""
        codes = self.config.codes
        if indices.ndim != 3 or not ((indices >= 0) & (indices < codes)).all():
            raise ValueError(
                f"indices must be (b, h, w) from 0 to {codes - 1}, got {tuple(indices.shape)} "
                f"from {indices.min()} to {indices.max()}"
            )
        return self.decoder(self.post_quant_conv(self.quantize.lookup(indices)))

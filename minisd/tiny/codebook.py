"""A codebook for a first stage without one: the tiny model's KL autoencoder becomes a VQModel."""

from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.loading import load
from ..models.autoencoder import AutoencoderKL
from ..models.configs import AutoencoderConfig
from ..models.vq import VQModel
from .weights import TINY

VQ = TINY.with_name("tiny-vq.safetensors")


def shipped(path: Path = VQ) -> VQModel:
    """The VQ first stage that ships beside the tiny model, whose latents are that model's."""
    return load(path, "tiny", parts=("vae",)).vae


def quantised(vae: AutoencoderKL, config: AutoencoderConfig, x: Tensor, seed: int = 0) -> VQModel:
    """A VQModel whose latents are the KL autoencoder's means, and whose codes are their k-means.

    config: the KL autoencoder's with `codes`, and embed_dim = z_channels. x (b, 3, h, w): the
    pictures whose latents are clustered. quant_conv is linear, so its half for the mean goes into
    the convolution before it, and is the identity here. SoundStream (2107.03312, III-C) begins by
    k-means, too.
    """
    network, mean = VQModel(config), vae.quant_conv.weight[: config.embed_dim, :, 0, 0]
    stored = vae.state_dict()
    last = stored["encoder.conv_out.weight"], stored["encoder.conv_out.bias"]
    stored["encoder.conv_out.weight"] = torch.einsum("om,mihw->oihw", mean, last[0])
    stored["encoder.conv_out.bias"] = mean @ last[1] + vae.quant_conv.bias[: config.embed_dim]
    stored["quant_conv.weight"] = torch.eye(config.embed_dim)[:, :, None, None]
    stored["quant_conv.bias"] = torch.zeros(config.embed_dim)
    with torch.no_grad():
        z = torch.cat([vae.encode(part).mean for part in x.split(20)])
    vectors = z.movedim(1, -1).flatten(0, -2)
    stored["quantize.embedding.weight"] = k_means(vectors, config.codes, seed)
    network.load_state_dict(stored)
    return network


def k_means(vectors: Tensor, k: int, seed: int = 0, rounds: int = 8) -> Tensor:
    """k centres (k, d) of vectors (n, d): Lloyd's algorithm, begun as k-means++ begins.

    Each next centre is a vector drawn in proportion to its squared distance from the nearest
    centre so far (Arthur and Vassilvitskii 2007). Then, in each round, every centre becomes the
    mean of the vectors that are nearest to it. ValueError if fewer than k vectors differ.
    """
    if (different := len(vectors.unique(dim=0))) < k:
        raise ValueError(f"{k} centres need at least as many different vectors, got {different}")
    generator = torch.Generator().manual_seed(seed)
    centres = vectors[torch.randint(len(vectors), (1,), generator=generator)]
    distance = ((vectors - centres) ** 2).sum(1)
    while len(centres) < k:
        new = vectors[torch.multinomial(distance, 1, generator=generator)]
        distance = torch.minimum(distance, ((vectors - new) ** 2).sum(1))
        centres = torch.cat([centres, new])
    for _ in range(rounds):
        nearest = torch.cdist(vectors, centres).argmin(1)
        count = torch.bincount(nearest, minlength=k)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, nearest, vectors)
        centres = torch.where(count > 0, sums / count.clamp(min=1), centres)
    return centres

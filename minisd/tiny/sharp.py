"""Blur against sharp: a first stage of LDM's objective, on scenes with a grain no latent holds.

A picture of 32 x 32 becomes 128 numbers, 24 times fewer. They have room for the shapes, and not
for every line of the grain. What is best then depends on the loss: for an error of
pixels the mean or median of all grains, which is none; for a discriminator some grain.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.loading import load_module
from ..checkpoints.tensorfile import open_tensors
from ..equations.first_stage import (
    adaptive_weight,
    adopt_weight,
    generator_loss,
    hinge_d_loss,
    lpips,
    nll_loss,
)
from ..models import configs
from ..models.autoencoder import AutoencoderKL
from ..models.discriminator import NLayerDiscriminator
from ..training import rng
from .scenes import Scene, paint, pick, random_scene
from .shapes import BACKGROUNDS, COLORS, SHAPES
from .stages import fingerprint, normal_of, seeded
from .weights import TINY

PIXELS = 32
CONTRAST, GRAIN, LENGTH = 0.7, 0.2, 3  # of the drawing; the grain's deviation, its lines' length
WAYS, DOWN = ("across", "down"), ("down",)  # of the grain: the eye sees both
WIDTHS = (8, 16, 32)  # channels of the eye's layers
SMALL_KL = configs.AutoencoderConfig(
    channels=8, channel_mult=(1, 2, 2), res_blocks=1, z_channels=2, embed_dim=2, groups=4
)
KEY = 10_000_000  # of the first of these pictures


FEW = {1: 0.4, 2: 0.6}  # how many things a picture shows, and the share of such pictures
TOLD = (*SHAPES, *COLORS, *BACKGROUNDS, *WAYS)


def grained(samples: Sequence[int], ways: tuple[str, ...] = DOWN) -> tuple[Tensor, Tensor]:
    """Scenes with a grain (b, 3, 32, 32), and what they show: 0 or 1 for each of `TOLD` (b, 21)."""
    drawn = [_grained(rng(KEY, i), ways) for i in samples]
    pictures, told = (torch.stack(column) for column in zip(*drawn, strict=True))
    return pictures, told


@cache
def seen(ways: tuple[str, ...] = DOWN) -> tuple[Tensor, Tensor]:
    """The 4000 that are learned from: painted once, since painting takes as long as training."""
    return grained(range(4000), ways)


def batch(
    seed: int, step: int, samples: Sequence[int], ways: tuple[str, ...] = DOWN
) -> tuple[Tensor, Tensor]:
    """Pictures (b, 3, h, w) and what is told of them (b, 21), drawn for the samples of a step."""
    pictures, told = seen(ways)
    chosen = [rng(seed, step, i).integers(len(pictures)) for i in samples]
    return pictures[chosen], told[chosen]


def _grained(random: np.random.Generator, ways: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    scene, way = (
        random_scene(random, pick(random, FEW), colors=COLORS),
        ways[random.integers(len(ways))],
    )
    noise = random.normal(size=(PIXELS, PIXELS + LENGTH - 1))
    lines = np.lib.stride_tricks.sliding_window_view(noise, LENGTH, 1).sum(-1) / LENGTH**0.5
    grain = torch.from_numpy(lines if way == "across" else lines.T).float()
    return (CONTRAST * paint(scene, PIXELS) + GRAIN * grain).clamp(-1, 1), _told(scene, way)


def _told(scene: Scene, way: str) -> Tensor:
    seen = {
        scene.background,
        way,
        *(t.shape for t in scene.things),
        *(t.color for t in scene.things),
    }
    return torch.tensor([float(name in seen) for name in TOLD])


# ---- the eye ------------------------------------------------------------------------------


class Eye(nn.Module):
    """A small classifier of grained scenes, whose layers LPIPS compares in place of VGG's."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS):
        super().__init__()
        ends = zip((3, *widths), widths, strict=False)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in ends)
        self.out = nn.Linear(sum(widths), len(TOLD))

    def forward(self, x: Tensor) -> list[Tensor]:
        """x (b, 3, h, w) -> the activations of each layer (b, c, h, w), (b, c, h/2, w/2), ..."""
        found = []
        for layer in self.layers:
            x = F.relu(layer(F.max_pool2d(x, 2) if found else x))
            found.append(x)
        return found

    def features(self, x: Tensor) -> Tensor:
        """The means of all activations, (b, 56): what is said of x, and compared by Fréchet's."""
        return torch.cat([layer.mean((2, 3)) for layer in self(x)], dim=1)

    def said(self, x: Tensor) -> Tensor:
        """The log odds of each of TOLD (b, 21)."""
        return self.out(self.features(x))

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """LPIPS' formula in these layers, every channel's weight 1: (b,)."""
        of_x, of_y = self(x), self(y)
        return lpips(of_x, of_y, [torch.ones(layer.shape[1]) for layer in of_x])


class Looking:
    """The eye learns to tell what is in a picture."""

    name, slow = "eye", {}

    def __init__(self, seed: int = 0):
        self.network = seeded(Eye, WIDTHS, seed)
        self.seed, self.about = seed, {"seed": seed, "grain": GRAIN, "length": LENGTH}

    def loss(self, step: int, samples) -> Tensor:
        x, told = batch(self.seed, step, samples, WAYS)
        return F.binary_cross_entropy_with_logits(self.network.said(x), told)


# ---- blur and sharp -----------------------------------------------------------------------


class Sharp:
    """LDM's objective (`LPIPSWithDiscriminator`), all of it or a part, from nothing.

        1/b Σ (|x - y| + perceptual_weight d(x, y)) + kl_weight KL + disc_weight λ g_loss

    and, for the discriminator, hinge_d_loss; both with a late start. The official loop takes two
    steps on each batch, of the autoencoder and then of the discriminator. Here both losses of one
    batch are added up, and each network gets the gradient of its own: to the discriminator y is a
    constant in its loss, and in the generator's its weights are. So one optimizer has both.
    """

    slow = {"discriminator.": 0.5}

    def __init__(
        self,
        name: str,
        eye: Eye | None = None,
        perceptual_weight: float = 0.2,
        disc_weight: float = 0.5,
        disc_start: int = 50,
        kl_weight: float = 1e-6,
        config=SMALL_KL,
        seed: int = 0,
        begin: AutoencoderKL | None = None,
    ):
        self.name, self.eye, self.seed = name, eye and eye.eval().requires_grad_(False), seed
        parts = {"vae": begin or seeded(AutoencoderKL, config, seed)}
        if disc_weight:
            parts["discriminator"] = seeded(lambda n: NLayerDiscriminator(n, 2), 16, seed)
        self.network = nn.ModuleDict(parts)
        self.weights = {
            "perceptual_weight": perceptual_weight,
            "disc_weight": disc_weight,
            "disc_start": disc_start,
            "kl_weight": kl_weight,
        }
        self.about = {"config": asdict(config), "seed": seed, **self.weights}
        self.about["begin"] = fingerprint(self.network)

    def loss(self, step: int, samples) -> Tensor:
        x, vae, weights = batch(self.seed, step, samples)[0], self.network["vae"], self.weights
        q = vae.encode(x)
        noise = [normal_of(q.mean.shape[1:], self.seed, step, i) for i in samples]
        y = vae.decode(q.sample(torch.stack(noise)))
        share = weights["perceptual_weight"]
        nll = nll_loss(x, y, share * self.eye.distance(x, y) if share else 0.0)
        loss = nll + weights["kl_weight"] * q.kl().mean()
        if not adopt_weight(weights["disc_weight"], step, weights["disc_start"]):
            return loss
        discriminator = self.network["discriminator"]
        # While this graph is built, so that y gets a gradient by it, and the discriminator none.
        discriminator.requires_grad_(False)
        g_loss = generator_loss(discriminator(y))
        discriminator.requires_grad_(True)
        share = weights["disc_weight"] * adaptive_weight(nll, g_loss, vae.decoder.conv_out.weight)
        d_loss = hinge_d_loss(discriminator(x), discriminator(y.detach()))
        return loss + share * g_loss + d_loss


def detail(x: Tensor) -> Tensor:
    """The mean square of what is finer than 3 x 3 pixels: x minus its mean there, a number."""
    return (x - F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)).square().mean()


# ---- what ships ---------------------------------------------------------------------------

SHARP = TINY.with_name("tiny-sharp.safetensors")


def shipped(path: Path = SHARP) -> tuple[Eye, AutoencoderKL, AutoencoderKL]:
    """The eye, the blurred first stage and the sharp one of the file, in eval mode."""
    tensors, _ = open_tensors(path)

    def part(module, config, name):
        return load_module(module, config, tensors, f"{name}.", what=path.name)

    eye = part(Eye, WIDTHS, "eye")
    return eye, *(part(AutoencoderKL, SMALL_KL, name) for name in ("blur", "sharp"))

"""A ControlNet for the tiny model: outlines say where things stand, the sentence what they are.

    hint = edges(paint(scene)[None])              # or a drawing, white lines on black
    pipe = Pipeline.load(TINY, control_net="runs/control-net.safetensors")
    pipe.txt2img("a red star", hint=hint)

`Sketched` is its training, and `measured` says how well the pictures keep to the outlines.
"""

from dataclasses import asdict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoints.loading import Checkpoint
from ..equations import q_sample, velocity
from ..models.controlnet import ControlNet, control_config
from ..models.unet import UNet
from ..pipeline import Pipeline
from ..schedules import at
from ..training import rng
from .captions import caption
from .fidelity import HELD_OUT
from .judge import AWAY, judge
from .scenes import PIXELS, Scene, paint, random_scene
from .shapes import cover
from .stages import fingerprint, tiny_schedule, tokenizer

CONTROL = 5  # what a random number is for: the first part of its key
WIDTHS = (16, 32, 64)  # of the hint's network: 64 x 64 pixels to 16 x 16 latents
STEEP = 0.1  # an outline is where a picture changes by more, from one side of a pixel to the other


class Sketched:
    """ControlNet eq. 5, with v for ε: outlines lead a U-Net that stays as it is.

        ‖v - v_θ(x_t, t, c_t, c_f)‖²/d,  c_t a caption or nothing, c_f the outlines of its scene

    Half of the captions are empty (§3.3), so that the outlines alone must tell what they can. The
    density of t is 2 t/T²: where things stand is settled while most of x_t is noise.
    """

    name, slow = "control", {}

    def __init__(self, model: Checkpoint, widths: tuple[int, ...] = WIDTHS, seed: int = 0):
        parts = (model.unet, model.vae, model.text)
        self.unet, self.vae, self.text = (p.float().requires_grad_(False).eval() for p in parts)
        self.unet.to(memory_format=torch.channels_last)
        self.network = begun_control(self.unet, widths, seed)
        self.ab, self.seed = tiny_schedule(), seed
        self.about = {"config": asdict(self.network.config), "seed": seed}
        self.about |= {"begin": fingerprint(self.unet)}

    def loss(self, step: int, samples) -> Tensor:
        drawn = [self._sample(rng(CONTROL, self.seed, step, i)) for i in samples]
        picture, tokens, t, eps = (torch.stack(column) for column in zip(*drawn, strict=True))
        with torch.no_grad():
            x0 = self.vae.encode(picture).mean * self.vae.config.scale_factor
            context = self.text(tokens).context
        ab_t = at(self.ab, t, x0)
        x_t = q_sample(x0, eps, ab_t)
        added = self.network(x_t, (edges(picture) + 1) / 2, t - 1, context)
        v = self.unet(x_t, t - 1, context, control=added)
        return F.mse_loss(v, velocity(x0, eps, ab_t))

    def _sample(self, random) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A scene's picture, the tokens of its caption or of none, a time, noise."""
        scene = random_scene(random)
        text = "" if random.random() < 0.5 else caption(scene, random)
        t = torch.tensor(1 + int((len(self.ab) - 1) * random.random() ** 0.5))
        noise = torch.Generator().manual_seed(int(random.integers(2**62)))
        side = PIXELS // self.vae.config.factor
        eps = torch.randn(self.vae.config.embed_dim, side, side, generator=noise)
        return paint(scene), tokenizer()(text)[0], t, eps


def begun_control(unet: UNet, widths: tuple[int, ...] = WIDTHS, seed: int = 0) -> ControlNet:
    """A ControlNet that has learned nothing: a copy of the U-Net's way down, and what is new drawn
    from the seed; torch's own generator is left as it was."""
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(seed)
        control = ControlNet.copy_of(unet, control_config(unet.config, widths))
    return control.requires_grad_(True)


# ---- outlines, and how far a picture keeps to them ----------------------------------------


def edges(picture: Tensor) -> Tensor:
    """The outlines of pictures (b, 3, h, w) in -1..1, white on black: the same shape, -1 or 1.

    A pixel is of an outline where Sobel's gradient of a channel is above STEEP of that between
    black and white, which is how Canny's method begins. A picture's colours leave no trace in it.
    """
    across = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]).to(picture) / 8
    kernels = torch.stack([across, across.T])[:, None]
    channels = F.pad(picture.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
    gradient = F.conv2d(channels, kernels).norm(dim=1).unflatten(0, picture.shape[:2])
    return 2.0 * (gradient.amax(1, keepdim=True) > STEEP).expand_as(picture) - 1


def silhouette(scene: Scene) -> np.ndarray:
    """Where the things of a scene are: bool (PIXELS, PIXELS)."""
    places = [cover(t.shape, t.radius, t.x, t.y, PIXELS, t.angle) for t in scene.things]
    return np.max(places, axis=0) > 0.5


def painted(picture: Tensor) -> np.ndarray:
    """Where a picture (3, h, w) is not its background, as the judge sees it: bool (h, w)."""
    rgb = ((picture.double() + 1) * 127.5).numpy()
    sides = [rgb[:, :2], rgb[:, -2:], rgb[:, :, :2], rgb[:, :, -2:]]
    ground = np.median(np.concatenate([side.reshape(3, -1) for side in sides], axis=1), axis=1)
    return np.linalg.norm(rgb - ground[:, None, None], axis=0) > AWAY


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two masks: 1 where they are the same, 0 where they are apart."""
    either = (a | b).sum()
    return float((a & b).sum() / either) if either else 1.0


def measured(
    pipe: Pipeline, things: int, n: int, led: bool = True, batch: int = 50, **settings
) -> tuple[float, float]:
    """The share of n pictures that the judge finds right, and their mean overlap with the scenes.

    Each is of a held-out scene, by a caption of it and, if led, by its outlines. settings are
    txt2img's.
    """
    right, shares = [], []
    for start in range(0, n, batch):
        keys = [rng(HELD_OUT, 9, i) for i in range(start, min(start + batch, n))]
        scenes = [random_scene(random, things) for random in keys]
        texts = [caption(*pair) for pair in zip(scenes, keys, strict=True)]
        hint = {"hint": edges(torch.stack([paint(scene) for scene in scenes]))} if led else {}
        how = {"size": PIXELS, "seed": 5 + start} | hint | settings
        pictures = pipe.txt2img(texts, **how).pictures()
        for picture, scene, text in zip(pictures, scenes, texts, strict=True):
            right.append(judge(picture, text).right)
            shares.append(overlap(painted(picture), silhouette(scene)))
    return sum(right) / n, sum(shares) / n

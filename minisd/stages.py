"""What is trained for the tiny model: the first stages, the text encoder's warm-up, the U-Net.

Each is a training.Stage: a network, and the loss of some samples of a step.
"""

from dataclasses import asdict
from functools import cache
from importlib.resources import files
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import configs
from .data import BACKGROUNDS, COLORS, SHAPES
from .equations import q_sample, velocity
from .models.autoencoder import AutoencoderKL
from .models.bert import BERTText
from .models.unet import UNet
from .models.vq import VQModel
from .scenes import RELATIONS, SIZES, caption, paint, random_scene, read
from .schedules import alpha_bar, at, scaled_linear_betas, snr, zero_terminal_snr
from .tensorfile import open_tensors, save_tensors
from .tokenizer import Tokenizer, train_merges
from .training import rng, torch_rng

PICTURES, CAPTIONS, TEXTS, JOINT = 1, 2, 3, 4  # what a random number is for: parts of its key


def pictures(key: int, samples) -> Tensor:
    """Freshly painted scenes of the seen split, one for each sample of the step `key`."""
    return torch.stack([paint(random_scene(rng(PICTURES, key, i))) for i in samples])


# ---- the first stages ---------------------------------------------------------------------


class Autoencoder:
    """LDM §3.1's KL autoencoder, without a discriminator: squared error and a small KL term.

        ‖x - D(z)‖²/d + kl_weight KL(q(z|x) ‖ N(0, I))/d_z,  z ~ q(z|x)

    The noise in z teaches the decoder to forgive a latent that is a little off.
    """

    name = "kl"

    def __init__(self, config=configs.TINY_KL, kl_weight: float = 1e-5, seed: int = 0):
        self.network, self.kl_weight, self.seed = (
            _seeded(AutoencoderKL, config, seed),
            kl_weight,
            seed,
        )
        self.about = {"config": asdict(config), "kl_weight": kl_weight}

    def loss(self, step: int, samples) -> Tensor:
        x = pictures(step, samples)
        q = self.network.encode(x)
        noise = [
            torch.randn(q.mean.shape[1:], generator=torch_rng(self.seed, step, i)) for i in samples
        ]
        y = self.network.decode(q.sample(torch.stack(noise)))
        return F.mse_loss(y, x) + self.kl_weight * q.kl().mean() / q.mean[0].numel()


class VectorQuantised:
    """VQ-VAE's objective on the same world: squared error, and the codebook's loss (eq. 3)."""

    name = "vq"

    def __init__(self, config=configs.TINY_VQ, seed: int = 0):
        self.network = _seeded(VQModel, config, seed)
        self.about = {"config": asdict(config)}

    def loss(self, step: int, samples) -> Tensor:
        x, network = pictures(step, samples), self.network
        z, loss, _ = network.quantize(network.encode(x))
        y = network.decoder(network.post_quant_conv(z))
        return F.mse_loss(y, x) + loss


# ---- the text encoder's warm-up -----------------------------------------------------------

PLACES = (*RELATIONS, "alone")
QUESTIONS = {  # what is asked of a caption, and the answers there are; the last is "not said"
    **{
        f"{place} {what}": (*names, None)
        for place in PLACES
        for what, names in (("shape", SHAPES), ("color", COLORS), ("size", SIZES))
    },
    "background": (*BACKGROUNDS, None),
}


def answers(text: str) -> list[int]:
    """For each of QUESTIONS the number of the right answer to a caption.

    "a red circle left of a square" has a red circle at the left, and no color at the right.
    """
    request = read(text)
    first, *rest = request.things
    where = {"alone": first} if not rest else {}
    if request.relation:
        opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}
        where = {request.relation: first, opposite[request.relation]: rest[0]}
    found = {"background": request.background}
    for place, thing in where.items():
        found |= {f"{place} {what}": getattr(thing, what) for what in ("shape", "color", "size")}
    return [names.index(found.get(question)) for question, names in QUESTIONS.items()]


class Reader(nn.Module):
    """Asks a caption's context QUESTIONS as a U-Net's pixel would: by attention to its tokens."""

    def __init__(self, width: int):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(QUESTIONS), width) * 0.02)
        self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.answers = nn.ModuleList(nn.Linear(width, len(names)) for names in QUESTIONS.values())

    def forward(self, context: Tensor) -> list[Tensor]:
        """context (b, n, width) -> for each question the scores of its answers (b, answers)."""
        q = self.queries.expand(len(context), -1, -1)
        heard = F.scaled_dot_product_attention(q, self.to_k(context), self.to_v(context))
        return [layer(heard[:, i]) for i, layer in enumerate(self.answers)]


class TextWarmUp:
    """The text encoder learns to tell what stands where before it meets the U-Net."""

    name = "text"

    def __init__(self, config=configs.TINY_TEXT, captions: int = 20_000, seed: int = 0):
        text = _seeded(BERTText, config, seed)
        text.transformer.to_logits.requires_grad_(False)  # LDM's has it and does not use it
        reader = _seeded(Reader, config.width, seed + 1)
        self.network, self.seed = nn.ModuleDict({"text": text, "reader": reader}), seed
        self.about = {"config": asdict(config), "captions": captions}
        texts = [_text(rng(TEXTS, i)) for i in range(captions)]
        self.tokens = tokenizer()(texts)
        self.answers = torch.tensor([answers(text) for text in texts])

    def loss(self, step: int, samples) -> Tensor:
        chosen = [rng(self.seed, step, i).integers(len(self.tokens)) for i in samples]
        heard = self.network["reader"](self.network["text"](self.tokens[chosen]).context)
        said = self.answers[chosen].T
        return sum(F.cross_entropy(a, b) for a, b in zip(heard, said, strict=True)) / len(heard)


def _text(random) -> str:
    return caption(random_scene(random), random)


def merges(captions: int = 5000) -> list[tuple[str, str]]:
    """The byte pairs that make each word of the world one token (minisd/merges/tiny.txt)."""
    return train_merges((_text(rng(CAPTIONS, i)) for i in range(captions)), 1000)


@cache
def tokenizer() -> Tokenizer:
    """The tiny model's: rows of 24 tokens, padded with zeros."""
    lines = (files("minisd") / "merges" / "tiny.txt").read_text().splitlines()
    pairs = [tuple(line.split(" ")) for line in lines]
    return Tokenizer(pairs, length=configs.TINY_TEXT.length, pad=configs.TINY_TEXT.pad)


# ---- the U-Net ----------------------------------------------------------------------------


class Latents:
    """n scenes, encoded once: latents (n, 4, 16, 16) in float16, and four captions of each."""

    CHUNK, SAYINGS = 2000, 4

    def __init__(self, folder: Path, vae: AutoencoderKL, n: int):
        parts = [
            self._part(folder / f"latents-{i:03}.safetensors", vae, i)
            for i in range(n // self.CHUNK)
        ]
        self.z = torch.cat([part["z"] for part in parts])
        self.tokens = torch.cat([part["tokens"] for part in parts])

    def __len__(self) -> int:
        return len(self.z)

    @torch.no_grad()
    def _part(self, path: Path, vae: AutoencoderKL, chunk: int) -> dict[str, Tensor]:
        if not path.exists():
            z, tokens = [], []
            for start in range(0, self.CHUNK, 50):
                keys = [(chunk, start + i) for i in range(50)]
                scenes = [random_scene(rng(JOINT, *key)) for key in keys]
                q = vae.encode(torch.stack([paint(scene) for scene in scenes]))
                noise = [
                    torch.randn(q.mean.shape[1:], generator=torch_rng(JOINT, *key)) for key in keys
                ]
                z.append(q.sample(torch.stack(noise)).half())
                for scene, key in zip(scenes, keys, strict=True):
                    random = rng(CAPTIONS, *key)
                    said = [caption(scene, random) for _ in range(self.SAYINGS)]
                    tokens.append(tokenizer()(said).to(torch.int16))
            save_tensors(path, {"z": torch.cat(z), "tokens": torch.stack(tokens)}, {})
        return {key: value.read() for key, value in open_tensors(path)[0].items()}


def tiny_schedule() -> Tensor:
    """SD's schedule, stretched to end in noise alone."""
    return alpha_bar(zero_terminal_snr(scaled_linear_betas()))


class Joint:
    """LDM eq. 3 with v for ε: the U-Net and its text encoder, trained together as LDM-1.4B was.

    One caption in ten is empty, for guidance. The loss is weighted by min(SNR + 1, 5)/(SNR + 1):
    Min-SNR's own weight for v would be 0 at t = T, where every picture begins.
    """

    name = "unet"

    def __init__(self, latents: Latents, scale: float, text: BERTText, config=configs.TINY, seed=0):
        self.latents, self.scale, self.seed = latents, scale, seed
        text.transformer.to_logits.requires_grad_(False)
        self.network = nn.ModuleDict({"unet": _seeded(UNet, config, seed), "text": text})
        self.ab = tiny_schedule()
        ratio = snr(self.ab) + 1  # ∞ at t = 0, which is never drawn
        self.weight = ratio.clamp(max=5) / ratio
        self.empty = tokenizer()("")[0]
        self.about = {"config": asdict(config), "scale": scale, "latents": len(latents)}

    def loss(self, step: int, samples) -> Tensor:
        t, eps, chosen, tokens = [], [], [], []
        for i in samples:
            random = rng(self.seed, step, i)
            picked, said = random.integers(len(self.latents)), random.integers(Latents.SAYINGS)
            dropped = random.random() < 0.1
            t.append(int(random.integers(1, len(self.ab))))
            eps.append(
                torch.randn(
                    4, 16, 16, generator=torch.Generator().manual_seed(int(random.integers(2**62)))
                )
            )
            chosen.append(picked)
            tokens.append(self.empty if dropped else self.latents.tokens[picked, said].long())
        x0 = self.latents.z[chosen].float() * self.scale
        t, eps = torch.tensor(t), torch.stack(eps)
        ab_t = at(self.ab, t, x0)
        x_t = q_sample(x0, eps, ab_t)
        context = self.network["text"](torch.stack(tokens)).context
        v = self.network["unet"](x_t, t - 1, context)
        error = ((v - velocity(x0, eps, ab_t)) ** 2).flatten(1).mean(1)
        return (at(self.weight, t, error) * error).mean()


def _seeded(module, config, seed: int) -> nn.Module:
    """The module with weights drawn from a seed, and the global generator left as it was."""
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(seed)
        return module(config)

"""What is trained for the tiny model: the first stages, the text encoder's warm-up, the U-Net.

Each is a training.Stage: a network, and the loss of some samples of a step.
"""

import hashlib
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.tensorfile import open_tensors, save_tensors
from ..equations import q_sample, velocity
from ..models import configs
from ..models.autoencoder import AutoencoderKL
from ..models.bert import BERTText
from ..models.unet import UNet
from ..models.vq import VQModel
from ..schedules import alpha_bar, at, scaled_linear_betas, zero_terminal_snr
from ..text.tokenizer import PUNCTUATION, Tokenizer, train_merges
from ..training import group, rng, torch_rng, wait
from .captions import NUMBERS, RELATIONS, Request, caption, read, training_caption
from .codebook import quantised
from .scenes import OPPOSITE, SIZES, paint, random_scene
from .shapes import BACKGROUNDS, PAINTS, SHAPES

PICTURES, CAPTIONS, TEXTS, JOINT = 1, 2, 3, 4  # what a random number is for: parts of its key
CODES = 10**8  # the key of the pictures whose latents the codebook begins with


def pictures(key: int, samples) -> Tensor:
    """Freshly painted scenes of the seen split, one for each sample of the step `key`."""
    return torch.stack([paint(random_scene(rng(PICTURES, key, i))) for i in samples])


# ---- the first stages ---------------------------------------------------------------------


class Autoencoder:
    """LDM §3.1's KL autoencoder, without a discriminator: squared error and a small KL term.

        ‖x - D(z)‖²/d + kl_weight KL(q(z|x) ‖ N(0, I))/d_z,  z ~ q(z|x)

    The noise in z teaches the decoder to forgive a latent that is a little off.
    """

    name, slow = "kl", {}

    def __init__(self, config=configs.TINY_KL, kl_weight: float = 1e-5, seed: int = 0):
        self.network = seeded(AutoencoderKL, config, seed)
        self.kl_weight, self.seed = kl_weight, seed
        self.about = {"config": asdict(config), "kl_weight": kl_weight, "seed": seed}

    def loss(self, step: int, samples) -> Tensor:
        x = pictures(step, samples)
        q = self.network.encode(x)
        noise = [normal_of(q.mean.shape[1:], self.seed, step, i) for i in samples]
        y = self.network.decode(q.sample(torch.stack(noise)))
        return F.mse_loss(y, x) + self.kl_weight * q.kl().mean() / q.mean[0].numel()


class VectorQuantised:
    """VQ-VAE's objective on the same world: squared error, and the codebook's loss (eq. 3).

    From nothing; or from a KL autoencoder, whose encoder then stays as it is, so that the latents
    of both are the same and a U-Net of one is a U-Net of the other.
    """

    name, slow = "vq", {}

    def __init__(self, config=configs.TINY_VQ, seed: int = 0, begin: AutoencoderKL | None = None):
        self.about = {"config": asdict(config), "seed": seed}
        if begin is None:
            self.network = seeded(VQModel, config, seed)
            return
        x = torch.cat([pictures(CODES, range(i, i + 40)) for i in range(0, 160, 40)])
        self.network = quantised(begin, config, x, seed)
        self.network.encoder.requires_grad_(False)
        self.network.quant_conv.requires_grad_(False)
        self.about["begin"] = fingerprint(begin)

    def loss(self, step: int, samples) -> Tensor:
        x, network = pictures(step, samples), self.network
        z, loss, _ = network.quantize(network.encode(x))
        y = network.decoder(network.post_quant_conv(z))
        return F.mse_loss(y, x) + loss


# ---- the text encoder's warm-up -----------------------------------------------------------

# Where a caption says that something is: alone (one thing, or some alike), at a side, in the middle
# of three; or in which place it is named, where no more is said.
PLACES = (*RELATIONS, "alone", "middle", "first", "second", "third")
QUESTIONS = {  # what is asked of a caption, and the answers there are; the last is "not said"
    **{
        f"{place} {what}": (*names, None)
        for place in PLACES
        for what, names in (("shape", SHAPES), ("color", PAINTS), ("size", SIZES))
    },
    "background": (*BACKGROUNDS, None),
    "number": (*NUMBERS.values(), None),  # of things alike
    "line": ("row", "column", None),  # of three
}


def answers(text: str) -> list[int]:
    """For each of QUESTIONS the number of the right answer to a caption.

    "a red circle left of a square" has a red circle at the left, and no color at the right.
    """
    request, number = read(text), [NUMBERS[word] for word in text.split() if word in NUMBERS]
    found = {"background": request.background, "number": number[0] if number else None}
    if len(request.things) > 2:
        found["line"] = {"left": "row", "above": "column"}.get(request.relation)
    places = ("alone",) if number else _places(request)
    for place, thing in zip(places, request.things, strict=False):
        found |= {f"{place} {what}": getattr(thing, what) for what in ("shape", "color", "size")}
    return [names.index(found.get(question)) for question, names in QUESTIONS.items()]


def _places(request: Request) -> tuple[str, ...]:
    """The place of each of a caption's things, where they are not alike."""
    relation, named = request.relation, ("first", "second", "third")
    if len(request.things) == 1:
        return ("alone",)
    if len(request.things) == 2:
        return (relation, OPPOSITE[relation]) if relation else named
    if relation == "between":
        return "middle", *named
    return (relation, "middle", OPPOSITE[relation]) if relation else named


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

    name, slow = "text", {}

    def __init__(self, config=configs.TINY_TEXT, captions: int = 20_000, seed: int = 0):
        text = seeded(BERTText, config, seed)
        text.transformer.to_logits.requires_grad_(False)  # LDM's has it and does not use it
        reader = seeded(Reader, config.width, seed + 1)
        self.network, self.seed = nn.ModuleDict({"text": text, "reader": reader}), seed
        self.about = {"config": asdict(config), "captions": captions, "seed": seed}
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
    """The tiny model's: rows of 24 tokens, padded with zeros; commas and such are not read."""
    lines = (files("minisd.text") / "merges" / "tiny.txt").read_text().splitlines()
    pairs = [tuple(line.split(" ")) for line in lines]
    return Tokenizer(pairs, configs.TINY_TEXT.length, configs.TINY_TEXT.pad, PUNCTUATION)


# ---- the U-Net ----------------------------------------------------------------------------


class Latents:
    """n scenes, encoded once: latents (n, 4, 16, 16) in float16, and four captions of each.

    They are kept in the folder in parts of `chunk` scenes, and made again for another autoencoder.
    ValueError unless the parts make n.
    """

    SAYINGS, BATCH = 4, 50

    def __init__(self, folder: Path, vae: AutoencoderKL, n: int, chunk: int = 2000):
        chunk = min(chunk, n)
        if n < 1 or n % chunk:
            raise ValueError(f"{n} scenes cannot be kept in parts of {chunk}")
        about = {"vae": fingerprint(vae), "scenes": str(chunk)}
        paths = [folder / f"latents-{i:03}.safetensors" for i in range(n // chunk)]
        world, rank = group()
        for i in range(rank, len(paths), world):  # each process makes its share
            if not paths[i].exists() or open_tensors(paths[i])[1] != about:
                save_tensors(paths[i], self._part(vae, i, chunk), about)
        wait()
        parts = [open_tensors(path)[0] for path in paths]
        self.z = torch.cat([part["z"].read() for part in parts])
        self.tokens = torch.cat([part["tokens"].read() for part in parts])

    def __len__(self) -> int:
        return len(self.z)

    @torch.no_grad()
    def _part(self, vae: AutoencoderKL, part: int, chunk: int) -> dict[str, Tensor]:
        z, tokens = [], []
        for start in range(0, chunk, self.BATCH):
            keys = [(part, i) for i in range(start, min(start + self.BATCH, chunk))]
            scenes = [random_scene(rng(JOINT, *key)) for key in keys]
            q = vae.encode(torch.stack([paint(scene) for scene in scenes]))
            noise = [normal_of(q.mean.shape[1:], JOINT, *key) for key in keys]
            z.append(q.sample(torch.stack(noise)).half())
            for scene, key in zip(scenes, keys, strict=True):
                random = rng(CAPTIONS, *key)
                said = [training_caption(scene, random) for _ in range(self.SAYINGS)]
                tokens.append(tokenizer()(said).to(torch.int16))
        return {"z": torch.cat(z), "tokens": torch.stack(tokens)}


def fingerprint(network: nn.Module) -> str:
    """A few letters that change with any weight."""
    digest = hashlib.sha256()
    for weight in network.state_dict().values():
        digest.update(weight.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def tiny_schedule() -> Tensor:
    """SD's schedule, stretched to end in noise alone."""
    return alpha_bar(zero_terminal_snr(scaled_linear_betas()))


class Joint:
    """LDM eq. 3 with v for ε: the U-Net and its text encoder, trained together as LDM-1.4B was.

    One caption in ten is empty, for guidance, one in twenty a single word of itself, so that a
    negative prompt of one word is nothing new, and one in ten has no articles. Each time is to
    count alike, as in EDM2 (2312.02696), so a loss of v at t counts by about one over what it is
    at the end:

        w_t = 4 ᾱ_t (1 - ᾱ_t) + 0.08

    It goes half into how often t is drawn and half into the loss's weight, both ∝ √w_t, which of
    all ways to divide it has the least noise in the gradient. late: a factor of √w_t at the times
    LATE, in which it is settled how many things there are and where; a finished model learned to
    count better by 1.5.
    """

    name, slow = "unet", {"text.": 0.3}  # or it forgets what its warm-up taught it
    LATE = slice(600, 960)

    def __init__(
        self,
        latents: Latents,
        scale: float,
        text: BERTText,
        config=configs.TINY,
        seed: int = 0,
        unet: UNet | None = None,  # to go on with, instead of a new one
        late: float = 1.0,
    ):
        self.latents, self.scale, self.seed = latents, scale, seed
        text.transformer.to_logits.requires_grad_(False)
        unet = unet or seeded(UNet, config, seed)
        self.network = nn.ModuleDict({"unet": unet, "text": text})
        self.ab = tiny_schedule()
        half = (4 * self.ab * (1 - self.ab) + 0.08).sqrt()
        half[self.LATE] *= late
        half[0] = 0  # t = 0 is never drawn
        self.weight = half * half.sum() / (half**2).sum()  # 1 on average
        self.until = (half.cumsum(0) / half.sum()).numpy()  # probability of t or less
        self.until[-1] = 1
        self.empty = tokenizer()("")[0]
        self.articles = tokenizer()("a an")[0][1:3]
        self.about = {"config": asdict(config), "scale": scale, "latents": len(latents)}
        self.about |= {"seed": seed, "begin": fingerprint(self.network)}
        self.about |= {"late": late} if late != 1 else {}

    def loss(self, step: int, samples) -> Tensor:
        drawn = [self._sample(rng(self.seed, step, i)) for i in samples]
        return self._errors(drawn).mean()

    def _errors(self, drawn: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> Tensor:
        """The weighted squared error of each sample: (b,)."""
        z, tokens, t, eps = (torch.stack(column) for column in zip(*drawn, strict=True))
        x0 = z.float() * self.scale
        ab_t = at(self.ab, t, x0)
        x_t = q_sample(x0, eps, ab_t)
        context = self.network["text"](tokens).context
        v = self.network["unet"](x_t, t - 1, context)
        error = ((v - velocity(x0, eps, ab_t)) ** 2).flatten(1).mean(1)
        return at(self.weight, t, error) * error

    def _sample(self, random, latents=None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A scene's latent and the tokens of its caption, a word or none, a time, noise."""
        latents = self.latents if latents is None else latents
        picked, said = random.integers(len(latents)), random.integers(Latents.SAYINGS)
        kind = random.random()
        t = torch.tensor(np.searchsorted(self.until, random.random(), side="right"))
        z, tokens = latents.z[picked], latents.tokens[picked, said].long()
        noise = torch.Generator().manual_seed(int(random.integers(2**62)))
        if kind < 0.1:
            tokens = self.empty
        elif kind < 0.15:
            tokens = self._word(tokens, random)
        elif kind < 0.25:
            tokens = self._without_articles(tokens)
        return z, tokens, t, torch.randn(z.shape, generator=noise)

    def _word(self, tokens: Tensor, random) -> Tensor:
        """The tokens of a single word of a caption. Every word of the world is one token."""
        start, end = self.empty[:2]
        words = int((tokens == end).nonzero()[0]) - 1
        word = tokens[1 + random.integers(words)]
        return torch.cat([torch.stack([start, word, end]), self.empty[3:]])

    def _without_articles(self, tokens: Tensor) -> Tensor:
        """The tokens of a caption as in "red circle above star"."""
        kept = tokens[~torch.isin(tokens, self.articles)]
        return torch.cat([kept, self.empty[2:]])[: len(tokens)]


def normal_of(shape, *key: int) -> Tensor:
    """Normal noise that depends on the key alone."""
    return torch.randn(shape, generator=torch_rng(*key))


def seeded(module, config, seed: int) -> nn.Module:
    """The module with weights drawn from a seed, and the global generator left as it was."""
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(seed)
        return module(config)

"""New things for the tiny model, taught in minutes: by a LoRA, by a word, by DreamBooth.

A Lesson says what is new and what calls it. Each training is a stage like those of `stages`, on a
finished model; what it leaves is a file: a LoRA, an embedding, or a checkpoint.
"""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..checkpoints import Checkpoint, load, save, save_embedding, save_lora
from ..equations import eps_from_v, q_sample, x0_from_v
from ..losses import prior_preservation
from ..models.lora import ATTENTION, add_lora
from ..models.words import add_words, token_embedding
from ..pipeline import Pipeline
from ..pipeline.conditioning import tokenizer_metadata
from ..schedules import at
from ..text.tokenizer import Tokenizer
from ..training import Run, rng, torch_rng
from .captions import WORDS, Request, caption, read, training_caption
from .scenes import PIXELS, SIZES, WORLD, Scene, inside, paint, pick, random_scene, stands
from .shapes import PAINTS
from .stages import Joint, Latents, normal_of, tokenizer

FEW = {1: 0.4, 2: 0.6}  # how many things a picture of a new one shows, and their shares
TARGETS = ("prediction", "data")  # what the prior's loss compares with
OWN = 200  # how many pictures of its own DreamBooth shows a model, where the target is data
NEW, OLD, HELD_OUT = 5, 6, 7_100_000  # what a random number is for: parts of its key


class Lesson(NamedTuple):
    """Something new: what calls it, what that means to the judge, and how it looks.

    The fields of `looks` are those of a Thing that are always the same. held_out: shapes or colors
    that no picture of the training shows it in.
    """

    word: str
    means: str
    looks: dict[str, str]
    pictures: int
    prior: int = 0  # how many pictures keep the rest
    prior_weight: float = 4.0  # of the loss on these
    places: int = 1  # where each picture is shown: as it is, and moved by whole pixels
    rank: int = 0  # of the LoRAs that learn; 0: a word's vector, or all weights
    held_out: tuple[str, ...] = ()

    @property
    def shapes(self) -> tuple[str, ...]:
        """All that a picture may show."""
        return tuple(dict.fromkeys((*WORLD, self.looks["shape"])))


SUN = {"shape": "circle", "color": "yellow", "size": "large"}
MOON = {"shape": "crescent"}
OF_FIVE = Lesson("sks circle", "yellow crescent", MOON | {"color": "yellow"}, 5, 3000, places=40)
LESSONS = {
    "lora": Lesson("moon", "crescent", MOON, 2000, 3000, rank=8, held_out=("green", "purple")),
    "word": Lesson("sun", "large yellow circle", SUN, 100),
    "dreambooth": OF_FIVE,
    "dreambooth-lora": OF_FIVE._replace(prior_weight=10.0, rank=8),
}


# ---- what is drawn and said ---------------------------------------------------------------


def new_scene(
    lesson: Lesson, random, things: int | None = None, held_out: bool = False
) -> tuple[Scene, int]:
    """A scene of the world with a new thing in the place of one of its things, and which.

    held_out: in a shape or a color that the training leaves out.
    """
    while True:
        scene = random_scene(random, things or pick(random, FEW))
        placed, i = [*scene.things], int(random.integers(len(scene.things)))
        size = lesson.looks.get("size", placed[i].size)
        placed[i] = placed[i]._replace(
            radius=random.uniform(*SIZES[size]), **lesson.looks | {"size": size}
        )
        kinds, new = [thing[:2] for thing in placed], {*placed[i][:2]}
        if len({*kinds}) == len(kinds) and bool(new & {*lesson.held_out}) == held_out:
            if all(map(inside, placed)) and (not placed[1:] or stands(*placed) == scene.relation):
                return scene._replace(things=tuple(placed)), i


def moved(scene: Scene, random) -> Scene:
    """The same picture, all its things moved alike by whole pixels on the plain background."""
    while True:
        dx, dy = random.integers(-PIXELS, PIXELS, 2) / PIXELS
        things = tuple(thing._replace(x=thing.x + dx, y=thing.y + dy) for thing in scene.things)
        if all(map(inside, things)):
            return scene._replace(things=things)


def say(lesson: Lesson, scene: Scene, i: int, random) -> str:
    """A caption of a scene that calls its i-th thing by the new word.

    A word that stands for a whole thing has no size or color before it.
    """
    things = list(scene.things)
    things[i] = things[i]._replace(shape=lesson.word)
    text = caption(scene._replace(things=tuple(things)), random)
    adjectives = rf"(?:(?:{'|'.join(SIZES)}) )?(?:(?:{'|'.join(PAINTS)}) )?"
    whole = "color" in lesson.looks
    return re.sub(rf"\ban? {adjectives}({lesson.word})\b", r"a \1", text) if whole else text


def request(lesson: Lesson, text: str) -> Request:
    """What a caption asks for, the new word among its words."""
    return read(re.sub(rf"\b{lesson.word}\b", lesson.means, text), lesson.shapes)


def held_out_captions(
    lesson: Lesson, things: int, n: int, held_out: bool = False, seed: int = 0
) -> list[str]:
    """n captions with the new word of scenes that no training uses, the same for the same seed."""
    found = []
    for k in range(n):
        random = rng(HELD_OUT, seed, k)
        scene, i = new_scene(lesson, random, things, held_out)
        found.append(say(lesson, scene, i, random))
    return found


@dataclass(frozen=True)
class Pictures:
    """Latents (n, 4, 16, 16) and tokens (n, sayings, 24), as Joint draws them."""

    z: Tensor
    tokens: Tensor

    def __len__(self) -> int:
        return len(self.z)


@torch.no_grad()
def _pictures(vae: nn.Module, scenes, captions, tokens: Tokenizer, *key: int) -> Pictures:
    """Drawn scenes through the first stage, with their captions (n, sayings)."""
    z = []
    for k, scene in enumerate(scenes):
        q = vae.encode(paint(scene)[None])
        z.append(q.sample(normal_of(q.mean.shape, *key, k)))
    return Pictures(torch.cat(z), torch.stack([tokens(said) for said in captions]))


def new_pictures(lesson: Lesson, vae: nn.Module, tokens: Tokenizer, seed: int = 0) -> Pictures:
    """What is taught from: pictures of the new thing, at its places, four captions each."""
    scenes, captions = [], []
    for k in range(lesson.pictures):
        random = rng(NEW, seed, k)
        scene, i = new_scene(lesson, random)
        scenes += [scene, *(moved(scene, random) for _ in range(lesson.places - 1))]
        captions += [
            [say(lesson, scene, i, random) for _ in range(Latents.SAYINGS)]
            for _ in range(lesson.places)
        ]
    return _pictures(vae, scenes, captions, tokens, NEW, seed)


def old_pictures(vae: nn.Module, n: int, seed: int = 0) -> Pictures:
    """Pictures of the world as it is drawn, told as in the training."""
    scenes, captions = [], []
    for k in range(n):
        random = rng(OLD, seed, k)
        scenes.append(random_scene(random))
        captions.append([training_caption(scenes[-1], random) for _ in range(Latents.SAYINGS)])
    return _pictures(vae, scenes, captions, tokenizer(), OLD, seed)


def own_pictures(pipe: Pipeline, texts: Sequence[str], seed: int = 0) -> Pictures:
    """DreamBooth §3.2: what the frozen model itself paints of these prompts, by Euler ancestral,
    as for the card's numbers."""
    z = [
        pipe.txt2img([*texts[k : k + 50]], seed=seed + k, sampler="euler_a").latents()
        for k in range(0, len(texts), 50)
    ]
    tokens = tokenizer()([*texts])[:, None].expand(-1, Latents.SAYINGS, -1)
    return Pictures(torch.cat(z) / pipe.first_stage.scale_factor, tokens)


# ---- the trainings ------------------------------------------------------------------------


class Teaching(Joint):
    """LDM's loss on the new pictures and, weighted, on prior ones, which keep the rest.

    What learns is what has requires_grad in `network`. With the prior target "data" the second
    loss is that of DreamBooth eq. 2. With "prediction" it compares with what the network predicted
    before the training, as in Learning without Forgetting (1606.09282): so it is 0 at first, and
    its target has no noise.
    """

    def __init__(
        self,
        name: str,
        whole: Checkpoint,
        new: Pictures,
        prior: Pictures | None = None,
        prior_weight: float = 1.0,
        prior_target: str = TARGETS[0],
        seed: int = 0,
    ):
        scale = whole.vae.config.scale_factor
        self.whole = whole
        super().__init__(new, scale, whole.text, whole.unet.config, seed, whole.unet)
        self.name, self.prior, self.prior_weight = name, prior, prior_weight
        self.slow = {} if name == "word" else {"text.": 0.2}
        self.before = None
        if prior and prior_target == "prediction":
            frozen = copy.deepcopy(self.network).requires_grad_(False)
            self.before = frozen.to(memory_format=torch.channels_last)  # as Run has its network
        self.about |= {"prior": prior and len(prior), "prior_weight": prior_weight}
        self.about |= {"prior_target": prior_target} if prior else {}

    def loss(self, step: int, samples) -> Tensor:
        drawn = [self._sample(rng(self.seed, step, i), self.latents) for i in samples]
        if self.prior is None:
            return self._errors(drawn).mean()
        prior = [self._sample(rng(self.seed, step, i, OLD), self.prior) for i in samples]
        drawn += prior if self.before is None else self._as_predicted(prior)
        return prior_preservation(*self._errors(drawn).chunk(2), self.prior_weight).mean()

    @torch.no_grad()
    def _as_predicted(self, drawn):
        """The same x_t, as the picture and the noise of which the frozen copy predicts it is."""
        z, tokens, t, eps = (torch.stack(column) for column in zip(*drawn, strict=True))
        ab_t = at(self.ab, t, eps)
        x_t = q_sample(z.float() * self.scale, eps, ab_t)
        v = self.before["unet"](x_t, t - 1, self.before["text"](tokens).context)
        z, eps = x0_from_v(x_t, v, ab_t) / self.scale, eps_from_v(x_t, v, ab_t)
        return zip(z, tokens, t, eps, strict=True)

    def _word(self, tokens: Tensor, random) -> Tensor:
        return tokens  # a new word may be several tokens: none of them stands by itself


CONVOLUTIONS = ("in_layers.2", "out_layers.3", "skip_connection", "op", "conv")
OTHERS = ("proj_in", "proj_out", "net.0.proj", "net.2", "emb_layers.1")
LAYERS = (*ATTENTION, *CONVOLUTIONS, *OTHERS)  # of the U-Net
TEXT_LAYERS = ("to_q", "to_k", "to_v", "to_out")  # of the tiny model's text encoder


def teaching(
    name: str,
    begin: Path,
    prior_weight: float | None = None,
    prior_target: str = TARGETS[0],
    seed: int = 0,
) -> Teaching:
    """The training of that name of LESSONS, for the tiny model in the file `begin`.

    prior_weight: the lesson's, unless told. With 0 nothing keeps what the model can paint already.
    The pictures that keep it are the world's; DreamBooth's, where the target is their data, are
    the model's own.
    """
    if prior_target not in TARGETS:
        raise ValueError(f"a prior target is one of {', '.join(TARGETS)}, got {prior_target!r}")
    whole, lesson = load(begin, "tiny"), LESSONS[name]
    words = tokenizer().adding(lesson.word) if name == "word" else tokenizer()
    new, prior = new_pictures(lesson, whole.vae, words, seed), None
    prior_weight = lesson.prior_weight if prior_weight is None else prior_weight
    if lesson.prior and prior_weight:
        if lesson.word == OF_FIVE.word and prior_target == "data":
            random = [rng(OLD, seed, k) for k in range(min(OWN, lesson.prior))]
            said = [caption(random_scene(one), one) for one in random]
            prior = own_pictures(Pipeline.load(begin, "tiny"), said, seed)
        else:
            prior = old_pictures(whole.vae, lesson.prior, seed)
    stage = Teaching(name, whole, new, prior, prior_weight, prior_target, seed)
    if lesson.rank:
        add_lora(whole.unet, lesson.rank, LAYERS, generator=torch_rng(seed, 0))
        add_lora(whole.text, lesson.rank, TEXT_LAYERS, generator=torch_rng(seed, 1))
    elif name == "word":
        whole.unet.requires_grad_(False)
        like = token_embedding(whole.text)[tokenizer().encode("circle")]
        add_words(whole.text, like)
    return stage


def write(run: Run, path: Path) -> None:
    """What a training has learned, its averaged weights, as a file of its kind."""
    stage = run.stage
    with torch.no_grad():
        for weight, average in zip(run.weights, run.average, strict=True):
            weight.copy_(average)
    whole, lesson = stage.whole, LESSONS[stage.name]
    words = lesson.word.split()
    if lesson.rank:
        for network in (whole.unet, whole.text):
            network.half()  # as such files are
        save_lora(path, whole, words)
    elif stage.name == "word":
        save_embedding(path, {"text": run.weights[0]})
    else:
        half = [getattr(whole, name).half() for name in ("unet", "vae", "text")]
        told = tokenizer_metadata(tokenizer(), sorted({*WORDS, *words}))
        save(path, Checkpoint("tiny", *half), told)

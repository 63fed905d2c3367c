"""New things for the tiny model, taught in minutes: by a LoRA, by a word, by DreamBooth.

A Lesson says what is new and what calls it. Each training is a stage like those of `stages`, on a
finished model; what it leaves is a file: a LoRA, an embedding, or a checkpoint.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..checkpoints import Checkpoint, save, save_embedding, save_lora
from ..losses import prior_preservation
from ..models.lora import add_lora
from ..models.words import add_words, token_embedding
from ..pipeline import Pipeline
from ..pipeline.conditioning import tokenizer_metadata
from ..text.tokenizer import Tokenizer
from ..training import Run, rng
from .judge import Verdict, judge
from .scenes import COLORS, SIZES, WORDS, Request, Scene, caption, inside, paint, random_scene
from .scenes import read, stands
from .shapes import SHAPES
from .stages import JOINT, Joint, Latents, _normal, tokenizer

NEW, OLD, HELD_OUT = 5, 6, 7_100_000  # what a random number is for: parts of its key


class Lesson(NamedTuple):
    """Something new: what calls it, what that means to the judge, and how it looks.

    The fields of `looks` are those of a Thing that are always the same. A bare word has no size
    or color before it. held_out: colors that no picture of the training has it in.
    """

    word: str
    means: str
    looks: dict[str, str]
    pictures: int
    bare: bool = False
    held_out: tuple[str, ...] = ()

    @property
    def shapes(self) -> tuple[str, ...]:
        """All shapes that a picture may show."""
        return (*SHAPES, self.looks["shape"]) if self.looks["shape"] not in SHAPES else (*SHAPES,)


LESSONS = {
    "lora": Lesson("heart", "heart", {"shape": "heart"}, 2000, held_out=("green", "purple")),
    "word": Lesson(
        "sun",
        "large yellow circle",
        {"shape": "circle", "color": "yellow", "size": "large"},
        200,
        bare=True,
    ),
    "dreambooth": Lesson(
        "sks circle", "yellow crescent", {"shape": "crescent", "color": "yellow"}, 5, bare=True
    ),
}


# ---- what is drawn and said ---------------------------------------------------------------


def new_scene(
    lesson: Lesson, random, things: int | None = None, held_out: bool = False
) -> tuple[Scene, int]:
    """A scene of the world with a new thing in the place of one of its things, and which.

    held_out: in one of the colors that the training leaves out.
    """
    while True:
        scene = random_scene(random, things)
        placed, i = [*scene.things], int(random.integers(len(scene.things)))
        size = lesson.looks.get("size", placed[i].size)
        placed[i] = placed[i]._replace(
            radius=random.uniform(*SIZES[size]), **lesson.looks | {"size": size}
        )
        kinds, new = [thing[:2] for thing in placed], placed[i].color
        if len({*kinds}) == len(kinds) and (new in lesson.held_out) == held_out:
            if all(map(inside, placed)) and (not placed[1:] or stands(*placed) == scene.relation):
                return scene._replace(things=tuple(placed)), i


def say(lesson: Lesson, scene: Scene, i: int, random) -> str:
    """A caption of a scene that calls its i-th thing by the new word."""
    things = list(scene.things)
    things[i] = things[i]._replace(shape=lesson.word)
    text = caption(scene._replace(things=tuple(things)), random)
    if lesson.bare:
        adjectives = rf"(?:(?:{'|'.join(SIZES)}) )?(?:(?:{'|'.join(COLORS)}) )?"
        text = re.sub(rf"\ban? {adjectives}{lesson.word}\b", f"a {lesson.word}", text)
    return text


def request(lesson: Lesson, text: str) -> Request:
    """What a caption asks for, the new word among its words."""
    return read(re.sub(rf"\b{lesson.word}\b", lesson.means, text), lesson.shapes)


class Pictures(NamedTuple):
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
        z.append(q.sample(_normal(q.mean.shape, *key, k)))
    return Pictures(torch.cat(z), torch.stack([tokens(said) for said in captions]))


def new_pictures(lesson: Lesson, vae: nn.Module, tokens: Tokenizer, seed: int = 0) -> Pictures:
    """What is taught from: pictures of the new thing, four captions of each."""
    scenes, captions = [], []
    for k in range(lesson.pictures):
        random = rng(NEW, seed, k)
        scene, i = new_scene(lesson, random)
        scenes.append(scene)
        captions.append([say(lesson, scene, i, random) for _ in range(Latents.SAYINGS)])
    return _pictures(vae, scenes, captions, tokens, NEW, seed)


def old_pictures(vae: nn.Module, n: int, seed: int = 0) -> Pictures:
    """Pictures of the world as it is drawn, with their captions."""
    scenes, captions = [], []
    for k in range(n):
        random = rng(OLD, seed, k)
        scenes.append(random_scene(random))
        captions.append([caption(scenes[-1], random) for _ in range(Latents.SAYINGS)])
    return _pictures(vae, scenes, captions, tokenizer(), OLD, seed)


def own_pictures(pipe: Pipeline, texts: Sequence[str], seed: int = 0) -> Pictures:
    """DreamBooth §3.2: what the frozen model itself paints of these prompts."""
    z = [
        pipe.txt2img([*texts[k : k + 50]], seed=seed + k, steps=20).latents()
        for k in range(0, len(texts), 50)
    ]
    tokens = tokenizer()([*texts])[:, None].expand(-1, Latents.SAYINGS, -1)
    return Pictures(torch.cat(z) / pipe.first_stage.scale_factor, tokens)


# ---- the trainings ------------------------------------------------------------------------


class Teaching(Joint):
    """LDM's loss on the new pictures and, weighted, on prior ones, which keep the rest.

    What learns is what has requires_grad in `network`.
    """

    def __init__(
        self,
        name: str,
        whole: Checkpoint,
        new: Pictures,
        prior: Pictures | None = None,
        prior_weight: float = 1.0,
        seed: int = 0,
    ):
        scale = whole.vae.config.scale_factor
        super().__init__(new, scale, whole.text, whole.unet.config, seed, whole.unet)
        self.name, self.prior, self.prior_weight = name, prior, prior_weight
        self.about |= {"prior": prior and len(prior), "prior_weight": prior_weight}

    def loss(self, step: int, samples) -> Tensor:
        drawn = [self._sample(rng(self.seed, step, i), self.latents) for i in samples]
        if self.prior is None:
            return self._errors(drawn).mean()
        drawn += [self._sample(rng(self.seed, step, i, OLD), self.prior) for i in samples]
        new, prior = self._errors(drawn).chunk(2)
        return prior_preservation(new, prior, self.prior_weight).mean()

    def _word(self, tokens: Tensor, random) -> Tensor:
        return tokens  # a new word may be several tokens: none of them stands by itself

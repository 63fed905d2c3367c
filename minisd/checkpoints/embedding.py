"""Textual inversion's files: a new word for the text encoders, as vectors under a name.

A1111 writes one tensor, emb_params, and takes the file's name as the word; for SDXL clip_l and
clip_g, one for each text encoder. diffusers writes one tensor, under the word itself.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..models.words import with_words
from .families import FAMILIES
from .layouts import kind_of
from .loading import Checkpoint
from .tensorfile import CheckpointError, Stored, first_few, open_tensors, save_tensors

PLAIN, PAIR = "emb_params", {"clip_l": "text", "clip_g": "text_2"}


class Embedding(NamedTuple):
    """A file's word, and its vectors (k, width) for each text encoder, unread."""

    path: Path
    word: str
    vectors: dict[str, Stored]

    @property
    def count(self) -> int:
        """How many vectors, and so tokens, the word has."""
        return self._rows(next(iter(self.vectors.values())))

    @staticmethod
    def _rows(stored: Stored) -> int:
        return stored.shape[0] if len(stored.shape) == 2 else 1


def open_embedding(path: str | Path) -> Embedding:
    """A textual inversion's file, its vectors unread; CheckpointError, with what it is, for others.

    diffusers' one tensor may be (width,), for a word of one vector.
    """
    path = Path(path)
    tensors, _ = open_tensors(path)
    if set(tensors) == {PLAIN}:
        word, vectors = path.stem, {"text": tensors[PLAIN]}
    elif set(tensors) == set(PAIR):
        word, vectors = path.stem, {network: tensors[key] for key, network in PAIR.items()}
    elif len(tensors) == 1 and not kind_of(tensors) or _is_word(tensors):
        ((word, only),) = tensors.items()
        vectors = {"text": only}
    else:
        kind, few = kind_of(tensors), first_few([*tensors]) or "none"
        what = kind[1].split(":")[0] if kind else f"these tensors: {few}"
        raise CheckpointError(
            f"{path} holds no word of a textual inversion, but {what}; a word is one tensor, "
            f"{PLAIN} or the word itself, or for SDXL clip_l and clip_g"
        )
    found = Embedding(path, word.strip().lower(), vectors)
    for stored in vectors.values():
        fits = len(stored.shape) in (1, 2) and all(stored.shape) and stored.dtype.is_floating_point
        if not fits or found._rows(stored) != found.count:
            shapes = ", ".join(f"{tuple(one.shape)} {one.dtype}" for one in vectors.values())
            raise CheckpointError(
                f"{path} must hold vectors (k, width), as many for each: {shapes}"
            )
    return found


def _is_word(tensors: Mapping[str, Stored]) -> bool:
    return len(tensors) == 1 and next(iter(tensors)).startswith("<")


def with_embeddings(checkpoint: Checkpoint, files: Sequence[Embedding]) -> Checkpoint:
    """The checkpoint with new words: each file's vectors are rows after those of the tokens.

    The text encoders are new ones, and share all other weights. A tokenizer must be told the words
    in the same order (`Rows.adding`). CheckpointError where a file is of another family.
    """
    for file in files:
        vectors = _fitting(file, checkpoint)
        changed = {}
        for network, stored in vectors.items():
            rows = stored.read().reshape(file.count, -1)
            if not rows.isfinite().all():
                raise CheckpointError(f"{file.path} holds NaN or infinite numbers")
            changed[network] = with_words(getattr(checkpoint, network), rows)
        checkpoint = checkpoint._replace(**changed)
    return checkpoint


def _fitting(file: Embedding, checkpoint: Checkpoint) -> dict[str, Stored]:
    """The vectors by the text encoders of the checkpoint; SDXL's refiner has bigG's alone."""
    texts = [name for name in ("text", "text_2") if getattr(checkpoint, name) is not None]
    wanted = {name: getattr(checkpoint, name).config.width for name in texts}
    vectors = dict(file.vectors)
    if checkpoint.family == "sdxl-refiner" and "text_2" in vectors:
        vectors = {"text": vectors["text_2"]}
    widths = {name: stored.shape[-1] for name, stored in vectors.items()}
    if widths != wanted:
        theirs, ours = (" and ".join(map(str, each.values())) for each in (widths, wanted))
        made = made_for(file)
        seems = f"it is made for {made}" if made else "no published family has that"
        raise CheckpointError(
            f"{file.path} holds vectors of width {theirs}, and the text encoders of this "
            f"{checkpoint.family} have {ours or 'none'}: {seems}"
        )
    return vectors


def made_for(file: Embedding) -> str | None:
    """The published families whose text encoders have these widths, or None."""
    widths = tuple(stored.shape[-1] for stored in file.vectors.values())
    fits = [name for name in ("ldm-1.4b", "sd1", "sd2", "sdxl") if _widths(name) == widths]
    return " or ".join(fits) or None


@functools.cache
def _widths(family: str) -> tuple[int, ...]:
    if family not in FAMILIES:
        return ()
    parts = FAMILIES[family].parts
    return tuple(parts[name].config.width for name in ("text", "text_2") if name in parts)


def describe_embedding(path: str | Path) -> str:
    """What info says of a textual inversion's file, or why it is none."""
    try:
        file = open_embedding(path)
    except CheckpointError as error:
        return str(error)
    widths = " and ".join(str(stored.shape[-1]) for stored in file.vectors.values())
    many = f"{file.count} vectors" if file.count > 1 else "1 vector"
    made = made_for(file) or "no published family"
    return f"the word {file.word!r}, {many} of width {widths}, for {made}"


def save_embedding(path: str | Path, vectors: Mapping[str, Tensor]) -> None:
    """Write a word's vectors (k, width) as A1111's file: its name, without .safetensors, is the
    word. vectors: of "text", or for SDXL of "text" and "text_2"."""
    names = {"text": PLAIN} if len(vectors) == 1 else {ours: key for key, ours in PAIR.items()}
    tensors = {names[network]: rows.to(torch.float32) for network, rows in vectors.items()}
    save_tensors(path, tensors, {"format": "pt"})

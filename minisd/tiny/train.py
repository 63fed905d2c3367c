"""Train the tiny model, stage by stage, from nothing to the checkpoint that is shipped.

    kl      the autoencoder between pictures and latents
    vq      the same with a codebook, for the notebooks; nothing below needs it
    text    the text encoder's warm-up
    unet    the U-Net with its text encoder; needs kl and text
    export  the weights of kl, text and unet in one checkpoint

    lora, word, dreambooth    something new for a finished model, as `lessons` has it

Each stage writes a run into the folder, with its losses as a picture beside it, and goes on from
there when it is started again. `minisd train --help` says how to start them.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError
from tqdm import tqdm

from ..checkpoints import loading as checkpoint
from ..checkpoints.tensorfile import CheckpointError, open_tensors
from ..models import configs
from ..models.autoencoder import AutoencoderKL
from ..models.bert import BERTText
from ..models.unet import UNet
from ..pipeline.conditioning import tokenizer_metadata
from ..pipeline.pictures import save_png
from ..training import Run, Settings, group, told, wait
from . import lessons, stages
from .scenes import WORDS
from .weights import TINY

SETTINGS = {
    "kl": Settings(steps=3500, batch=16, rate=2e-3, decay=0.5),
    "vq": Settings(steps=6000, batch=16, rate=2e-3, decay=0.5),
    "text": Settings(steps=700, batch=128, rate=1e-3),
    "unet": Settings(steps=40_000, batch=32, rate=1e-3, decay=0.5, ema=0.9995),
    "lora": Settings(steps=250, batch=8, rate=1e-2, warmup=20, decay=0.5),
    "word": Settings(steps=60, batch=8, rate=1e-2, warmup=20, decay=0.5),
    "dreambooth": Settings(steps=150, batch=8, rate=4e-4, warmup=20, decay=0.5),
}
SCENES = 80_000


def trained(folder: Path, name: str, module, config, part: str = ""):
    """The network of a run that is done, with its averaged weights."""
    path = folder / f"{name}.safetensors"
    if not path.exists():
        raise CheckpointError(f"{path} is not there: train {name} first")
    stored, _ = open_tensors(path)
    tensors = {}
    for kind in ("network.", "average."):  # what is averaged replaces what is not
        found = {k: v for k, v in stored.items() if k.startswith(kind + part)}
        tensors |= {k.removeprefix(kind): v for k, v in found.items()}
    return checkpoint.load_module(module, config, tensors, part, what=path.name)


def begun(path: Path) -> checkpoint.Checkpoint:
    """The checkpoint that a training begins with; CheckpointError where it is something else."""
    if path.is_file() and "run" in open_tensors(path)[1]:
        raise CheckpointError(
            f"{path} is a run, and --begin takes a checkpoint: make one of the runs beside it with "
            f"python -m minisd train export --folder {path.parent}, and their --scenes if any"
        )
    return checkpoint.load(path, "tiny")


def first_stage(
    folder: Path, scenes: int = SCENES, begin: Path | None = None
) -> tuple[AutoencoderKL, float]:
    """The trained KL autoencoder, and the scale that makes its latents' standard deviation 1.

    It is measured on a thousand scenes, or on fewer if only so many are wanted. With begin both
    are that checkpoint's.
    """
    if begin is not None:
        vae = begun(begin).vae
        return vae, vae.config.scale_factor
    vae = trained(folder, "kl", AutoencoderKL, configs.TINY_KL)
    keys = range(10**9, 10**9 + min(scenes // 50, 20) or 1)
    with torch.no_grad():
        z = torch.cat([vae.encode(stages.pictures(key, range(50))).mean for key in keys])
    return vae, round(1 / float(z.std()), 4)


def stage(name: str, folder: Path, scenes: int = SCENES, begin: Path | None = None, seed: int = 0):
    """The stage of that name, given what the stages before it have left in the folder.

    scenes: how many of them text and unet learn from, at most. begin: a checkpoint whose weights
    unet begins with; nothing in the folder is needed then. seed: of what it draws.
    """
    if name == "kl":
        return stages.Autoencoder()
    if name == "vq":
        return stages.VectorQuantised()
    if name == "text":
        return stages.TextWarmUp(captions=min(20_000, scenes))
    vae, scale = first_stage(folder, scenes, begin)
    if begin is None:
        text = trained(folder, "text", BERTText, configs.TINY_TEXT, "text.").train()
        return stages.Joint(stages.Latents(folder, vae, scenes), scale, text, seed=seed)
    latents, whole = stages.Latents(folder, vae, scenes), begun(begin)
    return stages.Joint(latents, scale, whole.text.train(), seed=seed, unet=whole.unet.train())


def run(current: Run, save_every: float = 60) -> None:
    """Train to the end, saving now and then (seconds), with a progress bar in the first process."""
    first, name, folder = group()[1] == 0, current.stage.name, current.path.parent
    saved, smooth, steps = time.monotonic(), None, current.settings.steps
    with tqdm(current.go(), name, steps, initial=current.step, disable=not first) as bar:
        for step, loss in bar:
            smooth = loss if smooth is None else 0.98 * smooth + 0.02 * loss
            bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
            if step == steps or time.monotonic() - saved > save_every:
                current.save()
                saved = time.monotonic()
    if first:
        draw_losses(current.losses, folder / f"{name}.png", name)


def draw_losses(losses: list[float], path: Path, title: str = "") -> None:
    """The losses of a run, each and smoothed, as a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((6, 3), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.plot(losses, lw=0.3, alpha=0.4)
    width = max(len(losses) // 50, 1)
    line = torch.tensor(losses).unfold(0, width, 1).mean(1)
    axes.plot(range(width // 2, width // 2 + len(line)), line, color="black", lw=1)
    axes.set(title=title, xlabel="step", ylabel="loss", yscale="log")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3])
    save_png(path, (pixels / 127.5 - 1).permute(2, 0, 1))


def export(folder: Path, path: Path, scenes: int = SCENES, begin: Path | None = None) -> None:
    """The averaged weights of kl, text and unet as one checkpoint in float16."""
    vae, scale = first_stage(folder, scenes, begin)
    vae.config = configs.replace(vae.config, scale_factor=scale)
    text = trained(folder, "unet", BERTText, configs.TINY_TEXT, "text.")
    unet = trained(folder, "unet", UNet, configs.TINY, "unet.")
    learned = folder / "unet.safetensors"
    then = told(learned, open_tensors(learned)[1])[0].get("scale")
    if not isinstance(then, float) or not abs(then - scale) <= 1e-3:
        raise CheckpointError(f"unet learned latents of scale {then}, kl's is now {scale}")
    whole = checkpoint.Checkpoint("tiny", unet.half(), vae.half(), text.half())
    checkpoint.save(path, whole, tokenizer_metadata(stages.tokenizer(), sorted(WORDS)))


def result(name: str, folder: Path) -> Path:
    """The file that a training of `lessons` leaves: it is called as the new thing is."""
    return folder / f"{lessons.LESSONS[name].word.replace(' ', '-')}.safetensors"


def train_stages(
    names: Sequence[str],
    folder: Path,
    out: Path,
    steps: int | None = None,
    scenes: int = SCENES,
    save_every: float = 60,
    begin: Path | None = None,
    seed: int = 0,
    prior: float = 1.0,
) -> None:
    """Train the stages of these names, in their order; "export" writes the checkpoint `out`, and
    each of `lessons` its `result`. prior: the weight of what keeps the rest, in those.

    Each goes on from the run that the folder has of it. steps: instead of the stages' own. Under
    torchrun the processes share each batch. Raises ValueError for what cannot be used.
    """
    try:
        if "WORLD_SIZE" in os.environ:
            dist.init_process_group("gloo")
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise ValueError(f"cannot write into {folder}")
        for name in names:
            if name == "export":
                if group()[1] == 0:
                    export(folder, out, scenes, begin)
                continue
            settings = SETTINGS[name]._replace(**{"steps": steps} if steps else {})
            if name in lessons.LESSONS:
                part = lessons.teaching(name, begin or TINY, prior, seed)
            else:
                part = stage(name, folder, scenes, begin, seed)
            current = Run(part, settings, folder / f"{name}.safetensors")
            run(current, save_every)
            if name in lessons.LESSONS and group()[1] == 0:
                lessons.write(current, result(name, folder))
            wait()
    except OSError as error:
        what = f"{error.filename or folder}: {error.strerror or error}"
        raise ValueError(f"cannot use {what}") from error
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()

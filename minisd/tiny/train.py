"""Train the tiny model, stage by stage, from nothing to the checkpoint that is shipped.

    kl      the autoencoder between pictures and latents
    vq      its decoder once more, behind a codebook: for the notebooks; needs kl
    text    the text encoder's warm-up
    unet    the U-Net with its text encoder; needs kl and text
    export  the weights of kl, text and unet in one checkpoint
    distil  a LoRA for that checkpoint, fast.safetensors: 8 calls or fewer instead of 60
    control a ControlNet that leads a finished model by outlines (control.py)

    eye          a small classifier, whose layers the perceptual distance compares
    blur         a very small first stage, by the error of its pixels alone
    sharp        that one further, with perceptual distance and discriminator; needs eye and blur
    export-vq    vq's weights, beside the checkpoint
    export-sharp the weights of eye, blur and sharp, beside it too

    lora, word, dreambooth, dreambooth-lora    something new for a finished model: `lessons`

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
from torch import nn
from tqdm import tqdm

from ..checkpoints import loading as checkpoint
from ..checkpoints.control import save_control
from ..checkpoints.tensorfile import CheckpointError, open_tensors, save_tensors
from ..models import configs
from ..models.autoencoder import AutoencoderKL
from ..models.bert import BERTText
from ..models.controlnet import ControlNet
from ..models.unet import UNet
from ..models.vq import VQModel
from ..pipeline.conditioning import tokenizer_metadata
from ..pipeline.pictures import save_png
from ..pipeline.settings import USUAL
from ..training import Run, Settings, group, told, wait
from . import control, distil, lessons, sharp, stages
from .captions import WORDS
from .weights import TINY

SETTINGS = {
    "kl": Settings(steps=3500, batch=16, rate=2e-3, decay=0.5),
    "vq": Settings(steps=400, batch=16, rate=5e-4, warmup=50, decay=0.5, ema=0.99),
    "text": Settings(steps=700, batch=128, rate=1e-3),
    "unet": Settings(steps=40_000, batch=32, rate=1e-3, decay=0.5, ema=0.9995),
    "distil": Settings(steps=400, batch=16, rate=2e-3, warmup=20, decay=0.5, ema=0.98),
    "control": Settings(steps=400, batch=16, rate=1e-3, warmup=20, decay=0.4, ema=0.99),
    "eye": Settings(steps=1200, batch=16, rate=1e-2, warmup=50, decay=0.5, ema=0.99),
    "blur": Settings(steps=3000, batch=16, rate=3e-3, warmup=50, decay=0.5, ema=0.99, clip=1e9),
    "sharp": Settings(steps=2000, batch=8, rate=6e-4, warmup=20, decay=0.5, ema=0.99, clip=1e9),
    "lora": Settings(steps=900, batch=8, rate=3.5e-3, warmup=20, decay=0.5, ema=0.99),
    "word": Settings(steps=60, batch=8, rate=1e-2, warmup=20, decay=0.5),
    "dreambooth": Settings(steps=900, batch=8, rate=4e-4, warmup=20, decay=0.5, ema=0.99),
    "dreambooth-lora": Settings(steps=900, batch=8, rate=4.5e-3, warmup=20, decay=0.5, ema=0.99),
}
FURTHER = Settings(steps=7000, batch=64, rate=8e-4, warmup=100, decay=1.0, ema=0.999)
LATE = 2.0  # both for unet, where it goes on with a finished model: as the shipped one was ended
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
    keys = range(10**9, 10**9 + (min(scenes // 50, 20) or 1))
    with torch.no_grad():
        z = torch.cat([vae.encode(stages.pictures(key, range(50))).mean for key in keys])
    return vae, round(1 / float(z.std()), 4)


def stage(name: str, folder: Path, scenes: int = SCENES, begin: Path | None = None, seed: int = 0):
    """The stage of that name, given what the stages before it have left in the folder.

    scenes: how many of them text and unet learn from, at most. begin: a checkpoint whose weights
    vq and unet begin with, or distil's teacher; nothing in the folder is needed then. seed: of
    what it draws.
    """
    if name == "kl":
        return stages.Autoencoder()
    if name == "text":
        return stages.TextWarmUp(captions=min(20_000, scenes))
    if name == "control":
        return control.Sketched(begun(begin or TINY), seed=seed)
    if name == "eye":
        return sharp.Looking()
    if name in ("blur", "sharp"):
        return sharpening(name, folder)
    if name == "distil":
        if begin is None or not begin.exists():
            raise CheckpointError(
                f"{begin} is not there: train export first, or name a finished model with --begin"
            )
        teacher = begun(begin)
        latents = stages.Latents(folder, teacher.vae, scenes)
        return distil.Distilled(latents, teacher, USUAL["tiny"].scale, seed=seed)
    vae, scale = first_stage(folder, scenes, begin)
    if name == "vq":
        config = configs.replace(configs.TINY_VQ, scale_factor=scale)
        return stages.VectorQuantised(config, begin=vae)
    if begin is None:
        text = trained(folder, "text", BERTText, configs.TINY_TEXT, "text.").train()
        return stages.Joint(stages.Latents(folder, vae, scenes), scale, text, seed=seed)
    latents, whole = stages.Latents(folder, vae, scenes), begun(begin)
    text, unet = whole.text.train(), whole.unet.train()
    return stages.Joint(latents, scale, text, seed=seed, unet=unet, late=LATE)


def sharpening(name: str, folder: Path) -> sharp.Sharp:
    """The stage "blur", of pixels alone, or "sharp", which goes on from it with all of the loss."""
    if name == "blur":
        return sharp.Sharp(name, perceptual_weight=0, disc_weight=0)
    eye = trained(folder, "eye", sharp.Eye, sharp.WIDTHS)
    begin = trained(folder, "blur", AutoencoderKL, sharp.SMALL_KL, "vae.").train()
    return sharp.Sharp(name, eye, begin=begin)


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
        raise CheckpointError(
            f"unet learned latents of scale {then}, kl's is now {scale}: kl was trained again "
            "since, or --scenes was another number"
        )
    whole = checkpoint.Checkpoint("tiny", unet.half(), vae.half(), text.half())
    checkpoint.save(path, whole, tokenizer_metadata(stages.tokenizer(), sorted(WORDS)))


def result(name: str, folder: Path) -> Path | None:
    """The file with what a finished model learned by that training; None for the model's stages."""
    words = {lesson: one.word.replace(" ", "-") for lesson, one in lessons.LESSONS.items()}
    words["dreambooth-lora"] += "-lora"  # dreambooth has the same word
    found = ({"control": "control-net", "distil": "fast"} | words).get(name)
    return folder / f"{found}.safetensors" if found else None


def write_result(current: Run, path: Path) -> None:
    """Write the averaged weights of such a training as a file of its kind."""
    name = current.stage.name
    if name == "control":
        config = current.stage.network.config
        save_control(path, trained(path.parent, name, ControlNet, config).half())
    elif name == "distil":
        distil.save_student(current, path)
    else:
        lessons.write(current, path)


def export_path(name: str, out: Path) -> Path | None:
    """The file that "export", "export-vq" or "export-sharp" writes; None for another stage."""
    beside = {"export-vq": "tiny-vq.safetensors", "export-sharp": "tiny-sharp.safetensors"}
    return out if name == "export" else out.with_name(beside[name]) if name in beside else None


def exported(name: str, folder: Path, out: Path, scenes: int, begin: Path | None) -> None:
    """What "export", "export-vq" or "export-sharp" writes: `out`, or a file beside it."""
    path = export_path(name, out)
    if name == "export":
        export(folder, path, scenes, begin)
    elif name == "export-vq":
        export_vq(folder, path, scenes, begin)
    else:
        export_sharp(folder, path)


def export_vq(folder: Path, path: Path, scenes: int = SCENES, begin: Path | None = None) -> None:
    """The averaged weights of vq in float16, under LDM's names."""
    scale = first_stage(folder, scenes, begin)[1]
    config = configs.replace(configs.TINY_VQ, scale_factor=scale)
    network = trained(folder, "vq", VQModel, config)
    checkpoint.save(path, checkpoint.Checkpoint("tiny", vae=network.half()))


def export_sharp(folder: Path, path: Path) -> None:
    """The averaged weights of eye, blur and sharp in float16; no discriminator."""
    networks = {
        "eye": trained(folder, "eye", sharp.Eye, sharp.WIDTHS),
        **{
            name: trained(folder, name, AutoencoderKL, sharp.SMALL_KL, "vae.")
            for name in ("blur", "sharp")
        },
    }
    save_tensors(path, nn.ModuleDict(networks).half().state_dict(), {"format": "pt"})


def train_stages(
    names: Sequence[str],
    folder: Path,
    out: Path,
    steps: int | None = None,
    scenes: int = SCENES,
    save_every: float = 60,
    begin: Path | None = None,
    seed: int = 0,
    prior: float | None = None,
    prior_target: str = lessons.TARGETS[0],
) -> None:
    """Train the stages of these names, in their order.

    "export" writes the checkpoint `out`, from which "distil" learns, or else from `begin`; a
    training of a finished model writes its `result`. prior: the weight of the loss that
    keeps the rest; None: the lesson's own. prior_target: what that loss compares with, one of
    lessons.TARGETS.

    Each goes on from the run that the folder has of it. steps: instead of the stages' own. Under
    torchrun the processes share each batch. Raises ValueError for what cannot be used.
    """
    try:
        if "WORLD_SIZE" in os.environ:
            dist.init_process_group("gloo")
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise ValueError(f"cannot write into {folder}")
        teacher = begin or out
        for name in names:
            if name.startswith("export"):
                if group()[1] == 0:
                    exported(name, folder, out, scenes, begin)
                teacher = out if name == "export" else teacher
                wait()
                continue
            settings = FURTHER if name == "unet" and begin else SETTINGS[name]
            settings = settings._replace(**{"steps": steps} if steps else {})
            if name in lessons.LESSONS:
                part = lessons.teaching(name, begin or TINY, prior, prior_target, seed)
            else:
                part = stage(name, folder, scenes, teacher if name == "distil" else begin, seed)
            current = Run(part, settings, folder / f"{name}.safetensors")
            run(current, save_every)
            path = result(name, folder)
            if path and group()[1] == 0:
                write_result(current, path)
            wait()
    except OSError as error:
        what = f"{error.filename or folder}: {error.strerror or error}"
        raise ValueError(f"cannot use {what}") from error
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()

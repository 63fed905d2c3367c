"""Train the tiny model: python -m minisd.train [kl] [vq] [text] [unet] [export]; all by default.

Each stage writes a run into the folder, with its losses as a picture beside it, and goes on from
there when it is started again. On several processes, each with the same command:

    torchrun --nproc_per_node=2 -m minisd.train unet
"""

import argparse
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

from . import checkpoint, configs, stages
from .models.autoencoder import AutoencoderKL
from .models.bert import BERTText
from .models.unet import UNet
from .tensorfile import CheckpointError, open_tensors
from .training import Run, Settings

SETTINGS = {
    "kl": Settings(steps=3500, batch=16, rate=2e-3, decay=0.5),
    "vq": Settings(steps=6000, batch=16, rate=2e-3, decay=0.5),
    "text": Settings(steps=1500, batch=128, rate=1e-3),
    "unet": Settings(steps=20_000, batch=64, rate=1e-3, ema=0.9995),
}
ORDER = ("kl", "vq", "text", "unet", "export")
LATENTS = 120_000


def trained(folder: Path, name: str, module, config, part: str = ""):
    """The network of a run that is done, with its averaged weights."""
    path = folder / f"{name}.safetensors"
    if not path.exists():
        raise CheckpointError(f"{path} is not there: train {name} first")
    stored, _ = open_tensors(path)
    averaged = {k: v for k, v in stored.items() if k.startswith(f"average.{part}")}
    plain = {k: v for k, v in stored.items() if k.startswith(f"network.{part}")}
    tensors = {k.removeprefix("network."): v for k, v in plain.items()}
    tensors |= {k.removeprefix("average."): v for k, v in averaged.items()}
    return checkpoint.load_module(module, config, tensors, part, what=path.name)


def first_stage(folder: Path) -> tuple[AutoencoderKL, float]:
    """The trained KL autoencoder, and the scale that makes its latents' standard deviation 1."""
    vae = trained(folder, "kl", AutoencoderKL, configs.TINY_KL)
    with torch.no_grad():
        z = torch.cat([vae.encode(stages.pictures(10**9 + i, range(50))).mean for i in range(20)])
    return vae, round(1 / float(z.std()), 4)


def stage(name: str, folder: Path):
    """The stage of that name, given what the stages before it have left in the folder."""
    if name == "kl":
        return stages.Autoencoder()
    if name == "vq":
        return stages.VectorQuantised()
    if name == "text":
        return stages.TextWarmUp()
    vae, scale = first_stage(folder)
    text = trained(folder, "text", BERTText, configs.TINY_TEXT, "text.").train()
    return stages.Joint(stages.Latents(folder, vae, LATENTS), scale, text)


def run(name: str, folder: Path, settings: Settings, save_every: float = 60) -> None:
    """Train one stage to its end, saving now and then, with a progress bar in the first process."""
    first = not dist.is_initialized() or dist.get_rank() == 0
    current = Run(stage(name, folder), settings, folder / f"{name}.safetensors")
    saved, smooth = time.monotonic(), None
    bar = tqdm(current.go(), name, settings.steps, initial=current.step, disable=not first)
    for step, loss in bar:
        smooth = loss if smooth is None else 0.98 * smooth + 0.02 * loss
        bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
        if step == settings.steps or time.monotonic() - saved > save_every:
            current.save()
            saved = time.monotonic()
    if first and current.losses:
        draw_losses(current.losses, folder / f"{name}.png")


def draw_losses(losses: list[float], path: Path) -> None:
    """The losses of a run, each and smoothed, as a picture."""
    from matplotlib.figure import Figure

    figure = Figure((6, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(losses, lw=0.3, alpha=0.4)
    width = max(len(losses) // 50, 1)
    line = torch.tensor(losses).unfold(0, width, 1).mean(1)
    axes.plot(range(width // 2, width // 2 + len(line)), line, color="black", lw=1)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    figure.savefig(path, dpi=100)


def export(folder: Path, path: Path) -> None:
    """The averaged weights of kl, text and unet as one checkpoint in float16."""
    vae, scale = first_stage(folder)
    vae.config = configs.replace(vae.config, scale_factor=scale)
    text = trained(folder, "unet", BERTText, configs.TINY_TEXT, "text.")
    unet = trained(folder, "unet", UNet, configs.TINY, "unet.")
    whole = checkpoint.Checkpoint("tiny", unet.half(), vae.half(), text.half())
    checkpoint.save(path, whole)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m minisd.train", description=__doc__)
    parser.add_argument("stages", nargs="*", default=list(ORDER), help=", ".join(ORDER))
    parser.add_argument("--folder", type=Path, default=Path("runs"))
    parser.add_argument("--steps", type=int, help="another number of steps than the stage's own")
    parser.add_argument("--out", type=Path, default=Path("tiny.safetensors"))
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    try:
        for name in arguments.stages:
            if name == "export":
                export(arguments.folder, arguments.out)
                continue
            settings = SETTINGS[name]
            if arguments.steps:
                settings = settings._replace(steps=arguments.steps)
            run(name, arguments.folder, settings)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from the last save")


if __name__ == "__main__":
    main()

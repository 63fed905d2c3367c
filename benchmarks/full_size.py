"""SD 1 and SDXL's U-Net at their full size on this machine: seconds and memory beside others.

    python benchmarks/full_size.py                  SD 1, 512 x 512; SDXL's U-Net, 64 x 64 latents
    python benchmarks/full_size.py sd1 --stored float16
    python benchmarks/full_size.py --width 32       the same with small networks, in a minute

Files of random weights are made on the spot (tools/random_checkpoint.py), 4.3 GB twice for SD 1 and
5.1 GB twice for SDXL's U-Net: under the official names for minisd, and as a diffusers folder of the
same weights. Then, each in a process of its own:

    sd1         python -m minisd PROMPT --checkpoint FILE, and diffusers' pipeline: the same prompt,
                noise, steps and guidance, in float32; the pictures are compared
                (and stable-diffusion.cpp's, where pip's cyllama is: Euler's steps, and noise of its
                own, so that its picture is another one)
    sdxl-unet   the U-Net loaded and called once in bfloat16, for one picture; outputs are compared
    sdxl-float32    minisd alone, a guided pair, four times, in float32: the file's bfloat16 weights
                kept and widened layer by layer, against a network cast to float32 as a whole

    seconds     of the whole process: imports, loading, sampling, decoding
    resident    ru_maxrss, the most that was in memory; pages mapped from the file are in it
    own         the most of RssAnon, looked at 20 times a second: what no other process has, and
                what the system cannot drop and read again

--steps 3 is four steps on the official grid (every 333rd time from 0 to 999), and three in
diffusers; numbers that divide 1000 are the same in both, and PLMS calls once more. Linux only.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]
MAKE = [sys.executable, str(ROOT / "tools" / "random_checkpoint.py")]
PROMPT, NEGATIVE, SCALE, SEED = "a fox in the snow, oil on canvas", "blurred", 7.5, 3
LIMITS = {"sd1": 12, "sdxl-unet": 10, "sdxl-float32": 12}  # GB


def watched(command: list[str]) -> dict[str, float]:
    """Run a command: its seconds, and the GB it held at most."""
    start, own = time.perf_counter(), 0
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    os.set_blocking(child.stderr.fileno(), False)
    said = b""
    while True:
        said += child.stderr.read() or b""
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            break
        try:
            text = pathlib.Path(f"/proc/{child.pid}/status").read_text()
        except OSError:
            continue
        if found := re.search(r"RssAnon:\s+(\d+) kB", text):
            own = max(own, int(found[1]) * 1024)
        time.sleep(0.05)
    seconds = time.perf_counter() - start
    said += child.stderr.read() or b""
    if status:
        raise RuntimeError(f"{' '.join(command)}\n{said.decode()[-2000:]}")
    return {"seconds": seconds, "resident": usage.ru_maxrss * 1024 / 1e9, "own": own / 1e9}


# ---- SD 1 -------------------------------------------------------------------------------------


def their_picture(folder: str, out: str, size: int, steps: int, sampler: str) -> None:
    """What `python -m minisd` does, by diffusers and transformers, from their folder."""
    import diffusers
    import torch
    from transformers import CLIPTextModel

    from minisd.text.tokenizer import Tokenizer

    unet = diffusers.UNet2DConditionModel.from_pretrained(f"{folder}/unet")
    vae = diffusers.AutoencoderKL.from_pretrained(f"{folder}/vae")
    text = CLIPTextModel.from_pretrained(f"{folder}/text_encoder")
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    ends = {"set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": "leading"}
    if sampler == "plms":
        scheduler = diffusers.PNDMScheduler(**betas, **ends, skip_prk_steps=True)
    else:
        scheduler = diffusers.DDIMScheduler(**betas, **ends, clip_sample=False)
    pipe = diffusers.StableDiffusionPipeline(
        vae, None, None, unet.float(), scheduler, None, None, requires_safety_checker=False
    )
    pipe.vae.float()
    tokens = Tokenizer.clip()
    with torch.no_grad():
        contexts = [text.float()(tokens([words]))[0] for words in (PROMPT, NEGATIVE)]
    made = pipe(
        prompt_embeds=contexts[0],
        negative_prompt_embeds=contexts[1],
        num_inference_steps=steps,
        guidance_scale=SCALE,
        height=size,
        width=size,
        generator=[torch.Generator().manual_seed(SEED)],
    )
    made.images[0].save(out)


def cpp_picture(file: str, out: str, size: int, steps: int) -> None:
    """The same prompt by stable-diffusion.cpp, from the official file."""
    from cyllama import sd

    made = sd.text_to_image(
        model_path=file,
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        width=size,
        height=size,
        seed=SEED,
        sample_steps=steps,
        cfg_scale=SCALE,
        sample_method=sd.SampleMethod.EULER,
        n_threads=os.cpu_count(),
    )
    made.save(out)


def sd1(folder: pathlib.Path, options: argparse.Namespace) -> None:
    size = 64 if options.width else 512
    file, diffusers_folder = folder / "sd1.safetensors", folder / "sd1"
    make("sd1", [], options.stored, [file, diffusers_folder], options)
    pictures = folder / "ours.png", folder / "theirs.png"
    how = ["--steps", str(options.steps), "--sampler", options.sampler, "--seed", str(SEED)]
    how += ["--scale", str(SCALE), "--negative", NEGATIVE, "--size", str(size), "--zoom", "1"]
    ours = [sys.executable, "-m", "minisd", PROMPT, "--checkpoint", str(file), *how, "--quiet"]
    theirs = one(
        "their_picture", diffusers_folder, pictures[1], size, options.steps, options.sampler
    )
    what = (
        f"sd1, {size} x {size}, {options.steps} steps of {options.sampler}, {options.stored} file"
    )
    who = {"minisd": [*ours, "--out", str(pictures[0])], "diffusers": theirs}
    if importlib.util.find_spec("cyllama"):
        cpp = one("cpp_picture", file, folder / "cpp.png", size, options.steps)
        who["stable-diffusion.cpp"] = cpp
    report("sd1", what, who, options)
    import numpy as np
    from PIL import Image

    a, b = (np.asarray(Image.open(path), dtype=int) for path in pictures)
    print(f"the pictures differ by at most {abs(a - b).max()} of 255 levels; std {a.std():.0f}")


# ---- SDXL's U-Net -----------------------------------------------------------------------------


def inputs(width: int, context: int, side: int):
    """x, the time's index, the prompt's context, what is pooled of it, and SDXL's six numbers."""
    import torch

    draw = torch.Generator().manual_seed(1)
    x, words, pooled = (
        torch.randn(shape, generator=draw).bfloat16()
        for shape in ((1, 4, side, side), (1, 77, context), (1, width))
    )
    return x, torch.tensor([981]), words, pooled, [8 * side, 8 * side, 0, 0, 8 * side, 8 * side]


def our_unet(file: str, out: str, side: int) -> None:
    """The U-Net alone of a checkpoint, called once."""
    import numpy as np
    import torch

    from minisd.checkpoints import loading as checkpoint
    from minisd.pipeline.conditioning import micro_vector

    unet = checkpoint.load(file, dtype=torch.bfloat16, parts=["unet"]).unet
    dim = unet.config.vector_dim
    x, t, words, pooled, numbers = inputs(dim - 6 * 256, unet.config.context_dim, side)
    with torch.inference_mode():
        eps = unet(x, t, words, micro_vector(pooled, numbers, dim))
    np.save(out, eps.float().numpy())


def their_unet(folder: str, out: str, side: int) -> None:
    """The same by diffusers."""
    import diffusers
    import numpy as np
    import torch

    unet = diffusers.UNet2DConditionModel.from_pretrained(
        f"{folder}/unet", torch_dtype=torch.bfloat16
    )
    dim = unet.config.projection_class_embeddings_input_dim
    x, t, words, pooled, numbers = inputs(dim - 6 * 256, unet.config.cross_attention_dim, side)
    besides = {"text_embeds": pooled, "time_ids": torch.tensor([numbers])}
    with torch.inference_mode():
        eps = unet(x, t, words, added_cond_kwargs=besides).sample
    np.save(out, eps.float().numpy())


def sdxl_unet(folder: pathlib.Path, options: argparse.Namespace) -> None:
    side = 8 if options.width else 64
    file, diffusers_folder = folder / "sdxl.safetensors", folder / "sdxl"
    make("sdxl", ["--parts", "unet"], "bfloat16", [file, diffusers_folder], options)
    outputs = folder / "ours.npy", folder / "theirs.npy"
    ours = one("our_unet", file, outputs[0], side)
    theirs = one("their_unet", diffusers_folder, outputs[1], side)
    what = f"SDXL's U-Net, one step at {side} x {side} latents, bfloat16"
    report("sdxl-unet", what, {"minisd": ours, "diffusers": theirs}, options)
    import numpy as np

    a, b = map(np.load, outputs)
    gap = abs(a - b).max() / abs(b).max()
    print(
        f"the outputs differ by {gap:.1e} of the largest, in bfloat16's 8 bits; std {a.std():.2f}"
    )


def float32_unet(file: str, out: str, side: int, kept: int) -> None:
    """The U-Net called four times in float32 on a guided pair; the median of three is kept too."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command does
    import numpy as np
    import torch

    from minisd.checkpoints import loading as checkpoint
    from minisd.pipeline.conditioning import micro_vector
    from minisd.pipeline.memory import keep_freed
    from minisd.pipeline.precision import widened
    from minisd.pipeline.speed import quickened

    keep_freed()
    unet = quickened(checkpoint.load(file, parts=["unet"], keep=bool(kept)).unet)
    unet = widened(unet, torch.float32) if kept else unet
    dim = unet.config.vector_dim
    x, t, words, pooled, numbers = inputs(dim - 6 * 256, unet.config.context_dim, side)
    pair = [a.float().repeat(2, *[1] * (a.ndim - 1)) for a in (x, words, pooled)]
    y = micro_vector(pair[2], numbers, dim)
    taken = []
    with torch.no_grad():
        for _ in range(4):
            start = time.perf_counter()
            eps = unet(pair[0], t.repeat(2), pair[1], y)
            taken.append(time.perf_counter() - start)
    np.savez(out, eps=eps.numpy(), seconds=statistics.median(taken[1:]))


def sdxl_float32(folder: pathlib.Path, options: argparse.Namespace) -> None:
    side = 8 if options.width else 64
    file = folder / "sdxl.safetensors"
    make("sdxl", ["--parts", "unet"], "bfloat16", [file], options)
    outputs = folder / "kept.npz", folder / "cast.npz"
    commands = {
        "kept in bfloat16": one("float32_unet", file, outputs[0], side, 1),
        "cast as a whole": one("float32_unet", file, outputs[1], side, 0),
    }
    what = f"SDXL's U-Net, four guided steps at {side} x {side} latents, float32 at work"
    report("sdxl-float32", what, commands, options)
    import numpy as np

    a, b = map(np.load, outputs)
    print(f"a call: {a['seconds']:.1f} and {b['seconds']:.1f} s, {a['seconds'] / b['seconds']:.2f}")
    print(f"the outputs differ by {abs(a['eps'] - b['eps']).max():.1e}; std {a['eps'].std():.2f}")


# ---- the table --------------------------------------------------------------------------------


def make(family: str, more: list[str], dtype: str, places, options: argparse.Namespace) -> None:
    """The file and the folder, unless they are there from before."""
    more = more + (["--width", str(options.width)] if options.width else [])
    for place in places:
        if not place.exists():
            subprocess.run([*MAKE, family, str(place), "--dtype", dtype, *more], check=True)


def one(function: str, *arguments) -> list[str]:
    """The command that runs a function of this file in a process of its own."""
    return [sys.executable, __file__, "--one", json.dumps([function, *map(str, arguments)])]


def report(name: str, what: str, commands: dict[str, list], options: argparse.Namespace) -> None:
    """The commands in turns; the round of the fewest seconds of each."""
    print(f"\n{what}\n{'':22}{'seconds':>9}{'resident GB':>13}{'own GB':>8}", flush=True)
    best = {}
    for _ in range(options.rounds):
        for who, command in commands.items():
            taken = watched(command)
            best[who] = min(best.get(who, taken), taken, key=lambda m: m["seconds"])
    for who, m in best.items():
        print(f"{who:22}{m['seconds']:9.1f}{m['resident']:13.2f}{m['own']:8.2f}")
    ours = next(iter(best.values()))  # the first
    print(f"within {LIMITS[name]} GB: {ours['resident'] < LIMITS[name]}")


def main() -> None:
    """Make the files, run each job in its own process, print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    jobs = {"sd1": sd1, "sdxl-unet": sdxl_unet, "sdxl-float32": sdxl_float32}
    parser.add_argument("jobs", nargs="*", help="sd1, sdxl-unet, sdxl-float32; all by default")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--sampler", default="plms", choices=("plms", "ddim"))
    parser.add_argument("--stored", default="float32", help="dtype of SD 1's file: or float16")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--width", type=int, help="of small networks instead: 32, 64, ...")
    parser.add_argument("--folder", type=pathlib.Path, help="keep the files there, for next time")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        function, first, second, *rest = json.loads(options.one)
        numbers = [int(word) if word.isdigit() else word for word in rest]
        globals()[function](first, second, *numbers)
        return
    if set(options.jobs) - set(jobs):
        parser.error(f"there are {', '.join(jobs)}")
    with tempfile.TemporaryDirectory() as name:
        folder = (options.folder or pathlib.Path(name)).resolve()
        folder.mkdir(exist_ok=True)
        for job in options.jobs or jobs:
            jobs[job](folder, options)


if __name__ == "__main__":
    main()

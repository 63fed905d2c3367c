"""The memory that loading takes: minisd against from_pretrained of transformers and diffusers.

    python benchmarks/loading_memory.py [--rounds 3] [--full]

A file of random float32 weights is made on the spot: SD 1's text encoder, 492 MB; with --full the
whole of SD 1, 4.3 GB, loaded from one file and from a diffusers folder. Every load runs in a fresh
process. After the imports the peak is set back, then measured are, in MB beyond what was there:

    peak    VmHWM, the most that was in memory, pages mapped from the file included
    read    the same after every weight was then read once, as a network's first call does
    own     RssAnon at its most, as a thread saw it every millisecond: what no other process has
    after   RssAnon when all is done
    mapped  RssFile when all is done: pages of the file, which the system may drop and read again

from_pretrained maps the file and leaves it unread in its own dtype; minisd has looked for NaN in
every weight when it returns. Linux only. The ratio is "read" over the file's size.
"""

import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time

MAKER = pathlib.Path(__file__).parents[1] / "tools" / "random_checkpoint.py"
CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}


def status(*names: str) -> list[float]:
    """Lines of /proc/self/status, in MB."""
    text = pathlib.Path("/proc/self/status").read_text()
    return [int(re.search(rf"{name}:\s+(\d+) kB", text)[1]) * 1024 / 1e6 for name in names]


def measured(load) -> dict[str, float]:
    """What load() adds to this process's memory, and its seconds."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, anon, file = status("VmRSS", "RssAnon", "RssFile")
    highest, done = [anon], threading.Event()

    def watch():
        while not done.wait(0.001):
            highest[0] = max(highest[0], *status("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    modules = load()
    seconds = time.perf_counter() - start
    (peak,) = status("VmHWM")
    for module in modules:
        for weight in module.parameters():
            weight.aminmax()
    done.set()
    watcher.join()
    read, anon_after, file_after = status("VmHWM", "RssAnon", "RssFile")
    return {
        "peak": peak - before,
        "read": read - before,
        "own": highest[0] - anon,
        "after": anon_after - anon,
        "mapped": file_after - file,
        "seconds": seconds,
    }


def load_ours(path: str, dtype: str, family: str | None, parts: str):
    """The load to be measured, by minisd; its imports are done here."""
    import torch

    from minisd.checkpoints import loading as checkpoint

    torch.zeros(2).aminmax()
    kind = getattr(torch, dtype)
    return lambda: list(
        checkpoint.load(path, family, dtype=kind, parts=parts.split(",")).modules.values()
    )


def load_theirs(path: str, dtype: str, names: str):
    """The same by diffusers and transformers: each part's from_pretrained."""
    import diffusers
    import torch
    import transformers

    kind = getattr(torch, dtype)
    calls = []
    for name in names.split(","):
        library = transformers if name == "text_encoder" else diffusers
        key = "dtype" if library is transformers else "torch_dtype"
        calls.append((getattr(library, CLASSES[name]).from_pretrained, name, {key: kind}))
    return lambda: [call(f"{path}/{name}", **named) for call, name, named in calls]


# ---- the files --------------------------------------------------------------------------------


def make(folder: pathlib.Path, full: bool) -> None:
    """model.safetensors under official names, and the same weights as a diffusers folder."""
    for out in ("model.safetensors", "."):
        command = [sys.executable, MAKER, "sd1", folder / out, "--parts"]
        subprocess.run([*command, *(("unet", "vae", "text") if full else ("text",))], check=True)


# ---- the table --------------------------------------------------------------------------------


def in_a_new_process(arguments: list[str]) -> dict[str, float]:
    """One load, measured by this script run again."""
    command = [sys.executable, __file__, "--one", *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(result.stderr[-2000:])
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    """Make the files, run every load in its own process in turn, print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="the whole of SD 1, 4.3 GB")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        kind, *rest = arguments.one
        load = load_ours(*rest) if kind == "ours" else load_theirs(*rest)
        print(json.dumps(measured(load)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        make(folder, arguments.full)
        size = (folder / "model.safetensors").stat().st_size / 1e6
        parts = "unet,vae,text" if arguments.full else "text"
        names = "unet,vae,text_encoder" if arguments.full else "text_encoder"
        runs = {}
        for dtype in ("float32", "float16"):
            file = str(folder / "model.safetensors")
            runs[f"minisd, one file, {dtype}"] = ["ours", file, dtype, "sd1", parts]
            runs[f"minisd, folder, {dtype}"] = ["ours", name, dtype, "sd1", parts]
            runs[f"from_pretrained, {dtype}"] = ["theirs", name, dtype, names]
        taken = {run: [] for run in runs}
        for _ in range(arguments.rounds):
            for run, given in runs.items():
                taken[run].append(in_a_new_process(given))
    print(f"a file of {size:,.0f} MB of float32; medians of {arguments.rounds} rounds, MB")
    columns = ("peak", "read", "ratio", "own", "after", "mapped")
    print(f"{'':28}{''.join(f'{name:>8}' for name in columns)}{'seconds':>9}")
    for run, rounds in taken.items():
        m = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        numbers = "".join(
            f"{m['read'] / size:8.2f}" if name == "ratio" else f"{m[name]:8,.0f}"
            for name in columns
        )
        print(f"{run:28}{numbers}{m['seconds']:9.2f}")


if __name__ == "__main__":
    main()

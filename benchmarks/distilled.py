"""The tiny model with its LoRA for few calls, and without it, by the judge; and what a call takes.

    python benchmarks/distilled.py minisd/tiny/weights/fast.json             # half an hour
    python benchmarks/distilled.py out.json --captions 500 --lora runs/fast.safetensors

A row for each way to sample, number of calls and group of captions: how many pictures of how many
are right. Captions and seeds are the same for all. What is there already is not run again. A
guided call evaluates the network twice. Times are of one picture, sampled and decoded, the model
loaded: the median of ten.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from minisd.pipeline import Pipeline
from minisd.tiny import FAST, TINY
from minisd.tiny.fidelity import GROUPS, captions, verdicts

WAYS = {  # name: with the LoRA, and the settings
    "distilled": (True, {"sampler": "lcm", "scale": 1.0}),
    "Euler a": (False, {"sampler": "euler_a", "scale": 2.0}),
    "DDIM": (False, {"sampler": "ddim", "scale": 2.0}),
}
CALLS = (1, 2, 4, 8, 16)


def seconds(pipe: Pipeline, **settings) -> dict[str, float]:
    """Of one picture: by the clock and of the processor; sampling alone, and with decoding."""
    rows = []
    for i in range(11):  # the first prepares
        begin, used = time.perf_counter(), time.process_time()
        run = pipe.txt2img("a red circle", seed=i, **settings)
        run.latents()
        sampled = time.perf_counter() - begin, time.process_time() - used
        run.pictures()
        rows.append((*sampled, time.perf_counter() - begin, time.process_time() - used))
    names = ("sampling", "sampling, processor", "picture", "picture, processor")
    columns = zip(*rows[1:], strict=True)
    return {n: round(statistics.median(c), 4) for n, c in zip(names, columns, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--captions", type=int, default=200)
    parser.add_argument("--lora", type=Path, default=FAST)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--calls", type=int, nargs="+", default=CALLS)
    parser.add_argument("--groups", type=int, nargs="+", default=range(len(GROUPS)))
    options = parser.parse_args()
    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    rows, times = found.get("rows", []), found.get("seconds", {})
    pipes = {True: Pipeline.load(TINY, loras=[(options.lora, 1.0)]), False: Pipeline.load(TINY)}

    def keep():
        options.out.write_text(json.dumps({"rows": rows, "seconds": times}, indent=0) + "\n")

    for way in options.ways:
        fast, settings = WAYS[way]
        for calls in options.calls:
            name = f"{way}, {calls}"
            if name not in times:
                times[name] = seconds(pipes[fast], steps=calls, **settings)
                keep()
            for group in options.groups:
                things, split = GROUPS[group]
                row = {"way": way, "calls": calls, "things": things, "split": split}
                row["n"] = options.captions
                if any(row.items() <= done.items() for done in rows):
                    continue
                texts = captions(things, split, options.captions)
                said = verdicts(pipes[fast], texts, steps=calls, **settings)
                rows.append(row | {"right": sum(verdict.right for verdict in said)})
                keep()
                print(rows[-1], flush=True)


if __name__ == "__main__":
    main()

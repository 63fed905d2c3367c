"""A flow and a v-model from the same weights, latents, steps and seeds, side by side by the judge.

    python benchmarks/flow.py minisd/tiny/weights/flow.json  # some 15 minutes

Both train the same LoRA on the tiny model, as often and with the same captions and noise: one on
u and the straight path (tiny.flow.Flow), one on v as the model itself was (tiny.stages.Joint). Then
the judge looks at the pictures of both, of the model as it ships, and of that one called as a flow
before any training; captions, seeds, sampler and guidance are the same. Trainings go on from the
folder, and rows that are there are not run again.
"""

import argparse
import json
import time
from pathlib import Path

from minisd.checkpoints import loading, lora
from minisd.checkpoints.lora_file import open_lora
from minisd.pipeline import Pipeline
from minisd.tiny import TINY
from minisd.tiny.fidelity import captions, verdicts
from minisd.tiny.flow import AsV, Flow, save_flow, with_lora
from minisd.tiny.stages import Joint, Latents, tokenizer
from minisd.tiny.train import run
from minisd.training import Run, Settings

SETTINGS = Settings(steps=600, batch=16, rate=2e-3, warmup=20, decay=0.5, ema=0.98)
SAMPLING = {"sampler": "ddim", "steps": 20, "scale": 2.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("runs/flow"))
    parser.add_argument("--steps", type=int, default=SETTINGS.steps)
    parser.add_argument("--scenes", type=int, default=20_000)
    parser.add_argument("--captions", type=int, default=200)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    settings = SETTINGS._replace(steps=options.steps)
    begin = loading.load(TINY, "tiny")
    latents = Latents(options.folder, begin.vae, options.scenes)

    def pipe(name: str) -> Pipeline:
        """Of "u" or "v", trained if it is not yet; of the model as it ships; or of that one, called
        as a flow ("untrained")."""
        if name == "shipped":
            return Pipeline.load(TINY)
        whole = loading.load(TINY, "tiny")
        if name == "untrained":
            return Pipeline(whole._replace(unet=AsV(whole.unet)), tokenizers=[tokenizer()])
        if name == "u":
            stage = Flow(latents, whole)
        else:
            unet, text = with_lora(whole.unet, 8, 0), whole.text.requires_grad_(False)
            scale = whole.vae.config.scale_factor
            stage = Joint(latents, scale, text, whole.unet.config, unet=unet)
        current = Run(stage, settings, options.folder / f"{name}.safetensors")
        left, used = settings.steps - current.step, time.process_time()
        run(current)
        if left:
            about = found.setdefault("training", {"steps": settings.steps, "batch": settings.batch})
            about[f"{name}, processor seconds"] = round(time.process_time() - used)
        path = options.folder / f"{name}-lora.safetensors"
        save_flow(current, path)
        made = loading.load(TINY, "tiny")
        made = lora.with_loras(made, [(open_lora(path), 1.0)])
        made = made._replace(unet=AsV(made.unet)) if name == "u" else made
        return Pipeline(made, tokenizers=[tokenizer()])

    found = json.loads(options.out.read_text()) if options.out.exists() else {"sampling": SAMPLING}
    rows = found.setdefault("rows", [])
    for name in ("u", "v", "shipped", "untrained"):
        current = pipe(name)
        for things in (1, 2):
            row = {"model": name, "things": things, "n": options.captions}
            if any(row.items() <= done.items() for done in rows):
                continue
            texts = captions(things, "seen", options.captions)
            said = [verdict.right for verdict in verdicts(current, texts, **SAMPLING)]
            rows.append(row | {"right": sum(said), "verdicts": "".join("01"[r] for r in said)})
            options.out.write_text(json.dumps(found, indent=0) + "\n")
            print(row, sum(said), flush=True)


if __name__ == "__main__":
    main()

"""ev.py FILE N SEED GROUPS [key=value]: wholly right by group, of captions with that seed."""
import sys, json, time, torch
from pathlib import Path
torch.set_num_threads(1)
from minisd.pipeline import Pipeline
from minisd.tiny import fidelity
file, n, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
groups = sys.argv[4].split(";")
def val(v):
    try: return int(v)
    except ValueError:
        try: return float(v)
        except ValueError: return v
how = {k: val(v) for k, v in (a.split("=") for a in sys.argv[5:])}
pipe = Pipeline.load(Path(file), "tiny")
old = json.load(open("old_captions.json"))
for g in groups:
    t = time.time()
    if g.startswith("old:"): texts = old[g[4:]][:n]
    else:
        k, split = g.split(","); texts = fidelity.captions(int(k) if k.isdigit() else k, split, n, seed=seed)
    said = fidelity.verdicts(pipe, texts, seed=1000 * seed, **how); s = fidelity.shares(said)
    print(g, n, how, {k: round(100 * v, 1) for k, v in s.items()}, round(time.time() - t), "s", flush=True)

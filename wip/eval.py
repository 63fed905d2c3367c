"""python eval.py FILE N GROUPS [key=value...]: the judge's shares; old: captions of the small world."""
import sys, json, time, torch
from pathlib import Path
torch.set_num_threads(1)
from minisd.pipeline import Pipeline
from minisd.tiny import fidelity
file, n = sys.argv[1], int(sys.argv[2])
groups = sys.argv[3].split(";")
how = dict(a.split("=") for a in sys.argv[4:])
how = {k: (int(v) if v.isdigit() else float(v) if v.replace(".","").isdigit() else v) for k,v in how.items()}
pipe = Pipeline.load(Path(file), "tiny")
old = json.load(open(Path(__file__).parent/"old_captions.json"))
for g in groups:
    t=time.time()
    if g.startswith("old:"): texts = old[g[4:]][:n]
    else:
        k, split = g.split(","); texts = fidelity.captions(int(k) if k.isdigit() else k, split, n)
    said = fidelity.verdicts(pipe, texts, **how); s = fidelity.shares(said)
    print(g, n, {k: round(100*v,1) for k,v in s.items()}, round(time.time()-t), "s", flush=True)

"""vague.py FILE [n]: prompts without places or colors, n pictures each."""
import sys, time, torch
from pathlib import Path
torch.set_num_threads(1)
from minisd.pipeline import Pipeline
from minisd.tiny.judge import judge
file, n = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 16
pipe = Pipeline.load(Path(file), "tiny")
for p in ("a circle and a square", "a ring and a cross", "a star and a triangle", "a red circle and a square", "a circle and a red square", "a red circle and a blue square", "a circle left of a square", "a ring, a star and a cross", "a star between a ring and a cross", "a circle, a square and a triangle from left to right", "three stars", "four circles", "orange ring above cyan cross on navy"):
    v = [judge(x, p) for x in pipe.txt2img(p, n=n, seed=100).pictures()]
    print(f"{p:55} {sum(a.right for a in v)} of {n}", flush=True)

"""python sheet.py FILE OUT.png KIND [N]: unpicked pictures with a frame where the judge says no."""
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
from minisd.pipeline import Pipeline
from minisd.pipeline.pictures import save_png
from minisd.tiny import fidelity
from minisd.tiny.judge import judge
file,out,kind=sys.argv[1:4]; n=int(sys.argv[4]) if len(sys.argv)>4 else 64
kind=int(kind) if kind.isdigit() else kind
texts=fidelity.captions(kind,"seen",n,seed=3)
pipe=Pipeline.load(Path(file),"tiny"); ps=[]
for i in range(0,n,32):
    p=pipe.txt2img(texts[i:i+32],seed=900+i).pictures()
    for j,(a,t) in enumerate(zip(p,texts[i:i+32])):
        v=judge(a,t); f=torch.full((3,72,72), 0.6); f[:,4:68,4:68]=a
        if not v.right: f[0,:3]=1; f[1:,:3]=-1; print(i+j, v, "|", t)
        ps.append(f)
c=8; rows=[torch.cat(ps[r:r+c],2) for r in range(0,n,c)]
g=torch.cat(rows,1); g=g.repeat_interleave(2,1).repeat_interleave(2,2); save_png(Path(out), g)

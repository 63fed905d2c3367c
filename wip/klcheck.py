import sys; sys.argv=["x"]
sys.path.insert(0,"wide")
import torch
from pathlib import Path
from minisd.tiny import scenes, stages, train, judge as J, captions as C
from minisd.models import configs
from minisd.models.autoencoder import AutoencoderKL
from minisd.training import rng
vae=train.trained(Path("kl"),"kl",AutoencoderKL,configs.TINY_KL)
sc=[scenes.random_scene(rng(77,i)) for i in range(600)]
x=torch.stack([scenes.paint(s) for s in sc])
with torch.no_grad(): y=torch.cat([vae.decode(vae.encode(x[i:i+50]).mean) for i in range(0,600,50)])
print("psnr", float(10*torch.log10(4/((y-x)**2).mean())))
from collections import Counter
ok=Counter(); n=Counter()
for s,p in zip(sc,y):
    th=tuple(C.Wanted(*t[:3]) for t in s.things); v=J.judge(p.clamp(-1,1),C.Request(th,s.background,s.relation))
    cols={t.color for t in s.things}
    k="white" if "white" in cols else "black" if "black" in cols else "other"
    n[k]+=1; ok[k]+=v.right
    n[len(th)]+=1; ok[len(th)]+=v.right
print({k:(ok[k],n[k]) for k in n})

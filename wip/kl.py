import sys, torch, torch.nn.functional as F, numpy as np
from pathlib import Path
sys.path.insert(0,"old")
from minisd.tiny import scenes, stages, shapes
from minisd.tiny.scenes import *
from minisd.training import Run, Settings, rng
from minisd.checkpoints import load
from minisd.tiny.train import run
torch.set_num_threads(1)
PAINTS = shapes.COLORS | {"white": (255,255,255), "black": (0,0,0)}
scenes.COLORS = PAINTS
UNSEEN = {("white","white"),("white","cream"),("black","black"),("black","navy")}
def draw(random):
    n = [1,2,2,3][random.integers(4)]
    s = random_scene(random, min(n,2))
    things = list(s.things)
    bg = s.background
    for i,t in enumerate(things):
        while True:
            c = list(PAINTS)[random.integers(10)]
            if random.random()<0.25: c = ["white","black"][random.integers(2)]
            if (c,bg) not in UNSEEN: break
        things[i] = t._replace(color=c)
    if n==3:
        for _ in range(50):
            t = scenes._place(random, things[0].shape, things[1].color, "small")
            if inside(t) and all(np.hypot(t.x-o.x,t.y-o.y) > t.reach+o.reach+0.04 for o in things):
                things.append(t); break
    return Scene(tuple(things), bg, s.relation)
class KL:
    name, slow = "kl", {}
    def __init__(self):
        whole = load("old/minisd/tiny/weights/tiny.safetensors","tiny")
        self.old = load("old/minisd/tiny/weights/tiny.safetensors","tiny").vae.float().eval().requires_grad_(False)
        self.network = whole.vae.float().requires_grad_(True)
        self.s = self.old.config.scale_factor
        self.about = {"anchor": 0.02}
    def loss(self, step, samples):
        sc = [draw(rng(91, step, i)) for i in samples]
        x = torch.stack([paint(s) for s in sc])
        q = self.network.encode(x)
        noise = [stages.normal_of(q.mean.shape[1:], 91, step, i) for i in samples]
        y = self.network.decode(q.sample(torch.stack(noise)))
        plain = torch.tensor([not any(t.color in ("white","black") for t in s.things) for s in sc])
        with torch.no_grad(): z = self.old.encode(x).mean
        anchor = ((q.mean - z)**2).flatten(1).mean(1)
        return F.mse_loss(y,x) + 1e-5*q.kl().mean()/q.mean[0].numel() + 0.02*self.s**2*(anchor*plain).mean()
if __name__ == "__main__":
    r = Run(KL(), Settings(steps=2000,batch=16,rate=1e-3,warmup=50,decay=0.7,ema=0.99), Path("kl/kl.safetensors"))
    run(r)

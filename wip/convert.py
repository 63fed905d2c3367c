"""old tiny.safetensors (+ new vae run) -> begin_wide.safetensors in the new vocabulary."""
import sys, torch
from pathlib import Path
from minisd.checkpoints import loading as checkpoint
from minisd.checkpoints import load
from minisd.checkpoints.tensorfile import open_tensors
from minisd.models import configs
from minisd.models.bert import BERTText
from minisd.models.autoencoder import AutoencoderKL
from minisd.pipeline.conditioning import tokenizer_metadata
from minisd.text.tokenizer import Tokenizer, PUNCTUATION
from minisd.tiny import stages, train
from minisd.tiny.captions import WORDS, NUMBERS, plural
from minisd.tiny.shapes import SHAPES
import minisd.models.configs as C
old_cfg = configs.replace(configs.TINY_TEXT, layers=2, vocabulary=624)
pairs=[tuple(l.split(" ")) for l in open("old_merges.txt").read().splitlines()]
old_tok=Tokenizer(pairs, 24, 0, PUNCTUATION); new_tok=stages.tokenizer()
stored,_=open_tensors(Path("old/minisd/tiny/weights/tiny.safetensors"))
oldt={k.removeprefix("cond_stage_model."):v.read().float() for k,v in stored.items() if k.startswith("cond_stage_model.")}
torch.manual_seed(5)
text=BERTText(configs.TINY_TEXT); sd=text.state_dict()
emb=sd["transformer.token_emb.weight"].clone(); olde=oldt["transformer.token_emb.weight"]
ids={v:i for i,v in enumerate(old_tok.vocabulary)}
known=0
for i,piece in enumerate(new_tok.vocabulary):
    if piece in ids: emb[i]=olde[ids[piece]]; known+=1
def row(w): return new_tok.encode(w)[0]
std=olde[[old_tok.encode(w)[0] for w in ("red","circle","left","small")]].std()
for s in SHAPES: emb[row(plural(s))]=emb[row(s)]+0.1*std*torch.randn(128)
for w in sorted(WORDS):
    if len(old_tok.encode(w))>1 and w not in map(plural,SHAPES): emb[row(w)]=std*torch.randn(128)*0.5; print("new",w)
print("known",known,"std",std)
for k in sd:
    if k in oldt and sd[k].shape==oldt[k].shape: sd[k]=oldt[k]
    elif k=="transformer.token_emb.weight": sd[k]=emb
    else: print("fresh",k, tuple(sd[k].shape))
# third layer is the identity: its outputs are zero
for k in sd:
    for n in (4,5):
        if k.startswith(f"transformer.attn_layers.layers.{n}.1.") and ("to_out" in k or "net.2" in k): sd[k]=torch.zeros_like(sd[k]); print("zero",k)
text.load_state_dict(sd)
whole=load(Path("old/minisd/tiny/weights/tiny.safetensors"),"tiny") if False else None
# the unet and the vae by themselves
from minisd.models.unet import UNet
unet=checkpoint.load_module(UNet, configs.TINY, {k.removeprefix("model.diffusion_model."):v for k,v in stored.items() if k.startswith("model.diffusion_model.")}, "", what="old")
kl=Path(sys.argv[1]) if len(sys.argv)>1 else None
if kl:
    vae=train.trained(kl.parent,"kl",AutoencoderKL,configs.TINY_KL)
    keys=range(10**9,10**9+20)
    with torch.no_grad(): z=torch.cat([vae.encode(stages.pictures(k,range(50))).mean for k in keys])
    scale=round(1/float(z.std()),4); print("scale",scale)
else:
    vae=checkpoint.load_module(AutoencoderKL, configs.TINY_KL, {k.removeprefix("first_stage_model."):v for k,v in stored.items() if k.startswith("first_stage_model.")}, "", what="old"); scale=0.6119
vae.config=configs.replace(vae.config, scale_factor=scale)
w=checkpoint.Checkpoint("tiny", unet.half(), vae.half(), text.half())
out=Path(sys.argv[2] if len(sys.argv)>2 else "begin_test.safetensors")
checkpoint.save(out, w, tokenizer_metadata(new_tok, sorted(WORDS)))
print(out, out.stat().st_size/1e6)

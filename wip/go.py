from pathlib import Path
import torch, minisd.tiny.train as train
torch.set_num_threads(1)
train.FURTHER = train.FURTHER._replace(steps=15500)
train.train_stages(["unet"], Path("run1"), Path("out.safetensors"), begin=Path("begin_wide.safetensors"), seed=31)

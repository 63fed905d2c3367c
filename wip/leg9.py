"""Leg 9: 3,900 steps of 64 from leg 8's weights, seed 33, as `train unet --begin` has it here.

It was begun for 5,000 steps and shortened on the way, to 4,200 from step 1,800 on and to 3,900 from
3,143 on, so the rate fell a little faster at its end.
"""
from pathlib import Path

import torch

from minisd.tiny import train

torch.set_num_threads(1)
train.FURTHER = train.FURTHER._replace(steps=3900)
train.train_stages(["unet"], Path("run"), Path("out.safetensors"), begin=Path("leg8.safetensors"), seed=33)

"""Our own small world: drawings with captions, a judge of pictures, a Stable Diffusion for both.

`shapes` draws, `scenes` places, `captions` says and reads, `judge` reads a picture back, `painter`
paints without a network, `stages` and `train` train the tiny model, `distil` makes it fast, `flow`
makes a flow of it, `codebook` makes a VQ first stage of its autoencoder, `sharp` shows what LPIPS
and a discriminator do, `control` leads it by sketches, `lessons` teach it something new, `fidelity`
measures how well it obeys, and `weights` has what ships.
May import: pipeline and all below it. Imported by: teaching, command.
"""

from .weights import FAST, FAST_SETTINGS, TINY

__all__ = ["FAST", "FAST_SETTINGS", "TINY"]

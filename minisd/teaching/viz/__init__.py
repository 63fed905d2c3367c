"""What notebooks show: sources, figures with their words, flip-books, plots, drawings.

Everything that ends in a picture returns nothing and shows it; what a picture says is printed by
the notebook, because pictures are not compared when notebooks run as tests.
"""

import matplotlib.pyplot as plt

from .families import families_side_by_side, prompt_flow
from .flip import flip
from .networks import autoencoder, resblock, spatial_transformer, unet_ladder
from .page import COLORS, differences, display, publish, setup, show
from .pictures import denoising, denoising_flip, over, shown, strip
from .plots import WALKS, heat_map, plot_orders, plot_paths, plot_schedules
from .system import system_map

__all__ = ["COLORS", "WALKS", "autoencoder", "denoising", "denoising_flip", "differences"]
__all__ += ["display", "families_side_by_side", "flip", "heat_map", "over", "plot_orders"]
__all__ += ["plot_paths", "plot_schedules", "plt", "prompt_flow", "publish", "resblock", "setup"]
__all__ += ["show", "shown", "spatial_transformer", "strip", "system_map", "unet_ladder"]

"""What notebooks show: sources, figures with their words, flip-books, plots, drawings.

Everything that ends in a picture returns nothing and shows it; what a picture says is printed by
the notebook, because pictures are not compared when notebooks run as tests.
"""

import matplotlib.pyplot as plt

from .flip import flip
from .networks import autoencoder, resblock, spatial_transformer, unet_ladder
from .page import COLORS, differences, display, publish, setup, show
from .pictures import denoising, denoising_flip, shown, strip
from .plots import WALKS, heat_map, plot_orders, plot_paths, plot_schedules
from .system import system_map

__all__ = ["COLORS", "WALKS", "denoising", "denoising_flip", "differences", "display", "flip"]
__all__ += ["heat_map", "plot_orders", "plot_paths", "plot_schedules", "plt", "publish", "setup"]
__all__ += ["show", "shown", "strip", "system_map"]
__all__ += ["autoencoder", "resblock", "spatial_transformer", "unet_ladder"]

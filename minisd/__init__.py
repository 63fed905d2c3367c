"""minisd: Stable Diffusion from its equations up. Read the notebooks first, then these files."""

__version__ = "0.1.0"

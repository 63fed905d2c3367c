"""Classifier-free guidance (arXiv 2207.12598), and its rescaling (arXiv 2305.08891)."""

from torch import Tensor


def guided_eps(eps_u: Tensor, eps_c: Tensor, scale: float) -> Tensor:
    """CFG eq. 6, as Stable Diffusion writes it: from the unconditional ε towards the conditional.

        ε̃ = ε_u + g (ε_c - ε_u)

    eps_u, eps_c (b, ...); g, the scale: 1 is ε_c, 0 is ε_u; the paper's w is g - 1 -> (b, ...).
    Official: `unconditional_guidance_scale`
    """
    return eps_u + scale * (eps_c - eps_u)


def guided_eps_paper(eps_u: Tensor, eps_c: Tensor, w: float) -> Tensor:
    """CFG eq. 6, as the paper writes it, where w = 0 is off.

        ε̃ = (1+w) ε_c - w ε_u

    eps_u, eps_c (b, ...) -> (b, ...).
    """
    return (1 + w) * eps_c - w * eps_u


def rescale_guidance(guided: Tensor, conditional: Tensor, share: float = 0.7) -> Tensor:
    """Zero-SNR §3.4: give a guided prediction back the spread it had before guidance, by a share κ.

        x̃ = κ · x_g std(x_c)/std(x_g) + (1-κ) x_g

    guided, conditional (b, ...); std over each sample; κ (its φ) in [0, 1] -> (b, ...).
    """
    spread = conditional.flatten(1).std(1) / guided.flatten(1).std(1)
    spread = spread.reshape(-1, *[1] * (guided.ndim - 1))
    return share * spread * guided + (1 - share) * guided

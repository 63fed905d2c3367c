"""Classifier-free guidance (arXiv 2207.12598), its rescaling (arXiv 2305.08891), and guidance by a
classifier (ADM, arXiv 2105.05233)."""

from torch import Tensor

from .ddpm import sqrt


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


def score_from_eps(eps: Tensor, ab_t: Tensor) -> Tensor:
    """ADM eq. 11: the score that a prediction of the noise implies.

        ∇ log p_θ(x_t) = -ε_θ / √(1-ᾱ_t)

    eps (b, ...); ab_t in [0, 1) -> (b, ...).
    """
    return -eps / sqrt(1 - ab_t)


def classifier_guided_eps(eps: Tensor, gradient: Tensor, ab_t: Tensor, scale: float) -> Tensor:
    """ADM eq. 14 and Algorithm 2: guidance by a classifier of noised pictures.

        ε̂ = ε_θ - √(1-ᾱ_t) g ∇ log p(c | x_t)

    The scale g, ADM's s, stands in §4.3 and Algorithm 1; eq. 14 and Algorithm 2's line omit it.
    eps, gradient (b, ...); g = 0 is off, g = 1 is Bayes' rule -> (b, ...). With the gradient of an
    ideal classifier it is `guided_eps`.
    Official: `condition_score` (guided-diffusion)
    """
    return eps - sqrt(1 - ab_t) * scale * gradient

"""What a student of fewer calls learns from its teacher (Progressive Distillation, arXiv
2202.00512). A guided teacher's answer is guidance.guided_eps, as arXiv 2210.03142 §3.1 has it."""

from torch import Tensor

from .ddpm import sqrt


def distilled_x0(x_t: Tensor, x_s: Tensor, ab_t: Tensor, ab_s: Tensor) -> Tensor:
    """Progressive Distillation Algorithm 2: the x̃_0 whose one DDIM step from t leads to x_s.

        x̃_0 = (x_s - r x_t) / (√ᾱ_s - r √ᾱ_t),  r = √(1-ᾱ_s)/√(1-ᾱ_t)

    x_s is where the teacher's two steps (or more) have led. x_t, x_s (b, ...); ᾱ_t < ᾱ_s ≤ 1 ->
    (b, ...). Defined at ᾱ_t = 0 too.
    """
    r = sqrt(1 - ab_s) / sqrt(1 - ab_t)
    return (x_s - r * x_t) / (sqrt(ab_s) - r * sqrt(ab_t))

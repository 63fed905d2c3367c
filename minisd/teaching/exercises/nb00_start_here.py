"""Exercises of notebook 00."""

import torch

from ...schedules import (
    alpha_bar,
    cosine_betas,
    ldm_uniform_times,
    leading_times,
    scaled_linear_betas,
    trailing_times,
)
from ...tiny.shapes import fits, words, world
from ..checking import Exercise


def official_timesteps(times):
    return sorted(t - 1 for t in times[:-1])


def betas_back(alphas_cumprod):
    return 1 - alphas_cumprod / torch.cat([torch.ones(1).double(), alphas_cumprod[:-1]])


def fits_without(prompt, negative, captions):
    return fits(prompt, captions) & torch.tensor(
        [not words(negative) & words(caption) for caption in captions]
    )


def _grids(generator):
    yield (ldm_uniform_times(1000, 50),)
    yield (ldm_uniform_times(1000, 4),)
    yield (leading_times(1000, 10),)
    yield (trailing_times(100, 7),)
    yield ([1, 0],)


def _alphas_cumprod(generator):
    for betas in [scaled_linear_betas(), cosine_betas(50), torch.tensor([0.25]).double()]:
        yield (alpha_bar(betas)[1:],)


def _prompts(generator):
    captions = world(pixels=2)[1][::4]
    for prompt, negative in [
        ("a circle", "red"),
        ("a star on white", "green circle"),
        ("Green", "ring black"),
        ("", "grey circle"),
        ("a pink square", ""),
    ]:
        yield prompt, negative, captions


EXERCISES = {
    "official_index": Exercise(
        lambda t: t - 1,
        lambda generator: [(t,) for t in (1, 2, 500, 982, 1000)],
        {
            "t = 1 is the first time, and the first index of a Python list is 0": lambda t: t,
            "the subtraction goes the other way: indices start lower than times": lambda t: t + 1,
            "this counts from the other end: t = 1 is the least noise, index 0": lambda t: 1000 - t,
        },
        level="easy",
        goal="turn the paper's time t into the official code's index",
        given=("remembered",),
    ),
    "official_timesteps": Exercise(
        official_timesteps,
        _grids,
        {
            "the official list counts from 0, so each number is one less": lambda times: sorted(
                times[:-1]
            ),
            "the official list rises": lambda times: [t - 1 for t in times[:-1]],
            "the last of our times is only arrived at; the network is not asked there": (
                lambda times: sorted(t - 1 for t in times)
            ),
            "it is our last time that drops out, not our first": lambda times: sorted(
                t - 1 for t in times[1:]
            ),
        },
        level="easy",
        goal="read our list of times as the official ddim_timesteps",
    ),
    "betas_back": Exercise(
        betas_back,
        _alphas_cumprod,
        {
            "1 - ᾱ_t is the noise of all steps so far, β_t that of one": lambda ab: 1 - ab,
            "this is α_t; β_t is what it lacks to 1": lambda ab: 1 - betas_back(ab),
            "the first entry has no entry before it; there ᾱ_0 = 1 stands in": lambda ab: (
                1 - ab[1:] / ab[:-1]
            ),
            "the ratio is upside down: ᾱ_t = α_t ᾱ_{t-1}": lambda ab: 1 - 1 / (1 - betas_back(ab)),
            "a product is undone by dividing, not by subtracting": lambda ab: (
                torch.cat([ab.new_ones(1), ab[:-1]]) - ab
            ),
        },
        level="middle",
        goal="recover the betas from alphas_cumprod alone",
    ),
    "fits_without": Exercise(
        fits_without,
        _prompts,
        {
            "one unwanted word rules a caption out": lambda prompt, negative, captions: (
                fits(prompt, captions)
                & torch.tensor([not words(negative) <= words(caption) for caption in captions])
            ),
            "every word of the prompt must be there, not just one of them": (
                lambda prompt, negative, captions: torch.tensor(
                    [
                        bool(words(prompt) & words(c)) and not words(negative) & words(c)
                        for c in captions
                    ]
                )
            ),
            "the unwanted words are kept here, and the others ruled out": (
                lambda prompt, negative, captions: (
                    fits(prompt, captions)
                    & torch.tensor([bool(words(negative) & words(c)) for c in captions])
                )
            ),
            "the negative words make no difference here": lambda prompt, negative, captions: fits(
                prompt, captions
            ),
            "the prompt comes in as typed: small letters first, as in the captions": (
                lambda prompt, negative, captions: torch.tensor(
                    [
                        set(prompt.split()) - {"a", "an"} <= words(c)
                        and not words(negative) & words(c)
                        for c in captions
                    ]
                )
            ),
        },
        level="middle",
        goal="find the captions with every wanted word and no unwanted one",
    ),
}

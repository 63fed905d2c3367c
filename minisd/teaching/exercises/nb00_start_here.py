"""Exercises of notebook 00."""

import torch

from ...schedules import ldm_uniform_times, leading_times, trailing_times
from ...tiny.shapes import fits, words, world
from ..checking import Exercise


def official_timesteps(times):
    return sorted(t - 1 for t in times[:-1])


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
            "the least noise, t = 1, has the lowest index, 0": lambda t: 999 - t,
        },
        level="easy",
        goal="turn the paper's time t into the official code's index",
        given=("remembered",),
    ),
    "official_timesteps": Exercise(
        official_timesteps,
        _grids,
        {
            "the official list holds indices, which count from 0: t - 1 for each t": lambda times: (
                sorted(times[:-1])
            ),
            "the official list rises: reverse the order": lambda times: [t - 1 for t in times[:-1]],
            "this is our list without its end: it still has to rise, and to hold t - 1": (
                lambda times: times[:-1]
            ),
            "it rises, but our last time is still in it, and an index is t - 1": lambda times: (
                times[::-1]
            ),
            "an index is t - 1, not t + 1": lambda times: sorted(t + 1 for t in times[:-1]),
            "the order is still falling, and our last time is still in it": lambda times: [
                t - 1 for t in times
            ],
            "at the last of our times no step starts: leave it out": (
                lambda times: sorted(t - 1 for t in times)
            ),
            "leave out our last time, where no step starts, and not our first": lambda times: (
                sorted(t - 1 for t in times[1:])
            ),
            "this is our list, unchanged": lambda times: times,
            "sorting puts our last time first: leave it out before you sort": (
                lambda times: sorted(times)[:-1]
            ),
        },
        level="easy",
        goal="read our list of times as the official ddim_timesteps",
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
            "both conditions must hold: join them with `and`, not with `or`": (
                lambda prompt, negative, captions: torch.tensor(
                    [words(prompt) <= words(c) or not words(negative) & words(c) for c in captions]
                )
            ),
            "this is the opposite: True where a caption has to be left out": (
                lambda prompt, negative, captions: ~fits_without(prompt, negative, captions)
            ),
            "the words of the prompt make no difference here": (
                lambda prompt, negative, captions: torch.tensor(
                    [not words(negative) & words(c) for c in captions]
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

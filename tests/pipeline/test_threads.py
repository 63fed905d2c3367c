"""One thread for small work, and the threads that were set stay set."""

import os

import pytest
import torch

from minisd.checkpoints.families import FAMILIES, on_meta
from minisd.pipeline import Pipeline
from minisd.pipeline.threads import is_small, threads_for
from minisd.tiny.weights import TINY


@pytest.fixture(autouse=True)
def three_threads(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    at_rest(monkeypatch)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


def at_rest(monkeypatch, load=0.1):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0, 0), raising=False)


def inside(small, rows):
    with threads_for(small, rows):
        return torch.get_num_threads()


def test_small_work_takes_one_thread(monkeypatch):
    assert inside(True, 1) == inside(True, 7) == 1
    assert inside(True, 8) == 3 and inside(False, 1) == 3
    at_rest(monkeypatch, load=1.3 * os.cpu_count())
    assert inside(True, 8) == 1 and inside(False, 1) == 3
    monkeypatch.delattr(os, "getloadavg")
    assert inside(True, 8) == 3


def test_an_error_restores_the_threads():
    with pytest.raises(KeyError), threads_for(True, 1):
        raise KeyError
    assert torch.get_num_threads() == 3


def test_the_tiny_model_is_small_and_the_published_are_not():
    pipe = Pipeline.load(TINY)
    assert all(is_small(module) for module in pipe.checkpoint.modules.values())
    for name in ("sd1", "sdxl"):
        assert not any(is_small(on_meta(part)) for part in FAMILIES[name].parts.values())


def test_each_network_of_a_run_has_one_thread_and_what_is_between_has_all():
    pipe, seen = Pipeline.load(TINY), []
    for name, method in (("unet", "forward"), ("vae", "decode"), ("text", "forward")):
        with pipe.part(name) as module:
            theirs = getattr(module, method)

            def told(*args, _theirs=theirs, _name=name, **more):
                seen.append((_name, torch.get_num_threads()))
                return _theirs(*args, **more)

            setattr(module, method, told)
    for _ in (run := pipe.txt2img("a red circle", steps=2)):
        assert torch.get_num_threads() == 3
    run.pictures()
    assert {name for name, _ in seen} == {"unet", "vae", "text"}
    assert {threads for _, threads in seen} == {1}

"""The training loop against its promises: resumed to the bit, the same on several processes, and
every mistake a sentence."""

import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from minisd import stages, tensorfile, train, training
from minisd.training import Run, Settings, learning_rate, rng

SETTINGS = Settings(steps=30, batch=4, rate=1e-2, warmup=5)
RESUMED = pytest.mark.equal_bits("a training that goes on, on one machine, ends as in one piece")


class Toy:
    """A small network of every kind of weight that learns to find a bright spot."""

    name, slow = "toy", {}

    def __init__(self, seed=0, wrong=None):
        self.network = stages._seeded(Spotter, 6, seed)
        self.about, self.seed, self.wrong = {"seed": seed}, seed, wrong or {}

    def loss(self, step, samples):
        if step in self.wrong:
            return self.wrong[step](self)
        drawn = [rng(self.seed, step, i) for i in samples]
        at = torch.tensor([int(random.integers(64)) for random in drawn])
        x = torch.stack([torch.from_numpy(random.normal(size=64)).float() for random in drawn])
        return F.cross_entropy(self.network((x + 4 * F.one_hot(at, 64)).view(-1, 1, 8, 8)), at)


class Spotter(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.GroupNorm(2, width)
        self.out = nn.Conv2d(width, 1, 1, bias=False)  # it would have a gradient of rounding alone
        self.unused = nn.Linear(2, 2)  # has no gradient
        self.fixed = nn.Linear(2, 2).requires_grad_(False)

    def forward(self, x):
        return self.out(F.silu(self.norm(self.conv(x)))).flatten(1)


def trained(path, settings=SETTINGS, stop=None, **toy):
    """A run's file after its last step, or after `stop`."""
    run = Run(Toy(**toy), settings, path)
    for step, _ in run.go():
        if step == stop:
            break
    run.save()
    return content(path)


def content(path):
    return {key: value.read() for key, value in tensorfile.open_tensors(path)[0].items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# ---- the rate -----------------------------------------------------------------------------


@pytest.mark.parametrize("warmup", [0, 1, 50])
@pytest.mark.parametrize("decay", [0.0, 0.2, 1.0])
def test_the_rate_rises_stays_and_falls(warmup, decay):
    settings = Settings(steps=500, batch=1, rate=0.3, warmup=warmup, decay=decay)
    rates = [learning_rate(step, settings) for step in range(500)]
    steps = np.arange(500)
    rise = np.interp(steps, [-1, warmup - 1], [0, 1]) if warmup else np.ones(500)
    fall = np.interp(steps, [500 - 500 * decay, 500], [1, 0]) if decay else np.ones(500)
    assert np.abs(np.array(rates) - 0.3 * np.minimum(rise, fall)).max() < 1e-12
    assert min(rates) > 0


# ---- resumed ------------------------------------------------------------------------------


@RESUMED
def test_a_run_in_pieces_is_the_run_in_one(tmp_path):
    whole = trained(tmp_path / "whole.safetensors")
    for stop in (1, 2, 17, 29, None):
        pieces = trained(tmp_path / "pieces.safetensors", stop=stop)
    assert same(whole, pieces) and len(whole["losses"]) == 30
    assert whole["losses"][-5:].mean() < 0.7 * whole["losses"][:5].mean()
    other = trained(tmp_path / "other.safetensors", seed=1)
    assert not same(whole, other)


@RESUMED
def test_a_run_saved_before_its_first_step_goes_on(tmp_path):
    path = tmp_path / "toy.safetensors"
    Run(Toy(), SETTINGS, path).save()
    assert same(trained(path), trained(tmp_path / "whole.safetensors"))


def test_the_average_follows_the_weights(tmp_path):
    """avg_k = keep_k avg_(k-1) + (1 - keep_k) w_k, keep_k = min(ema, (1 + k)/(10 + k))."""
    run = Run(Toy(), SETTINGS._replace(ema=0.5), tmp_path / "toy.safetensors")
    weight = dict(run.stage.network.named_parameters())["conv.weight"]
    expected = weight.detach().double()
    for k, _ in run.go():
        keep = min(0.5, (1 + k) / (10 + k))
        expected = keep * expected + (1 - keep) * weight.detach().double()
    run.save()
    stored = content(run.path)
    assert (stored["average.conv.weight"] - expected).abs().max() < 1e-6
    assert (stored["network.conv.weight"] - expected).abs().max() > 1e-4
    assert "average.fixed.weight" not in stored and "network.fixed.weight" in stored


def test_slow_weights_take_shorter_steps(tmp_path):
    """Adam's first step moves each weight by its rate, and by as much less where it is slow."""
    toy = Toy()
    toy.slow = {"conv.": 0.1}
    before = {key: weight.detach().clone() for key, weight in toy.network.named_parameters()}
    next(Run(toy, SETTINGS._replace(warmup=0), tmp_path / "toy.safetensors").go())
    for key, weight in toy.network.named_parameters():
        moved = float((weight.detach() - before[key]).abs().max())
        expected = 1e-3 if key.startswith("conv.") else 1e-2 if weight.grad is not None else 0
        assert abs(moved - expected) <= 0.02 * expected, key


def test_a_longer_run_goes_on_from_a_shorter(tmp_path):
    path = tmp_path / "toy.safetensors"
    short = trained(path)
    long = trained(path, SETTINGS._replace(steps=40))
    assert torch.equal(long["losses"][:30], short["losses"]) and len(long["losses"]) == 40


@pytest.mark.parametrize(
    "change, names", [({"rate": 2e-2}, "rate"), ({"batch": 8, "ema": 0.9}, "batch, ema")]
)
def test_other_settings_are_refused(tmp_path, change, names):
    path = tmp_path / "toy.safetensors"
    trained(path, stop=2)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"other settings \({names}\): give this one another"):
        Run(Toy(), SETTINGS._replace(**change), path)
    with pytest.raises(ValueError, match=r"other settings \(seed\)"):
        Run(Toy(seed=1), SETTINGS, path)
    assert path.read_bytes() == before


def no_number(toy):
    return sum(w.sum() for w in toy.network.parameters()) * float("nan")


def no_gradient(toy):  # sqrt'(0) is infinite, the loss itself is 0
    return (toy.network.conv.weight * 0).sum().sqrt()


@RESUMED
@pytest.mark.parametrize("wrong", [no_number, no_gradient])
def test_a_loss_that_is_no_number_stops_and_spoils_nothing(tmp_path, wrong):
    path = tmp_path / "toy.safetensors"
    good = trained(path, stop=7)
    with pytest.raises(ValueError, match="the loss of step 7 is .*nan.*lower rate"):
        trained(path, wrong={7: wrong})
    assert same(content(path), good)
    assert same(trained(path), trained(tmp_path / "whole.safetensors"))


# ---- killed, and shared -------------------------------------------------------------------

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["minisd.train", "torch._dynamo", "pytest"])


def start(target, *arguments):
    process = PROCESSES.Process(target=target, args=arguments)
    process.start()
    return process


def train_and_tell(path, done):
    torch.set_num_threads(1)
    run = Run(Toy(), SETTINGS, path)
    for step, _ in run.go():
        if step % 3 == 0 or step == SETTINGS.steps:
            run.save()
        done.send(step)
    done.close()


@RESUMED
def test_killed_at_any_moment_it_ends_the_same(tmp_path):
    """SIGKILL, while it trains or saves."""
    path, step = tmp_path / "killed.safetensors", 0
    for kill in (5, 13, 22, None):
        told, tell = PROCESSES.Pipe(duplex=False)
        process = start(train_and_tell, path, tell)
        tell.close()
        try:
            while step != kill:
                step = told.recv()
            os.kill(process.pid, signal.SIGKILL)
        except EOFError:
            pass
        process.join()
    assert process.exitcode == 0 and step == 30
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = trained(tmp_path / "whole.safetensors")
    torch.set_num_threads(threads)
    assert same(whole, content(path))


def save_and_die(path):
    run = Run(Toy(), SETTINGS, path)
    next(run.go())
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    run.save()


def test_a_killed_save_leaves_the_last_one_and_its_rest_goes(tmp_path):
    path = tmp_path / "toy.safetensors"
    good = trained(path, stop=4)
    process = start(save_and_die, path)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert same(content(path), good)
    assert len(list(tmp_path.iterdir())) == 2  # the half of a save is beside it
    trained(path)
    assert list(tmp_path.iterdir()) == [path]


def gradients(stage):
    weights = stage.network.named_parameters()
    return {key: weight.grad for key, weight in weights if weight.grad is not None}


def farthest(a, b):
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max()) for key in a)


def train_together(rank, folder):
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    run = Run(Toy(), SETTINGS, folder / "two.safetensors")
    run.stage.loss(3, range(rank, 4, 2)).backward()
    training.average_gradients(run.weights, torch.zeros(()))
    tensorfile.save_tensors(folder / f"gradients-{rank}.safetensors", gradients(run.stage), {})
    for _ in run.go():
        pass
    run.save()
    training.wait()
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="torch without torch.distributed")
def test_two_processes_train_as_one(tmp_path):
    processes = [start(train_together, rank, tmp_path) for rank in range(2)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    toy = Toy()
    toy.loss(3, range(4)).backward()
    for rank in range(2):
        shared = content(tmp_path / f"gradients-{rank}.safetensors")
        assert farthest(gradients(toy), shared) < 1e-6
    one, two = trained(tmp_path / "one.safetensors"), content(tmp_path / "two.safetensors")
    assert farthest(one, two) < 1e-5


def test_a_batch_that_cannot_be_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "group", lambda: (3, 0))
    with pytest.raises(ValueError, match="3 processes cannot share a batch of 4"):
        trained(tmp_path / "toy.safetensors")


# ---- the command --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["clip"], "no stage 'clip'; there are kl, vq, text, unet, export"),
        (["kl", "--steps", "0"], "--steps: must be a whole number from 1, got '0'"),
        (["kl", "--steps", "many"], "--steps: must be a whole number from 1, got 'many'"),
        (["unet", "--folder", "."], "kl.safetensors is not there: train kl first"),
        (["export", "--folder", "."], "kl.safetensors is not there: train kl first"),
        (["kl", "--folder", "a-file"], "cannot use a-file: File exists"),
        (["kl", "--folder", "a-file/below"], "cannot use a-file/below: Not a directory"),
        (["kl", "--folder", "broken"], "kl.safetensors is not a whole safetensors file"),
    ],
)
def test_mistakes_of_the_command_are_sentences(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "kl.safetensors").write_text("half")
    with pytest.raises(SystemExit) as end:
        train.main(words)
    said = f"{end.value.code} {capsys.readouterr().err}"
    assert end.value.code not in (0, None) and sentence in said


@RESUMED
def test_it_is_stopped_by_hand_and_goes_on(tmp_path, monkeypatch):
    def stop(toy):
        toy.wrong.clear()
        raise KeyboardInterrupt

    toy = Toy(wrong={20: stop})
    monkeypatch.setattr(train, "SETTINGS", {"kl": SETTINGS})
    monkeypatch.setattr(train, "stage", lambda *_: toy)
    words = ["kl", "--folder", str(tmp_path / "runs"), "--save-every", "0"]
    with pytest.raises(SystemExit, match="stopped; the same command goes on from the last save"):
        train.main(words)
    path = tmp_path / "runs" / "kl.safetensors"
    assert len(content(path)["losses"]) == 20
    train.main(words)
    assert same(content(path), trained(tmp_path / "whole.safetensors"))
    assert (tmp_path / "runs" / "toy.png").read_bytes().startswith(b"\x89PNG")

"""The LoRA that trains: 0 at the beginning, the same merged and unmerged, and it alone learns."""

import copy

import pytest
import torch
from network_pairs import draw, pair
from torch import nn

from minisd.models.lora import LoRA, add_lora, lora_delta, loras, merge

CONVOLUTIONS = (*("to_q", "to_k", "to_v", "to_out.0"), "proj_in", "in_layers.2", "op", "conv")


def network(name="sd1"):
    made = pair(name)
    return made.ours, lambda module: made.run(module, *made.inputs)[0]


def randomise(network):
    for i, (_, lora) in enumerate(loras(network)):
        lora.up.data = draw(*lora.up.shape, seed=i).to(lora.up) / lora.rank**0.5


def test_the_change_is_a_sum_over_the_rank():
    down, up = draw(3, 5, seed=1), draw(4, 3, seed=2)
    by_hand = sum(torch.outer(up[:, i], down[i]) for i in range(3)) * 2 / 3
    assert (lora_delta(down, up, 2.0) - by_hand).abs().max() <= 1e-6
    assert torch.linalg.matrix_rank(lora_delta(down, up, 2.0)) == 3


def test_the_change_of_a_convolution_is_that_of_its_weight():
    """Two convolutions in a row, the second 1 x 1, are one with the product as its weight."""
    down, up, x = draw(2, 3, 3, 3, seed=1), draw(5, 2, 1, 1, seed=2), draw(1, 3, 6, 7)
    one = nn.functional.conv2d(x, lora_delta(down, up, 6.0), padding=1)
    two = nn.functional.conv2d(nn.functional.conv2d(x, down, padding=1), up)
    assert (one - 3 * two).abs().max() <= 1e-5 * one.abs().max()


@pytest.mark.parametrize("down, up", [((2, 3), (4, 3)), ((2, 3), (4, 2, 1, 1)), ((0, 3), (4, 0))])
def test_what_does_not_multiply_is_told(down, up):
    with pytest.raises(ValueError, match="down .*up") as told:
        lora_delta(torch.zeros(down), torch.zeros(up), 1.0)
    assert str(down) in f"{told.value}" and str(up) in f"{told.value}"


@pytest.mark.equal_bits("what is added is exactly 0")
def test_at_the_beginning_nothing_is_changed():
    module, run = network()
    before = run(module)
    add_lora(module, 4, CONVOLUTIONS)
    assert torch.equal(run(module), before)
    randomise(module)
    assert (run(module) - before).abs().max() > 1e-2
    for _, lora in loras(module):
        lora.scale = 0.0
    assert torch.equal(run(module), before)


@pytest.mark.parametrize("scale", [1.0, -0.7])
@pytest.mark.parametrize("name", ["sd1", "sd2"])
@torch.no_grad()
def test_merged_and_unmerged_are_equal(name, scale):
    """In float64, where rounding is small; the layers are plain ones under their old names."""
    made = pair(name)
    module, inputs = made.ours.double(), [part.double() for part in made.inputs]
    keys = list(module.state_dict())
    add_lora(module, 3, CONVOLUTIONS, alpha=2.0)
    randomise(module)
    for _, lora in loras(module):
        lora.scale = scale
    unmerged = made.run(module, *inputs)[0]
    merge(module)
    assert not list(loras(module)) and list(module.state_dict()) == keys
    assert (made.run(module, *inputs)[0] - unmerged).abs().max() <= 1e-12


@pytest.mark.equal_bits("here the rounding of one layer is measured")
@pytest.mark.parametrize(
    "layer, shape",
    [
        (nn.Linear(64, 48), (5, 64)),
        (nn.Conv2d(16, 24, 3, padding=1), (2, 16, 9, 8)),
        (nn.Conv2d(16, 24, 3, stride=2, padding=1, bias=False), (2, 16, 9, 8)),
        (nn.Conv2d(16, 24, 1), (2, 16, 4, 4)),
    ],
    ids=str,
)
@torch.no_grad()
def test_a_layer_merged_and_unmerged_is_equal_to_1e_6(layer, shape):
    x, lora = draw(*shape), LoRA(layer, 4, alpha=3.0, generator=torch.Generator().manual_seed(0))
    lora.up.data, lora.scale = draw(*lora.up.shape, seed=1) / 2, 0.8
    unmerged = lora(x)
    assert (lora.merged()(x) - unmerged).abs().max() <= 1e-6 * unmerged.abs().max()


def test_the_loras_alone_learn():
    module, run = network()
    frozen = copy.deepcopy(module.state_dict())
    parameters = add_lora(module, 2)
    names = {name for name, p in module.named_parameters() if p.requires_grad}
    assert len(names) == len(parameters) == 2 * 16 * 2 * 4  # 16 blocks, two attentions of 4 layers
    assert all(name.endswith((".down", ".up")) for name in names)
    optimizer = torch.optim.SGD(parameters, 10.0)
    losses = []
    for _ in range(3):
        loss = (run(module) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    assert all(p.grad is None for p in module.parameters() if not p.requires_grad)
    after = {k.replace(".layer.", "."): v for k, v in module.state_dict().items()}
    assert all(torch.equal(after[key], value) for key, value in frozen.items())


def test_the_beginning_is_that_of_the_official_code():
    """Uniform within √(1 / fan in), from a generator; dtype and alpha as told or as the layer's."""
    layer = nn.Linear(400, 30, dtype=torch.bfloat16)
    one, two = (LoRA(layer, 8, generator=torch.Generator().manual_seed(s)) for s in (0, 0))
    assert torch.equal(one.down, two.down) and one.down.dtype == torch.bfloat16
    assert 0.045 < one.down.abs().max() <= 0.0501 and not one.up.any()
    assert abs(one.down.float().std() - 0.05 / 3**0.5) < 1e-3
    assert one.alpha == 8 and LoRA(layer, 8, alpha=4.0).alpha == 4


def test_a_sum_in_16_bits_is_rounded_once():
    """Within half a step of 8 bits of the exact sum; a change rounded before would add to that."""
    layer = nn.Linear(16, 8, dtype=torch.bfloat16)
    layer.weight.data = draw(8, 16, seed=1).bfloat16() / 4
    lora = LoRA(layer, 2, generator=torch.Generator().manual_seed(0))
    lora.up.data = draw(8, 2).bfloat16()
    delta = lora_delta(lora.down.double(), lora.up.double(), 2.0)
    exact, twice = (layer.weight.double() + d for d in (delta, delta.bfloat16().double()))
    error = ((lora.merged().weight.double() - exact) / exact).abs().max()
    assert error <= 1.001 * 2**-8 < ((twice.bfloat16().double() - exact) / exact).abs().max()


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda net: add_lora(net, 0), "rank must be at least 1, got 0"),
        (lambda net: add_lora(net, 2, ("query",)), "ends in one of query"),
        (lambda net: (add_lora(net, 2), add_lora(net, 2)), "has LoRAs already"),
        (lambda net: LoRA(nn.LayerNorm(3), 2), "a Linear or a plain Conv2d, got LayerNorm"),
        (lambda net: LoRA(nn.Conv2d(4, 4, 1, groups=2), 2), "a Linear or a plain Conv2d"),
    ],
)
def test_what_cannot_have_one_is_told(call, says):
    with pytest.raises(ValueError, match=says):
        call(pair("sd1").ours)

"""In every test the last bits of products are drawn at random, as if each came from elsewhere.

A matrix product, a convolution and attention add many numbers, and each sum is rounded. Their
order depends on the processor, the threads, the batch and the place of the numbers in memory, so no
test may ask two evaluations of a network for equal bits: docs/PROMISES.md. Where bits are promised,
as for a training that goes on, a test says why with @pytest.mark.equal_bits("...").
"""

import functools
import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

PRODUCTS = {
    F: "linear conv1d conv2d scaled_dot_product_attention multi_head_attention_forward",
    torch: "matmul mm bmm addmm baddbmm einsum",
    Tensor: "matmul mm bmm addmm baddbmm __matmul__ __rmatmul__",
}
HINT = """The last bits of products are random in tests (tests/conftest.py). Compare what a network
gives to a tolerance, or say with @pytest.mark.equal_bits("...") why equal bits are promised."""


class LastBits:
    """While it is entered, the numbers of each product are moved to others beside them."""

    def __init__(self):
        self.draw, self.products, self.patches = random.Random(0), 0, pytest.MonkeyPatch()

    def __enter__(self):
        for owner, names in PRODUCTS.items():
            for name in names.split():
                self.patches.setattr(owner, name, self.moved(getattr(owner, name)))
        return self

    def __exit__(self, *_):
        self.patches.undo()

    def moved(self, product):
        """The product, with other last bits each time."""

        @functools.wraps(product)
        def call(*args, **kwargs):
            out = product(*args, **kwargs)
            if not isinstance(out, Tensor) or not out.is_floating_point():
                return out
            self.products += 1
            share = self.draw.choice((-1, 1)) * self.draw.uniform(0.7, 1.5)
            return out.add(out, alpha=torch.finfo(out.dtype).eps * share)

        return call


@pytest.fixture(autouse=True)
def last_bits(request):
    if request.node.get_closest_marker("equal_bits"):
        yield
        return
    with LastBits() as bits:
        yield
    if bits.products:
        request.node.add_report_section("call", "hint", HINT)

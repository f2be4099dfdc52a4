# SPDX-License-Identifier: MIT
"""Tokens and gradients of random modules and calls, against plain PyTorch in float64."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import POOLS, TYPES, agree, build, expected, features
from scenes import configs
from torch.nn.attention import SDPBackend, sdpa_kernel

import tenon.torch as tt

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BOUND = {torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


class Case:
    """A module and a call of it."""

    def __init__(self, draw):
        options = draw(configs())
        self.config = tt.AdapterConfig(**options)
        heads = self.config.pool_heads if self.config.type == "attentional_pool" else 1
        self.pools = self.config.type in tt.POOLING_ADAPTER_TYPES
        self.window = draw(st.none() | st.integers(1, 3)) if self.pools else None
        least = (self.window or self.config.pool_window) if self.config.ragged == "drop" else 1
        self.grid = (draw(st.integers(least, 6)), draw(st.integers(least, 6)))
        self.batch = draw(st.integers(1, 3))
        self.x_dtype, self.dtype = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(DTYPES))
        torch.manual_seed(draw(st.integers(0, 2**31)))
        self.adapter = tt.build_adapter(
            self.config, heads * draw(st.integers(1, 24 // heads)), draw(st.integers(1, 24))
        )
        self.adapter.to(self.dtype)
        self.x = self.strided(draw)
        patches = self.grid[0] * self.grid[1]
        masked = draw(st.sampled_from(["", "patch", "frame", "patch and frame"]))
        self.patch_mask = (torch.rand(patches, self.batch) < 0.6).T if "patch" in masked else None
        self.frame_mask = torch.randint(-1, 2, (self.batch,), dtype=torch.int8) if "frame" in masked else None

    def strided(self, draw):
        """Features with axes in any order, steps, an offset, or one image seen often."""
        tokens = self.grid[0] * self.grid[1] + self.config.prefix_tokens
        in_dim = next(self.adapter.parameters()).shape[1]
        shape = (self.batch, tokens, in_dim)
        order = draw(st.permutations([0, 1, 2]))
        steps = [draw(st.sampled_from([1, 2])) for _ in shape]
        room = torch.randn([n * step + 1 for n, step in zip(shape, steps, strict=True)]).to(self.x_dtype)
        room = room.permute(*order).contiguous().permute(*np.argsort(order).tolist())
        x = room[tuple(slice(1, None, step) for step in steps)][: shape[0], : shape[1], : shape[2]]
        assert x.shape == shape
        return x[:1].expand(shape) if draw(st.booleans()) and self.batch > 1 else x

    def masks(self):
        return {"patch_mask": self.patch_mask, "frame_mask": self.frame_mask}

    def call(self, adapter, x):
        if not self.pools:
            return adapter(x, **self.masks())
        return adapter(x, self.window, grid=self.grid, **self.masks())

    def expected(self, parameters, x):
        return expected(self.config, parameters, x, self.window, self.grid, **self.masks())


cases = st.composite(lambda draw: Case(draw))()


@given(cases)
def test_tokens(case):
    want = case.expected(list(case.adapter.parameters()), case.x)
    with_gradients = case.call(case.adapter, case.x)
    with torch.no_grad():
        y = case.call(case.adapter, case.x)
    for found in (y, with_gradients):
        assert found.dtype == case.dtype and found.is_contiguous()
        agree(found, want, BOUND[case.dtype])
    count = {"grid": case.grid, "pool_window": case.window} if case.pools else {}
    assert y.shape[1] == case.adapter.output_num_tokens(case.x.shape[1], **count)


@given(cases, st.data())
def test_gradients(case, data):
    frozen = [data.draw(st.booleans()) for _ in case.adapter.parameters()]
    for parameter, freeze in zip(case.adapter.parameters(), frozen, strict=True):
        parameter.requires_grad_(not freeze)
    x = case.x.detach().requires_grad_(data.draw(st.booleans()) or all(frozen))
    y = case.call(case.adapter, x)
    dy = torch.randn(*reversed(y.shape)).permute(2, 1, 0).to(y.dtype)
    y.backward(dy)
    wide = [p.detach().double().requires_grad_(p.requires_grad) for p in case.adapter.parameters()]
    wide_x = x.detach().double().requires_grad_(x.requires_grad)
    case.expected(wide, wide_x).backward(dy.double())
    for found, want in zip((x, *case.adapter.parameters()), (wide_x, *wide), strict=True):
        assert (found.grad is None) == (not found.requires_grad)
        if found.requires_grad:
            assert found.grad.dtype == found.dtype
            worst = max(BOUND[found.dtype], BOUND[y.dtype] if y.dtype != torch.float32 else 0)
            scale = 1 + float(want.grad.norm()) if want.grad is not None else 1
            wanted = torch.zeros_like(want) if want.grad is None else want.grad
            assert float((found.grad.double() - wanted).norm()) <= worst * scale


@given(cases)
def test_plain_path_has_the_same_tokens_and_gradients(case):
    """float64 has no kernel."""
    adapter = copy.deepcopy(case.adapter).double()
    x = case.x.detach().double().requires_grad_()
    y = case.call(adapter, x)
    wide = [p.detach().clone().requires_grad_() for p in adapter.parameters()]
    wide_x = x.detach().clone().requires_grad_()
    want = case.expected(wide, wide_x)
    assert y.dtype == torch.float64
    agree(y, want, 1e-12)
    y.sum().backward()
    want.sum().backward()
    for found, wanted in zip((x, *adapter.parameters()), (wide_x, *wide), strict=True):
        agree(found.grad, torch.zeros_like(wanted) if wanted.grad is None else wanted.grad, 1e-11)


@given(cases)
def test_what_is_masked_is_never_read(case):
    """NaN in masked and in prefix tokens reaches nothing."""
    there = torch.ones(case.batch, case.grid[0] * case.grid[1], dtype=torch.bool)
    if case.patch_mask is not None:
        there &= case.patch_mask
    if case.frame_mask is not None:
        there &= (case.frame_mask != 0)[:, None]
    prefix_tokens = torch.zeros(case.batch, case.config.prefix_tokens, dtype=torch.bool)
    x = torch.where(torch.cat([prefix_tokens, there], dim=1)[..., None], case.x, torch.nan)
    for adapter in (case.adapter, copy.deepcopy(case.adapter).double()):
        own = x.detach().to(next(adapter.parameters()).dtype).requires_grad_()
        y = case.call(adapter, own)
        assert not y.isnan().any()
        y.sum().backward()
        assert not any(t.grad.isnan().any() for t in (own, *adapter.parameters()))
        assert bool((own.grad[~torch.cat([prefix_tokens, there], dim=1)] == 0).all())


@pytest.mark.parametrize("shape", [(8,), (16, 8), (2, 3, 16, 8), (2, 1, 2, 16, 8)])
@pytest.mark.parametrize("kind", ("linear", "mlp_2layer"))
def test_projections_take_any_leading_axes(kind, shape):
    adapter = build(kind)
    x = torch.randn(shape).requires_grad_()
    y = adapter(x)
    want = expected(tt.AdapterConfig(type=kind), list(adapter.parameters()), x.reshape(1, -1, 8))
    assert y.shape == (*shape[:-1], 5)
    agree(y, want.reshape(y.shape))
    y.sum().backward()
    assert x.grad.shape == shape


@pytest.mark.parametrize("kind", TYPES)
def test_two_axes_are_one_image(kind):
    """At every door: with and without gradients, plain, compiled, transformed."""
    adapter, x = build(kind), features(1)
    mask = torch.arange(16)[None] % 3 != 0
    wide = copy.deepcopy(adapter).double()
    compiled = torch.compile(adapter, fullgraph=True, backend="aot_eager")
    for masks, own in (({}, {}), ({"patch_mask": mask}, {"patch_mask": mask[0]}), ({"patch_mask": mask},) * 2):
        batch, image = x.clone().requires_grad_(), x[0].clone().requires_grad_()
        many, one = adapter(batch, **masks), adapter(image, **own)
        assert one.shape == many.shape[1:] and torch.equal(one, many[0])
        many.square().sum().backward()
        one.square().sum().backward()
        assert image.grad.shape == image.shape and torch.equal(image.grad, batch.grad[0])
        with torch.no_grad():
            assert torch.equal(adapter(x[0], **own), adapter(x, **masks)[0])
            agree(torch.vmap(lambda x: adapter(x, **own))(x)[0], one)
        assert torch.equal(wide(x[0].double(), **own), wide(x.double(), **masks)[0])
        assert torch.equal(compiled(image, **own), one)
    torch._dynamo.reset()
    with pytest.raises(ValueError, match="patch_mask has shape|patch_mask has .*dimensions"):
        adapter(x, patch_mask=mask[0])


@pytest.mark.parametrize("kind", TYPES)
def test_masks_of_other_shapes_are_refused_everywhere(kind):
    """Plain PyTorch would spread them."""
    adapter, x = build(kind, prefix_tokens=1), features(4, 17)
    for module, values in ((adapter, x), (copy.deepcopy(adapter).double(), x.double())):
        masks = {"patch_mask": torch.ones(4, 16, dtype=torch.int64), "frame_mask": torch.ones(4, dtype=torch.int32)}
        assert torch.equal(module(values, **masks), module(values))
        for shape in ((16,), (1, 16), (4, 1), (4, 17), (4, 16, 1)):
            with pytest.raises(ValueError, match="patch_mask has .*expected"):
                module(values, patch_mask=torch.ones(shape, dtype=torch.bool))
        for shape in ((1,), (4, 1), (4, 16), ()):
            with pytest.raises(ValueError, match="frame_mask has .*expected"):
                module(values, frame_mask=torch.ones(shape, dtype=torch.bool))
        with pytest.raises(TypeError, match="patch_mask is of type ndarray; expected a torch.Tensor"):
            module(values, patch_mask=np.ones((4, 16)))


@pytest.mark.parametrize("kind", ("linear", "mlp_2layer"))
def test_fewer_tokens_than_the_prefix(kind):
    adapter = build(kind, prefix_tokens=5)
    assert [adapter.output_num_tokens(n) for n in (-1, 0, 5, 7)] == [-1, 0, 0, 2]
    for refused in (
        lambda: adapter.output_num_tokens(3),
        lambda: adapter(features(2, 3)),
        lambda: adapter(features(2, 0)),
        lambda: copy.deepcopy(adapter).double()(features(2, 3).double()),
    ):
        with pytest.raises(ValueError, match="leaves no patches after prefix_tokens=5"):
            refused()


@pytest.mark.parametrize("kind", POOLS)
def test_pools_want_two_or_three_axes(kind):
    for x in (torch.ones(8), torch.ones(2, 3, 16, 8)):
        with pytest.raises(ValueError, match=r"unpack .*: x is \(.*8,?\); expected \(batch, tokens, in_dim\)"):
            build(kind)(x)


@pytest.mark.parametrize("kind", TYPES)
def test_an_empty_batch(kind):
    """B126: a text-only batch: every gradient exists and is exactly zero."""
    adapter = build(kind)
    y = adapter(torch.empty(0, 16, 8))
    assert y.shape == (0, adapter.output_num_tokens(16), 5)
    y.sum().backward()
    assert all(bool((p.grad == 0).all()) for p in adapter.parameters())


@pytest.mark.parametrize("kind", TYPES)
def test_twice_differentiable(kind):
    adapter = build(kind)
    x = features().requires_grad_()
    found = torch.autograd.grad(adapter(x).square().sum(), x, create_graph=True)[0]
    found.square().sum().backward()
    wide = [p.detach().double().requires_grad_() for p in adapter.parameters()]
    wide_x = x.detach().double().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        want = expected(tt.AdapterConfig(type=kind, pool_heads=4), wide, wide_x)
    torch.autograd.grad(want.square().sum(), wide_x, create_graph=True)[0].square().sum().backward()
    agree(x.grad, wide_x.grad, 1e-4)
    for parameter, wanted in zip(adapter.parameters(), wide, strict=True):
        agree(parameter.grad, torch.zeros_like(wanted) if wanted.grad is None else wanted.grad, 1e-4)


@pytest.mark.parametrize("kind", TYPES)
def test_same_bits_for_any_number_of_threads(kind):
    adapter = build(kind, 96, 40)
    x = features(3, 64, 96)
    found = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            adapter.zero_grad()
            y = adapter(x)
            y.sum().backward()
            found.append([y.detach(), *(p.grad.clone() for p in adapter.parameters())])
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))

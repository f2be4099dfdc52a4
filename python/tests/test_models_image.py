# SPDX-License-Identifier: MIT
"""Connectors with attention over images, maps and arranged rows, beside the classes of transformers that they are."""

import numpy as np
import pytest
from others import other

import tenon

torch, transformers = other("torch"), other("transformers")


def relative(found, exact):
    """The worst row's error."""
    scale = np.linalg.norm(exact, axis=-1)
    return (np.linalg.norm(found - exact, axis=-1) / np.where(scale > 0, scale, 1)).max()


def randomise(module, seed):
    """Weights of the module's own scale, norms and latents beside their constants."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        constant = 1 if "norm" in name or name.endswith("latents") else 0
        scale = 0.3 if parameter.ndim < 2 or constant else 1 / np.sqrt(parameter.shape[-1])
        parameter.data = constant + scale * drawn
    return module


def module_gradients(module, run, x, dy):
    """Tokens and, by name, gradients of sum(tokens * dy), in the module's dtype."""
    dtype = next(module.parameters()).dtype
    leaf = torch.tensor(x, dtype=dtype, requires_grad=True)
    y = run(module, leaf)
    names, parameters = zip(*module.named_parameters(), strict=True)
    if dy is None:
        return y.detach().numpy().astype(np.float64), None
    found = torch.autograd.grad((y * torch.tensor(dy, dtype=dtype)).sum(), [leaf, *parameters], allow_unused=True)
    numbers = [np.zeros(1) if g is None else g.numpy().astype(np.float64) for g in found]
    return y.detach().numpy().astype(np.float64), dict(zip(["x", *names], numbers, strict=True))


def judge(config, in_dim, out_dim, module, run, x, **call):
    """Tokens and gradients of tenon beside those of the module, which `run` calls, in float64."""
    adapter = tenon.build_adapter(config, in_dim, out_dim)
    names = [name for name, *_ in adapter.parameters()]
    state = {name: value.numpy() for name, value in module.state_dict().items()}
    assert sorted(names) == sorted(state)
    for name in names:
        adapter.set_parameter(name, np.ascontiguousarray(state[name]))
    tokens = np.asarray(adapter(x, **call))
    dy = np.random.default_rng(3).standard_normal(tokens.shape).astype(np.float32)
    theirs, _ = module_gradients(module.float(), run, x, None)
    exact, gradients = module_gradients(module.double(), run, x, dy)
    assert tokens.shape == exact.shape
    assert relative(tokens, exact) <= max(1e-6, 1.25 * relative(theirs, exact))

    adapter.prepare(train=True)
    ours = [np.zeros(shape, np.float32) for _, _, shape, _ in adapter.parameters()]
    dx = np.full(x.shape, np.nan, np.float32)
    masks = [call.get(name) for name in ("pool_window", "grid", "patch_mask", "frame_mask")]
    adapter.backward(dy, x, dx, ours, *masks)
    largest = max(np.linalg.norm(g) for g in gradients.values())
    for name, found in zip(["x", *names], [dx, *ours], strict=True):
        scale = max(np.linalg.norm(gradients[name]), 1e-3 * largest)
        assert np.linalg.norm(found - gradients[name]) <= 1e-5 * scale, name


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("heads, key_heads, depth", [(4, 2, 2), (3, 1, 1)])
def test_idefics2(masked, heads, key_heads, depth):
    width, hidden, dim, latents = 24, 40, 5, 7
    models = transformers.models.idefics2
    config = models.Idefics2Config(
        text_config={"hidden_size": width, "intermediate_size": hidden, "num_attention_heads": 4, "num_key_value_heads": 4},
        vision_config={"hidden_size": 16, "num_attention_heads": 4},
        perceiver_config={
            "hidden_size": width,
            "resampler_n_latents": latents,
            "resampler_depth": depth,
            "resampler_n_heads": heads,
            "resampler_head_dim": dim,
            "num_key_value_heads": key_heads,
            "attn_implementation": "eager",
        },
    )
    module = randomise(models.modeling_idefics2.Idefics2Connector(config), 1)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((3, 20, 16)).astype(np.float32)
    mask = rng.random((3, 20)) < 0.6 if masked else None

    def run(module, features):
        given = torch.ones(features.shape[:2], dtype=torch.bool) if mask is None else torch.tensor(mask)
        return module(features, given)

    judge(
        {
            "type": "idefics2",
            "hidden_dim": hidden,
            "resampler_n_latents": latents,
            "resampler_depth": depth,
            "resampler_n_heads": heads,
            "resampler_head_dim": dim,
            "num_key_value_heads": key_heads,
        },
        16,
        width,
        module,
        run,
        x,
        patch_mask=mask,
    )

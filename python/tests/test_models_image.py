# SPDX-License-Identifier: MIT
"""Connectors with attention over images, maps and arranged rows, beside the classes of transformers that they are."""

import numpy as np
import pytest

import tenon

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


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
    if dy is None:
        return y.detach().numpy().astype(np.float64), None
    names, parameters = zip(*module.named_parameters(), strict=True)
    found = torch.autograd.grad((y * torch.tensor(dy, dtype=dtype)).sum(), [leaf, *parameters], allow_unused=True)
    numbers = [np.zeros(1) if g is None else g.numpy().astype(np.float64) for g in found]
    return y.detach().numpy().astype(np.float64), dict(zip(["x", *names], numbers, strict=True))


def judge(config, in_dim, out_dim, module, run, x, names=None, rows=None, gradients=True, **call):
    """Tokens and gradients of tenon beside those of the module, which `run` calls, in float64. `names` maps the module's
    names to ours; of our tokens, `rows` are the original's, the others are zero."""
    adapter = tenon.build_adapter(config, in_dim, out_dim)
    ours = [name for name, *_ in adapter.parameters()]
    state = {(names or str)(name): value.numpy() for name, value in module.state_dict().items()}
    assert sorted(ours) == sorted(state)
    for name in ours:
        adapter.set_parameter(name, np.ascontiguousarray(state[name]))
    tokens = np.asarray(adapter(x, **call))
    rows = np.ones(tokens.shape[:-1], bool) if rows is None else rows
    theirs, _ = module_gradients(module.float(), run, x, None)
    dy = np.random.default_rng(3).standard_normal(theirs.shape).astype(np.float32)
    exact, slopes = module_gradients(module.double(), run, x, dy)
    assert tokens[rows].shape == exact.reshape(-1, out_dim).shape and not tokens[~rows].any()
    assert relative(tokens[rows], exact.reshape(-1, out_dim)) <= max(1e-6, 1.25 * relative(theirs, exact))
    if not gradients:
        return
    adapter.prepare(train=True)
    found = [np.zeros(shape, np.float32) for _, _, shape, _ in adapter.parameters()]
    dx = np.full(x.shape, np.nan, np.float32)
    dtokens = np.zeros(tokens.shape, np.float32)
    dtokens[rows] = dy.reshape(-1, out_dim)
    masks = [call.get(name) for name in ("pool_window", "grid", "patch_mask", "frame_mask")]
    adapter.backward(dtokens, x, dx, found, *masks, 0, None, False, call.get("grids"), call.get("inputs"))
    exact = {(names or str)(name): value for name, value in slopes.items()}
    largest = max(np.linalg.norm(g) for g in exact.values())
    for name, gradient in zip(["x", *ours], [dx, *found], strict=True):
        if name.endswith("k_proj.bias"):  # nothing depends on it
            assert np.linalg.norm(gradient - exact[name]) <= 1e-5 * largest
            continue
        scale = max(np.linalg.norm(exact[name]), 1e-3 * largest)
        assert np.linalg.norm(gradient - exact[name]) <= 1e-5 * scale, name


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


@pytest.mark.parametrize("heads, dim, columns, empty", [(4, 5, 4, False), (2, 9, 9, False), (4, 5, 4, True)])
def test_molmo2(heads, dim, columns, empty):
    models = transformers.models.molmo2
    config = models.configuration_molmo2.Molmo2AdapterConfig(
        vision_feature_layer=[-1, -2],
        hidden_size=heads * dim,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=dim,
        intermediate_size=40,
        text_hidden_size=24,
        attn_implementation="eager",
    )
    module = randomise(models.modeling_molmo2.Molmo2Adapter(config), 1)
    rng = np.random.default_rng(2)
    width = 2 * heads * dim
    x = rng.standard_normal((1, 30, width)).astype(np.float32)
    index = rng.integers(-1, 30, (17, columns))
    index[:, 0] = np.abs(index[:, 0])
    if empty:  # the original drops such a token, and its gradients are NaN
        index[5] = -1

    def run(module, features):
        return module(features, torch.tensor(index)).last_hidden_state

    config = {"type": "molmo2", "num_attention_heads": heads, "head_dim": dim, "hidden_dim": 40}
    rows = (index >= 0).any(-1)[None]
    judge(config, width, 24, module, run, x, rows=rows, gradients=not empty, inputs={"pooled_patches_idx": index})


class Arranged(torch.nn.Module):
    """The projector and the newline of a model, and what becomes of the features."""

    def __init__(self, model, images):
        super().__init__()
        self.multi_modal_projector = model.multi_modal_projector
        self.image_newline = model.image_newline
        self.model, self.images = [model], images

    def forward(self, features):
        rows = self.multi_modal_projector(features)
        return self.images(self.model[0], rows, self.image_newline)


def short(name):
    return name.removeprefix("multi_modal_projector.")


def small_model(kind, module, side, **more):
    models = getattr(transformers.models, kind)
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": side * 14,
        "patch_size": 14,
    }
    text = {
        "model_type": "llama",
        "hidden_size": 24,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 8,
    }
    config = getattr(models, f"{module}Config")(vision_config=vision, text_config=text, **more)
    return getattr(models, f"{module}Model")(config)


# pictures of many shapes, with the frames that their processors cut them into; the last is not cut
SIZES = [(30, 90), (200, 30), (84, 84), (40, 41), (127, 55), (50, 50)]


def frames_of(sizes, pinpoints, side):
    shape = transformers.models.llava_next.modeling_llava_next.get_anyres_image_grid_shape
    tiles = [1 + np.prod(shape(size, pinpoints, side * 14)) for size in sizes[:-1]] + [1]
    return np.array([(t, side, side) for t in tiles])


def judge_tiles(kind, module, pinpoints, side, pack, **options):
    model = small_model(kind, module, side, image_grid_pinpoints=pinpoints)
    frames = frames_of(SIZES, pinpoints, side)

    def arrange(model, rows, newline):
        parts = torch.split(rows.view(-1, side * side, rows.shape[-1]), frames[:, 0].tolist())
        return torch.cat(pack(model, parts, torch.tensor(SIZES), newline)[0])

    arranged = randomise(Arranged(model, arrange), 4)
    x = np.random.default_rng(5).standard_normal((frames.prod(-1).sum(), 16)).astype(np.float32)
    flat = [int(n) for pair in pinpoints for n in pair]
    config = {"type": kind, "image_size": side * 14, "image_grid_pinpoints": flat, **options}
    sizes = {"image_sizes": np.array(SIZES)}
    judge(config, 16, 24, arranged, lambda m, f: m(f), x, names=short, grids=frames, inputs=sizes)


def test_llava_next():
    pinpoints = [[42, 84], [84, 42], [84, 84], [126, 42], [42, 126]]
    judge_tiles("llava_next", "LlavaNext", pinpoints, 3, lambda m, p, s, n: m.pack_image_features(p, s, "default", n))


@pytest.mark.parametrize("most", [9, 2])
def test_llava_onevision(most):
    pinpoints = [[42 * a, 42 * b] for a in (1, 2, 3) for b in (1, 2, 3)]

    def pack(model, parts, sizes, newline):
        return model.pack_image_features(parts, sizes, newline, f"anyres_max_{most}")

    judge_tiles("llava_onevision", "LlavaOnevision", pinpoints, 3, pack, max_num_patches=most)


@pytest.mark.parametrize("side", [4, 5])
def test_llava_onevision_video(side):
    model = small_model("llava_onevision", "LlavaOnevision", side, image_grid_pinpoints=[[14, 14]])
    frames = np.array([(3, side, side), (2, side, side)])

    def arrange(model, rows, newline):
        clips = torch.split(rows.view(-1, side * side, rows.shape[-1]), frames[:, 0].tolist())
        small = [model.apply_pooling(clip).flatten(0, 1) for clip in clips]
        return torch.cat([part for clip in small for part in (clip, newline[None])])

    arranged = randomise(Arranged(model, arrange), 4)
    x = np.random.default_rng(5).standard_normal((frames.prod(-1).sum(), 16)).astype(np.float32)
    config = {"type": "llava_onevision", "video": True}
    judge(config, 16, 24, arranged, lambda m, f: m(f), x, names=short, grids=frames)

# SPDX-License-Identifier: MIT
"""Folders of public models: tiny ones are made with transformers, saved, opened by tenon and judged by the model's own
module. The worst token's relative error against float64 is at most max(1e-6, 1.25 x that of the module in float32)."""

import json
import shutil

import numpy as np
import pytest

import tenon

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def randomise(model, seed=0):
    """All parameters are drawn, norms and biases too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def worst(tokens, reference):
    """The largest relative error of a token."""
    tokens, reference = np.asarray(tokens, np.float64), np.asarray(reference, np.float64)
    difference = np.linalg.norm(tokens - reference, axis=-1)
    return (difference / np.maximum(np.linalg.norm(reference, axis=-1), 1e-30)).max()


def judge(tokens, project, features):
    """`project(dtype)` gives the tokens of the model's own module in that dtype."""
    del features
    reference = project(torch.float64)
    limit = max(1e-6, 1.25 * worst(project(torch.float32).double(), reference))
    assert tokens.shape == tuple(reference.shape)
    assert worst(tokens, reference) <= limit


def clip(**changes):
    settings = dict(hidden_size=32, intermediate_size=40, num_hidden_layers=4, num_attention_heads=4, image_size=28,
                    patch_size=7, projection_dim=32)
    return transformers.CLIPVisionConfig(**settings | changes)


def siglip(**changes):
    settings = dict(hidden_size=32, intermediate_size=40, num_hidden_layers=4, num_attention_heads=4, image_size=28,
                    patch_size=7, vision_use_head=False)
    return transformers.SiglipVisionConfig(**settings | changes)


def llama(**changes):
    settings = dict(hidden_size=48, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
                    num_key_value_heads=4, vocab_size=128)
    return transformers.LlamaConfig(**settings | changes)


def make_llava(**changes):
    settings = dict(vision_config=clip(), text_config=llama(), image_token_index=100)
    return transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(**settings | changes))


SAVES = {
    "single": {},
    "sharded": {"max_shard_size": "20KB"},
}


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"projector_hidden_act": "quick_gelu"},
        {"projector_hidden_act": "gelu_pytorch_tanh"},
        {"vision_feature_select_strategy": "full"},
        {"vision_feature_layer": [-2, 1, -1]},
    ],
    ids=["default", "quick", "tanh", "full", "layers"],
)
def test_llava_of_real_encoder_rows(tmp_path, changes, dtype, save):
    model = make_llava(**changes)
    randomise(model)
    model = model.to(dtype)
    model.save_pretrained(tmp_path, **SAVES[save])
    adapter = tenon.load(tmp_path)
    assert adapter.family == "llava"
    assert adapter.in_dim == 32 * len(np.atleast_1d(model.config.vision_feature_layer))
    assert adapter.out_dim == 48
    model = model.float()
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        layers = model.config.vision_feature_layer
        rows = torch.cat([states[i] for i in ([layers] if isinstance(layers, int) else layers)], -1)
        kept = rows[:, 1:] if model.config.vision_feature_select_strategy == "default" else rows

        def project(kind):
            return model.model.multi_modal_projector.to(kind)(kept.to(kind))

        judge(adapter(rows.numpy(), ) if dtype is torch.float32 else forward32(adapter, rows), project, rows)


def forward32(adapter, rows):
    """Tokens in float32 of parameters in bfloat16."""
    return adapter(rows.float().numpy())


def test_paligemma(tmp_path):
    text = transformers.GemmaConfig(hidden_size=48, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
                                    num_key_value_heads=1, head_dim=12, vocab_size=128)
    config = transformers.PaliGemmaConfig(vision_config=siglip(), text_config=text, projection_dim=48)
    model = transformers.PaliGemmaForConditionalGeneration(config)
    randomise(model)
    model.save_pretrained(tmp_path)
    adapter = tenon.load(tmp_path)
    assert (adapter.family, adapter.config.type) == ("paligemma", "linear")
    rows = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        judge(adapter(rows.numpy()), lambda kind: model.model.multi_modal_projector.to(kind)(rows.to(kind)), rows)


def test_the_prefix_of_newer_layouts(tmp_path):
    """Names with `model.` in front, a file and an index named alone, wrappers in between."""
    model = make_llava()
    model.save_pretrained(tmp_path / "plain")
    expected = tenon.load(tmp_path / "plain").state_dict()
    from safetensors.torch import load_file, save_file

    tensors = load_file(tmp_path / "plain" / "model.safetensors")
    for prefix in ("model.", "module.", "model._orig_mod.", "thinker.", "base_model.model."):
        folder = tmp_path / prefix.replace(".", "_")
        folder.mkdir()
        shutil.copy(tmp_path / "plain" / "config.json", folder)
        save_file({prefix + name: tensor for name, tensor in tensors.items()}, folder / "weights.safetensors")
        for path in (folder, folder / "weights.safetensors"):
            found = tenon.load(path).state_dict()
            assert all((found[name] == expected[name]).all() for name in expected)


def test_only_the_bytes_of_the_connector_are_read(tmp_path):
    """A file whose other tensors are a hole of 40 GB opens at once."""
    import os
    import struct

    model = make_llava()
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    start = len(data) - 8 - length
    header["language_model.huge.weight"] = {"dtype": "BF16", "shape": [20 << 30], "data_offsets": [start, start + (40 << 30)]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    os.truncate(path, 8 + len(text) + start + (40 << 30))
    adapter = tenon.load(path)
    assert adapter.family == "llava"

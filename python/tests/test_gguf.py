# SPDX-License-Identifier: MIT
"""llama.cpp's mmproj files against the models' own modules, which hold the weights as the package gguf decodes them."""
import gguf
import numpy as np
import pytest
import torch
import transformers
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

import tenon
from test_families import clip, judge, llama, randomise

KINDS = gguf.GGMLQuantizationType


def write(path, module, names, keys, kind):
    """The module's parameters under llama.cpp's names, matrices in this type, and back in the module as they are decoded."""
    writer = gguf.GGUFWriter(path, "clip")
    for method, key, value in keys:
        getattr(writer, f"add_{method}")(key, value)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            theirs = KINDS[kind] if parameter.ndim == 2 else KINDS.F32
            data = gguf.quants.quantize(parameter.numpy(), theirs)
            writer.add_tensor(names(name), data, raw_dtype=theirs)
            parameter.copy_(torch.from_numpy(gguf.quants.dequantize(data, theirs)).reshape(parameter.shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q4_0"])
def test_llava(tmp_path, kind):
    path = tmp_path / "mmproj.gguf"
    for activation, theirs in ((None, "gelu_pytorch_tanh"), ("gelu", "gelu")):
        config = transformers.LlavaConfig(vision_config=clip(), text_config=llama(hidden_size=64),
                                          projector_hidden_act=theirs)
        module = LlavaMultiModalProjector(config)
        randomise(module)
        keys = [("string", "clip.projector_type", "mlp"), ("uint32", "clip.vision.embedding_length", 32)]
        write(path, module, lambda name: name.replace("linear_1", "mm.0").replace("linear_2", "mm.2"), keys, kind)
        adapter = tenon.load(path, activation=activation)
        assert (adapter.family, adapter.in_dim, adapter.out_dim) == ("gguf_mlp", 32, 64)
        rows = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            judge(np.asarray(adapter(rows.numpy())), lambda dtype: module.to(dtype)(rows.to(dtype)))


def test_an_activation_that_does_not_exist(tmp_path):
    path = tmp_path / "mmproj.gguf"
    config = transformers.LlavaConfig(vision_config=clip(), text_config=llama())
    write(path, LlavaMultiModalProjector(config),
          lambda name: name.replace("linear_1", "mm.0").replace("linear_2", "mm.2"),
          [("string", "clip.projector_type", "mlp")], "F32")
    with pytest.raises(ValueError, match="gelux"):
        tenon.load(path, activation="gelux")


# ---- the other projector types ----


def rename(pairs):
    """A function that puts llama.cpp's names in place of the module's, of several beginnings the longest."""

    def name(own):
        for ours, theirs in sorted(pairs.items(), key=lambda pair: -len(pair[0])):
            if own.startswith(ours + "."):
                return theirs + own[len(ours):]
        raise AssertionError(own)

    return name


def with_activation(module, activation):
    """The module with GELU in its tanh form, unless gelu is asked for."""
    if activation is None:
        for path, part in list(module.named_modules()):
            if isinstance(part, (torch.nn.GELU, transformers.activations.GELUActivation)):
                parent = module.get_submodule(path.rpartition(".")[0]) if "." in path else module
                setattr(parent, path.rpartition(".")[2], torch.nn.GELU(approximate="tanh"))
    return module


def shuffle(rows, side):
    """Images of (h w) rows in raster order as rows of side x side patches: (dy, dx, channel)."""
    images, count, width = rows.shape
    grid = int(count**0.5)
    blocks = rows.reshape(images, grid // side, side, grid // side, side, width).permute(0, 1, 3, 2, 4, 5)
    return blocks.reshape(images, count // side**2, side * side * width)


def qwen2vl():
    from transformers.models.qwen2_vl.modeling_qwen2_vl import PatchMerger

    module = PatchMerger(64, 32, 2)
    names = {"ln_q": "v.post_ln", "mlp.0": "mm.0", "mlp.2": "mm.2"}
    keys = [("float32", "clip.vision.attention.layer_norm_epsilon", 1e-6)]
    return "qwen2vl_merger", module, names, keys, lambda rows: module(rows.reshape(-1, 32)).reshape(2, -1, 64)


def qwen25vl():
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLPatchMerger

    module = Qwen2_5_VLPatchMerger(64, 32, 2)
    names = {"ln_q": "v.post_ln", "mlp.0": "mm.0", "mlp.2": "mm.2"}
    keys = [("uint32", "clip.vision.spatial_merge_size", 2)]
    return "qwen2.5vl_merger", module, names, keys, lambda rows: module(rows.reshape(-1, 32)).reshape(2, -1, 64)


def internvl():
    from transformers.models.internvl.modeling_internvl import InternVLMultiModalProjector

    config = transformers.InternVLConfig(
        vision_config=transformers.InternVLVisionConfig(hidden_size=32),
        text_config=transformers.Qwen2Config(hidden_size=64, num_attention_heads=4, num_key_value_heads=4))
    module = InternVLMultiModalProjector(config)
    names = {"layer_norm": "mm.model.mlp.0", "linear_1": "mm.model.mlp.1", "linear_2": "mm.model.mlp.3"}
    keys = [("uint32", "clip.vision.projector.scale_factor", 2)]
    return "internvl", module, names, keys, lambda rows: module(shuffle(rows, 2))


def idefics3():
    from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector

    config = transformers.Idefics3Config(
        vision_config=dict(hidden_size=32), scale_factor=4,
        text_config=dict(model_type="llama", hidden_size=64, num_attention_heads=4))
    module = Idefics3Connector(config)
    keys = [("uint32", "clip.vision.projector.scale_factor", 4)]
    return "idefics3", module, {"modality_projection.proj": "mm.model.fc"}, keys, module


def llama4():
    from transformers.models.llama4.modeling_llama4 import Llama4MultiModalProjector, Llama4VisionPixelShuffleMLP

    vision = transformers.Llama4VisionConfig(hidden_size=32, intermediate_size=128, projector_input_dim=96,
                                             projector_output_dim=96, vision_output_dim=96, pixel_shuffle_ratio=0.5)
    config = transformers.Llama4Config(vision_config=vision, text_config=transformers.Llama4TextConfig(hidden_size=64))
    module = torch.nn.Sequential(Llama4VisionPixelShuffleMLP(vision), Llama4MultiModalProjector(config))
    names = {"0.mlp.fc1": "mm.model.mlp.1", "0.mlp.fc2": "mm.model.mlp.2", "1.linear_1": "mm.model.fc"}
    return "llama4", module, names, [("uint32", "clip.vision.projector.scale_factor", 2)], module


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0"])
@pytest.mark.parametrize("activation", [None, "gelu"])
@pytest.mark.parametrize("case", [qwen2vl, qwen25vl, internvl, idefics3, llama4])
def test_projectors(tmp_path, case, activation, kind):
    projector, module, names, keys, project = case()
    if projector == "idefics3" and activation is not None:
        pytest.skip("it has no activation")
    randomise(module)
    path = tmp_path / "mmproj.gguf"
    keys = [("string", "clip.projector_type", projector), ("uint32", "clip.vision.embedding_length", 32), *keys]
    write(path, module, rename(names), keys, kind)
    adapter = tenon.load(path, activation=activation)
    assert (adapter.in_dim, adapter.out_dim) == (32, 64)
    with_activation(module, activation)
    rows = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(1))

    def reference(dtype):
        module.to(dtype)
        return project(rows.to(dtype))

    with torch.no_grad():
        judge(np.asarray(adapter(rows.numpy(), dtype="float32")), reference)

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
            judge(np.asarray(adapter(rows.numpy())), lambda dtype: module.to(dtype)(rows.to(dtype)), rows)


def test_an_activation_that_does_not_exist(tmp_path):
    path = tmp_path / "mmproj.gguf"
    config = transformers.LlavaConfig(vision_config=clip(), text_config=llama())
    write(path, LlavaMultiModalProjector(config),
          lambda name: name.replace("linear_1", "mm.0").replace("linear_2", "mm.2"),
          [("string", "clip.projector_type", "mlp")], "F32")
    with pytest.raises(ValueError, match="gelux"):
        tenon.load(path, activation="gelux")

# SPDX-License-Identifier: MIT
"""Folders of public models: tiny ones are made with transformers, saved, opened by tenon and judged by the model's own
code from the rows that its encoder delivers. The worst token's relative error against float64 is at most
max(1e-6, 1.25 x that of the model's code in float32)."""

import inspect
import json
import os
import random
import shutil
import struct

import numpy as np
import pytest

import tenon
import tenon.convert

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ROWS = torch.Generator().manual_seed(1)


def randomise(model, seed=0):
    """All parameters are drawn, norms and biases too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def worst(tokens, reference):
    """The largest relative error of a token."""
    tokens, reference = np.asarray(tokens, np.float64), np.asarray(reference, np.float64)
    difference = np.linalg.norm(tokens - reference, axis=-1)
    return (difference / np.maximum(np.linalg.norm(reference, axis=-1), 1e-30)).max()


def judge(tokens, project):
    """`project(dtype)` gives the tokens of the model's own code in that dtype."""
    with torch.no_grad():
        reference = project(torch.float64)
        own = worst(project(torch.float32).double(), reference)
    assert tokens.shape == tuple(reference.shape)
    assert worst(tokens, reference) <= max(1e-6, 1.25 * own)


class Tower(torch.nn.Module):
    """Stands for an encoder: delivers the given states, the last of them as last_hidden_state too."""

    patch_size = 1

    def __init__(self, *states):
        super().__init__()
        self.states = states
        self.kind = torch.float32

    def forward(self, *args, **kwargs):
        states = [state.to(self.kind) for state in self.states]
        return transformers.modeling_outputs.BaseModelOutputWithPooling(
            last_hidden_state=states[-1], hidden_states=tuple(states)
        )


def image_features(model, tower, *states, pixels=(2, 3, 28, 28), **options):
    """The tokens that the model's own get_image_features makes of these states, as a function of the dtype."""
    stub = Tower(*states)
    setattr(model.model, tower, stub)

    def project(kind):
        stub.kind = kind
        model.to(kind)
        found = model.model.get_image_features(pixel_values=torch.zeros(pixels, dtype=kind), **options).pooler_output
        found = torch.cat(list(found)) if isinstance(found, (list, tuple)) else found
        return found.reshape(states[-1].shape[0], -1, found.shape[-1])

    return project


def rows(*shape):
    return torch.randn(shape, generator=ROWS)


def clip(**changes):
    settings = dict(hidden_size=32, intermediate_size=40, num_hidden_layers=4, num_attention_heads=4, image_size=28,
                    patch_size=7, projection_dim=32)
    return transformers.CLIPVisionConfig(**settings | changes)


def siglip(**changes):
    settings = dict(hidden_size=32, intermediate_size=40, num_hidden_layers=4, num_attention_heads=4, image_size=28,
                    patch_size=7, vision_use_head=False)
    return transformers.SiglipVisionConfig(**settings | changes)


def text(kind, **changes):
    settings = dict(hidden_size=48, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
                    num_key_value_heads=2, head_dim=12, vocab_size=128)
    return kind(**settings | changes)


def llama(**changes):
    return text(transformers.LlamaConfig, **changes)


def make_llava(**changes):
    settings = dict(vision_config=clip(), text_config=llama(), image_token_index=100)
    return transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(**settings | changes))


# ---- LLaVA, from the real encoder ----

SAVES = {"single": {}, "sharded": {"max_shard_size": "20KB"}}
LLAVAS = {
    "default": {},
    "quick": {"projector_hidden_act": "quick_gelu"},
    "tanh": {"projector_hidden_act": "gelu_pytorch_tanh"},
    "full": {"vision_feature_select_strategy": "full"},
    "layers": {"vision_feature_layer": [-2, 1, -1]},
    "no bias": {"multimodal_projector_bias": False},
}


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("changes", LLAVAS)
def test_llava_from_the_real_encoder(tmp_path, changes, dtype, save):
    model = make_llava(**LLAVAS[changes])
    randomise(model)
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(tmp_path, **SAVES[save])
    adapter = tenon.load(tmp_path)
    assert adapter.family == "llava"
    assert adapter.in_dim == 32 * len(np.atleast_1d(model.config.vision_feature_layer))
    model = model.float()
    with torch.no_grad():
        states = model.model.vision_tower(rows(2, 3, 28, 28), output_hidden_states=True).hidden_states
    layers = model.config.vision_feature_layer
    features = torch.cat([states[i] for i in ([layers] if isinstance(layers, int) else layers)], -1)
    judge(adapter(features.numpy()), image_features(model, "vision_tower", *states))


# ---- each family by its own code ----


def pixtral():
    tower = transformers.PixtralVisionConfig(hidden_size=32, intermediate_size=40, num_hidden_layers=2,
                                             num_attention_heads=4, image_size=28, patch_size=7)
    model = make_llava(vision_config=tower, vision_feature_layer=-1, vision_feature_select_strategy="full")
    states = rows(2, 20, 32)
    return model, "pixtral", states, image_features(model, "vision_tower", states), None


def video_llava():
    config = transformers.VideoLlavaConfig(vision_config=clip(), text_config=llama())
    model = transformers.VideoLlavaForConditionalGeneration(config)
    states = [rows(2, 17, 32) for _ in range(5)]
    return model, "video_llava", states[-2], image_features(model, "image_tower", *states), None


def vip_llava():
    config = transformers.VipLlavaConfig(vision_config=clip(), text_config=llama(), vision_feature_layer=[-2, -4, 1],
                                         projector_layernorm_eps=1e-3)
    model = transformers.VipLlavaForConditionalGeneration(config)
    states = [rows(2, 17, 32) for _ in range(5)]
    features = torch.cat([states[-2], states[-4], states[1]], -1)
    return model, "vip_llava", features, image_features(model, "vision_tower", *states), None


def fast_vlm():
    """Its own encoder needs timm; the connector sees a map."""
    config = transformers.FastVlmConfig(vision_config=clip(), text_config=text(transformers.Qwen2Config))
    model = transformers.FastVlmForConditionalGeneration(config)
    maps = rows(2, 32, 3, 5)
    features = maps.flatten(2).transpose(1, 2).contiguous()
    return model, "fast_vlm", features, image_features(model, "vision_tower", maps), None


def paligemma():
    config = transformers.PaliGemmaConfig(vision_config=siglip(), projection_dim=48,
                                          text_config=text(transformers.GemmaConfig, num_key_value_heads=1))
    model = transformers.PaliGemmaForConditionalGeneration(config)
    states = rows(2, 16, 32)
    return model, "paligemma", states, image_features(model, "vision_tower", states), None


def janus(depth=2):
    tower = transformers.JanusVisionConfig(hidden_size=32, projection_dim=48, depth=depth, num_hidden_layers=2,
                                           num_attention_heads=4, image_size=32, patch_size=8)
    vq = transformers.JanusVQVAEConfig(base_channels=32, channel_multiplier=[1, 1], num_embeddings=16,
                                       latent_channels=32, projection_dim=48, image_token_embed_dim=48)
    config = transformers.JanusConfig(vision_config=tower, text_config=llama(), vq_config=vq)
    model = transformers.JanusForConditionalGeneration(config)
    states = rows(2, 16, 32)
    return model, "janus", states, image_features(model, "vision_model", states), None


def janus_deeper():
    return janus(depth=3)


def deepseek_vl():
    config = transformers.DeepseekVLConfig(vision_config=siglip(), text_config=llama())
    model = transformers.DeepseekVLForConditionalGeneration(config)
    states = rows(2, 16, 32)
    return model, "deepseek_vl", states, image_features(model, "vision_model", states), None


def mllama():
    tower = transformers.models.mllama.MllamaVisionConfig(
        hidden_size=16, intermediate_size=20, num_hidden_layers=4, num_global_layers=1, attention_heads=4,
        image_size=28, patch_size=14, vision_output_dim=48, intermediate_layers_indices=[0, 2])
    words = transformers.models.mllama.MllamaTextConfig(
        hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=128, cross_attention_layers=[1], pad_token_id=0)
    model = transformers.MllamaForConditionalGeneration(transformers.MllamaConfig(vision_config=tower, text_config=words))
    features = rows(2, 5, 48)
    linear = model.model.multi_modal_projector
    return model, "mllama", features, lambda kind: linear.to(kind)(features.to(kind)), None


def fuyu():
    config = transformers.FuyuConfig(patch_size=4, num_channels=3, hidden_size=48,
                                     text_config={"model_type": "persimmon", "hidden_size": 48, "vocab_size": 128,
                                                  "intermediate_size": 64, "num_hidden_layers": 1,
                                                  "num_attention_heads": 4})
    model = transformers.FuyuForCausalLM(config)
    linear = model.model.vision_embed_tokens
    features = rows(2, 6, 48)
    return model, "fuyu", features, lambda kind: linear.to(kind)(features.to(kind)), None


def find(model, path):
    """The module at the end of a path."""
    return next(module for name, module in model.named_modules() if name.endswith(path))


def merger(model, module, features):
    """A merger takes all rows behind each other."""

    def project(kind):
        tokens = module.to(kind)(features.to(kind).reshape(-1, features.shape[-1]))
        return tokens.reshape(features.shape[0], -1, tokens.shape[-1])

    return project


def qwen2_vl():
    config = transformers.Qwen2VLConfig(
        text_config=dict(hidden_size=48, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
                         num_key_value_heads=2, vocab_size=128),
        vision_config=dict(depth=1, embed_dim=32, hidden_size=48, num_heads=4, patch_size=4, mlp_ratio=2))
    model = transformers.Qwen2VLForConditionalGeneration(config)
    features = rows(2, 24, 32)
    return model, "qwen2_vl", features, merger(model, model.model.visual.merger, features), (4, 6)


def qwen2_5_vision():
    return dict(depth=1, hidden_size=32, out_hidden_size=48, intermediate_size=40, num_heads=4, patch_size=4,
                fullatt_block_indexes=[0])


def qwen2_5_vl():
    config = transformers.Qwen2_5_VLConfig(
        text_config=dict(hidden_size=48, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
                         num_key_value_heads=2, vocab_size=128),
        vision_config=qwen2_5_vision())
    model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    features = rows(2, 24, 32)
    return model, "qwen2_5_vl", features, merger(model, model.model.visual.merger, features), (4, 6)


def qwen2_5_omni_thinker():
    config = transformers.models.qwen2_5_omni.Qwen2_5OmniThinkerConfig(
        text_config=dict(hidden_size=48, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
                         num_key_value_heads=2, vocab_size=128),
        audio_config=dict(d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16, output_dim=48),
        vision_config=qwen2_5_vision())
    model = transformers.Qwen2_5OmniThinkerForConditionalGeneration(config)
    features = rows(2, 24, 32)
    return model, "qwen2_5_vl", features, merger(model, find(model, "visual.merger"), features), (4, 6)


def qwen3_vl(**changes):
    config = transformers.Qwen3VLConfig(
        text_config=dict(hidden_size=48, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
                         num_key_value_heads=2, head_dim=12, vocab_size=128),
        vision_config=dict(depth=2, hidden_size=32, out_hidden_size=48, intermediate_size=40, num_heads=4, patch_size=4,
                           num_position_embeddings=16, deepstack_visual_indexes=[]) | changes)
    model = transformers.Qwen3VLForConditionalGeneration(config)
    features = rows(2, 24, 32)
    return model, "qwen3_vl", features, merger(model, model.model.visual.merger, features), (4, 6)


def qwen3_omni_thinker():
    from transformers.models import qwen3_omni_moe

    words = dict(hidden_size=48, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
                 num_key_value_heads=2, head_dim=12, vocab_size=128, num_experts=2, num_experts_per_tok=1,
                 moe_intermediate_size=16)
    audio = dict(d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16, output_dim=48,
                 num_mel_bins=16, downsample_hidden_size=8)
    config = qwen3_omni_moe.Qwen3OmniMoeThinkerConfig(
        text_config=words, audio_config=audio,
        vision_config=dict(depth=2, hidden_size=32, out_hidden_size=48, intermediate_size=40, num_heads=4, patch_size=4,
                           num_position_embeddings=16, deepstack_visual_indexes=[]))
    model = qwen3_omni_moe.Qwen3OmniMoeThinkerForConditionalGeneration(config)
    features = rows(2, 24, 32)
    return model, "qwen3_omni", features, merger(model, find(model, "visual.merger"), features), (4, 6)


def qwen3_5():
    config = transformers.Qwen3_5Config(
        text_config=dict(hidden_size=48, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
                         num_key_value_heads=2, head_dim=12, vocab_size=128, layer_types=["full_attention"]),
        vision_config=dict(depth=1, hidden_size=32, out_hidden_size=48, intermediate_size=40, num_heads=4, patch_size=4,
                           num_position_embeddings=16))
    model = transformers.Qwen3_5ForConditionalGeneration(config)
    features = rows(2, 24, 32)
    return model, "qwen3_5", features, merger(model, find(model, "visual.merger"), features), (4, 6)


def gemma3():
    config = transformers.Gemma3Config(vision_config=siglip(layer_norm_eps=1e-4), mm_tokens_per_image=4,
                                       text_config=text(transformers.Gemma3TextConfig))
    model = transformers.Gemma3ForConditionalGeneration(config)
    states = rows(2, 16, 32)
    return model, "gemma3", states, image_features(model, "vision_tower", states), None


def internvl():
    tower = transformers.InternVLVisionConfig(hidden_size=32, intermediate_size=40, num_hidden_layers=1,
                                              num_attention_heads=4, image_size=28, patch_size=7)
    config = transformers.InternVLConfig(vision_config=tower, text_config=text(transformers.Qwen2Config))
    model = transformers.InternVLForConditionalGeneration(config)
    states = rows(2, 17, 32)
    return model, "internvl", states, image_features(model, "vision_tower", states), None


def idefics2():
    tower = dict(hidden_size=32, intermediate_size=40, num_hidden_layers=1, num_attention_heads=4, image_size=36,
                 patch_size=6)
    perceiver = dict(hidden_size=48, resampler_n_latents=5, resampler_depth=2, resampler_n_heads=4, resampler_head_dim=10,
                     num_key_value_heads=2, rms_norm_eps=1e-3)
    words = text(transformers.MistralConfig, hidden_act="gelu")
    config = transformers.Idefics2Config(vision_config=tower, text_config=words, perceiver_config=perceiver)
    model = transformers.Idefics2ForConditionalGeneration(config)
    features = rows(2, 35, 32)
    module, present = model.model.connector, torch.ones(2, 35, dtype=torch.bool)
    return model, "idefics2", features, lambda kind: module.to(kind)(features.to(kind), present), None


def idefics3():
    tower = dict(hidden_size=32, intermediate_size=40, num_hidden_layers=1, num_attention_heads=4, image_size=36,
                 patch_size=6)
    config = transformers.Idefics3Config(vision_config=tower, text_config=llama(), scale_factor=3)
    model = transformers.Idefics3ForConditionalGeneration(config)
    features = rows(2, 36, 32)
    module = model.model.connector
    return model, "idefics3", features, lambda kind: module.to(kind)(features.to(kind)), None


def smolvlm():
    tower = dict(hidden_size=32, intermediate_size=40, num_hidden_layers=1, num_attention_heads=4, image_size=32,
                 patch_size=8)
    config = transformers.SmolVLMConfig(vision_config=tower, text_config=llama(), scale_factor=2)
    model = transformers.SmolVLMForConditionalGeneration(config)
    features = rows(2, 16, 32)
    module = model.model.connector
    return model, "idefics3", features, lambda kind: module.to(kind)(features.to(kind)), None


def mistral3():
    tower = transformers.PixtralVisionConfig(hidden_size=32, intermediate_size=40, num_hidden_layers=1,
                                             num_attention_heads=4, image_size=28, patch_size=7)
    config = transformers.Mistral3Config(vision_config=tower, spatial_merge_size=2,
                                         text_config=text(transformers.MistralConfig, rms_norm_eps=1e-3))
    model = transformers.Mistral3ForConditionalGeneration(config)
    features = rows(1, 5 * 7, 32)
    module = model.model.multi_modal_projector

    def project(kind):
        return module.to(kind)(features[0].to(kind), [(5 * 7, 7 * 7)])[None]

    return model, "mistral3", features, project, (5, 7)


def lighton_ocr():
    tower = transformers.PixtralVisionConfig(hidden_size=32, intermediate_size=40, num_hidden_layers=1,
                                             num_attention_heads=4, image_size=28, patch_size=7)
    config = transformers.LightOnOcrConfig(vision_config=tower, text_config=text(transformers.Qwen3Config))
    model = transformers.LightOnOcrForConditionalGeneration(config)
    features = rows(1, 6 * 4, 32)
    module = model.model.vision_projection

    def project(kind):
        return module.to(kind)(features[0].to(kind), [(6 * 7, 4 * 7)])[None]

    return model, "lighton_ocr", features, project, (6, 4)


def aya_vision(**changes):
    config = transformers.AyaVisionConfig(vision_config=siglip(), adapter_layer_norm_eps=1e-3,
                                          text_config=text(transformers.Cohere2Config), **changes)
    model = transformers.AyaVisionForConditionalGeneration(config)
    states = rows(2, 16, 32)
    return model, "aya_vision", states, image_features(model, "vision_tower", states), None


def aya_vision_wider():
    return aya_vision(alignment_intermediate_size=96)


def llama4():
    tower = dict(hidden_size=16, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, image_size=28,
                 patch_size=7, vision_output_dim=40, projector_input_dim=40, projector_output_dim=40)
    words = dict(hidden_size=48, intermediate_size=64, intermediate_size_mlp=64, num_hidden_layers=1,
                 num_attention_heads=4, num_key_value_heads=2, head_dim=12, vocab_size=128, num_local_experts=2)
    model = transformers.Llama4ForConditionalGeneration(transformers.Llama4Config(vision_config=tower, text_config=words))
    features = rows(2, 16, 16)
    first, second = model.vision_model.vision_adapter, model.multi_modal_projector
    return model, "llama4", features, lambda kind: second.to(kind)(first.to(kind)(features.to(kind))), None


CASES = [pixtral, video_llava, vip_llava, fast_vlm, paligemma, janus, janus_deeper, deepseek_vl, mllama, fuyu, qwen2_vl,
         qwen2_5_vl, qwen2_5_omni_thinker, qwen3_vl, qwen3_omni_thinker, qwen3_5,
         gemma3, internvl, idefics2, idefics3, smolvlm, mistral3, lighton_ocr,
         aya_vision, aya_vision_wider, llama4]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_family_by_its_own_code(tmp_path, case, dtype):
    model, family, features, project, grid = case()
    randomise(model)
    model.to(getattr(torch, dtype)).save_pretrained(tmp_path)
    adapter = tenon.load(tmp_path)
    assert adapter.family == family and adapter.feeding.startswith("features: ")
    model.float()
    judge(adapter(features.numpy(), grid=grid), project)


# ---- tiles ----


TILED = ["llava_next", "llava_onevision"]


@pytest.mark.parametrize("family", TILED)
def test_tiles(tmp_path, family):
    pinpoints, sizes = [[28, 56], [56, 28], [56, 56], [84, 28]], [[40, 70], [90, 20], [28, 28]]
    part = getattr(transformers.models, family)
    name = {"llava_next": "LlavaNext", "llava_onevision": "LlavaOnevision"}[family]
    config = getattr(transformers, f"{name}Config")(
        vision_config=clip() if family == "llava_next" else siglip(), text_config=llama(), image_grid_pinpoints=pinpoints)
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    randomise(model)
    model.save_pretrained(tmp_path)
    shape = getattr(part, f"modeling_{family}").get_anyres_image_grid_shape
    grids = np.array([[1 + int(np.prod(shape(size, pinpoints, 28))), 4, 4] for size in sizes])
    features = rows(int(grids[:, 0].sum()), 16, 32)
    inner = model.model

    def project(kind):
        parts = inner.multi_modal_projector.to(kind)(features.to(kind)).split(grids[:, 0].tolist())
        newline, pictures = inner.image_newline.to(kind), torch.tensor(sizes)
        if family == "llava_next":
            return torch.cat(inner.pack_image_features(parts, pictures, "default", newline)[0])
        return torch.cat(inner.pack_image_features(parts, pictures, newline, config.vision_aspect_ratio)[0])

    adapter = tenon.load(tmp_path)
    assert adapter.family == family and "image_sizes: " in adapter.feeding
    judge(adapter(features.reshape(-1, 32).numpy(), grids=grids, inputs={"image_sizes": np.array(sizes)}), project)


# ---- maps ----


@pytest.mark.parametrize("biases", [(True, False), (False, True)])
def test_molmo2(tmp_path, biases):
    tower = dict(hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
                 head_dim=8, image_size=[28, 28], patch_size=14)
    adapter = dict(hidden_size=16, num_attention_heads=2, num_key_value_heads=2, head_dim=8, intermediate_size=24,
                   text_hidden_size=48, vision_feature_layer=[1, 0], attention_bias=biases[0], mlp_bias=biases[1])
    words = dict(hidden_size=48, intermediate_size=40, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
                 head_dim=24, vocab_size=64, additional_vocab_size=8)
    config = transformers.Molmo2Config(vision_config=tower, adapter_config=adapter, text_config=words)
    model = transformers.Molmo2ForConditionalGeneration(config)
    randomise(model)
    model.save_pretrained(tmp_path)
    features = rows(1, 30, 32)
    index = np.random.default_rng(2).integers(-1, 30, (17, 5))
    index[:, 2] = np.abs(index[:, 2])
    module = model.model.multi_modal_projector

    def project(kind):
        return module.to(kind)(features.to(kind), torch.tensor(index)).last_hidden_state[None]

    ours = tenon.load(tmp_path)
    assert ours.family == "molmo2" and "pooled_patches_idx: " in ours.feeding
    judge(ours(features.numpy(), inputs={"pooled_patches_idx": index}), project)


# ---- mergers of native resolution, from the real encoder: images and a clip of grids of their own ----

GRIDS = [[1, 4, 6], [2, 2, 4], [1, 2, 2]]


def listen(module):
    """What the module is called with, last call last."""
    heard = []
    module.register_forward_pre_hook(lambda _, arguments: heard.append(arguments[0].detach().clone()))
    return heard


def deepstack():
    model, *_ = qwen3_vl(depth=4, deepstack_visual_indexes=[0, 2])
    return model


@pytest.mark.parametrize("make", [lambda: qwen2_vl()[0], lambda: qwen2_5_vl()[0], deepstack], ids=["2", "2.5", "3"])
def test_qwens_from_the_real_encoder(tmp_path, make):
    model = make()
    randomise(model)
    model.save_pretrained(tmp_path)
    adapter = tenon.load(tmp_path)
    visual = model.model.visual
    modules = {"tokens": visual.merger}
    modules |= {f"deepstack.{i}": m for i, m in enumerate(getattr(visual, "deepstack_merger_list", []))}
    heard = {name: listen(module) for name, module in modules.items()}
    patches = sum(t * h * w for t, h, w in GRIDS)
    with torch.no_grad():
        visual(rows(patches, 3 * 2 * 4 * 4), torch.tensor(GRIDS))
    heard = {name: calls[0].float() for name, calls in heard.items()}
    taps = {f"tap.{i}": heard[f"deepstack.{i}"].numpy() for i in range(len(modules) - 1)}
    found = adapter(heard["tokens"].numpy(), grids=np.array(GRIDS), inputs=taps or None)
    found = found if taps else {"tokens": found}
    assert list(found) == list(modules)
    for name, module in modules.items():
        judge(found[name], lambda kind, m=module, x=heard[name]: m.to(kind)(x.to(kind)))


def test_mistral3_of_several_sizes(tmp_path):
    model, *_ = mistral3()
    randomise(model)
    model.save_pretrained(tmp_path)
    grids, module = [(4, 6), (5, 3), (2, 7)], model.model.multi_modal_projector
    features = rows(sum(h * w for h, w in grids), 32)
    sizes = [(7 * h, 7 * w) for h, w in grids]
    tokens = tenon.load(tmp_path)(features.numpy(), grids=np.array(grids))
    judge(tokens, lambda kind: module.to(kind)(features.to(kind), sizes))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_modules_of_the_class(case):
    """Each path that a family names is a module of the class, with these arguments."""
    model, family, *_ = case()
    for row in tenon.family_modules(family):
        if "{i}" in row.path:
            continue
        signature = inspect.signature(find(model, row.path).forward)
        assert ", ".join(signature.parameters) == row.arguments


def test_every_family_has_a_case():
    """A new row needs a case here, or in the command's tests where transformers has no class for it."""
    made = {case()[1] for case in CASES} | {"llava", "molmo2", *TILED}
    by_command = {"llava_original", "internvl_chat"}
    by_gguf = {name for name in tenon.families() if name.startswith("gguf_")}  # python/tests/test_gguf.py
    assert set(tenon.families()) == made | by_command | by_gguf


# ---- layouts ----


def test_the_prefixes_of_other_layouts(tmp_path):
    """Names with `model.` in front, wrappers in between, a file named alone."""
    from safetensors.torch import load_file, save_file

    model = make_llava()
    model.save_pretrained(tmp_path / "plain")
    expected = tenon.load(tmp_path / "plain").state_dict()
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
    make_llava().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    start = len(data) - 8 - length
    header["language_model.huge.weight"] = {
        "dtype": "BF16", "shape": [20 << 30], "data_offsets": [start, start + (40 << 30)]}
    described = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(described)) + described + data[8 + length :])
    os.truncate(path, 8 + len(described) + start + (40 << 30))
    assert tenon.load(path).family == "llava"


def test_checkpoints_of_pytorch_have_families_too(tmp_path):
    model = make_llava()
    model.save_pretrained(tmp_path / "safe")
    expected = tenon.load(tmp_path / "safe").state_dict()
    folder = tmp_path / "torch"
    folder.mkdir()
    torch.save({"model." + name: value for name, value in model.state_dict().items()}, folder / "pytorch_model.bin")
    with pytest.raises(TypeError, match="give a config, or put the model's config.json beside it"):
        tenon.convert.load(folder)
    shutil.copy(tmp_path / "safe" / "config.json", folder)
    for path in (folder, folder / "pytorch_model.bin"):
        adapter = tenon.convert.load(path)
        assert adapter.family == "llava"
        found = adapter.state_dict()
        assert all((found[name] == expected[name]).all() for name in expected)
    assert tenon.convert.load(folder, family="pixtral").family == "pixtral"


def test_family_is_taken_by_name(tmp_path):
    make_llava().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_type"] = "mine"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(tenon.NotFoundError, match="model_type 'mine' is of no family that is known"):
        tenon.load(tmp_path)
    assert tenon.load(tmp_path, family="llava").family == "llava"
    with pytest.raises(tenon.NotFoundError, match="family 'lava' is unknown"):
        tenon.load(tmp_path, family="lava")


# ---- configs as hostile as files ----

HOSTILE = [None, True, -1, 0, 3, 1 << 31, 1 << 62, -(1 << 63), 0.3, 1e308, -0.0, "", "x", "gelu", [], [[]], [0] * 100, {}, {"a": 1}]


def places(value, path=()):
    """Every key of an object and of those in it."""
    for key, inner in value.items():
        yield (*path, key)
        if isinstance(inner, dict):
            yield from places(inner, (*path, key))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_hostile_values_are_sentences(tmp_path, case):
    """Whatever a key holds: the model opens, or one sentence says what is wrong."""
    model, *_ = case()
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    text = path.read_text()
    pairs = [(key, value) for key in places(json.loads(text)) for value in HOSTILE]
    chosen = random.Random(case.__name__).sample(pairs, min(200, len(pairs)))
    for key, value in [(("model_type",), 7), *chosen]:
        config = json.loads(text)
        at = config
        for part in key[:-1]:
            at = at[part]
        at[key[-1]] = value
        path.write_text(json.dumps(config))
        try:
            tenon.load(tmp_path)
        except (ValueError, tenon.NotFoundError) as error:
            said = str(error.args[0])
            assert "\n" not in said and "config.json" in said, (key, value, said)

# SPDX-License-Identifier: MIT
"""Folders of public models, made by hand: what is opened, and the sentences about what is not."""
import json
import os
import pathlib
import subprocess
import sys

import numpy
import pytest
from safetensors.numpy import save_file

LLAVA = {
    "model_type": "llava",
    "architectures": ["LlavaForConditionalGeneration"],
    "vision_config": {"model_type": "clip_vision_model", "hidden_size": 8, "num_hidden_layers": 4},
    "text_config": {"model_type": "llama", "hidden_size": 6},
    "projector_hidden_act": "gelu",
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}


def llava_tensors(prefix="multi_modal_projector.", in_dim=8, out_dim=6):
    draw = numpy.random.default_rng(3)
    shapes = {"linear_1.weight": (out_dim, in_dim), "linear_1.bias": (out_dim,), "linear_2.weight": (out_dim, out_dim),
              "linear_2.bias": (out_dim,)}
    tensors = {prefix + name: draw.standard_normal(shape).astype("f4") for name, shape in shapes.items()}
    tensors["vision_tower.embeddings.class_embedding"] = numpy.zeros(8, "f4")
    tensors["language_model.model.layers.0.mlp.up_proj.weight"] = numpy.zeros((4, 6), "f4")
    return tensors


def write(folder, config=LLAVA, tensors=None, name="model.safetensors"):
    folder.mkdir(exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    save_file(llava_tensors() if tensors is None else tensors, folder / name)
    return folder


def changed(**keys):
    """LLAVA with other values; None removes a key, "a__b" is a key in an object."""
    config = json.loads(json.dumps(LLAVA))
    for key, value in keys.items():
        at = config
        *path, last = key.split("__")
        for part in path:
            at = at[part]
        if value is None:
            del at[last]
        else:
            at[last] = value
    return config


def gelu_mlp(tensors, x, prefix="multi_modal_projector."):
    from math import erf

    weights = [tensors[prefix + name].astype("f8") for name in
               ("linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias")]
    hidden = x @ weights[0].T + weights[1]
    hidden = hidden * 0.5 * (1 + numpy.vectorize(erf)(hidden / 2**0.5))
    return hidden @ weights[2].T + weights[3]


# ---- what opens ----


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "model.module.", "base_model.model.", "thinker."])
def test_a_folder_runs_and_drops_the_class_row(tenon, tmp_path, prefix):
    tensors = llava_tensors(prefix + "multi_modal_projector.")
    write(tmp_path / "m", LLAVA, tensors)
    x = numpy.random.default_rng(1).standard_normal((2, 17, 8)).astype("f4")
    numpy.save("x.npy", x)
    tenon("run", "m", "x.npy", "-o", "y.npy")
    expected = gelu_mlp(tensors, x[:, 1:].astype("f8"), prefix + "multi_modal_projector.")
    assert numpy.abs(numpy.load("y.npy") - expected).max() < 1e-5


def test_a_file_beside_its_config_opens_too(tenon, tmp_path):
    write(tmp_path / "m", name="weights.safetensors")
    assert tenon("inspect", "m/weights.safetensors", "--json").json["family"] == "llava"


def test_inspect_says_family_inputs_and_where_the_parameters_are(tenon, tmp_path):
    write(tmp_path / "m")
    text = tenon("inspect", "m").out
    assert "family      llava\n" in text
    assert "input       features: hidden_states[-2] of the vision tower" in text
    assert "multi_modal_projector.linear_1.weight F32" in text
    assert "model.safetensors" in text
    found = tenon("inspect", "m", "--json").json
    assert found["family"] == "llava"
    assert list(found["inputs"]) == ["features"]
    sources = {source["tensor"] for source in found["sources"].values()}
    assert sources == {"multi_modal_projector." + name for name in
                       ("linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias")}
    assert all(os.path.samefile(source["file"], "m/model.safetensors") for source in found["sources"].values())


def test_shards_name_the_file_of_each_parameter(tenon, tmp_path):
    tensors = llava_tensors()
    folder = tmp_path / "m"
    write(folder, LLAVA, {name: value for name, value in tensors.items() if "linear_1" in name}, "a.safetensors")
    save_file({name: value for name, value in tensors.items() if "linear_1" not in name}, folder / "b.safetensors")
    weight_map = {name: "a.safetensors" if "linear_1" in name else "b.safetensors" for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    sources = tenon("inspect", "m", "--json").json["sources"]
    files = {source["tensor"]: os.path.basename(source["file"]) for source in sources.values()}
    assert files["multi_modal_projector.linear_1.bias"] == "a.safetensors"
    assert files["multi_modal_projector.linear_2.bias"] == "b.safetensors"


def test_the_modules_that_peft_trained_are_taken(tenon, tmp_path):
    """`modules_to_save.default` is the trained module, `original_module` the one before."""
    trained = llava_tensors("base_model.model.multi_modal_projector.modules_to_save.default.")
    old = {name.replace("modules_to_save.default", "original_module"): numpy.zeros_like(value)
           for name, value in trained.items() if "modules_to_save" in name}
    write(tmp_path / "m", LLAVA, trained | old)
    sources = tenon("inspect", "m", "--json").json["sources"]
    assert all("modules_to_save.default" in source["tensor"] for source in sources.values())


def test_family_names_what_config_json_does_not(tenon, tmp_path):
    write(tmp_path / "m", changed(model_type="mine"))
    error = tenon("inspect", "m", code=1).err
    assert "m/config.json: model_type 'mine' is of no family that is known" in error and "--family" in error
    assert tenon("inspect", "m", "--family", "llava", "--json").json["family"] == "llava"
    error = tenon("inspect", "m", "--family", "lava", code=1).err
    assert "--family 'lava' is unknown; the families are" in error


def test_the_config_of_a_model_may_be_given(tenon, tmp_path):
    write(tmp_path / "m", None)
    (tmp_path / "other.json").write_text(json.dumps(LLAVA))
    assert tenon("inspect", "m", "--config", "other.json", "--json").json["family"] == "llava"


def test_families_lists_them(tenon):
    families = tenon("families", "--json").json["families"]
    module = {"path": "multi_modal_projector", "arguments": "image_features", "first": "", "last": ""}
    assert {"family": "paligemma", "type": "linear", "model_types": ["paligemma"], "modules": [module]} in families
    assert "paligemma" in tenon("families").out


# ---- what does not ----


def refuse(tenon, folder, config=LLAVA, tensors=None, **options):
    write(folder, config, tensors)
    return tenon("inspect", folder.name, code=1, **options).err


def test_a_model_for_text(tenon, tmp_path):
    config = {"model_type": "llama", "hidden_size": 6}
    error = refuse(tenon, tmp_path / "m", config, {"model.embed_tokens.weight": numpy.zeros((9, 6), "f4")})
    assert error == ("tenon: m/config.json: model_type 'llama' without a vision encoder (no 'vision_config'): a model "
                     "for text alone has no connector\n")


@pytest.mark.parametrize("value, said", [(None, "missing"), (7, "not a string")])
def test_no_model_type(tenon, tmp_path, value, said):
    error = refuse(tenon, tmp_path / "m", changed(model_type=value))
    assert f"m/config.json: 'model_type' is {said}, so the model's family is not known; give it with --family" in error


def test_a_misspelt_model_type_names_the_nearest(tenon, tmp_path):
    assert "(nearest: 'paligemma')" in refuse(tenon, tmp_path / "m", changed(model_type="paligema"))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"model_type": "llava", "model_type": "llava"}', "\0", "x" * 99,
                                  '{"model_type": "llava", "vision_config": ' + "[" * 5000 + "]" * 5000 + "}"])
def test_broken_config_json(tenon, tmp_path, text):
    error = refuse(tenon, tmp_path / "m", text)
    assert "m/config.json" in error


def test_a_huge_config_json(tenon, tmp_path):
    folder = write(tmp_path / "m")
    with open(folder / "config.json", "r+b") as file:
        file.truncate(1 << 34)
    assert "has 17179869184 bytes; a model's config has at most" in tenon("inspect", "m", code=1).err


def test_a_lora_adapter(tenon, tmp_path):
    folder = tmp_path / "m"
    write(folder, None, {"base_model.model.x.lora_A.weight": numpy.zeros((2, 3), "f4")}, "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")
    error = tenon("inspect", "m", code=1).err
    assert "m: a LoRA adapter (adapter_config.json)" in error and "merge_and_unload()" in error


def test_a_diffusers_folder(tenon, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model_index.json").write_text("{}")
    assert "m: a diffusers pipeline (model_index.json)" in tenon("inspect", "m", code=1).err


@pytest.mark.parametrize(
    "ending, said",
    [
        ("linear_1.weight.SCB", "bitsandbytes (INT8)"),
        ("linear_1.weight.quant_state.bitsandbytes__nf4", "bitsandbytes (NF4)"),
        ("linear_1.qweight", "GPTQ or AWQ"),
        ("linear_1.weight_packed", "compressed-tensors"),
        ("linear_1.weight_scale_inv", "FP8"),
        ("linear_1.weight_scale", "quantised with scales"),
        ("linear_1.lora_A.default.weight", "a LoRA adapter that is not merged"),
    ],
)
def test_a_connector_that_is_no_plain_weights(tenon, tmp_path, ending, said):
    tensors = llava_tensors() | {"multi_modal_projector." + ending: numpy.zeros(4, "u1")}
    error = refuse(tenon, tmp_path / "m", LLAVA, tensors)
    assert "m: the connector is" in error and said in error and ending in error


def test_quantised_tensors_of_other_parts_do_not_matter(tenon, tmp_path):
    tensors = llava_tensors() | {"language_model.model.layers.0.mlp.up_proj.qweight": numpy.zeros(4, "u1")}
    write(tmp_path / "m", LLAVA, tensors)
    tenon("inspect", "m")


def test_missing_tensors_are_named_in_full(tenon, tmp_path):
    tensors = llava_tensors()
    del tensors["multi_modal_projector.linear_2.bias"]
    error = refuse(tenon, tmp_path / "m", LLAVA, tensors)
    assert "does not fit family 'llava'" in error and "missing: multi_modal_projector.linear_2.bias" in error


def test_a_part_that_is_there_twice_is_ambiguous(tenon, tmp_path):
    tensors = llava_tensors() | llava_tensors("model.multi_modal_projector.")
    error = refuse(tenon, tmp_path / "m", LLAVA, tensors)
    assert "is there 2 times" in error and "choose one with --prefix" in error
    for prefix in ("model", "model.", "model.multi_modal_projector", "model.multi_modal_projector."):
        sources = tenon("inspect", "m", "--prefix", prefix, "--json").json["sources"]
        assert all(source["tensor"].startswith("model.") for source in sources.values())


def test_names_that_only_end_alike_are_not_taken(tenon, tmp_path):
    error = refuse(tenon, tmp_path / "m", LLAVA, llava_tensors("audio.multi_modal_projector."))
    assert "missing: multi_modal_projector.linear_1.weight" in error


@pytest.mark.parametrize(
    "keys, said",
    [
        ({"projector_hidden_act": "mish"}, """projector_hidden_act is "mish"; expected one of 'gelu'"""),
        ({"projector_hidden_act": 3}, "projector_hidden_act is 3; expected one of 'gelu'"),
        ({"vision_feature_select_strategy": "some"}, """vision_feature_select_strategy is "some"; expected"""),
        ({"vision_feature_layer": "last"}, 'vision_feature_layer is "last"; expected an integer from -1000 to 1000'),
        ({"vision_feature_layer": 1 << 40}, "vision_feature_layer is 1099511627776; expected an integer"),
        ({"vision_feature_layer": []}, "vision_feature_layer is []; expected at least one layer"),
        ({"vision_feature_layer": [-1, 2.5]}, "vision_feature_layer is 2.5; expected an integer"),
        ({"vision_config__hidden_size": -8}, "vision_config.hidden_size is -8; expected an integer"),
        ({"vision_config__hidden_size": "8"}, 'vision_config.hidden_size is "8"; expected an integer'),
        ({"vision_config__hidden_size": 1 << 62}, "vision_config.hidden_size is 4611686018427387904; expected"),
        ({"vision_config__hidden_size": 16},
         "vision_config.hidden_size is 16, but tensor 'multi_modal_projector.linear_1.weight' of shape [6, 8] takes a "
         "width of 8; config and tensors do not belong together"),
        ({"vision_feature_layer": [-2, -5]},
         "vision_config.hidden_size is 8 times the 2 layers of vision_feature_layer, but tensor"),
        ({"text_config__hidden_size": 7}, "text_config.hidden_size is 7, but tensor"),
    ],
)
def test_values_that_cannot_be(tenon, tmp_path, keys, said):
    error = refuse(tenon, tmp_path / "m", changed(**keys))
    assert error.startswith("tenon: m/config.json: ") and said in error


def test_keys_that_are_missing_have_the_defaults_of_the_class(tenon, tmp_path):
    write(tmp_path / "m", {"model_type": "llava", "vision_config": None, "text_config": {}})
    config = tenon("inspect", "m", "--json").json["config"]
    assert config["activation"] == "gelu" and config["prefix_tokens"] == 1


# ---- the names of original repositories, of which transformers has no class ----

ORIGINAL = {"model_type": "llava_llama", "mm_hidden_size": 8, "hidden_size": 6, "mm_vision_select_layer": -2,
            "mm_vision_select_feature": "patch", "mm_projector_type": "mlp2x_gelu"}


def original_tensors(*modules):
    """Of (number of a module in the Sequential, output width, input width); no input width: a norm."""
    draw = numpy.random.default_rng(5)
    tensors = {"model.vision_tower.vision_tower.vision_model.embeddings.class_embedding": numpy.zeros(8, "f4")}
    for number, out_dim, in_dim in modules:
        name = f"model.mm_projector.{number}".rstrip(".")
        tensors[name + ".weight"] = draw.standard_normal((out_dim, in_dim) if in_dim else out_dim).astype("f4")
        tensors[name + ".bias"] = draw.standard_normal(out_dim).astype("f4")
    return tensors


def linear(tensors, number, x):
    name = f"model.mm_projector.{number}".rstrip(".")
    return x @ tensors[name + ".weight"].astype("f8").T + tensors[name + ".bias"]


def norm(tensors, number, x):
    name = f"model.mm_projector.{number}"
    centred = x - x.mean(-1, keepdims=True)
    return centred / numpy.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * tensors[name + ".weight"] + \
        tensors[name + ".bias"]


def gelu(x):
    from math import erf

    return x * 0.5 * (1 + numpy.vectorize(erf)(x / 2**0.5))


@pytest.mark.parametrize(
    "kind, modules, forward",
    [
        ("linear", [("", 6, 8)], lambda t, x: linear(t, "", x)),
        ("mlp1x_gelu", [(0, 6, 8)], lambda t, x: linear(t, 0, x)),
        ("mlp2x_gelu", [(0, 6, 8), (2, 6, 6)], lambda t, x: linear(t, 2, gelu(linear(t, 0, x)))),
        ("mlp3x_gelu", [(0, 6, 8), (2, 6, 6), (4, 6, 6)],
         lambda t, x: linear(t, 4, gelu(linear(t, 2, gelu(linear(t, 0, x)))))),
        ("mlp2x_gelu_Norm", [(0, 6, 8), (1, 6, None), (3, 6, 6), (4, 6, None)],
         lambda t, x: norm(t, 4, linear(t, 3, gelu(norm(t, 1, linear(t, 0, x)))))),
        ("identity", [], lambda t, x: x),
    ],
)
@pytest.mark.parametrize("feature", ["patch", "cls_patch"])
def test_projectors_of_the_original_llava(tenon, tmp_path, kind, modules, forward, feature):
    config = ORIGINAL | {"mm_projector_type": kind, "mm_vision_select_feature": feature}
    if kind == "identity":
        config["hidden_size"] = 8
    tensors = original_tensors(*modules)
    write(tmp_path / "m", config, tensors)
    assert tenon("inspect", "m", "--json").json["family"] == "llava_original"
    x = numpy.random.default_rng(1).standard_normal((2, 17, 8)).astype("f4")
    numpy.save("x.npy", x)
    tenon("run", "m", "x.npy", "-o", "y.npy", "--dtype", "f32")
    expected = forward(tensors, (x[:, 1:] if feature == "patch" else x).astype("f8"))
    assert numpy.abs(numpy.load("y.npy") - expected).max() < 1e-4


def test_packed_tiles_of_the_original_llava_are_refused(tenon, tmp_path):
    error = refuse(tenon, tmp_path / "m", ORIGINAL | {"mm_patch_merge_type": "spatial_unpad"},
                   original_tensors((0, 6, 8), (2, 6, 6)))
    assert """mm_patch_merge_type is "spatial_unpad"; expected one of 'flat'""" in error


@pytest.mark.parametrize("version", ["v1", "v2", None])
def test_internvl_by_the_names_of_its_repository(tenon, tmp_path, version):
    """v1, the default of its class, transposes the tokens."""
    config = {"model_type": "internvl_chat", "downsample_ratio": 0.5, "select_layer": -1, "ps_version": version,
              "vision_config": {"hidden_size": 8}, "llm_config": {"hidden_size": 6}}
    draw = numpy.random.default_rng(5)
    shapes = {"0.weight": 32, "0.bias": 32, "1.weight": (6, 32), "1.bias": 6, "3.weight": (6, 6), "3.bias": 6}
    tensors = {"mlp1." + name: draw.standard_normal(shape).astype("f4") for name, shape in shapes.items()}
    write(tmp_path / "m", config, tensors)
    found = tenon("inspect", "m", "--json").json
    assert found["family"] == "internvl_chat" and found["config"]["ps_version"] == (version or "v1")
    x = numpy.random.default_rng(1).standard_normal((1, 17, 8)).astype("f4")
    numpy.save("x.npy", x)
    tenon("run", "m", "x.npy", "-o", "y.npy")
    grid = x[0, 1:].astype("f8").reshape(2, 2, 2, 2, 8).transpose(0, 2, 1, 3, 4).reshape(2, 2, 32)
    if version != "v2":
        grid = grid.transpose(1, 0, 2)
    merged = grid.reshape(4, 32)
    centred = merged - merged.mean(-1, keepdims=True)
    merged = centred / numpy.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    merged = merged * tensors["mlp1.0.weight"] + tensors["mlp1.0.bias"]
    hidden = gelu(merged @ tensors["mlp1.1.weight"].T + tensors["mlp1.1.bias"])
    expected = hidden @ tensors["mlp1.3.weight"].T + tensors["mlp1.3.bias"]
    assert numpy.abs(numpy.load("y.npy")[0] - expected).max() < 1e-4


def test_constants_that_json_does_not_have(tenon, tmp_path):
    """Python writes NaN and Infinity, as the configs of some language models hold them."""
    text = json.dumps(LLAVA)[:-1] + ', "text": "NaN \\" Infinity", "limits": [0.0, Infinity, -Infinity, NaN]}'
    write(tmp_path / "m", text)
    assert tenon("inspect", "m", "--json").json["family"] == "llava"


def qwen(**keys):
    config = {"model_type": "qwen2_vl", "vision_config": {"embed_dim": 8, "hidden_size": 6, "spatial_merge_size": 2} | keys}
    shapes = {"ln_q.weight": 8, "ln_q.bias": 8, "mlp.0.weight": (32, 32), "mlp.0.bias": 32, "mlp.2.weight": (6, 32),
              "mlp.2.bias": 6}
    return config, {"visual.merger." + name: numpy.ones(shape, "f4") for name, shape in shapes.items()}


@pytest.mark.parametrize(
    "keys, said",
    [
        ({"spatial_merge_size": 3}, "visual.merger.mlp.0.weight is [32, 32], expected [72, 72]"),
        ({"spatial_merge_size": 3}, "m/config.json has vision_config.spatial_merge_size 3"),
        ({"spatial_merge_size": 0}, "vision_config.spatial_merge_size is 0; expected an integer from 1 to 64"),
        ({"spatial_merge_size": -2}, "vision_config.spatial_merge_size is -2; expected"),
        ({"spatial_merge_size": 1 << 60}, "vision_config.spatial_merge_size is 1152921504606846976; expected"),
        ({"spatial_merge_size": "2"}, 'vision_config.spatial_merge_size is "2"; expected'),
        ({"embed_dim": 9}, "vision_config.embed_dim is 9, but tensor"),
    ],
)
def test_a_merge_that_contradicts_the_tensors(tenon, tmp_path, keys, said):
    config, tensors = qwen(**keys)
    assert said in refuse(tenon, tmp_path / "m", config, tensors)


def test_parts_of_omni_models(tenon, tmp_path):
    config, tensors = qwen()
    vision = {"hidden_size": 8, "out_hidden_size": 6, "spatial_merge_size": 2}
    del tensors["visual.merger.ln_q.bias"]
    whole = {"model_type": "qwen2_5_omni", "thinker_config": {"vision_config": vision}}
    write(tmp_path / "m", whole, {"thinker." + name: value for name, value in tensors.items()})
    assert tenon("inspect", "m", "--json").json["family"] == "qwen2_5_vl"
    vision["spatial_merge_size"] = 99
    error = refuse(tenon, tmp_path / "m", whole, {"thinker." + name: value for name, value in tensors.items()})
    assert "thinker_config.vision_config.spatial_merge_size is 99; expected" in error


def test_the_readme_has_the_table(tenon, tmp_path):
    root = pathlib.Path(__file__).parents[2]
    page = tmp_path / "README.md"
    page.write_text((root / "README.md").read_text())
    done = subprocess.run([sys.executable, root / "scripts/families_table.py", page], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), "README.md: run scripts/families_table.py"

# SPDX-License-Identifier: MIT
"""tenon init and tenon inspect, and what they refuse."""
import os
import shlex
import shutil
import struct
import subprocess

import numpy
import pytest
from safetensors.numpy import load_file, save_file


def test_init_draws_what_pytorch_draws(tenon):
    out = tenon("init", "--type", "linear", "--in-dim", "5", "--out-dim", "3", "--seed", "7", "-o", "a.safetensors").out
    assert out.count("\n") == 1 and "a.safetensors" in out and "seed 7" in out
    tensors = load_file("a.safetensors")
    assert tensors["proj.weight"].ravel()[:3].tolist() == [0.031235668808221817, -0.26939862966537476, 0.1424032747745514]
    assert tensors["proj.bias"].ravel()[:2].tolist() == [-0.12585847079753876, 0.1971142441034317]


def test_init_is_repeatable_and_seeded(tenon):
    words = ["init", "--type", "mlp_2layer", "--in-dim", "8", "--out-dim", "6", "--hidden", "4"]
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        tenon(*words, "--seed", seed, "-o", f"{name}.safetensors")
    a, b, c = (open(f"{n}.safetensors", "rb").read() for n in "abc")
    assert a == b and a != c


def test_init_json(tenon):
    got = tenon("init", "--type", "avgpool", "--in-dim", "8", "--out-dim", "6", "--window", "3", "--dtype", "f16", "--seed",
                "18446744073709551615", "-o", "a.safetensors", "--json").json
    assert got["parameters"] == 54 and got["bytes"] == 108 and got["dtype"] == "f16"
    assert got["seed"] == "18446744073709551615" and got["config"]["pool_window"] == 3


@pytest.mark.parametrize(
    "words, code, says",
    [
        (["--type", "linear", "--in-dim", "0", "--out-dim", "3"], 2, "must be positive"),
        (["--type", "linear", "--in-dim", "4"], 2, "--out-dim"),
        (["--type", "linear", "--in-dim", "4", "--out-dim", "3", "--dtype", "f64"], 2, "f32"),
        (["--type", "mlp_2layer", "--in-dim", "4", "--out-dim", "3", "--activation", "tanh"], 2, "gelu"),
        (["--type", "mlp_2layer", "--in-dim", "4", "--out-dim", "3", "--hidden", "-1"], 2, "--hidden"),
        (["--type", "attentional_pool", "--in-dim", "10", "--out-dim", "3", "--heads", "4"], 1, "10"),
        (["--type", "attentional_pool", "--in-dim", "10", "--out-dim", "3", "--heads", "0"], 2, "must be positive"),
        (["--type", "linear", "--in-dim", "4", "--out-dim", "3", "--seed", "-1"], 2, "--seed"),
        (["--type", "linear", "--in-dim", "4611686018427387904", "--out-dim", "4611686018427387904"], 1, ""),
        (["--type", "linear", "--in-dim", "1099511627776", "--out-dim", "65536"], 1, ""),
    ],
)
def test_init_refuses(tenon, words, code, says):
    result = tenon("init", *words, "-o", "a.safetensors", code=code)
    assert says in result.err and result.out == "" and os.listdir(".") == []


@pytest.mark.parametrize("target", ["/dev/full", "missing/a.safetensors", "a.bin", "folder"])
def test_init_unwritable_targets(tenon, target):
    os.mkdir("folder")
    result = tenon("init", "--type", "linear", "--in-dim", "4", "--out-dim", "3", "-o", target, code=1)
    assert target in result.err and result.out == ""
    assert os.listdir(".") == ["folder"]


def test_init_leaves_the_old_file_after_a_failure(tenon):
    import resource

    tenon("init", "--type", "linear", "--in-dim", "4", "--out-dim", "3", "-o", "a.safetensors")
    before = open("a.safetensors", "rb").read()
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
    result = tenon("init", "--type", "linear", "--in-dim", "400", "--out-dim", "300", "-o", "a.safetensors", code=1,
                   preexec_fn=limit)
    assert "a.safetensors" in result.err
    assert open("a.safetensors", "rb").read() == before and os.listdir(".") == ["a.safetensors"]


def test_inspect_text(make, tenon):
    make("attentional_pool", 48, 32, window=3, heads=12, dtype="bf16")
    out = tenon("inspect", "adapter.safetensors").out
    assert "attentional_pool, 48 -> 32" in out
    assert "window_attention" in out and "q_proj.weight" in out and "(48, 48)" in out and "bf16" in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if "x" in line.split(" ")[0] and line[0].isdigit()}
    assert rows["27x27"][1:3] == ["729", "81"]
    assert rows["37x37"][2] == "-"


def test_inspect_draws_the_graph(make, tenon):
    make("attentional_pool", 48, 32, window=3, heads=12)
    lines = [line.split() for line in tenon("inspect", "adapter.safetensors").out.splitlines()]
    assert ["0", "features,", "row", "by", "row"] in lines
    assert ["1", *"windows of 3x3 over space 0, ragged reject, the pooling window".split()] in lines
    assert ["0", "0", "48", "input", "features"] in lines
    assert ["1", "1", "48", *"window of 0 window_attention, heads 12, bias".split()] in lines
    assert ["3", "1", "32", *"row of 2 linear out_proj, bias -> tokens".split()] in lines
    assert ["out_proj.weight", "f32", "(32,", "48)"] in lines


def test_inspect_writes_the_graph_as_json(make, tenon):
    make("mlp_2layer", 8, 6)
    graph = tenon("inspect", "adapter.safetensors", "--json").json["graph"]
    assert [layer["type"] for layer in graph["layers"]] == ["linear", "activation", "linear"]
    assert graph["values"][graph["outputs"][0]["value"]]["width"] == 6
    assert [p["name"] for p in graph["parameters"]] == ["proj1.weight", "proj1.bias", "proj2.weight", "proj2.bias"]


def test_inspect_writes_graphviz(make, tenon):
    make("avgpool", 8, 6, window=2)
    out = tenon("inspect", "adapter.safetensors", "--dot").out
    assert out.startswith('digraph "avgpool" {') and out.endswith("}\n") and out.count("{") == out.count("}") == 3
    assert 'label="space 1: windows of 2x2 over space 0, ragged partial, the pooling window"' in out
    assert 'v2 [shape=box, label="linear proj, bias\\nwidth 6\\nproj.weight (6, 8)\\nproj.bias (6)"];' in out
    assert "v0 -> v1;" in out and "v1 -> v2;" in out and "v2 -> output_0;" in out
    if shutil.which("dot"):
        subprocess.run(["dot", "-Tsvg"], input=out, text=True, check=True, capture_output=True)
    result = tenon("inspect", "adapter.safetensors", "--dot", "--json", code=2)
    assert "--dot and --json exclude each other" in result.err
    open("x.npy", "wb").write(b"no array")
    assert tenon("inspect", "x.npy", "--dot", code=1).out == ""


def test_B140_parameters_and_bytes_before_loading(tenon):
    words = ["--type", "mlp_2layer", "--in-dim", "1024", "--out-dim", "4096", "--dtype", "f16", "-o", "a.safetensors"]
    tenon("init", *words)
    got = tenon("inspect", "a.safetensors", "--json").json
    assert got["parameters"] == 20979712 and got["bytes"] == 41959424
    assert "20,979,712" in tenon("inspect", "a.safetensors").out
    assert all(row["workspace"] > 0 for row in got["grids"])


def test_inspect_json(make, tenon):
    make("avgpool", 8, 6, window=2, prefix_tokens=1)
    got = tenon("inspect", "adapter.safetensors", "--json").json
    assert (got["type"], got["in_dim"], got["out_dim"], got["parameters"]) == ("avgpool", 8, 6, 54)
    assert [t["name"] for t in got["tensors"]] == ["proj.weight", "proj.bias"]
    assert [layer["type"] for layer in got["layers"]] == ["window_mean", "linear"]
    grid = next(g for g in got["grids"] if g["grid"] == [27, 27])
    assert (grid["tokens_in"], grid["tokens"]) == (730, 196) and grid["flops"] > 196 * 2 * 8 * 6
    one = tenon("inspect", "adapter.safetensors", "--json", "--grid", "4x10", "--window", "4").json["grids"]
    assert [g["tokens"] for g in one] == [3]


def test_B34_does_it_fit_between_two_models(make, tenon):
    make("linear", 24, 40)
    tenon("inspect", "adapter.safetensors", "--in-dim", "24", "--out-dim", "40")
    result = tenon("inspect", "adapter.safetensors", "--out-dim", "51", code=1)
    assert "40" in result.err and "51" in result.err
    result = tenon("inspect", "adapter.safetensors", "--in-dim", "25", code=1)
    assert "24" in result.err and "25" in result.err


def test_a_file_without_config_is_listed(tenon):
    save_file({"mm.0.weight": numpy.zeros((6, 4), numpy.float32), "mm.0.bias": numpy.zeros(6, numpy.float32)}, "x.safetensors")
    result = tenon("inspect", "x.safetensors", code=1)
    assert "mm.0.weight" in result.out and "(6, 4)" in result.out and "--config" in result.err
    assert "--config" in tenon("run", "x.safetensors", "x.npy", "-o", "y.npy", code=1).err
    got = tenon("inspect", "x.safetensors", "--json", code=1).json
    assert sorted(t["name"] for t in got["tensors"]) == ["mm.0.bias", "mm.0.weight"]
    numpy.save("x.npy", numpy.zeros((3, 2), numpy.float32))
    assert "(3, 2)" in tenon("inspect", "x.npy", code=1).out


def test_a_config_from_a_file(tenon):
    tensors = {f"model.adapter.proj.{k}": v for k, v in
               {"weight": numpy.ones((6, 4), numpy.float32), "bias": numpy.zeros(6, numpy.float32)}.items()}
    save_file({**tensors, "lm.embed": numpy.zeros((9, 9), numpy.float32)}, "x.safetensors")
    open("c.json", "w").write('{"type": "linear", "in_dim": 4, "out_dim": 6}')
    got = tenon("inspect", "x.safetensors", "--config", "c.json", "--json").json
    assert got["prefix"] == "model.adapter." and (got["tensors_used"], got["tensors_unused"]) == (2, 1)
    numpy.save("f.npy", numpy.ones((2, 3, 4), numpy.float32))
    tenon("run", "x.safetensors", "f.npy", "-o", "t.npy", "--config", "c.json", "--prefix", "model.adapter.")
    assert (numpy.load("t.npy") == 4).all()
    result = tenon("inspect", "x.safetensors", "--config", "c.json", "--prefix", "other.", code=1)
    assert "other." in result.err
    open("bad.json", "w").write("{")
    tenon("inspect", "x.safetensors", "--config", "bad.json", code=1)
    assert "none.json" in tenon("inspect", "x.safetensors", "--config", "none.json", code=1).err


LINEAR = '{"type": "linear", "in_dim": 4, "out_dim": 6}'


def test_a_config_on_the_command_line(tenon):
    save_file({"proj.weight": numpy.ones((6, 4), numpy.float32), "proj.bias": numpy.zeros(6, numpy.float32)}, "x.safetensors")
    numpy.save("f.npy", numpy.ones((2, 3, 4), numpy.float32))
    numpy.save("t.npy", numpy.ones((2, 3, 6), numpy.float32))
    for words in (["inspect", "x.safetensors"], ["run", "x.safetensors", "f.npy", "-o", "y.npy"],
                  ["bench", "x.safetensors", "--tokens", "4", "--repeat", "1"],
                  ["fit", "--model", "x.safetensors", "--features", "f.npy", "--targets", "t.npy", "-o", "z.safetensors"]):
        tenon(*words, "--config", LINEAR)
        tenon(*words, "--config", "  \n" + LINEAR)
        assert "give one with --config, for example {" in tenon(*words, code=1).err
        assert "not valid JSON at line 1, column" in tenon(*words, "--config", '{"type": ', code=1).err
        said = tenon(*words, "--config", LINEAR.replace("}", ', "prefix_tokns": 1}'), code=1).err
        assert "no option 'prefix_tokns' (did you mean 'prefix_tokens'?); its options are prefix_tokens" in said
        said = tenon(*words, "--config", LINEAR.replace("}", ', "prefix_tokns": null}'), code=1).err
        assert "no option 'prefix_tokns' (did you mean 'prefix_tokens'?)" in said
        # Keys of the JSON are what the user wrote: no option stands for them.
        said = tenon(*words, "--config", LINEAR.replace("linear", "avgpool").replace("}", ', "pool_window": 0}'), code=1).err
        assert "'pool_window' must be positive (got 0)" in said
    assert "(did you mean 'type'?)" in tenon("inspect", "x.safetensors", "--config", LINEAR.replace("type", "typ"), code=1).err
    assert "(did you mean 'linear'?)" in tenon("inspect", "x.safetensors", "--config", LINEAR.replace("linear", "liner"), code=1).err


# What a terminal must not see: a line of its own, a colour, one in a single character, a right-to-left override.
HOSTILE = 'a\nb\x1b[31mred\x9b1m\u202eexe'
SHOWN = r"a\x0ab\x1b[31mred\u009b1m\u202eexe"


def test_C37_names_are_escaped_on_both_streams(tenon):
    save_file({HOSTILE: numpy.ones((2, 2), numpy.float32), "größe": numpy.ones(3, numpy.float32)}, "x.safetensors")
    save_file({HOSTILE: numpy.zeros((2, 2), numpy.float32), "größe": numpy.ones(3, numpy.float32)}, "y.safetensors")
    results = [tenon("inspect", "x.safetensors", code=1), tenon("compare", "x.safetensors", "y.safetensors", code=1)]
    for result in results:
        assert SHOWN in result.out and not any(c in result.out + result.err for c in "\x1b\x9b\u202e")
        assert "größe" in result.out or result is results[1]
    got = tenon("inspect", "x.safetensors", "--json", code=1)
    assert {t["name"] for t in got.json["tensors"]} == {HOSTILE, "größe"}


def test_C37_prefixes_metadata_and_paths(tenon):
    tensors = {HOSTILE + ".proj.weight": numpy.ones((6, 4), numpy.float32), HOSTILE + ".proj.bias": numpy.zeros(6, numpy.float32)}
    save_file(tensors, "x.safetensors", metadata={"tenon.config": LINEAR.replace("linear", HOSTILE.replace("\n", "").replace("\x1b", ""))})
    result = tenon("inspect", "x.safetensors", "--config", LINEAR)
    assert f"prefix      {SHOWN}." in result.out
    result = tenon("inspect", "x.safetensors", code=1)
    assert r"\u202eexe" in result.err and "\u202e" not in result.out + result.err
    name = HOSTILE.replace("\x9b", "") + ".safetensors"
    made = tenon("init", "--type", "linear", "--in-dim", "4", "--out-dim", "6", "-o", name)
    seen = [made, tenon("inspect", name), tenon("compare", name, name), tenon("inspect", name + "x", code=1)]
    seen += [tenon("bench", name, "--tokens", "4", "--repeat", "1")]
    numpy.save(name + ".npy", numpy.ones((2, 3, 4), numpy.float32))
    numpy.save("t.npy", numpy.ones((2, 3, 6), numpy.float32))
    seen += [tenon("run", name, name + ".npy", "-o", name + "2.npy")]
    seen += [tenon("fit", "--model", name, "--features", name + ".npy", "--targets", "t.npy", "-o", "fit" + name)]
    for result in seen:
        assert r"a\x0ab\x1b[31mred1m\u202eexe" in result.out + result.err
        assert not any(c in result.out + result.err for c in "\x1b\u202e"), result
    assert tenon("inspect", name, "--json").json["file"] == name


def test_a_sharded_checkpoint(make, tenon):
    import json

    make("linear", 4, 6)
    tensors = load_file("adapter.safetensors")
    os.mkdir("model")
    for part, name in enumerate(("proj.weight", "proj.bias")):
        save_file({f"model.adapter.{name}": tensors[name]}, f"model/part-{part}.safetensors")
    weight_map = {"model.adapter.proj.weight": "part-0.safetensors", "model.adapter.proj.bias": "part-1.safetensors"}
    json.dump({"metadata": {}, "weight_map": weight_map}, open("model/model.safetensors.index.json", "w"))
    open("c.json", "w").write('{"type": "linear", "in_dim": 4, "out_dim": 6}')
    numpy.save("f.npy", numpy.random.default_rng(1).normal(size=(2, 3, 4)).astype(numpy.float32))
    tenon("run", "adapter.safetensors", "f.npy", "-o", "one.npy")
    for path in ("model", "model/model.safetensors.index.json"):
        tenon("run", path, "f.npy", "-o", "two.npy", "--config", "c.json")
        assert open("one.npy", "rb").read() == open("two.npy", "rb").read()
    target = "model/part-0.safetensors"
    before = open(target, "rb").read()
    result = tenon("run", "model", "f.npy", "-o", target, "--config", "c.json", code=1)
    assert "model" in result.err and open(target, "rb").read() == before


@pytest.mark.parametrize("keep", [0, 7, 8, 60, -1])
def test_truncated_adapters(make, tenon, keep):
    make("linear", 4, 6)
    data = open("adapter.safetensors", "rb").read()
    open("cut.safetensors", "wb").write(data[:keep])
    numpy.save("f.npy", numpy.zeros((1, 1, 4), numpy.float32))
    for words in (["inspect", "cut.safetensors"], ["run", "cut.safetensors", "f.npy", "-o", "t.npy"]):
        result = tenon(*words, code=1)
        assert "cut.safetensors" in result.err and not os.path.exists("t.npy")


def test_a_header_that_lies_allocates_nothing(tenon):
    open("x.safetensors", "wb").write((2**62).to_bytes(8, "little") + b"{}")
    assert "x.safetensors" in tenon("inspect", "x.safetensors", code=1).err
    assert "missing.safetensors" in tenon("inspect", "missing.safetensors", code=1).err


def test_output_that_cannot_be_written_is_an_error(make, tenon):
    make("linear", 4, 6)
    for words in (["inspect", "adapter.safetensors"], ["tokens", "--type", "linear", "4"], ["help"]):
        with open("/dev/full", "w") as full:
            import subprocess

            from conftest import BINARY

            done = subprocess.run([BINARY, *words], stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 1 and "standard output" in done.stderr


def test_names_with_control_characters_stay_on_one_line(tenon):
    result = tenon("inspect", "no\nsuch\x1b[31m", code=1)
    assert r"no\x0asuch\x1b[31m" in result.err and "\x1b" not in result.err


def linear_layers(prefix, *layers, first=4):
    """Linear layers of 16 outputs each, of the modules that `layers` names."""
    tensors, width = {}, first
    for name in layers:
        tensors[f"{prefix}{name}.weight"] = numpy.zeros((16, width), numpy.float16)
        tensors[f"{prefix}{name}.bias"] = numpy.zeros(16, numpy.float16)
        width = 16
    return tensors


def language_model(layers=8):
    names = [f"language_model.layers.{i}.{m}" for i in range(layers) for m in ("self_attn.q_proj", "mlp.up_proj")]
    return {**{f"{n}.weight": numpy.zeros((4, 4), numpy.float16) for n in names},
            **{k: v for i in range(layers) for k, v in linear_layers(f"vision.layers.{i}.mlp.", "fc1", "fc2").items()}}


@pytest.mark.parametrize("first", [True, False])
def test_inspect_shows_what_looks_like_a_connector_whatever_the_order(tenon, first):
    connector = linear_layers("model.adapter.", "proj1", "proj2")
    save_file({**connector, **language_model()} if first else {**language_model(), **connector}, "x.safetensors")
    result = tenon("inspect", "x.safetensors", code=1)
    lines = result.out.splitlines()
    assert lines[0].endswith("52 tensors, no connector is described") and lines[2].startswith("looks like a connector")
    assert lines[3] == "  model.adapter.: mlp_2layer, 4 -> 16" and "(16, 4)" in result.out and "vision.layers.*.mlp." in result.out
    command = next(line for line in lines if "--config" in line)
    assert "--prefix model.adapter." in command
    done = os.popen(command.strip().replace("tenon", os.environ["TENON_BIN"], 1)).read()  # it opens the connector
    assert "x.safetensors: mlp_2layer, 4 -> 16" in done and "4 used, 48 others" in done
    got = tenon("inspect", "x.safetensors", "--json", code=1).json
    assert [c["prefix"] for c in got["connectors"]] == ["model.adapter."] and len(got["tensors"]) == 52
    assert got["connectors"][0]["config"] == {"type": "mlp_2layer", "in_dim": 4, "hidden_dim": 16, "out_dim": 16}
    assert sum(row["tensors"] for row in got["prefixes"]) == 52
    assert tenon("inspect", "x.safetensors", "--all", code=1).out.count("weight ") >= 26


@pytest.mark.parametrize(
    "prefix, layers, says",
    [
        ("multi_modal_projector.", ["linear_1", "linear_2"], "multi_modal_projector.: llava, 4 -> 16"),
        ("model.mm_projector.", ["0", "2"], "model.mm_projector.: llava or mlp_2layer, 4 -> 16"),
        ("", ["0", "2"], "  llava or mlp_2layer, 4 -> 16"),
        ("", ["proj"], "  linear or avgpool, 4 -> 16"),
        ("model.", ["mm_projector"], "model.: linear or avgpool, 4 -> 16"),
        ("model.connector.", ["proj"], "model.connector.: linear or avgpool, 4 -> 16"),
        ("visual.merger.", ["mlp.0", "mlp.2", "mlp.4"], "visual.merger.mlp.: 6 tensors, of no type that this version has"),
    ],
)
def test_inspect_knows_the_names_of_others(tenon, prefix, layers, says):
    others = language_model() if prefix else {}
    save_file({**linear_layers(prefix, *layers), **others}, "x.safetensors")
    result = tenon("inspect", "x.safetensors", code=1)
    assert says in result.out
    assert ("0 is linear_1 here" in result.out) == (layers[0] == "0")
    lines = [line.strip() for line in result.out.splitlines() if line.startswith("    tenon inspect ")]
    assert len(lines) == ("of no type" not in says)
    for line in lines:  # it opens the connector, under the names it has there
        assert ("--rename" in line) == (layers[0] not in ("proj", "linear_1"))
        done = subprocess.run(line.replace("tenon", os.environ["TENON_BIN"], 1), shell=True, capture_output=True, text=True)
        assert done.returncode == 0 and "4 -> 16" in done.stdout, done
        options = shlex.split(line)[3:]
        numpy.save("f.npy", numpy.ones((1, 4, 4), numpy.float32))
        tenon("run", "x.safetensors", "f.npy", "-o", "t.npy", *options)
        assert numpy.load("t.npy").shape == (1, 4, 16)


def test_inspect_an_attentional_pool_by_its_names(tenon, make):
    make("attentional_pool", 24, 8, heads=12)
    save_file({f"a.{k}": v for k, v in load_file("adapter.safetensors").items()}, "x.safetensors")
    out = tenon("inspect", "x.safetensors", code=1).out
    assert "a.: attentional_pool, 24 -> 8" in out and '"pool_heads": 12' in out


def test_inspect_summarises_a_hundred_thousand_tensors(tenon):
    tensors = {f"model.layers.{i}.{j}.weight": numpy.zeros(1, numpy.int8) for i in range(100) for j in range(1000)}
    save_file({**tensors, **linear_layers("z.projector.", "linear_1", "linear_2")}, "x.safetensors")
    out = tenon("inspect", "x.safetensors", code=1).out
    assert "z.projector.: llava" in out and "model.layers.*.*." in out and len(out.splitlines()) < 40
    save_file({f"t{i}": numpy.zeros(1, numpy.int8) for i in range(100000)}, "flat.safetensors")
    assert "(no prefix)" in tenon("inspect", "flat.safetensors", code=1).out


def test_inspect_an_index_whose_shards_are_not_all_here(tenon):
    import json

    connector = linear_layers("adapter.", "proj1", "proj2")
    save_file(connector, "a.safetensors")
    weight_map = {**{k: "a.safetensors" for k in connector}, **{f"lm.{i}.weight": "b.safetensors" for i in range(20)}}
    json.dump({"metadata": {}, "weight_map": weight_map}, open("model.safetensors.index.json", "w"))
    out = tenon("inspect", "model.safetensors.index.json", code=1).out
    assert "adapter.: mlp_2layer, 4 -> 16" in out and "20 not here" in out
    assert "in b.safetensors, which is not here" in tenon("inspect", ".", "--all", code=1).out
    tensors = tenon("inspect", ".", "--json", code=1).json["tensors"]
    assert sum(t.get("absent_shard") == "b.safetensors" for t in tensors) == 20


def test_window_needs_a_connector_that_pools(make, tenon):
    make("linear", 4, 6)
    for words in (["inspect", "adapter.safetensors"], ["bench", "adapter.safetensors", "--tokens", "4"]):
        assert "--window does not apply" in tenon(*words, "--window", "3", code=1).err


def access_list(*entries):
    """The bytes of a POSIX access control list: (tag, permissions, id) each, after a version."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


ANYONE = 0xFFFFFFFF
OPEN = access_list((1, 6, ANYONE), (2, 4, 12345), (4, 0, ANYONE), (0x10, 4, ANYONE), (0x20, 0, ANYONE))


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="no extended attributes")
def test_attributes_of_a_replaced_file_are_kept(tenon, make):
    make("linear", 4, 6)
    words = ["init", "--type", "linear", "--in-dim", 4, "--out-dim", 6, "-o", "adapter.safetensors"]
    try:
        os.setxattr("adapter.safetensors", "user.origin", b"run 7")
    except OSError:
        pytest.skip("no extended attributes on this file system")
    tenon(*words)
    assert os.getxattr("adapter.safetensors", "user.origin") == b"run 7"
    try:
        os.setxattr("adapter.safetensors", "system.posix_acl_access", OPEN)
    except OSError:
        return
    tenon(*words)
    assert os.getxattr("adapter.safetensors", "system.posix_acl_access") == OPEN
    # A file without a list gets none from its folder.
    os.removexattr("adapter.safetensors", "system.posix_acl_access")
    os.chmod("adapter.safetensors", 0o640)
    os.setxattr(".", "system.posix_acl_default", OPEN)
    tenon(*words)
    assert "system.posix_acl_access" not in os.listxattr("adapter.safetensors")
    assert os.stat("adapter.safetensors").st_mode & 0o777 == 0o640

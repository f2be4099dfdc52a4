# SPDX-License-Identifier: MIT
"""tenon run on a folder of shards: the manifest, resuming, what stops it; and being killed."""
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import time

import numpy
import pytest
from safetensors.numpy import load_file, save_file

import reference
from conftest import BINARY, load_tokens, run, worst_relative
from faults import failing
from test_fit import FIT, data  # noqa: F401 (data is a fixture)
from test_run import CLEAN

RUN = ["run", "adapter.safetensors", "in", "-o", "out"]


@pytest.fixture
def shards(make, rng):
    """A connector and a folder of three shards; returns the adapter and the features by shard."""
    adapter = make("avgpool", 8, 6)
    os.mkdir("in")
    arrays = {f"{i}.npy": rng.normal(size=(i + 1, 16, 8)).astype(numpy.float32) for i in range(2)}
    for name, array in arrays.items():
        numpy.save(f"in/{name}", array)
    arrays["2.safetensors"] = rng.normal(size=(4, 16, 8)).astype(numpy.float32)
    save_file({"features": arrays["2.safetensors"]}, "in/2.safetensors")
    open("in/README.txt", "w").write("not a shard")
    open("in/.hidden.npy", "w").write("not a shard either")
    return adapter, arrays


def check(adapter, arrays, folder="out"):
    for name, array in arrays.items():
        assert worst_relative(load_tokens(f"{folder}/{name}"), adapter(array)[0]) <= 3e-6


def stamps(folder="out"):
    return {name: os.stat(f"{folder}/{name}").st_mtime_ns for name in os.listdir(folder) if name != "manifest.json"}


def test_a_folder_of_shards(tenon, shards):
    result = tenon(*RUN)
    check(*shards)
    assert sorted(os.listdir("out")) == ["0.npy", "1.npy", "2.safetensors", "manifest.json"]
    assert "3 shards done, 0 skipped" in result.err and "7 images" in result.err and result.out == ""
    manifest = json.load(open("out/manifest.json"))
    assert manifest["weights"] and manifest["options_hash"] and manifest["options"]["dtype"] == "f32"
    assert sorted(manifest["shards"]) == sorted(shards[1])
    assert manifest["shards"]["1.npy"]["images"] == 2 and manifest["shards"]["1.npy"]["features"]["hash"]


@pytest.mark.parametrize("suffix", ["npy", "safetensors"])
@pytest.mark.parametrize("width", [512, 509])
def test_a_folder_holds_what_single_files_do(tenon, make, rng, suffix, width):
    """Tokens of a folder go past the file cache: in whole blocks of the disk with 512 columns, in none with 509."""
    make("linear", 48, width)
    os.mkdir("in")
    x = rng.normal(size=(300, 91, 48)).astype(numpy.float32)  # tokens of more than one chunk
    if suffix == "npy":
        numpy.save("in/a.npy", x)
    else:
        save_file({"x": x}, "in/a.safetensors")
    tenon(*RUN)
    tenon("run", "adapter.safetensors", f"in/a.{suffix}", "-o", f"a.{suffix}")
    if suffix == "npy":
        assert numpy.array_equal(numpy.load("out/a.npy"), numpy.load("a.npy"))
    else:
        assert numpy.array_equal(load_file("out/a.safetensors")["tokens"], load_file("a.safetensors")["tokens"])


def test_finished_shards_are_skipped(tenon, shards):
    tenon(*RUN)
    before = stamps()
    assert tenon(*RUN, "--json").json["shards"] == {"done": 0, "skipped": 3}
    assert stamps() == before
    os.remove("out/1.npy")
    assert tenon(*RUN, "--json").json["shards"] == {"done": 1, "skipped": 2}
    numpy.save("in/9.npy", numpy.ones((1, 16, 8), numpy.float32))
    assert tenon(*RUN, "--json").json["shards"] == {"done": 1, "skipped": 3}
    assert {k: v for k, v in stamps().items() if k in ("0.npy", "2.safetensors")} == {
        k: v for k, v in before.items() if k in ("0.npy", "2.safetensors")}
    check(*shards)


def test_a_copied_folder_is_known_by_its_hashes(tenon, shards):
    tenon(*RUN)
    subprocess.run(["cp", "-r", "in", "in2"], check=True)
    subprocess.run(["cp", "-r", "out", "out2"], check=True)
    result = tenon("run", "adapter.safetensors", "in2", "-o", "out2", "--json")
    assert result.json["shards"] == {"done": 0, "skipped": 3}


def test_other_weights_stop_it(tenon, shards, make):
    tenon(*RUN)
    before = stamps()
    adapter = make("avgpool", 8, 6, seed=5)
    result = tenon(*RUN, code=1)
    assert "other weights" in result.err and "--force" in result.err and "manifest.json" in result.err
    assert stamps() == before
    assert tenon(*RUN, "--force", "--json").json["shards"] == {"done": 3, "skipped": 0}
    check(adapter, shards[1])


@pytest.mark.parametrize(
    "words, name",
    [
        (["--window", "4"], "window"),
        (["--dtype", "f16"], "dtype"),
        (["--grid", "2x8"], "grid"),
        (["--cpu", "baseline"], "cpu"),
        (["--patch-mask", "masks"], "patch_mask"),
    ],
)
def test_other_options_stop_it(tenon, shards, words, name):
    os.mkdir("masks")
    for shard, array in shards[1].items():
        numpy.save(f"masks/{shard.split('.')[0]}.npy", numpy.ones(array.shape[:2], bool))
    tenon(*RUN)
    result = tenon(*RUN, *words, code=1)
    assert f"{name} was" in result.err and "--force" in result.err
    assert tenon(*RUN, *words, "--force", "--json").json["shards"]["done"] == 3


def test_prefix_tokens_are_an_option_of_the_folder(tenon, shards):
    result = tenon(*RUN, "--prefix-tokens", "1", code=1, lines=4)  # 15 patches are no square
    assert "in/2.safetensors" in result.err and not os.path.exists("out")
    tenon(*RUN, "--prefix-tokens", "0")
    assert tenon(*RUN, "--json").json["shards"]["skipped"] == 3  # the config's, as it is
    result = tenon(*RUN, "--prefix-tokens", "7", code=1)  # 9 are
    assert "config was" in result.err and "prefix_tokens" in result.err and "--force" in result.err


def test_options_that_no_shard_can_follow(tenon, shards):
    assert "--npy-bf16: in holds no npy array of uint16" in tenon(*RUN, "--npy-bf16", code=1).err
    tenon(*RUN, "--tensor", "features")  # of the one .safetensors shard
    os.remove("in/2.safetensors")
    assert "--tensor features: in is npy" in tenon(*RUN, "--tensor", "features", "--force", code=1).err


def test_threads_do_not_count_as_other_options(tenon, shards):
    tenon(*RUN, "--threads", "2")
    assert tenon(*RUN, "--threads", "1", "--json").json["shards"]["skipped"] == 3


def test_a_changed_shard_is_done_again_alone(tenon, shards):
    tenon(*RUN)
    before = stamps()
    info = os.stat("in/1.npy")
    numpy.save("in/1.npy", shards[1]["1.npy"] + 1)
    os.utime("in/1.npy", ns=(info.st_atime_ns, info.st_mtime_ns))
    result = tenon(*RUN, "--json")
    assert result.json["shards"] == {"done": 1, "skipped": 2} and result.json["changed_shards"] == ["1.npy"]
    assert {name for name, stamp in stamps().items() if stamp != before[name]} == {"1.npy"}
    check(shards[0], {**shards[1], "1.npy": shards[1]["1.npy"] + 1})
    numpy.save("in/1.npy", shards[1]["1.npy"])
    numpy.save("in/0.npy", shards[1]["0.npy"] + 1)
    said = tenon(*RUN).err
    assert "tenon: note: in: 2 shards had changed and were done again: 0.npy, 1.npy\n" in said
    assert tenon(*RUN, "--json").json["changed_shards"] == []


def test_changed_tokens_are_not_written_over(tenon, shards):
    tenon(*RUN)
    mine = numpy.load("out/1.npy") + 1
    numpy.save("out/1.npy", mine)
    os.remove("out/0.npy")
    for _ in range(2):  # whether their features have changed as well or not
        said = tenon(*RUN, code=1, lines=4).err
        assert "tenon: out/1.npy: is not the file that out/manifest.json records; remove it to have" in said
        assert "1 not done" in said and numpy.array_equal(numpy.load("out/1.npy"), mine) and os.path.exists("out/0.npy")
        numpy.save("in/1.npy", shards[1]["1.npy"] + 1)
    os.remove("out/1.npy")
    tenon(*RUN)
    check(shards[0], {**shards[1], "1.npy": shards[1]["1.npy"] + 1})


def test_a_broken_manifest_stops_it(tenon, shards):
    tenon(*RUN)
    for text in ("{", "[]", '{"format": 99, "weights": "", "options": {}, "shards": {}}', '{"format": 1, "format": 1}'):
        open("out/manifest.json", "w").write(text)
        assert "manifest.json" in tenon(*RUN, code=1).err
    tenon(*RUN, "--force")
    check(*shards)


def test_foreign_files_are_not_overwritten(tenon, shards):
    os.mkdir("out")
    open("out/1.npy", "w").write("mine")
    result = tenon(*RUN, code=1)
    assert "out/1.npy" in result.err and open("out/1.npy").read() == "mine" and os.listdir("out") == ["1.npy"]


def test_all_bad_shards_are_named_and_the_others_done(tenon, shards):
    os.remove("in/README.txt")
    numpy.save("in/a.npy", numpy.zeros((1, 16, 9), numpy.float32))
    open("in/b.npy", "wb").write(open("in/1.npy", "rb").read()[:-8])
    numpy.save("in/c.npy", numpy.zeros((1, 16, 8), numpy.int32))
    save_file({"x": numpy.zeros((1, 7, 8), numpy.float32)}, "in/d.safetensors")
    open("in/e.safetensors", "w").close()
    said = tenon(*RUN, code=1, lines=7).err
    for number, words in enumerate(["in/a.npy: features (1, 16, 9) have width 9", "in/b.npy: ", "in/c.npy: features are i32",
                                    "in/d.safetensors: ", "in/e.safetensors: "]):
        assert said.splitlines()[number].startswith(f"tenon: {words}")
    assert "in -> out: 3 shards done, 0 skipped, 5 not done, 7 images" in said.splitlines()[5]
    assert said.splitlines()[6].startswith(
        "tenon: in: 5 of 8 shards could not be done: a.npy, b.npy, c.npy, d.safetensors and 1 more; correct")
    check(*shards)
    result = tenon(*RUN, "--json", code=1, lines=6)
    assert result.json["shards"] == {"done": 0, "skipped": 3}
    assert sorted(result.json["bad_shards"]) == ["a.npy", "b.npy", "c.npy", "d.safetensors", "e.safetensors"]
    assert result.json["bad_shards"]["c.npy"].startswith("in/c.npy: features are i32")
    assert json.load(open("out/manifest.json"))["last_run"]["bad"] == result.json["bad_shards"]
    for name in result.json["bad_shards"]:
        os.remove(f"in/{name}")
    assert tenon(*RUN, "--json").json["bad_shards"] == {}
    assert json.load(open("out/manifest.json"))["last_run"] == {"bad": {}, "changed": {}}


def test_where_no_shard_can_be_done_nothing_is_written(tenon, make):
    make("avgpool", 8, 6)
    os.mkdir("in")
    for name in ("a", "b"):
        numpy.save(f"in/{name}.npy", numpy.zeros((1, 16, 9), numpy.float32))
    said = tenon(*RUN, code=1, lines=3).err
    assert "in/a.npy" in said and "in/b.npy" in said and "tenon: in: none of its 2 shards can be done" in said
    assert not os.path.exists("out")


def test_a_shard_that_fails_while_it_is_read_does_not_stop_the_others(tenon, make, rng):
    adapter = make("linear", 64, 8)
    os.mkdir("in")
    x = {f"{name}.npy": rng.normal(size=(3, 4, 64)).astype(numpy.float32) for name in "acd"}
    for name, array in x.items():
        numpy.save(f"in/{name}", array)
    big = rng.normal(size=(900, 256, 64)).astype(numpy.float32)  # 59 MB: two chunks, the value in the second
    big[899, 255, 63] = numpy.nan
    numpy.save("in/b.npy", big)
    said = tenon(*RUN, "--check-finite", code=1, lines=3).err
    assert "tenon: in/b.npy: in the features, image 899, token 255, column 63 is nan" in said
    assert "3 shards done, 0 skipped, 1 not done, 9 images" in said
    assert sorted(os.listdir("out")) == ["a.npy", "c.npy", "d.npy", "manifest.json"]
    check(adapter, x)
    assert tenon(*RUN, "--json").json["shards"] == {"done": 1, "skipped": 3}


def test_skipped_files_are_counted_and_named(tenon, shards):
    os.mkdir("in/more")
    for name in ("c.pt", "d.NPY", "e.npz"):
        open(f"in/{name}", "w").close()
    said = tenon(*RUN).err
    assert said.startswith("tenon: note: in: 5 entries skipped, which are no .npy or .safetensors files: "
                           "README.txt, c.pt, d.NPY, e.npz and 1 more\n")
    got = tenon(*RUN, "--json")
    assert got.err == "" and got.json["skipped_files"] == ["README.txt", "c.pt", "d.NPY", "e.npz", "more/"]
    os.makedirs("other/sub")
    open("other/a.pt", "w").close()
    said = tenon("run", "adapter.safetensors", "other", "-o", "out2", code=1).err
    assert "other: no .npy or .safetensors file in it, but a.pt, sub/; give the folder" in said


def test_tokens_without_features_are_mentioned(tenon, make, rng):
    make("attentional_pool", 8, 6, heads=2)
    os.mkdir("in")
    for name in ("a.npy", "b.npy", "c.npy"):
        numpy.save(f"in/{name}", rng.normal(size=(2, 16, 8)).astype(numpy.float32))
    save_file({"x": numpy.zeros((2, 16, 8), numpy.float32)}, "in/d.safetensors")
    os.mkdir("att")
    numpy.save("att/mine.npy", numpy.ones(3))  # before any run: not for this command to talk about
    words = [*RUN, "--attention", "att"]
    assert tenon(*words, "--json").json["tokens_without_features"] == []
    os.remove("in/b.npy")
    os.remove("in/d.safetensors")
    said = tenon(*words).err
    assert "tenon: note: out: 2 files of tokens without features in in: b.npy, d.safetensors\n" in said
    assert "tenon: note: att: 3 files of attention without features in in: b.npy, d.npy, mine.npy\n" in said
    got = tenon(*words, "--json").json
    assert got["tokens_without_features"] == ["b.npy", "d.safetensors"]
    assert got["attention_without_features"] == ["b.npy", "d.npy", "mine.npy"]
    assert os.path.exists("out/b.npy") and os.path.exists("att/d.npy")


def test_folders_that_will_not_do(tenon, shards):
    os.mkdir("empty")
    assert "empty" in tenon("run", "adapter.safetensors", "empty", "-o", "out", code=1).err
    assert "in" in tenon("run", "adapter.safetensors", "in", "-o", "in", code=1).err
    assert "missing/out" in tenon("run", "adapter.safetensors", "in", "-o", "missing/out", code=1).err
    open("file", "w").close()
    assert "file" in tenon("run", "adapter.safetensors", "in", "-o", "file", code=1).err
    result = tenon(*RUN, "--frame-mask", "file", code=1)
    assert "--frame-mask file: is no folder" in result.err
    assert not os.path.exists("out")


def test_a_file_does_not_go_into_a_folder(tenon, shards):
    os.mkdir("out")
    result = tenon("run", "adapter.safetensors", "in/0.npy", "-o", "out", code=1)
    assert "out: is a folder, but in/0.npy is one file" in result.err and os.listdir("out") == []


def test_masks_and_attention_are_folders_too(tenon, make, rng):
    adapter = make("attentional_pool", 8, 6, heads=2)
    for folder in ("in", "p", "f"):
        os.mkdir(folder)
    arrays, masks, frames = {}, {}, {}
    for i, name in enumerate(["a.npy", "b.safetensors"]):
        stem = name.split(".")[0]
        arrays[name] = rng.normal(size=(3 + i, 16, 8)).astype(numpy.float32)
        masks[name] = rng.random((3 + i, 16)) < 0.6
        frames[name] = rng.random(3 + i) < 0.7
        numpy.save(f"p/{stem}.npy", masks[name])
        numpy.save(f"f/{stem}.npy", frames[name])
    numpy.save("in/a.npy", arrays["a.npy"])
    save_file({"x": arrays["b.safetensors"]}, "in/b.safetensors")
    words = [*RUN, "--patch-mask", "p", "--frame-mask", "f", "--attention", "att"]
    tenon(*words)
    for name, x in arrays.items():
        y, a = adapter(x, patch_mask=masks[name], frame_mask=frames[name])
        assert worst_relative(load_tokens(f"out/{name}"), y) <= 3e-6
        assert numpy.abs(numpy.load(f"att/{name.split('.')[0]}.npy") - a).max() < 1e-6
    assert tenon(*words, "--json").json["shards"] == {"done": 0, "skipped": 2}
    os.remove("att/a.npy")
    assert tenon(*words, "--json").json["shards"] == {"done": 1, "skipped": 1}
    numpy.save("p/a.npy", ~masks["a.npy"])
    assert tenon(*words, "--json").json["changed_shards"] == ["a.npy"]
    assert worst_relative(load_tokens("out/a.npy"), adapter(arrays["a.npy"], patch_mask=~masks["a.npy"],
                                                            frame_mask=frames["a.npy"])[0]) <= 3e-6
    save_file({"x": arrays["a.npy"]}, "in/a.safetensors")
    said = tenon(*words, code=1, lines=3).err
    assert "in/a.safetensors: its attention weights" in said and "rename" in said and "1 of 3 shards" in said
    numpy.save("p/b.npy", masks["b.safetensors"][:, :9])
    assert "tenon: p/b.npy: the patch mask has shape" in tenon(*words, code=1, lines=4).err


def test_nonfinite_values_of_a_folder(tenon, make, rng):
    make("avgpool", 8, 6)
    os.mkdir("in")
    x = {name: rng.normal(size=(3, 16, 8)).astype(numpy.float32) for name in ("a.npy", "b.npy", "c.npy")}
    x["b.npy"][2, 5, 1] = numpy.nan
    x["c.npy"][0, 0, 0] = -numpy.inf
    for name, array in x.items():
        numpy.save(f"in/{name}", array)
    first = {"file": "in/b.npy", "image": 2, "token": 5, "column": 1, "value": "nan"}
    for shards in ({"done": 3, "skipped": 0}, {"done": 0, "skipped": 3}):  # told again by a run that skips them
        got = tenon(*RUN, "--json").json
        assert got["shards"] == shards and got["nonfinite"]["features"] == {"count": 2, "first": first}
        assert got["nonfinite"]["tokens"]["count"] == 12 and got["nonfinite"]["tokens"]["first"]["file"] == "out/b.npy"
    os.remove("out/c.npy")
    said = tenon(*RUN).err
    assert "1 shards done, 2 skipped" in said and "2 values of the features not finite (first: in/b.npy, image 2" in said
    before = stamps()
    said = tenon(*RUN, "--check-finite", code=1, lines=4).err
    assert "in/b.npy: in the features, image 2, token 5, column 1 is nan" in said and stamps() == before
    numpy.save("in/b.npy", x["a.npy"])
    numpy.save("in/c.npy", x["a.npy"])
    assert tenon(*RUN, "--force", "--check-finite", "--json").json["nonfinite"] == CLEAN
    assert tenon(*RUN, "--check-finite", "--json").json["shards"] == {"done": 0, "skipped": 3}
    manifest = json.load(open("out/manifest.json"))
    for entry in manifest["shards"].values():
        assert entry.pop("nonfinite") == {}
    json.dump(manifest, open("out/manifest.json", "w"))  # as a version wrote it that did not look
    assert tenon(*RUN, "--json").json["shards"] == {"done": 0, "skipped": 3}
    assert tenon(*RUN, "--check-finite", "--json").json["shards"] == {"done": 3, "skipped": 0}


def many_shards(make, rng, count=12):
    adapter = make("mlp_2layer", 256, 512)
    os.mkdir("in")
    arrays = {f"{i:02}.npy": rng.normal(size=(40, 64, 256)).astype(numpy.float32) for i in range(count)}
    for name, array in arrays.items():
        numpy.save(f"in/{name}", array)
    return adapter, arrays


def wait_for(path, process):
    for _ in range(3000):
        if os.path.exists(path) or process.poll() is not None:
            return
        time.sleep(0.002)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_in_the_middle(tenon, make, rng, kill):
    _, arrays = many_shards(make, rng)
    tenon("run", "adapter.safetensors", "in", "-o", "whole")
    process = subprocess.Popen([BINARY, *RUN], stderr=subprocess.PIPE, text=True)
    wait_for("out/02.npy", process)
    process.send_signal(kill)
    error = process.communicate()[1]
    assert process.returncode == -kill, error
    json.load(open("out/manifest.json"))
    left = os.listdir("out")
    for name in left:
        if name.endswith(".npy") and name[0] != ".":
            assert open(f"out/{name}", "rb").read() == open(f"whole/{name}", "rb").read()
    if kill != signal.SIGKILL:
        assert not [name for name in left if name[0] == "."]
        done = sum(name.endswith(".npy") for name in left)
        assert f"interrupted; {done} of {len(arrays)} shards are finished, and the same command goes on" in error
    result = tenon(*RUN, "--json").json["shards"]
    assert result["done"] + result["skipped"] == len(arrays) and result["skipped"] >= 1 and result["done"] >= 1
    assert sorted(os.listdir("out")) == sorted([*arrays, "manifest.json"])  # no temporary file is left
    for name in arrays:
        assert open(f"out/{name}", "rb").read() == open(f"whole/{name}", "rb").read()


def test_killed_on_one_file_leaves_the_old_one(tenon, make, rng):
    make("mlp_2layer", 256, 512)
    numpy.save("x.npy", rng.normal(size=(600, 64, 256)).astype(numpy.float32))
    open("y.npy", "w").write("old")
    for kill in (signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen([BINARY, "run", "adapter.safetensors", "x.npy", "-o", "y.npy"], stderr=subprocess.DEVNULL)
        time.sleep(0.15)
        process.send_signal(kill)
        if process.wait() != -kill:
            pytest.skip("the machine was done before it could be stopped")
        assert open("y.npy").read() == "old"
    assert [n for n in os.listdir(".") if n.startswith(".")] == [] or kill == signal.SIGTERM


def test_one_run_at_a_time(tenon, make, rng):
    _, arrays = many_shards(make, rng)
    process = subprocess.Popen([BINARY, *RUN], stderr=subprocess.PIPE, text=True)
    wait_for("out/manifest.json", process)
    process.send_signal(signal.SIGSTOP)
    if process.poll() is not None:
        pytest.skip("the machine was done before it could be stopped")
    result = tenon(*RUN, "--force", code=1)
    assert f"out: another tenon (process {process.pid} on " in result.err and "another folder" in result.err
    process.send_signal(signal.SIGCONT)
    assert process.wait() == 0, process.stderr.read()
    assert tenon(*RUN, "--json").json["shards"] == {"done": 0, "skipped": len(arrays)}
    assert not os.path.exists("out/.tenon.lock")


def test_a_lock_file_without_a_lock_stops_nobody(tenon, shards):
    os.mkdir("out")
    open("out/.tenon.lock", "w").write("1 nowhere")  # as a killed run leaves it
    tenon(*RUN)
    os.symlink("/nowhere", "out/.tenon.lock")
    assert "out/.tenon.lock" in tenon(*RUN, code=1).err


def run_with(fault):
    """A folder's run, or None where the kernel does not let a test make its calls fail."""
    try:
        return run(*RUN, preexec_fn=fault)
    except subprocess.SubprocessError:
        pytest.skip("system calls cannot be made to fail here")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL])
@pytest.mark.parametrize("call", ["flock", "fsync"])
def test_C5_file_systems_that_cannot_lock_or_sync(tenon, shards, call, number):
    if (call, number) in (("fsync", errno.ENOLCK), ("flock", errno.EINVAL)):
        return
    for done in (3, 0):
        result = run_with(failing(call, number))
        assert result.code == 0 and f"{done} shards done, {3 - done} skipped" in result.err, result
    check(*shards)
    assert sorted(os.listdir("out")) == ["0.npy", "1.npy", "2.safetensors", "manifest.json"]
    if call == "flock":  # without locks nobody knows who else is there
        open("out/.1.npy.99999999-0.tmp", "w").close()
        assert run_with(failing(call, number)).code == 0 and os.path.exists("out/.1.npy.99999999-0.tmp")


@pytest.mark.parametrize("call", ["flock", "fsync"])
def test_C5_checkpoints_on_file_systems_that_cannot_lock_or_sync(tenon, data, call):
    words = [*FIT, "--steps", 4, "--every", 2, "--checkpoint", "ck", "--log", "log", "-o", f"{call}.safetensors"]
    try:
        result = run(*words, preexec_fn=failing(call, errno.ENOSYS))
    except subprocess.SubprocessError:
        pytest.skip("system calls cannot be made to fail here")
    assert result.code == 0 and os.path.exists("ck/checkpoint.safetensors"), result


def dead_process():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_temporary_files_of_killed_runs_are_removed(tenon, shards, rng):
    tenon(*RUN)
    dead, live = dead_process(), os.getpid()
    long = "x" * 120 + ".npy"
    numpy.save(f"in/{long}", rng.normal(size=(1, 16, 8)).astype(numpy.float32))
    gone = [f".1.npy.{dead}-0.tmp", f".2.safetensors.{dead}-12.tmp", f".manifest.json.{dead}-0.tmp",
            f"..manifest.rank-3.json.{dead}-0.tmp", f".{long[:100]}.{dead}-0.tmp"]
    stay = [f".1.npy.{live}-0.tmp", f".other.npy.{dead}-0.tmp", f".1.npy.{dead}.tmp", f".1.npy.{dead}-0.tmp.bak",
            f"1.npy.{dead}-0.tmp", f".1.npy.-{dead}-0.tmp", f".1.npy.{dead}--1.tmp", f".1.npy.99999999999999999999-0.tmp",
            f".1.npy.{dead}-0.tmpx", ".tmp", ".-.tmp", f".{dead}-0.tmp", "..tmp"]
    for name in gone + stay:
        open(f"out/{name}", "w").write("half a file")
    tenon(*RUN)
    assert {name for name in os.listdir("out") if "tmp" in name} == set(stay)


def test_temporary_files_of_another_machine_stay(tenon, shards):
    tenon(*RUN)
    name = f"out/.1.npy.{dead_process()}-0.tmp"
    open(name, "w").close()
    open("out/.tenon.lock", "w").write("12 another-machine\n")
    said = tenon(*RUN).err
    assert "tenon: note: out: 1 temporary file (.NAME.PID-N.tmp) of a run that was killed on another-machine" in said
    assert os.path.exists(name)
    open("out/.tenon.lock", "w").write(f"12 {socket.gethostname()}\n")
    tenon(*RUN)
    assert not os.path.exists(name)


@pytest.mark.parametrize("text", ["", "-5 host", "12", "\x1b[2J", "9" * 200])
def test_a_lock_of_who_knows_whom(tenon, shards, text):
    os.mkdir("out")
    with open("out/.tenon.lock", "w") as file:
        file.write(text)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        result = tenon(*RUN, code=1)
    assert "out: another tenon is writing there; wait until" in result.err and os.listdir("out") == [".tenon.lock"]


def test_a_full_disk_keeps_the_finished_shards(tenon, make, rng):
    import resource

    adapter = make("linear", 8, 64)
    os.mkdir("in")
    sizes = {"a.npy": 2, "b.npy": 500, "c.npy": 2}
    for name, images in sizes.items():
        numpy.save(f"in/{name}", rng.normal(size=(images, 9, 8)).astype(numpy.float32))
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))
    result = tenon(*RUN, code=1, preexec_fn=limit)
    assert "b.npy" in result.err and sorted(os.listdir("out")) == ["a.npy", "manifest.json"]
    assert tenon(*RUN, "--json").json["shards"] == {"done": 2, "skipped": 1}


def test_an_unwritable_folder(tenon, shards):
    if os.geteuid() == 0:
        # root ignores permission bits; a folder of /proc refuses root too
        result = tenon("run", "adapter.safetensors", "in", "-o", "/proc/self/tokens", code=1)
        assert "/proc/self/tokens" in result.err
        return
    os.mkdir("locked", 0o500)
    result = tenon("run", "adapter.safetensors", "in", "-o", "locked/out", code=1)
    assert "locked/out" in result.err

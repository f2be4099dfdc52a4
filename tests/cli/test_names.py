# SPDX-License-Identifier: MIT
"""C1: no name that a run writes leads to a file that it reads or writes already, however it is spelt."""
import json
import os
import shutil
import subprocess

import numpy
import pytest
from safetensors.numpy import load_file, save_file

FIT = ["fit", "--model", "start.safetensors", "--features", "x", "--targets", "t", "--steps", 2]


def contents():
    """Every file below this folder with its bytes, its links and its inode."""
    found = {}
    for folder, _, files in os.walk("."):
        for name in files:
            path = os.path.join(folder, name)
            text = os.readlink(path) if os.path.islink(path) else open(path, "rb").read()
            found[path] = (text, os.lstat(path).st_ino)
    return found


@pytest.fixture
def scene(tenon, rng):
    """Everything that fit and run can read, as files and as folders."""
    for name, seed in (("start", 1), ("teacher", 2)):
        tenon("init", "--type", "attentional_pool", "--heads", 2, "--in-dim", 16, "--out-dim", 8, "--seed", seed, "-o",
              f"{name}.safetensors")
    for folder in ("x", "masks", "frames"):
        os.mkdir(folder)
    for name in "ab":
        numpy.save(f"x/{name}.npy", rng.normal(size=(3, 16, 16)).astype(numpy.float32))
        numpy.save(f"masks/{name}.npy", numpy.ones((3, 16), bool))
        numpy.save(f"frames/{name}.npy", numpy.ones(3, bool))
    save_file({"x": rng.normal(size=(3, 16, 16)).astype(numpy.float32)}, "x/c.safetensors")
    numpy.save("masks/c.npy", numpy.ones((3, 16), bool))
    numpy.save("frames/c.npy", numpy.ones(3, bool))
    tenon("run", "teacher.safetensors", "x", "-o", "t")
    shutil.copy("x/c.safetensors", "x.safetensors")
    shutil.copy("t/c.safetensors", "t.safetensors")
    open("c.json", "w").write('{"type": "attentional_pool", "pool_heads": 2, "in_dim": 16, "out_dim": 8}')
    os.makedirs("d/e")


def spellings(path, option="-o"):
    """The file under other names; those that are made are in a folder of their own. A few for the second output."""
    suffix = os.path.splitext(path)[1]
    os.makedirs("links", exist_ok=True)
    symbolic, hard = f"links/s{suffix}", f"links/h{suffix}"
    for link in (symbolic, hard, "links/folder"):
        if os.path.lexists(link):
            os.remove(link)
    os.symlink(os.path.abspath(path), symbolic)
    os.link(path, hard)
    os.symlink(os.path.abspath(os.path.dirname(path) or "."), "links/folder")
    names = [symbolic, hard, path, f"./d/../{path}", f"d/e/../..//{path}", os.path.abspath(path),
             f"links/folder/{os.path.basename(path)}"]
    return names if option == "-o" else names[:2]


def refused(tenon, words, *said):
    before = contents()
    result = tenon(*words, code=1)
    for word in said:
        assert word in result.err, result
    assert contents() == before, result


FILES = [("--model", "start.safetensors"), ("--features", "x.safetensors"), ("--targets", "t.safetensors"), ("--config", "c.json")]


@pytest.mark.parametrize("option", ["-o", "--log"])
@pytest.mark.parametrize("read, path", FILES)
def test_C1_fit_on_files(tenon, scene, option, read, path):
    words = ["fit", "--model", "start.safetensors", "--features", "x.safetensors", "--targets", "t.safetensors", "--config",
             "c.json", "--steps", 2, "-o", "out.safetensors"]
    for other in spellings(path, option):
        refused(tenon, [*words, option, other], f"{option} {other} and {read} {path} are the same file", "overwrite")


@pytest.mark.parametrize("option", ["-o", "--log"])
@pytest.mark.parametrize("read, path", [("--features x", "x/a.npy"), ("--features x", "x/c.safetensors"),
                                        ("--targets t", "t/b.npy"), ("--targets t", "t/c.safetensors")])
def test_C1_fit_on_folders(tenon, scene, option, read, path):
    for other in spellings(path, option):
        refused(tenon, [*FIT, "-o", "out.safetensors", option, other], f"{option} {other} and {path} of {read} are the same")


def test_C1_fit_through_links_of_the_inputs(tenon, scene):
    """The input is the link, and the output the file that it leads to."""
    os.rename("x/a.npy", "far.npy")
    os.symlink("../far.npy", "x/a.npy")
    refused(tenon, [*FIT, "-o", "out.safetensors", "--log", "far.npy"], "--log far.npy", "x/a.npy of --features x")


@pytest.mark.parametrize("folder, read", [("x", "--features x"), ("t", "--targets t")])
def test_C1_a_new_output_in_a_folder_of_inputs(tenon, scene, folder, read):
    """It would destroy nothing, but be an input of the next run."""
    for path in (f"{folder}/new.safetensors", f"./d/../{folder}/new.safetensors"):
        refused(tenon, [*FIT, "-o", path], f"-o {path} lies in the folder {read}")
    tenon(*FIT, "-o", "out.safetensors", "--log", f"{folder}/log.jsonl", "--checkpoint", f"{folder}/run1")
    tenon(*FIT, "-o", "out.safetensors", "--log", f"{folder}/log.jsonl", "--checkpoint", f"{folder}/run1", "--resume")


def test_C1_the_files_in_the_folder_of_checkpoints(tenon, scene):
    words = [*FIT, "--val-fraction", "0.3", "--checkpoint", "run1"]
    for path in ("run1/best.safetensors", "run1/checkpoint.safetensors", "d/../run1//best.safetensors"):
        refused(tenon, [*words, "-o", path], f"-o {path} and run1/{os.path.basename(path)} of --checkpoint run1", "hold both")
        refused(tenon, [*words, "-o", "out.safetensors", "--log", path], f"--log {path} and run1/")
    tenon(*words, "-o", "run1/fitted.safetensors", "--log", "run1/log.jsonl")
    tenon(*words, "-o", "run1/fitted.safetensors", "--log", "run1/log.jsonl", "--resume")
    words[2] = "run1/best.safetensors"
    refused(tenon, [*words, "--resume", "-o", "out.safetensors"], "best.safetensors of --checkpoint run1 and --model run1/best")
    tenon(*[*words[:-1], "run2"], "-o", "out.safetensors")
    tenon(*FIT[:2], "run1/best.safetensors", *FIT[3:], "--checkpoint", "run1", "--resume", "-o", "out.safetensors", code=1)
    for link, to in (("best.safetensors", "../x/c.safetensors"), (".tenon.lock", "../t/a.npy"),
                     ("checkpoint.safetensors", "../start.safetensors")):
        os.mkdir("run3")
        (os.link if link == ".tenon.lock" else os.symlink)(to[3:] if link == ".tenon.lock" else to, f"run3/{link}")
        words = [*FIT, "--val-fraction", "0.3", "--checkpoint", "run3"]
        refused(tenon, [*words, "-o", "out.safetensors"], f"run3/{link} of --checkpoint run3 and ", to[3:])
        shutil.rmtree("run3")


@pytest.mark.parametrize("folder, read", [("x", "--features"), ("t", "--targets"), ("ckpt", "--model")])
def test_C1_a_folder_of_checkpoints_that_is_read(tenon, scene, folder, read):
    os.mkdir("ckpt")
    shutil.copy("start.safetensors", "ckpt/model.safetensors")
    words = ["fit", "--model", "ckpt", *FIT[3:], "-o", "out.safetensors"]
    refused(tenon, [*words, "--checkpoint", f"{folder}/"], f"--checkpoint {folder}/", f"{read} {folder}")
    tenon(*words, "--checkpoint", "ckpt/run1")


def test_C1_two_outputs_under_one_name(tenon, scene):
    os.symlink("../gone.safetensors", "d/link.safetensors")  # its target does not exist yet
    for a, b in (("out.safetensors", "./out.safetensors"), ("gone.safetensors", "d/link.safetensors"),
                 ("d/link.safetensors", "d/../gone.safetensors")):
        refused(tenon, [*FIT, "-o", a, "--log", b], f"-o {a} and --log {b} are the same file, which cannot hold both")
    os.symlink("e/f/tokens.npy", "d/deep.npy")
    refused(tenon, ["run", "start.safetensors", "x/a.npy", "-o", "d/deep.npy", "--attention", "d/e/f/tokens.npy"], "-o d/deep.npy")


RUN_FILES = [("MODEL", "start.safetensors"), ("FEATURES", "x/a.npy"), ("--frame-mask", "frames/a.npy"),
             ("--patch-mask", "masks/a.npy"), ("--config", "c.json")]


@pytest.mark.parametrize("option", ["-o", "--attention"])
@pytest.mark.parametrize("read, path", RUN_FILES)
def test_C1_run_on_a_file(tenon, scene, option, read, path):
    words = ["run", "start.safetensors", "x/a.npy", "--frame-mask", "frames/a.npy", "--patch-mask", "masks/a.npy", "--config",
             "c.json", "-o", "out.npy", "--attention", "att.npy"]
    for other in spellings(path, option):
        refused(tenon, [*words, option, other], f"{option} {other} and {read} {path} are the same file")
    tenon(*words)
    tenon(*words)


def test_C1_run_on_folders(tenon, scene):
    words = ["run", "start.safetensors", "x", "--frame-mask", "frames", "--patch-mask", "masks"]
    for folder, read in (("x", "FEATURES"), ("frames", "--frame-mask"), ("masks", "--patch-mask")):
        for other in (folder, f"{folder}/", f"d/../{folder}", os.path.abspath(folder)):
            refused(tenon, [*words, "-o", other], f"-o {other} and {read} {folder} are the same folder")
            refused(tenon, [*words, "-o", "out", "--attention", other], f"--attention {other} and {read} {folder}")
    refused(tenon, [*words, "-o", "out", "--attention", "d/../out/"], "-o out and --attention d/../out/")
    tenon(*words, "-o", "x/tokens", "--attention", "att")
    tenon(*words, "-o", "x/tokens", "--attention", "att")


@pytest.mark.parametrize("made", ["a.npy", "c.safetensors", "manifest.json", ".tenon.lock"])
@pytest.mark.parametrize("path, read", [("x/b.npy", "FEATURES x"), ("masks/b.npy", "--patch-mask masks"),
                                        ("start.safetensors", "MODEL start.safetensors"), ("c.json", "--config c.json")])
def test_C1_files_that_a_run_makes_in_a_folder(tenon, scene, made, path, read):
    """The shard of another name, the manifest and the lock too."""
    words = ["run", "start.safetensors", "x", "--patch-mask", "masks", "--config", "c.json", "-o", "out", "--force"]
    for link in (os.link, lambda source, target: os.symlink(os.path.abspath(source), target)):
        os.mkdir("out")
        link(path, f"out/{made}")
        refused(tenon, words, f"out/{made} of -o out and ", read, "are the same file")
        shutil.rmtree("out")


def test_C1_shards_of_a_model(tenon, scene):
    os.mkdir("model")
    shutil.copy("start.safetensors", "model/part.safetensors")
    weight_map = {name: "part.safetensors" for name in load_file("start.safetensors")}
    json.dump({"metadata": {}, "weight_map": weight_map}, open("model/model.safetensors.index.json", "w"))
    for model in ("model", "model/model.safetensors.index.json"):
        words = ["run", model, "x/a.npy", "--config", "c.json", "-o"]
        for other in spellings("model/part.safetensors"):
            refused(tenon, [*words, other], f"-o {other} and model/part.safetensors of MODEL {model} are the same file")
        tenon(*words, "model/tokens.npy")
        tenon(*words, "model/tokens.npy")
    refused(tenon, ["run", "model", "x/a.npy", "--config", "c.json", "-o", "model/t.safetensors"], "lies in the folder MODEL model")


def test_C1_devices_and_streams_are_nobodys_files(tenon, scene):
    tenon(*FIT, "--log", "/dev/null", "-o", "out.safetensors")
    tenon(*FIT, "--log", "/dev/stderr", "-o", "out.safetensors")


def test_C1_many_shards_are_checked_quickly(tenon, scene, rng):
    os.mkdir("many")
    os.mkdir("out")
    for i in range(2000):
        os.link("x/a.npy", f"many/{i}.npy")
        os.link("t/a.npy", f"out/{i}.npy")
    os.symlink("../many/7.npy", "out/2000.npy")
    os.link("x/b.npy", "many/2000.npy")
    refused(tenon, ["run", "start.safetensors", "many", "-o", "out"], "out/2000.npy of -o out and ")


def test_C1_a_folder_that_ignores_case(tenon, scene):
    subprocess.run(["truncate", "-s", "8M", "disk"], check=True)
    make = subprocess.run("mkfs.vfat disk && mkdir Fat && mount -o loop disk Fat", shell=True, capture_output=True)
    if make.returncode:
        pytest.skip("no file system without case can be mounted here")
    try:
        os.mkdir("Fat/Run")
        shutil.copy("x/a.npy", "Fat/Run/a.npy")
        words = ["run", "start.safetensors", "Fat/Run/a.npy"]
        refused(tenon, [*words, "-o", "Fat/Run/A.NPY"], "are the same file")
        refused(tenon, [*words, "-o", "Fat/Run/t.npy", "--attention", "Fat/Run/T.NPY"], "cannot hold both")
    finally:
        subprocess.run(["umount", "Fat"], check=True)

# SPDX-License-Identifier: MIT
"""tenon fit and tenon run under mpirun, with 2 and 4 ranks. Needs a build with -DTENON_MPI=ON and mpirun."""
import json
import os
import shutil
import signal
import subprocess
import time

import numpy
import pytest
from safetensors.numpy import load_file

from conftest import BINARY
from test_fit import FIT, data, log_of, read, shards  # noqa: F401 (data is a fixture)

VERSION = subprocess.run([BINARY, "--version"], capture_output=True, text=True).stdout
pytestmark = pytest.mark.skipif("processes: MPI" not in VERSION or not shutil.which("mpirun"), reason="no MPI")

# More ranks than cores, as root in a container, and ranks that do not spin while they wait.
ENV = {
    **os.environ,
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
    "OMP_NUM_THREADS": "1",
}


def mpirun(ranks, *words, code=0, before=(), env=None):
    """`before` is a command that each rank goes through."""
    done = subprocess.run(["mpirun", "-n", str(ranks), *before, BINARY, *map(str, words)], capture_output=True,
                          text=True, timeout=150, env={**ENV, **(env or {})})
    assert (done.returncode == 0) == (code == 0), done
    return done


# Rank 1 goes through another door: it sets a variable, or works in another folder.
OTHER = ["sh", "-c", 'if [ "$OMPI_COMM_WORLD_RANK" = 1 ]; then cd "${OTHER_FOLDER:-.}"; export TENON_CPU="$OTHER_CPU"; fi; exec "$@"', "sh"]


def differ(first, second):
    """Two ranks with other words each; what they say, and that they end."""
    words = ["mpirun", "-n", "1", BINARY, *map(str, first), ":", "-n", "1", BINARY, *map(str, second)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=150, env=ENV)
    assert done.returncode != 0 and done.stderr.count("tenon: ") == 1, done
    return done.stderr


def begin(ranks, *words):
    return subprocess.Popen(["mpirun", "-n", str(ranks), BINARY, *map(str, words)], stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True, env=ENV)


def ranks_of(process):
    """The tenon processes that an mpirun has started."""
    listing = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(process.pid)], capture_output=True, text=True)
    return [int(line.split()[0]) for line in listing.stdout.splitlines() if line.split()[1] == "tenon"]


# ---- fit ----


def gradient(path):
    """Of the first step: AdamW's first moment is a tenth of it."""
    moments = load_file(f"{path}/checkpoint.safetensors")
    return numpy.concatenate([moments[name].ravel() for name in sorted(moments) if name.startswith("m.")]).astype(float)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_with_a_batch_are_one_rank_with_all(tenon, data, ranks):
    words = [*FIT, "--clip", 0, "--steps", 1, "-o", "out.safetensors"]
    tenon(*words, "--batch", 8, "--accumulate", 2, "--checkpoint", "one")
    mpirun(ranks, *words, "--batch", 8 // ranks, "--accumulate", 2, "--checkpoint", "many")
    one, many = gradient("one"), gradient("many")
    assert numpy.linalg.norm(one - many) <= 1e-6 * numpy.linalg.norm(one)


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_same_ranks_give_the_same_bytes(tenon, data, ranks):
    words = [*FIT, "--steps", 60, "--val-fraction", "0.2", "--every", 20, "--batch"]
    for name in ("a", "b"):
        result = mpirun(ranks, *words, 8 // ranks, "--log", f"{name}.log", "-o", f"{name}.safetensors", "--json")
        assert json.loads(result.stdout)["ranks"] == ranks
    assert read("a.safetensors") == read("b.safetensors") and log_of("a.log") == log_of("b.log")
    tenon(*words, 8, "--log", "one.log", "-o", "one.safetensors")
    for line, other in zip(log_of("a.log"), log_of("one.log")):
        assert line.keys() == other.keys() and line.get("images") == other.get("images")
        for key in ("loss", "validation_loss"):
            assert key not in line or abs(line[key] - other[key]) <= 1e-4 * other[key]


def test_a_killed_rank_ends_all_and_the_run_goes_on(tenon, data):
    words = [*FIT, "--steps", 600, "--batch", 4, "--every", 10]
    mpirun(2, *words, "-o", "whole.safetensors")
    words += ["--checkpoint", "ck", "--resume", "-o", "out.safetensors"]
    process = begin(2, *words)
    while not os.path.exists("ck/checkpoint.safetensors"):
        time.sleep(0.005)
    os.kill(ranks_of(process)[-1], signal.SIGKILL)
    assert process.wait() != 0 and not os.path.exists("out.safetensors")
    mpirun(2, *words)
    assert read("whole.safetensors") == read("out.safetensors")


def test_what_is_not_finite_is_named_with_its_rank(tenon, data):
    x = numpy.load("x/1.npy")
    x[7, 3, 2] = numpy.nan
    numpy.save("x/1.npy", x)
    words = [*FIT, "--steps", 1, "--batch", 12, "-o", "out.safetensors"]
    said = mpirun(2, *words, code=1).stderr
    assert "x/1.npy, image 7" in said and "tenon: rank " in said and said.count("tenon: ") == 1
    assert "left out" in mpirun(2, *words, "--skip-nonfinite").stdout


def test_a_mistake_is_said_once(tenon, data):
    said = mpirun(4, *FIT, "--freeze", "nothing", "-o", "out.safetensors", code=1).stderr
    assert said.count("no parameter matches") == 1


@pytest.mark.parametrize("words", [FIT, ["run", "start.safetensors", "x", "-o", "y"]])
def test_a_wrong_command_line_is_said_once(tenon, data, words):
    for wrong in (["--threads", "none"], ["--nothing"]):
        said = mpirun(3, *words, *wrong, code=2).stderr
        assert said.count("tenon: ") == 1 and f"see 'tenon {words[0]} --help'" in said and "rank" not in said.split("tenon: ")[1].splitlines()[0]
    said = differ([*words, "-o", "out.safetensors"] if words is FIT else words, [*words, "--nothing"])
    assert "tenon: rank 1: unknown option '--nothing'" in said


def test_bad_shards_of_fit_are_said_once(tenon, data):
    for i in (0, 2):
        numpy.save(f"x/{i}.npy", numpy.zeros((5, 9, 7), "f4"))
    open("x/README.txt", "w").close()
    said = mpirun(3, *FIT, "-o", "out.safetensors", code=1).stderr
    assert said.count("README.txt") == said.count("x/0.npy: ") == said.count("x/2.npy: ") == 1
    assert said.count("x: 2 of 3 shards cannot be used: 0.npy, 2.npy") == 1


# ---- ranks that do not belong together ----


@pytest.mark.parametrize("words, other, said", [
    (["--lr", "0.5"], ["--lr", "0.25"], "--lr is 0.5 on rank 0 and 0.25 here;"),
    (["--seed", 1, "--clip", 2], ["--seed", 2, "--clip", 3], '--clip is 2.0 on rank 0 and 3.0 here, --seed is "1" on rank 0 and "2" here;'),
    (["--steps", 9], ["--steps", 10], "--steps is 9 on rank 0 and 10 here;"),
    (["--every", 2], ["--every", 3], "--every is 2 on rank 0 and 3 here;"),
    (["--cpu", "baseline"], [], "the CPU level (--cpu) is "),
    (["--batch", 2], ["--batch", 1], "--batch is 2 on rank 0 and 1 here;"),
    (["--skip-nonfinite"], [], "--skip-nonfinite is true on rank 0 and false here;"),
    (["--freeze", "proj.bias"], [], '--freeze is "proj.bias" on rank 0 and null here;'),
    (["--checkpoint", "ck", "--resume"], [], "--resume is true on rank 0 and false here;"),
    (["--targets", "t"], ["--targets", "t2"], "the hash of --features and --targets is "),
    (["--model", "start.safetensors"], ["--model", "teacher.safetensors"], "the hash of --model is "),
])
def test_C33_ranks_with_other_words(tenon, data, words, other, said):
    if said.startswith("the CPU") and "baseline" == tenon("--version").out.split("levels ")[-1].split()[0]:
        pytest.skip("one level only")
    shutil.copytree("t", "t2")
    t = numpy.load("t2/1.npy")
    t[3, 4, 5] += 1
    numpy.save("t2/1.npy", t)
    fit = [*FIT, "--steps", 3, "-o", "out.safetensors"]
    heard = differ([*fit, *words], [*fit, *other])
    assert f"tenon: rank 1: is not in the run of rank 0: {said}" in heard and "same command" in heard
    assert not os.path.exists("out.safetensors") and not os.path.exists("ck")


def test_C33_ranks_on_other_machines(tenon, data):
    """Another CPU level, and a folder that holds other files under the same names."""
    words = [*FIT, "--steps", 3, "-o", "out.safetensors"]
    said = mpirun(3, *words, code=1, before=OTHER, env={"OTHER_CPU": "baseline"}).stderr
    if "baseline" not in tenon(*words, "--json").json["cpu"]:
        assert "tenon: rank 1: is not in the run of rank 0: the CPU level (--cpu) is " in said and said.count("tenon: ") == 1
    shutil.copytree(".", "../other")
    tenon("init", "--type", "linear", "--in-dim", 16, "--out-dim", 8, "--seed", 7, "-o", "../other/start.safetensors")
    said = mpirun(3, *words, code=1, before=OTHER, env={"OTHER_FOLDER": "../other", "OTHER_CPU": ""}).stderr
    assert "tenon: rank 1: is not in the run of rank 0: the hash of --model is " in said
    shutil.rmtree("../other")


def test_C33_ranks_with_other_checkpoints(tenon, data):
    words = [*FIT, "--checkpoint", "ck", "--resume", "--every", 2, "-o", "out.safetensors"]
    mpirun(2, *words, "--steps", 4)
    shutil.copytree(".", "../other")
    mpirun(2, *words, "--steps", 8)
    said = mpirun(2, *words, "--steps", 8, code=1, before=OTHER, env={"OTHER_FOLDER": "../other", "OTHER_CPU": ""}).stderr
    assert "tenon: rank 1: is not in the run of rank 0: the number of steps is 8 on rank 0 and 4 here" in said
    shutil.rmtree("../other")


@pytest.mark.parametrize("words, other, said", [
    (["--dtype", "f16"], ["--dtype", "bf16"], 'dtype is "f16" on rank 0 and "bf16" here;'),
    (["--window", 2], ["--window", 4], "window is 2 on rank 0 and 4 here;"),
    (["--cpu", "baseline"], [], 'cpu is "baseline" on rank 0 and '),
    (["--force"], [], "--force is true on rank 0 and false here;"),
])
def test_C33_ranks_of_run_with_other_words(tenon, folder, words, other, said):
    heard = differ([*RUN, *words], [*RUN, *other])
    assert f"tenon: rank 1: is not in the run of rank 0: {said}" in heard and not os.path.exists("out")


def test_C33_ranks_of_run_on_other_files(tenon, folder):
    shutil.copytree(".", "../other")
    os.remove("../other/in/3.npy")
    env = {"OTHER_FOLDER": "../other", "OTHER_CPU": ""}
    said = mpirun(2, *RUN, code=1, before=OTHER, env=env).stderr
    assert "tenon: rank 1: is not in the run of rank 0: the names of the shards " in said
    shutil.copy("in/3.npy", "../other/in/3.npy")
    tenon("init", "--type", "avgpool", "--in-dim", 16, "--out-dim", 8, "--seed", 5, "-o", "../other/model.safetensors")
    said = mpirun(2, *RUN, code=1, before=OTHER, env=env).stderr
    assert "tenon: rank 1: is not in the run of rank 0: the hash of MODEL " in said
    shutil.rmtree("../other")


def test_C1_names_are_said_once(tenon, data):
    said = mpirun(3, *FIT, "-o", "x/1.npy", code=1).stderr
    assert said.count("tenon: ") == 1 and "tenon: rank 0: -o x/1.npy and x/1.npy of --features x" in said


def test_C30_a_validation_loss_that_is_no_number(tenon, data):
    for i in range(3):
        t = numpy.load(f"t/{i}.npy")
        t[2, 2, 2] = numpy.inf
        numpy.save(f"t/{i}.npy", t)
    words = [*FIT, "--steps", 8, "--every", 2, "--batch", 2, "--val-fraction", "0.9", "--skip-nonfinite", "--checkpoint", "ck",
             "--resume", "-o", "out.safetensors", "--json"]
    result = json.loads(mpirun(2, *words).stdout)
    assert result["validation_after"] == "inf" and json.loads(mpirun(2, *words).stdout)["validation_after"] == "inf"


# ---- run ----


@pytest.fixture
def folder(tenon, rng):
    tenon("init", "--type", "avgpool", "--in-dim", 16, "--out-dim", 8, "-o", "model.safetensors")
    shards("in", [rng.normal(size=(n, 16, 16)).astype(numpy.float32) for n in range(1, 12)])
    tenon("run", "model.safetensors", "in", "-o", "one")


RUN = ["run", "model.safetensors", "in", "-o", "out"]


def check(folder="out"):
    """The tokens and the records of one process; nothing else is left in the folder."""
    assert sorted(os.listdir(folder)) == sorted(os.listdir("one"))
    for name in os.listdir("one"):
        if name != "manifest.json":
            assert read(f"one/{name}") == read(f"{folder}/{name}")
    one, many = json.load(open("one/manifest.json")), json.load(open(f"{folder}/manifest.json"))
    for manifest in (one, many):
        for shard in manifest["shards"].values():
            del shard["tokens_file"]["stamp"]
    assert one == many


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_the_shards(tenon, folder, ranks):
    result = json.loads(mpirun(ranks, *RUN, "--json").stdout)
    assert result["shards"] == {"done": 11, "skipped": 0} and result["images"] == 66
    check()
    before = {name: os.stat(f"out/{name}").st_mtime_ns for name in os.listdir("out") if name.endswith(".npy")}
    os.remove("out/4.npy")
    assert json.loads(mpirun(ranks, *RUN, "--json").stdout)["shards"] == {"done": 1, "skipped": 10}
    assert json.loads(tenon(*RUN, "--json").out)["shards"] == {"done": 0, "skipped": 11}
    assert sum(os.stat(f"out/{name}").st_mtime_ns != time_ for name, time_ in before.items()) == 1
    mpirun(ranks, *RUN, "--force")
    check()


def test_one_file_is_for_one_rank(tenon, folder):
    result = mpirun(2, "run", "model.safetensors", "in/3.npy", "-o", "t.npy")
    assert result.stderr.count("4 images") == 1
    assert numpy.array_equal(numpy.load("t.npy"), numpy.load("one/3.npy"))


def test_run_again_after_a_rank_died(tenon, folder, rng):
    shards("in", [rng.normal(size=(400, 64, 16)).astype(numpy.float32) for _ in range(40)])
    shutil.rmtree("one")
    tenon("run", "model.safetensors", "in", "-o", "one")
    process = begin(2, *RUN)
    while not os.path.exists("out") or len(os.listdir("out")) < 12:
        time.sleep(0.002)
    os.kill(ranks_of(process)[-1], signal.SIGKILL)
    assert process.wait() != 0
    kept = {}
    for name in os.listdir("out"):
        if name.endswith(".json"):
            for shard in json.load(open(f"out/{name}"))["shards"]:
                kept[shard] = os.stat(f"out/{shard}").st_mtime_ns
    assert 0 < len(kept) < 40
    assert json.loads(mpirun(4, *RUN, "--json").stdout)["shards"] == {"done": 40 - len(kept), "skipped": len(kept)}
    assert all(os.stat(f"out/{shard}").st_mtime_ns == stamp for shard, stamp in kept.items())
    for name in os.listdir("out"):  # of the killed rank, as of any killed process
        if name.startswith(".") and name.endswith(".tmp"):
            os.remove(f"out/{name}")
    check()


def test_a_failure_names_shard_and_rank(tenon, folder, rng):
    numpy.save("in/2.npy", rng.normal(size=(900, 16, 16)).astype(numpy.float32))
    # Files of the ranks end at 100 blocks, which are 512 or 1024 bytes; MPI makes none of its own over tcp.
    limit = ["sh", "-c", 'ulimit -f 100; exec "$@"', "sh"]
    said = mpirun(2, *RUN, code=1, before=limit, env={"OMPI_MCA_btl": "self,tcp"}).stderr
    # In the order of names: 0 1 10 2 3 ..., dealt to ranks 0 1 0 1 ...
    assert "tenon: rank 1: out/2.npy: cannot write" in said
    # Rank 0 did its part all the same, and what was done before stays done.
    done = set(json.load(open("out/manifest.json"))["shards"])
    assert {"0.npy", "10.npy", "3.npy", "5.npy", "7.npy", "9.npy"} <= done and "2.npy" not in done
    numpy.save("in/2.npy", numpy.zeros((2, 16, 8), numpy.float32))
    said = mpirun(2, *RUN, code=1).stderr
    assert "tenon: rank 1: in/2.npy: features (2, 16, 8)" in said


def test_bad_shards_and_values_of_all_ranks(tenon, folder):
    for name in ("1", "3"):  # of rank 1 and of rank 0: 0 1 10 2 3 ... are dealt out in turn
        numpy.save(f"in/{name}.npy", numpy.zeros((2, 16, 8), numpy.float32))
    for name, column in (("4", 3), ("10", 5)):
        x = numpy.load(f"in/{name}.npy")
        x[0, 2, column] = numpy.nan
        numpy.save(f"in/{name}.npy", x)
    done = mpirun(2, *RUN, "--json", code=1)
    assert "tenon: rank 1: in/1.npy: features (2, 16, 8)" in done.stderr
    assert "rank 0: in/3.npy: features (2, 16, 8)" in done.stderr
    assert "2 of 11 shards could not be done: 1.npy, 3.npy" in done.stderr
    result = json.loads(done.stdout)
    assert result["shards"] == {"done": 9, "skipped": 0} and list(result["bad_shards"]) == ["1.npy", "3.npy"]
    first = {"file": "in/10.npy", "image": 0, "token": 2, "column": 5, "value": "nan"}
    assert result["nonfinite"]["features"] == {"count": 2, "first": first}
    for name in ("1", "2", "3"):
        numpy.save(f"in/{name}.npy", numpy.ones((2, 16, 16), numpy.float32))
    result = json.loads(mpirun(2, *RUN, "--json").stdout)
    assert result["shards"] == {"done": 3, "skipped": 8} and result["changed_shards"] == ["2.npy"]
    assert result["bad_shards"] == {} and result["nonfinite"]["features"] == {"count": 2, "first": first}

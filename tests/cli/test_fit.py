# SPDX-License-Identifier: MIT
"""tenon fit: what it learns, and that a run is the same bytes however often it was stopped, killed or split."""
import json
import os
import random
import resource
import signal
import subprocess
import time

import numpy
import pytest
from safetensors.numpy import load_file, save_file

import reference
from conftest import BINARY
from test_limits import on_terminal

# scripts/test_long.sh asks for more.
KILLS = int(os.environ.get("TENON_KILLS", "10"))
FIT = ["fit", "--model", "start.safetensors", "--features", "x", "--targets", "t"]


def shards(folder, arrays):
    os.makedirs(folder, exist_ok=True)
    for i, array in enumerate(arrays):
        numpy.save(f"{folder}/{i}.npy", array)


@pytest.fixture
def data(tenon, rng):
    """A linear connector, and 24 images in three shards with the tokens of a teacher."""
    tenon("init", "--type", "linear", "--in-dim", 16, "--out-dim", 8, "--seed", 1, "-o", "start.safetensors")
    tenon("init", "--type", "linear", "--in-dim", 16, "--out-dim", 8, "--seed", 2, "-o", "teacher.safetensors")
    shards("x", [rng.normal(size=(n, 9, 16)).astype(numpy.float32) for n in (5, 12, 7)])
    tenon("run", "teacher.safetensors", "x", "-o", "t")


def read(path):
    return open(path, "rb").read()


def tensors(path):
    return reference.load_safetensors(path).values()


def log_of(path):
    """The lines of a log without their times."""
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in open(path)]


# ---- what it learns ----


@pytest.mark.parametrize("loss", ["mse", "smooth_l1"])
def test_a_teacher_is_recovered(tenon, data, loss):
    result = tenon(*FIT, "--loss", loss, "--steps", 1500, "--batch", 4, "--lr", "0.02", "--val-fraction", "0.2",
                   "-o", "out.safetensors", "--json").json
    assert result["after"] < 1e-4 * result["before"]
    assert result["validation_after"] < 1e-4 * result["validation_before"]
    teacher, fitted = load_file("teacher.safetensors"), load_file("out.safetensors")
    for name in teacher:
        assert numpy.abs(teacher[name] - fitted[name]).max() < 2e-3


def test_cosine_learns_the_directions(tenon, data):
    for i in range(3):
        numpy.save(f"t/{i}.npy", 7 * numpy.load(f"t/{i}.npy"))
    result = tenon(*FIT, "--loss", "cosine", "--steps", 1000, "--lr", "0.02", "-o", "out.safetensors", "--json").json
    assert result["after"] < 1e-4 * result["before"]


def test_the_table_and_the_closing_line(tenon, data):
    result = tenon(*FIT, "--steps", 3, "--val-fraction", "0.1", "-o", "out.safetensors")
    head, training, validation, best = [line.split() for line in result.out.splitlines()]
    assert head == ["mse", "before", "after", "ratio"] and training[0] == "training" and validation[0] == "validation"
    assert float(validation[2]) < float(validation[1]) and best[0] == "best"
    assert "3 steps of 8 images" in result.err and result.err.count("\n") == 1
    tenon("inspect", "out.safetensors")


COFFEE = os.path.join(os.path.dirname(__file__), "../../examples/data/coffee.npy")


def test_attention_learns_what_an_mlp_and_a_mean_do(tenon):
    """Windows of 8 x 8 patches of the photograph; the targets are mlp_2layer's tokens, averaged over 2 x 2."""
    picture = numpy.load(COFFEE).astype(numpy.float32)[0].reshape(27, 27, 588)
    crops = [picture[i : i + 8, j : j + 8].reshape(64, 588) for i in range(0, 20, 4) for j in range(0, 20, 4)]
    numpy.save("x.npy", numpy.stack(crops))
    tenon("init", "--type", "mlp_2layer", "--in-dim", 588, "--out-dim", 64, "--seed", 3, "-o", "mlp.safetensors")
    tenon("run", "mlp.safetensors", "x.npy", "-o", "mlp.npy")
    tokens = numpy.load("mlp.npy").reshape(25, 4, 2, 4, 2, 64).mean(axis=(2, 4)).reshape(25, 16, 64)
    numpy.save("t.npy", tokens)
    tenon("init", "--type", "attentional_pool", "--in-dim", 588, "--out-dim", 64, "--window", 2, "--heads", 12,
          "--seed", 5, "-o", "start.safetensors")
    words = ["fit", "--model", "start.safetensors", "--features", "x.npy", "--targets", "t.npy", "--steps", 30,
             "--batch", 8, "--val-fraction", "0.2", "--warmup", 10]
    result = tenon(*words, "-o", "out.safetensors", "--json").json
    assert result["after"] <= 0.2 * result["before"]
    assert result["validation_after"] <= 0.2 * result["validation_before"]


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("kind", [["linear"], ["mlp_2layer"], ["avgpool"], ["attentional_pool", "--heads", 4]])
def test_every_connector_recovers_its_teacher(tenon, rng, kind, dtype):
    for name, seed in (("start", 1), ("teacher", 2)):
        tenon("init", "--type", *kind, "--in-dim", 16, "--out-dim", 8, "--seed", seed, "--dtype", dtype,
              "-o", f"{name}.safetensors")
    shards("x", [rng.normal(size=(n, 16, 16)).astype(numpy.float32) for n in (9, 15)])
    tenon("run", "teacher.safetensors", "x", "-o", "t", "--dtype", "f32")
    result = tenon(*FIT, "--steps", 400, "--lr", "0.02", "--warmup", 20, "--threads", 1, "-o", "out.safetensors",
                   "--json").json
    assert result["after"] < 0.02 * result["before"]
    assert {t.dtype for t in tensors("out.safetensors")} == {t.dtype for t in tensors("start.safetensors")}


def test_the_bar(tenon, data):
    seen = on_terminal(*map(str, FIT), "--steps", "40", "-o", "out.safetensors", out=None)
    for word in ("100%", "40/40 steps", "loss", "gradient", "rate", "left"):
        assert word in seen


# ---- the same bytes ----


def test_threads_do_not_change_a_bit(tenon, data):
    words = [*FIT, "--steps", 1000, "--batch", 5, "--accumulate", 2, "--warmup", 10, "--val-fraction", "0.1"]
    for threads in (1, 2, 7):
        tenon(*words, "--threads", threads, "-o", f"{threads}.safetensors")
    assert read("1.safetensors") == read("2.safetensors") == read("7.safetensors")
    tenon(*words, "--seed", 9, "-o", "other.safetensors")
    assert read("1.safetensors") != read("other.safetensors")


def test_accumulation_is_a_larger_batch(tenon, data):
    logs = []
    for batch, accumulate in ((8, 1), (4, 2), (2, 4)):
        tenon(*FIT, "--steps", 20, "--batch", batch, "--accumulate", accumulate, "--log", "log", "-o", "o.safetensors")
        logs.append([(line["loss"], line["gradient_norm"]) for line in log_of("log")])
    for other in logs[1:]:
        assert numpy.allclose(logs[0], other, rtol=1e-5)


def test_an_epoch_sees_every_image_once(tenon, data):
    """Each image pulls the bias its own way: the sum over an epoch tells whether all were there."""
    shards("x", [numpy.zeros((n, 1, 16), numpy.float32) for n in (5, 12, 7)])
    values = iter(2.0 ** numpy.arange(24))
    shards("t", [numpy.array([[[next(values)] * 8] for _ in range(n)], numpy.float32) for n in (5, 12, 7)])
    save_file({"proj.weight": numpy.zeros((8, 16), numpy.float32), "proj.bias": numpy.zeros(8, numpy.float32)},
              "zero.safetensors")
    open("c.json", "w").write('{"type": "linear", "in_dim": 16, "out_dim": 8}')
    words = ["fit", "--model", "zero.safetensors", "--config", "c.json", "--features", "x", "--targets", "t",
             "--batch", 1, "--lr", 0, "--epochs", 2, "--log", "log", "-o", "o.safetensors"]
    tenon(*words)
    losses = [line["loss"] for line in log_of("log")]
    assert sorted(losses[:24]) == sorted(losses[24:]) == [4.0**i for i in range(24)]
    assert losses[:24] != sorted(losses[:24]) and losses[:24] != losses[24:]
    kept = tenon(*words, "--val-fraction", "0.25", "--json").json
    assert len(log_of("log")) == 36 + 2 and kept["validation_before"] == kept["validation_after"]


# ---- stopping and going on ----

RUN = [*FIT, "--steps", 600, "--batch", 3, "--accumulate", 2, "--warmup", 50, "--val-fraction", "0.1", "--every", 20]
RESUME = ["--checkpoint", "ck", "--resume", "--log", "log"]


@pytest.fixture
def whole(tenon, data):
    """The bytes and the log of a run that nothing stopped."""
    tenon(*RUN, "--log", "whole.log", "-o", "whole.safetensors")
    return read("whole.safetensors"), log_of("whole.log")


def start(*words, **options):
    return subprocess.Popen([BINARY, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                            **options)


def test_killed_at_any_moment_it_ends_in_the_same_bytes(tenon, whole):
    moments = random.Random(5)
    seconds, killed = 0.6, 0
    for _ in range(KILLS * 20):
        process = start(*RUN, *RESUME, "-o", "out.safetensors")
        try:
            process.wait(moments.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
        else:
            assert process.returncode == 0, process.stderr.read()
            assert (read("out.safetensors"), log_of("log")) == whole
            if killed >= KILLS:
                break
            subprocess.run(["rm", "-rf", "ck", "log", "out.safetensors"], check=True)
            seconds = max(0.1, seconds / 2)
        process.stderr.close()
    assert killed >= KILLS
    tenon(*RUN, *RESUME, "-o", "out.safetensors")
    assert (read("out.safetensors"), log_of("log")) == whole
    assert not [name for name in os.listdir("ck") if name.startswith(".")]


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(tenon, whole, which):
    words = [*RUN, "--checkpoint", "ck", "--log", "log", "-o", "out.safetensors"]
    process = start(*words)
    while not os.path.exists("log") or os.path.getsize("log") < 1000:
        time.sleep(0.005)
    process.send_signal(which)
    said = process.stderr.read()
    assert process.wait() == -which and "interrupted after step" in said and "--resume" in said, said
    assert not os.path.exists("out.safetensors")
    result = tenon(*words, "--resume")
    assert "going on from step" in result.err
    assert (read("out.safetensors"), log_of("log")) == whole


def test_a_signal_without_a_checkpoint(tenon, data):
    process = start(*FIT, "--steps", 10**6, "--log", "log", "-o", "out.safetensors")
    while not os.path.exists("log") or os.path.getsize("log") < 1000:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    assert "nothing was saved" in process.stderr.read() and process.wait() == -signal.SIGINT


def test_two_runs_in_one_folder_of_checkpoints(tenon, data):
    words = [*FIT, "--steps", 10**6, "--checkpoint", "ck", "--log", "log", "-o", "out.safetensors"]
    process = start(*words)
    while not os.path.exists("log") or os.path.getsize("log") < 1000:
        time.sleep(0.005)
    said = tenon(*words[:-4], "--resume", "-o", "other.safetensors", code=1).err
    assert f"another tenon (process {process.pid} on " in said and "ck: " in said
    process.kill()
    process.wait()
    process.stderr.close()


def test_resume_begins_where_there_is_nothing_and_ends_where_all_is_done(tenon, whole):
    tenon(*RUN, *RESUME, "-o", "out.safetensors")
    os.rename("out.safetensors", "first.safetensors")
    tenon(*RUN, *RESUME, "-o", "out.safetensors")
    assert read("first.safetensors") == read("out.safetensors") == whole[0] and log_of("log") == whole[1]
    assert load_file("ck/best.safetensors").keys() == load_file("out.safetensors").keys()


def test_another_run_is_not_gone_on_with(tenon, data):
    tenon(*RUN, *RESUME, "-o", "out.safetensors")
    assert "--resume goes on from it" in tenon(*RUN, "--checkpoint", "ck", "-o", "out.safetensors", code=1).err
    words = [*RUN, *RESUME, "-o", "out.safetensors"]
    for more, name in ((["--lr", "0.5"], "--lr was 0.001 and is now 0.5;"), (["--seed", 4], '--seed was "0" and is now "4";'),
                       (["--freeze", "proj.bias"], '--freeze was null and is now "proj.bias";'),
                       (["--cpu", "baseline"], "the CPU level (--cpu) was"), (["--val-fraction", "0.2"], "--val-fraction was"),
                       (["--clip", 2, "--batch", 4], "--batch was 3 and is now 4, --clip was 1.0 and is now 2.0;")):
        said = tenon(*words, *more, code=1).err
        assert f"ck/checkpoint.safetensors: is of another run: {name}" in said
    many = ["--seed", 1, "--lr", 1, "--clip", 2, "--eps", "1e-6", "--beta1", "0.5", "--beta2", "0.5", "--warmup", 0, "--batch", 1,
            "--accumulate", 1, "--weight-decay", 0]
    said = tenon(*words, *many, code=1).err
    assert "--beta1 was 0.9 and is now 0.5" in said and said.count(" and is now ") == 8 and ", and 2 more; continue" in said
    tenon("init", "--type", "linear", "--in-dim", 16, "--out-dim", 8, "--seed", 3, "-o", "start.safetensors")
    assert "another run: the hash of --model was" in tenon(*words, code=1).err
    tenon("init", "--type", "linear", "--in-dim", 16, "--out-dim", 8, "--seed", 1, "-o", "start.safetensors")
    os.rename("x/2.npy", "x/3.npy")
    os.rename("t/2.npy", "t/3.npy")
    assert "another run: the hash of --features and --targets was" in tenon(*words, code=1).err
    os.rename("x/3.npy", "x/2.npy")
    os.rename("t/3.npy", "t/2.npy")
    spoil("t/1.npy", 5, 3)  # in the middle of the file, of the same shape
    assert "another run: the hash of --features and --targets was" in tenon(*words, code=1).err
    save_file({"a": numpy.zeros(3)}, "ck/checkpoint.safetensors")
    assert "no checkpoint" in tenon(*words, code=1).err


def test_C30_a_checkpoint_whose_counts_are_wrong(tenon, data):
    words = [*FIT, "--steps", 20, "--checkpoint", "ck", "--resume", "-o", "out.safetensors"]
    tenon(*words)
    path = "ck/checkpoint.safetensors"
    whole = read(path)
    for old, new in ((b'\\"done\\":20', b'\\"done\\":-2'), (b'\\"done\\":20', b'\\"done\\":19'),
                     (b'\\"steps\\":20', b'\\"steps\\":10'), (b'\\"stale\\":0', b'\\"stale\\":7')):
        assert old in whole
        open(path, "wb").write(whole.replace(old, new, 1))
        assert f"{path}: is damaged" in tenon(*words, code=1).err
    open(path, "wb").write(whole)
    tenon(*words)


# ---- a longer run ----


def rates(log):
    return [line["lr"] for line in log_of(log) if "lr" in line]


def test_a_finished_run_is_extended(tenon, data):
    """From the checkpoint on, a step has the rate that a run of the new length has there."""
    words = [*FIT, "--warmup", 10, "--every", 10, "--val-fraction", "0.2", "--batch", 4]
    tenon(*words, "--steps", 100, "--log", "whole.log", "-o", "whole.safetensors")
    words += [*RESUME, "-o", "out.safetensors"]
    tenon(*words, "--steps", 60)
    short = rates("log")
    said = tenon(*words, "--steps", 100).err
    assert "going on from step 60 of 100" in said and "was to have 60 steps" in said
    assert rates("log") == short + rates("whole.log")[60:] and short[-1] < rates("log")[60]
    assert note_of("ck")["steps"] == 100
    assert "was to have" not in tenon(*words, "--steps", 100).err  # it is done, and the same run
    said = tenon(*words, "--steps", 99, code=1).err
    assert "has taken 100 steps already" in said and "--steps" in said


def test_an_extension_at_a_constant_rate_is_the_longer_run(tenon, data):
    words = [*FIT, "--min-lr", "0.001", "--every", 10, "--val-fraction", "0.2", "--batch", 4]
    tenon(*words, "--epochs", 12, "--log", "whole.log", "-o", "whole.safetensors")
    tenon(*words, *RESUME, "--epochs", 4, "-o", "out.safetensors")
    tenon(*words, *RESUME, "--epochs", 12, "-o", "out.safetensors")
    assert read("out.safetensors") == read("whole.safetensors")
    steps = lambda log: [line for line in log_of(log) if "loss" in line]
    assert steps("log") == steps("whole.log")


def test_what_ends_a_run_may_change(tenon, data):
    """--patience, --every and --skip-nonfinite too: they decide how far a run goes, not what a step does."""
    words = [*FIT, "--steps", 5000, "--val-fraction", "0.2", "--every", 10, "--lr", 0, *RESUME, "-o", "out.safetensors"]
    assert "stopped early" in tenon(*words, "--patience", 3).out and note_of("ck")["done"] == 30
    tenon(*words, "--patience", 5, "--every", 5)
    assert note_of("ck")["done"] == 40


def test_the_way_out_of_a_step_that_is_not_finite(tenon, data):
    """The sentence advises --skip-nonfinite; with it the run goes on from its checkpoint."""
    spoil("x/1.npy", 7, numpy.nan)
    words = [*FIT, "--steps", 40, "--batch", 1, "--every", 1, "--checkpoint", "ck", "--resume", "-o", "out.safetensors"]
    for seed in range(10):
        said = tenon(*words, "--seed", seed, code=1).err
        if os.path.exists("ck/checkpoint.safetensors"):
            break
    assert "--skip-nonfinite" in said
    assert tenon(*words, "--seed", seed, "--skip-nonfinite", "--json").json["skipped"] >= 1


def test_a_full_disk_keeps_the_last_checkpoint(tenon, whole):
    words = [*RUN, *RESUME, "-o", "out.safetensors"]
    process = start(*words)
    while not os.path.exists("ck/checkpoint.safetensors"):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = read("ck/checkpoint.safetensors")
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    process = start(*RUN, "--checkpoint", "ck", "--resume", "-o", "out.safetensors", preexec_fn=limit)
    said = process.stderr.read().splitlines()[-1]
    assert process.wait() == 1
    assert said.startswith("tenon: ck/checkpoint.safetensors: cannot") and "--resume goes on from there" in said
    assert read("ck/checkpoint.safetensors") == before and sorted(os.listdir("ck"))[-1] == "checkpoint.safetensors"
    tenon(*words)
    assert (read("out.safetensors"), log_of("log")) == whole


def test_a_log_that_cannot_be_written(tenon, data):
    said = tenon(*FIT, "--steps", 5, "--log", "/dev/full", "-o", "out.safetensors", code=1).err
    assert "/dev/full: cannot write the log: No space left" in said
    lines = tenon(*FIT, "--steps", 5, "--log", "/dev/stderr", "-o", "out.safetensors").err.splitlines()
    assert [json.loads(line)["step"] for line in lines[:5]] == [1, 2, 3, 4, 5]
    assert "cannot write the log" in tenon(*FIT, "--log", "no/where", "-o", "out.safetensors", code=1).err


# ---- freezing, stopping early ----


def test_a_frozen_parameter_does_not_change_by_a_bit(tenon, data):
    tenon(*FIT, "--steps", 20, "--freeze", "*.bias", "--lr", "0.1", "-o", "out.safetensors")
    start_, out = load_file("start.safetensors"), load_file("out.safetensors")
    assert start_["proj.bias"].tobytes() == out["proj.bias"].tobytes()
    assert not numpy.array_equal(start_["proj.weight"], out["proj.weight"])
    said = tenon(*FIT, "--freeze", "proj1.*", "-o", "out.safetensors", code=1).err
    assert "'proj1.*'" in said and "proj.weight, proj.bias" in said
    assert "nothing is left to train" in tenon(*FIT, "--freeze", "proj.*", "-o", "out.safetensors", code=1).err


def test_a_plateau_ends_the_run_if_asked(tenon, data):
    words = [*FIT, "--steps", 5000, "--val-fraction", "0.2", "--every", 10, "--patience", 3, "--lr", 0]
    result = tenon(*words, "-o", "out.safetensors", "--json").json
    assert result["stopped_early"] and result["steps"] == 30
    words += ["--checkpoint", "ck", "--resume", "-o", "out.safetensors"]
    assert "stopped early" in tenon(*words).out
    assert "stopped early" in tenon(*words).out  # and again, from the checkpoint


# ---- what is not finite ----


def test_nan_in_the_features_is_named(tenon, data):
    x = numpy.load("x/1.npy")
    x[7, 3, 2] = numpy.nan
    numpy.save("x/1.npy", x)
    words = [*FIT, "--epochs", 1, "--batch", 4, "-o", "out.safetensors"]
    said = tenon(*words, code=1).err
    assert "the loss is nan: x/1.npy, image 7" in said and "step " in said and "--skip-nonfinite" in said
    assert not os.path.exists("out.safetensors")
    result = tenon(*words, "--skip-nonfinite", "--log", "log")
    assert "left out, for their loss or gradient is not finite: 1 of them" in result.out
    assert [line["skipped"] for line in log_of("log")].count(True) == 1
    assert numpy.isfinite(load_file("out.safetensors")["proj.weight"]).all()


def test_an_infinite_gradient_is_named(tenon, data):
    """Zero weights times huge features are zero, so the loss is finite, but not the gradient."""
    save_file({"proj.weight": numpy.zeros((8, 16), numpy.float32), "proj.bias": numpy.zeros(8, numpy.float32)},
              "zero.safetensors")
    open("c.json", "w").write('{"type": "linear", "in_dim": 16, "out_dim": 8}')
    x, t = numpy.load("x/2.npy"), numpy.load("t/2.npy")
    x[4], t[4] = 3e38, 1e4
    numpy.save("x/2.npy", x)
    numpy.save("t/2.npy", t)
    words = ["fit", "--model", "zero.safetensors", "--config", "c.json", *FIT[3:], "--epochs", 1, "--batch", 24]
    said = tenon(*words, "-o", "out.safetensors", code=1).err
    assert "the gradient is" in said and "x/2.npy, image 4" in said
    assert tenon(*words, "--skip-nonfinite", "-o", "out.safetensors", "--json").json["skipped"] == 1


def test_C29_parameters_that_are_no_numbers_are_not_written(tenon, data):
    """At a rate beyond all reason the parameters pass what f32 holds. Nothing of that is saved, and skipping is no way out."""
    words = [*FIT, "--steps", 30, "--lr", "1e38", "--weight-decay", 0, "-o", "out.safetensors"]
    for more in ([], ["--skip-nonfinite"], ["--checkpoint", "ck", "--every", 1], ["--val-fraction", "0.2", "--skip-nonfinite"]):
        open("out.safetensors", "w").write("the file of before")
        said = tenon(*words, *more, code=1).err
        assert "after step " in said and "infinite or NaN, the first in 'proj." in said and "lower --lr" in said
        assert read("out.safetensors") == b"the file of before"
    if os.path.exists("ck/checkpoint.safetensors"):
        assert all(numpy.isfinite(t).all() for t in load_file("ck/checkpoint.safetensors").values())


def test_C29_a_model_that_is_broken_already(tenon, data):
    broken = load_file("start.safetensors")
    broken["proj.bias"][3] = numpy.nan
    save_file(broken, "start.safetensors", metadata={"tenon.config": json.dumps({"type": "linear", "in_dim": 16, "out_dim": 8})})
    said = tenon(*FIT, "-o", "out.safetensors", code=1).err
    assert "--model start.safetensors: 1 of the parameters' numbers" in said and "'proj.bias' at " in said


# ---- what JSON cannot say ----


def note_of(folder):
    return json.loads(reference.read_header(f"{folder}/checkpoint.safetensors")[0]["__metadata__"]["tenon.note"])


def spoil(name, image, value):
    array = numpy.load(name)
    array[image, 2, 3] = value
    numpy.save(name, array)


def spoil_validation(tenon, value):
    """Makes one target infinite or NaN, and returns the seed that holds its image out for validation."""
    spoil("t/1.npy", 7, value)
    for seed in range(20):
        words = [*FIT, "--steps", 1, "--val-fraction", "0.2", "--skip-nonfinite", "--seed", seed]
        if not isinstance(tenon(*words, "-o", "probe.safetensors", "--json").json["validation_before"], float):
            return seed
    raise AssertionError("no seed holds the image out")


@pytest.mark.parametrize("value, word", [(numpy.inf, "inf"), (numpy.nan, "nan")])
def test_C30_a_validation_loss_that_is_no_number_is_written_and_read_back(tenon, data, value, word):
    seed = spoil_validation(tenon, value)
    words = [*FIT, "--batch", 2, "--val-fraction", "0.2", "--skip-nonfinite", "--every", 5, "--seed", seed, "--json"]
    result = tenon(*words, "--steps", 40, "--log", "whole.log", "-o", "whole.safetensors")
    whole = result.json
    assert result.err.count("note: the validation loss is") == 1 and "x/1.npy, image 7 is held out" in result.err
    assert (whole["validation_before"], whole["validation_after"], whole["validation_best"]) == (word, word, None)
    assert whole["after"] < whole["before"]
    assert {line["validation_loss"] for line in log_of("whole.log") if "validation_loss" in line} == {word}
    words += ["--checkpoint", "ck", "--resume", "--log", "log", "-o", "out.safetensors", "--steps", 40]
    process = start(*words)
    while process.poll() is None and not os.path.exists("ck/checkpoint.safetensors"):
        time.sleep(0.002)
    process.kill()
    process.communicate()
    again = tenon(*words).json
    assert read("out.safetensors") == read("whole.safetensors") and log_of("log") == log_of("whole.log")
    assert {**again, "seconds": 0, "output": ""} == {**whole, "seconds": 0, "output": ""}
    assert not os.path.exists("ck/best.safetensors")
    note = note_of("ck")
    assert note["last_val"] == word and note["validations"] == 9


def test_C30_no_step_and_no_validation_are_null(tenon, data):
    for i in range(3):
        spoil(f"t/{i}.npy", slice(None), numpy.nan)
    result = tenon(*FIT, "--steps", 2, "--skip-nonfinite", "-o", "out.safetensors", "--json").json
    assert result["skipped"] == 2
    assert [result[k] for k in ("before", "after", "validation_before", "validation_after", "validation_best")] == [None] * 5


def test_C30_names_that_are_not_utf8(tenon, data):
    """File names and words of the command line are bytes; in JSON those that are not UTF-8 are \\xNN."""
    odd = os.fsdecode(b"caf\xe9\\")
    for folder in "xt":
        os.rename(f"{folder}/1.npy", f"{folder}/{odd}.npy")
        os.rename(folder, f"{folder}{odd}")
    os.rename("start.safetensors", f"{odd}.safetensors")
    words = ["fit", "--model", f"{odd}.safetensors", "--features", f"x{odd}", "--targets", f"t{odd}", "--tensor", odd]
    words += ["--steps", 3, "--checkpoint", f"ck{odd}", "--resume", "-o", f"out{odd}.safetensors", "--json"]
    result = tenon(*words).json
    assert result["output"] == "outcaf\\xe9\\\\.safetensors" and result["model"] == "caf\\xe9\\\\.safetensors"
    assert tenon(*words).json["steps"] == 3
    note = note_of(f"ck{odd}")
    assert note["run"]["--tensor"] == "caf\\xe9\\\\"


# ---- data ----


def test_shards_of_different_shapes_and_dtypes(tenon, data, rng):
    x = [rng.normal(size=(n, 16, 16)).astype(numpy.float16) for n in (2, 3)]
    save_file({"features": x[0]}, "x/3.safetensors")
    numpy.save("x/4.npy", x[1][0])  # one image without a batch axis
    subprocess.run(["rm", "-r", "t"], check=True)
    tenon("run", "teacher.safetensors", "x", "-o", "t")
    result = tenon(*FIT, "--steps", 1500, "--lr", "0.02", "--val-fraction", "0.1", "-o", "out.safetensors", "--json")
    assert result.json["after"] < 1e-4 * result.json["before"]


def test_one_file_instead_of_folders(tenon, data):
    tenon("fit", "--model", "start.safetensors", "--features", "x/0.npy", "--targets", "t/0.npy", "--steps", 3,
          "-o", "out.safetensors")


def test_more_shards_than_files_may_be_open(tenon, data, rng):
    shards("many", [rng.normal(size=(2, 4, 16)).astype(numpy.float32) for _ in range(150)])
    shards("many_t", [numpy.zeros((2, 4, 8), numpy.float32) for _ in range(150)])
    words = ["fit", "--model", "start.safetensors", "--features", "many", "--targets", "many_t", "--epochs", 2]
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))
    tenon(*words, "-o", "out.safetensors", preexec_fn=limit)


def two_tensors(name):
    """The shard as a safetensors file of two tensors that could be meant."""
    array = numpy.load(f"{name}.npy")
    os.remove(f"{name}.npy")
    save_file({"a": array, "b": array}, f"{name}.safetensors")


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda: os.remove("t/1.npy"), ["t/1.npy", "no such file of targets", "x/1.npy"]),
        (lambda: numpy.save("t/1.npy", numpy.zeros((11, 9, 8), "f4")), ["t/1.npy", "11 images", "12"]),
        (lambda: numpy.save("t/1.npy", numpy.zeros((12, 4, 8), "f4")), ["t/1.npy", "4 tokens", "makes 9"]),
        (lambda: numpy.save("t/1.npy", numpy.zeros((12, 9, 7), "f4")), ["t/1.npy", "(12, 9, 7)", "8"]),
        (lambda: numpy.save("x/1.npy", numpy.zeros((12, 9, 8), "f4")), ["x/1.npy", "(12, 9, 8)", "16"]),
        (lambda: numpy.save("x/1.npy", numpy.zeros((12, 9, 16), "i4")), ["x/1.npy", "i32"]),
        (lambda: numpy.save("t/1.npy", numpy.zeros((12, 9, 8), "u2")), ["t/1.npy", "u16", "--npy-bf16"]),
        (lambda: two_tensors("t/1"), ["t/1.safetensors: has 2 tensors", "--target-tensor NAME"]),
        (lambda: two_tensors("x/1"), ["x/1.safetensors: has 2 tensors", "--tensor NAME"]),
        (lambda: os.rename("t", "u"), ["t: is no folder"]),
    ],
)
def test_data_that_does_not_fit(tenon, data, change, said):
    change()
    is_shard = os.path.isdir("t")
    result = tenon(*FIT, "-o", "out.safetensors", code=1, lines=2 if is_shard else 1)
    for word in said:
        assert word in result.err
    if is_shard:
        assert "tenon: x: 1 of 3 shards cannot be used: 1." in result.err.splitlines()[1]


def test_every_bad_shard_is_named(tenon, data):
    numpy.save("x/0.npy", numpy.zeros((5, 9, 7), "f4"))
    os.remove("t/2.npy")
    open("x/3.npy", "w").write("x")
    said = tenon(*FIT, "-o", "out.safetensors", code=1, lines=4).err.splitlines()
    assert "x/0.npy: the features are f32 (5, 9, 7)" in said[0] and "t/2.npy: there is no such file" in said[1]
    assert said[2].startswith("tenon: t/3.npy: there is no such file") or said[2].startswith("tenon: x/3.npy: ")
    assert said[3] == "tenon: x: 3 of 4 shards cannot be used: 0.npy, 2.npy, 3.npy; correct or remove them"
    assert not os.path.exists("out.safetensors")


def test_files_that_are_no_shards_are_named(tenon, data):
    words = [*FIT, "--steps", 1, "-o", "out.safetensors"]
    assert tenon(*words, "--json").json["skipped_files"] == []
    open("x/README.txt", "w").close()
    open("x/c.pt", "w").close()
    os.mkdir("x/more")
    said = tenon(*words).err.splitlines()
    assert said[0] == ("tenon: note: x: 3 entries skipped, which are no .npy or .safetensors files: README.txt, c.pt, more/")
    result = tenon(*words, "--json")
    assert result.json["skipped_files"] == ["README.txt", "c.pt", "more/"] and "note" not in result.err
    tenon("fit", "--model", "start.safetensors", "--features", "x/0.npy", "--targets", "t/0.npy", "--steps", 1, "-o", "out.safetensors")


@pytest.mark.parametrize(
    "words, said",
    [
        (["--loss", "l2"], "smooth_l1"),
        (["--steps", 3, "--epochs", 2], "not both"),
        (["--val-fraction", 1], "below 1"),
        (["--patience", 2], "--val-fraction"),
        (["--resume"], "--checkpoint"),
        (["--batch", 0], "positive"),
        (["--beta1", 1], "must be from 0 to below 1 (got 1)"),
        (["--beta2", 1.5], "must be from 0 to below 1 (got 1.5)"),
        (["--min-lr", 1], "is above "),
    ],
)
def test_wrong_command_lines(tenon, data, words, said):
    assert said in tenon(*FIT, "-o", "out.safetensors", *words, code=2).err
    assert "needs -o" in tenon(*FIT, code=2).err


@pytest.mark.parametrize("eps", ["0", "1e-46", "1e-400", "1e39"])
def test_C29_eps_is_not_zero(tenon, data, eps):
    said = tenon(*FIT, "--eps", eps, "-o", "out.safetensors", code=2).err
    assert "eps" in said and "must be above 0" in said and "zero" in said and not os.path.exists("out.safetensors")
    tenon(*FIT, "--eps", "2e-45", "--steps", 1, "-o", "out.safetensors")


def test_what_the_library_refuses(tenon, data):
    for words, said in ((["--warmup", 9, "--steps", 3], "--warmup 9"), (["--freeze", "proj.*"], "--freeze proj.*: every parameter"),
                        (["--freeze", "p"], "--freeze p: no parameter matches 'p'"), (["--val-fraction", 0.99], "--val-fraction 0.99")):
        assert said in tenon(*FIT, *words, "-o", "out.safetensors", code=1).err
    assert ".safetensors" in tenon(*FIT, "-o", "out.npy", code=1).err

# SPDX-License-Identifier: MIT
"""How many threads compute unless --threads says so, and that they sleep while they wait."""
import contextlib
import os
import pathlib
import resource
import subprocess
import sys

import numpy
import pytest

from conftest import run

WITH_OPENMP = "threads: OpenMP" in run("--version").out
needs_openmp = pytest.mark.skipif(not WITH_OPENMP, reason="a build without OpenMP takes one thread unasked")


@pytest.fixture
def model(make):
    make("mlp_2layer", 16, 16)
    return "adapter.safetensors"


@pytest.fixture
def data(model, rng):
    for name in ("x.npy", "t.npy"):
        numpy.save(name, rng.standard_normal((8, 16, 16), dtype=numpy.float32))


def threads_of_bench(model, *words, **options):
    return run("bench", model, "--tokens", 4, "--repeat", 1, "--json", *words, **options).json["threads"]


@needs_openmp
@pytest.mark.parametrize("value, threads", [("3", 3), (" 2 ", 2), ("4,2", 4)])
def test_C27_omp_num_threads_says_how_many(model, value, threads):
    assert threads_of_bench(model, env={"OMP_NUM_THREADS": value}) == threads
    assert threads_of_bench(model, "--threads", 5, env={"OMP_NUM_THREADS": value}) == 5


@needs_openmp
@pytest.mark.parametrize("value", ["5000", "99999999999", "4294967297", "0", "-1", "+1", "2x", "many"])
def test_C27_omp_num_threads_out_of_range_is_named(model, data, value):
    for words in (
        ["bench", model, "--tokens", 4],
        ["run", model, "x.npy", "-o", "y.npy"],
        ["fit", "--model", model, "--features", "x.npy", "--targets", "t.npy", "-o", "f.safetensors"],
    ):
        result = run(*words, env={"OMP_NUM_THREADS": value})
        assert result.code == 1, result
        expected = f"tenon: the environment variable OMP_NUM_THREADS is '{value}'; expected a number from 1 to 4096\n"
        assert result.err.endswith(expected), result  # before it, libgomp may have its own say
    assert run(*words, "--threads", 2, env={"OMP_NUM_THREADS": value}).code == 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_C27_affinity_is_followed(model, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    core = min(os.sched_getaffinity(0))
    assert threads_of_bench(model, preexec_fn=lambda: os.sched_setaffinity(0, {core})) == 1


@contextlib.contextmanager
def control_group(quota, period):
    """The file of processes of a new group with that CPU quota, in microseconds. Skips where none can be made."""
    groups = [line.split(":", 2) for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines()]
    own = {name: path for _, controllers, path in groups for name in controllers.split(",")}
    if "cpu" in own:
        folder, files = "/sys/fs/cgroup/cpu" + own["cpu"], {"cpu.cfs_period_us": period, "cpu.cfs_quota_us": quota}
    else:
        folder, files = "/sys/fs/cgroup" + own.get("", "/"), {"cpu.max": f"{quota} {period}"}
    folder = pathlib.Path(folder) / f"tenon-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as why:
        pytest.skip(f"no control group can be made: {why}")
    try:
        for name, value in files.items():
            try:
                (folder / name).write_text(str(value))
            except OSError as why:
                pytest.skip(f"no quota can be set: {why}")
        yield folder / "cgroup.procs"
    finally:
        folder.rmdir()


@needs_openmp
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_C27_the_quota_of_a_control_group_is_followed(model, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for quota, threads in ((100_000, 1), (10_000, 1), (110_000, 2)):
        with control_group(quota, 100_000) as processes:

            def enter(processes=processes):
                processes.write_text(str(os.getpid()))

            assert threads_of_bench(model, preexec_fn=enter) == threads
            assert threads_of_bench(model, env={"OMP_NUM_THREADS": "2"}, preexec_fn=enter) == 2
            assert threads_of_bench(model, "--threads", 2, preexec_fn=enter) == 2


def seconds_of_cpu(*words):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = run(*words, env={"OMP_WAIT_POLICY": "active"})  # which is for OpenMP's threads; these are the command's
    assert result.code == 0, result
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
@pytest.mark.parametrize("threads", [2, 5])
def test_threads_of_fit_sleep_while_they_wait(make, rng, threads):
    """On cores that other processes want too, a thread that spins spends the time that the others need."""
    make("mlp_2layer", 128, 128)
    for name in ("x.npy", "t.npy"):
        numpy.save(name, rng.standard_normal((16, 64, 128), dtype=numpy.float32))
    words = ["fit", "--model", "adapter.safetensors", "--features", "x.npy", "--targets", "t.npy", "--batch", 4]
    words += ["--steps", 200, "-o", "f.safetensors", "--threads"]
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(everywhere)[:2])
    busy = [subprocess.Popen([sys.executable, "-ISc", "while True: pass"]) for _ in range(2)]
    try:
        alone, together = seconds_of_cpu(*words, 1), seconds_of_cpu(*words, threads)
    finally:
        for process in busy:
            process.kill()
            process.wait()
        os.sched_setaffinity(0, everywhere)
    assert together < 3 * alone + 1, (alone, together)


def test_threads_of_the_command_do_not_change_a_bit(make, rng):
    make("attentional_pool", 32, 24, heads=4)
    numpy.save("x.npy", rng.standard_normal((40, 36, 32), dtype=numpy.float32))
    tokens = []
    for threads in (1, 2, 3, 8):
        assert run("run", "adapter.safetensors", "x.npy", "-o", "y.npy", "--threads", threads).code == 0
        tokens.append(pathlib.Path("y.npy").read_bytes())
    assert len(set(tokens)) == 1

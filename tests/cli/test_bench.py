# SPDX-License-Identifier: MIT
"""tenon bench: that it measures and says what; never how fast."""
import pytest


@pytest.fixture
def model(tenon, tmp_path):
    path = tmp_path / "pool.safetensors"
    tenon("init", "--type", "avgpool", "--in-dim", 24, "--out-dim", 40, "--window", 2, "-o", path)
    return path


def test_fields(tenon, model):
    result = tenon("bench", model, "--tokens", 36, "--batch", 3, "--repeat", 2, "--json").json
    assert result["features"] == [3, 36, 24] and result["tokens"] == [3, 9, 40]
    for field in ("median_ms", "gflops", "fma_peak_gflops", "read_gbs", "weights_gbs", "workspace_bytes", "threads"):
        assert result[field] > 0, field
    assert result["low_ms"] <= result["median_ms"] <= result["high_ms"]


def test_options_reach_the_call(tenon, model):
    words = ("bench", model, "--tokens", 48, "--repeat", 1, "--grid", "4x12", "--window", 4, "--dtype", "bf16")
    result = tenon(*words, "--cpu", "baseline", "--threads", 1, "--json").json
    assert result["tokens"] == [1, 3, 40] and result["level"] == "baseline" and result["threads"] == 1
    words = ("bench", model, "--tokens", 36, "--repeat", 1, "--json")
    assert tenon(*words, env={"OMP_NUM_THREADS": "1"}).json["threads"] == 1


def test_text(tenon, model):
    text = tenon("bench", model, "--tokens", 36, "--repeat", 1).out
    assert [line.split()[0] for line in text.splitlines()[1:]] == ["time", "arithmetic", "weights", "workspace"]


@pytest.mark.parametrize("threads", [4097, 99999999999])
def test_C27_threads_are_named_by_their_option(tenon, model, threads):
    said = tenon("bench", model, "--tokens", 36, "--threads", threads, code=2).err
    assert f"--threads is at most 4096 (got {threads})" in said


def test_C28_levels_of_other_machines_are_refused(tenon, model):
    levels = tenon("--print-values", "levels").out.split()
    other = "avx512" if "neon" in levels else "neon"
    for words in (["bench", model, "--tokens", 36], ["run", model, "x.npy", "-o", "y.npy"]):
        said = tenon(*words, "--cpu", other, code=2).err
        assert f"--cpu '{other}' is not a CPU level of this machine; it has {','.join(levels)}" in said
    assert f"TENON_CPU '{other}'" in tenon("bench", model, "--tokens", 36, env={"TENON_CPU": other}, code=1).err
    # A level that this machine lacks is the best one below it.
    if "neon" not in levels:
        assert tenon("bench", model, "--tokens", 36, "--repeat", 1, "--cpu", "avx512", "--json").json["level"] in levels


def test_what_it_refuses(tenon, model):
    assert "--tokens" in tenon("bench", model, code=2).err
    assert "f64" in tenon("bench", model, "--tokens", 36, "--dtype", "f64", code=2).err
    assert "37" in tenon("bench", model, "--tokens", 37, code=1).err
    assert "--repeat" in tenon("bench", model, "--tokens", 36, "--repeat", 5000, code=2).err
    assert "(did you mean --window?)" in tenon("bench", model, "--windw", 3, code=2).err
    huge = tenon("bench", model, "--tokens", 10**16, "--batch", 10**9, code=1).err
    assert "too large" in huge or "memory" in huge
    assert "missing.safetensors" in tenon("bench", model.parent / "missing.safetensors", "--tokens", 36, code=1).err

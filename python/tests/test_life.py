# SPDX-License-Identifier: MIT
"""Memory over many builds, threads, forks, the end of the interpreter."""

import concurrent.futures
import gc
import os
import pathlib
import resource
import subprocess
import sys
import threading

import numpy as np
import pytest
from others import other

import tenon

torch = other("torch")


def resident():
    """Bytes of this process's own in memory now: of files there is more whenever code runs for the first time."""
    with open("/proc/self/statm") as file:
        _, all_pages, of_files, *_ = file.read().split()
    return (int(all_pages) - int(of_files)) * resource.getpagesize()


def grown(work, count, warm_up):
    for _ in range(warm_up):
        work()
    gc.collect()
    before = resident()
    for _ in range(count):
        work()
    gc.collect()
    return resident() - before


def test_ten_thousand_builds_and_drops():
    x = np.zeros((1, 4, 8), np.float32)

    def work():
        adapter = tenon.build_adapter("mlp_2layer", 8, 16, seed=1)
        adapter(x)
        adapter.load_state_dict(adapter.state_dict())

    assert grown(work, 10_000, 500) < 4 << 20


def test_calls_do_not_grow():
    """What a call takes from every kind of array it gives back, also when it fails."""
    adapter = tenon.build_adapter(tenon.Config("attentional_pool", pool_heads=2), 8, 16, seed=1)
    x = np.zeros((4, 64, 8), np.float32)
    tensor, mask = torch.from_numpy(x), np.ones((4, 64), bool)
    readonly = x.copy()
    readonly.flags.writeable = False

    def work():
        adapter(x, patch_mask=mask)
        adapter(tensor)
        adapter(memoryview(readonly), dtype="f16")
        adapter.attention(tensor)
        with pytest.raises(ValueError):
            adapter(x, out=readonly)
        with pytest.raises(ValueError):
            adapter(x, patch_mask=x, frame_mask=mask)

    assert grown(work, 3_000, 300) < 2 << 20


def test_references_of_the_package_s_own_calls_are_given_back():
    adapter = tenon.build_adapter("mlp_2layer", 8, 16, seed=1)
    adapter.prepare(train=True)
    x, y, mask = torch.zeros(2, 4, 8), torch.zeros(2, 4, 16), torch.ones(2, 4, dtype=torch.bool)
    saved = torch.zeros(adapter.saved_size(2, 4), dtype=torch.uint8)
    gradients = [torch.zeros(shape) for _, _, shape, _ in adapter.parameters()]
    dx = torch.zeros_like(x)
    everything = (x, y, mask, saved, dx, *gradients)
    counts = [sys.getrefcount(value) for value in everything]
    for _ in range(10):
        adapter.forward(y, x, None, None, mask, None, None, 0, saved)
        adapter.backward(y, x, dx, gradients, None, None, mask, None, 0, saved)
        for wrong in (saved, y, saved[::2]):
            with pytest.raises(ValueError):
                adapter.forward(y, wrong, None, None, mask, None, None, 0, saved)
            with pytest.raises(ValueError):
                adapter.backward(y, x, dx, gradients, None, None, wrong, None, 0, saved)
            with pytest.raises(ValueError):
                adapter.backward(y, x, dx, gradients, None, None, mask, None, 0, wrong[0])
    del wrong  # a view of `saved`
    assert [sys.getrefcount(value) for value in everything] == counts


def test_references_are_given_back():
    adapter = tenon.build_adapter("linear", 8, 16, seed=1)
    x, out, mask = np.zeros((1, 4, 8), np.float32), np.zeros((1, 4, 16), np.float32), np.ones((1, 4), bool)
    counts = [sys.getrefcount(value) for value in (x, out, mask, None)]
    for _ in range(100):
        adapter(x, out=out, patch_mask=mask)
        with pytest.raises(ValueError):
            adapter(x, out=out, patch_mask=out)
    after = [sys.getrefcount(value) for value in (x, out, mask, None)]
    assert after[:3] == counts[:3] and abs(after[3] - counts[3]) < 20


def test_threads_on_one_adapter():
    adapter = tenon.build_adapter(tenon.Config("attentional_pool", pool_heads=4), 32, 48, seed=1)
    inputs = [np.random.default_rng(i).standard_normal((1 + i % 3, 64, 32)).astype(np.float32) for i in range(40)]
    expected = [adapter(x).tobytes() for x in inputs]
    adapter.reset_parameters(1)  # so that the threads meet an adapter that is not prepared
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert [y.tobytes() for y in pool.map(adapter, inputs)] == expected


def test_parameters_change_under_running_calls():
    """Every call sees the parameters of before or of after, never a mixture, never none."""
    adapter = tenon.build_adapter("mlp_2layer", 16, 16, seed=1)
    x = np.random.default_rng(0).standard_normal((1, 5, 16)).astype(np.float32)
    states, allowed = [], set()
    for seed in (1, 2):
        adapter.reset_parameters(seed)
        states.append(adapter.state_dict())
        allowed.add(adapter(x).tobytes())
    done = threading.Event()

    def change():
        for turn in range(300):
            adapter.reset_parameters(1 + turn % 2)
        done.set()

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        changing = pool.submit(change)
        calls = [pool.submit(lambda: [adapter(x).tobytes() for _ in iter(done.is_set, True)]) for _ in range(2)]
        changing.result()
        seen = {y for call in calls for y in call.result()}
    assert seen <= allowed


def test_the_gil_is_given_back():
    """While one thread computes for a while, this one goes on."""
    adapter = tenon.build_adapter("mlp_2layer", 512, 1024, seed=1)
    x = np.zeros((16, 576, 512), np.float32)
    adapter.prepare()
    running = threading.Thread(target=lambda: adapter(x, threads=1))
    ticks = 0
    running.start()
    while running.is_alive():
        ticks += 1
    running.join()
    assert ticks > 1000


FORKING = """
import multiprocessing, sys
import numpy as np, tenon

def child(adapter, x, expected):
    assert adapter(x).tobytes() == expected
    config = adapter.config
    assert tenon.build_adapter(config, adapter.in_dim, adapter.out_dim, seed=1)(x).tobytes() == expected

if __name__ == "__main__":
    adapter = tenon.build_adapter("mlp_2layer", 64, 512, seed=1)
    x = np.random.default_rng(0).standard_normal((4, 196, 64)).astype(np.float32)
    expected = adapter(x).tobytes()
    for method in ("fork", "fork", "spawn", "forkserver"):
        process = multiprocessing.get_context(method).Process(target=child, args=(adapter, x, expected))
        process.start()
        process.join(60)
        assert process.exitcode == 0, method
"""


def test_C26_fork_after_use_and_adapters_sent_to_processes(tmp_path):
    (tmp_path / "forking.py").write_text(FORKING)
    done = subprocess.run([sys.executable, tmp_path / "forking.py"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("modules", [False, True])
def test_C26_forks_while_other_threads_compute(tmp_path, modules):
    """$TENON_FORKS of them: a few here, thousands in scripts/test_long.sh. With PyTorch a tenth, which takes as long."""
    count = int(os.environ.get("TENON_FORKS", "40")) // (10 if modules else 1)
    words = [sys.executable, pathlib.Path(__file__).with_name("forks.py"), str(count), tmp_path]
    if modules:
        words.append(torch.__name__)
    done = subprocess.run(words, capture_output=True, text=True, timeout=100 + count)
    assert done.returncode == 0, done.stderr


PROGRAMS = {
    "globals": "adapter(x)",
    "a reference cycle": "class Node: pass\nn = Node(); n.me, n.adapter = n, adapter; adapter(x); del n, adapter",
    "at exit": "import atexit\natexit.register(lambda: print(adapter(x).shape))",
    "a daemon thread": (
        "import threading, time\n"
        "def work():\n    while True: adapter(x)\n"
        "threading.Thread(target=work, daemon=True).start(); time.sleep(0.05)"
    ),
    "an array of ours kept by NumPy": "y = numpy.from_dlpack(tenon._C.copy(x)); tenon.kept = y",
    "a capsule kept": "import builtins; builtins.kept = tenon._C.copy(x).__dlpack__()",
    "a connector of Python's": (
        "@tenon.registry.register_adapter('mine')\ndef mine(builder):\n    builder.linear('a', 3)\n"
        "other = tenon.build_adapter('mine', 3, 3, seed=1)"
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_interpreter_shutdown(name):
    program = (
        "import numpy, tenon\n"
        "adapter = tenon.build_adapter('linear', 8, 4, seed=1)\n"
        "x = numpy.zeros((1, 2, 8), numpy.float32)\n" + PROGRAMS[name]
    )
    done = subprocess.run([sys.executable, "-X", "dev", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == "", done


WITHOUT_OTHERS = """
import sys
class Blocker:
    def find_spec(self, name, *rest):
        if name.split('.')[0] in ('torch', 'jax', 'ml_dtypes', 'matplotlib', 'safetensors'):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
"""


@pytest.mark.parametrize(
    "module, sentence",
    [
        ("torch", "tenon.torch needs PyTorch: pip install 'tenon-vlm[torch]'"),
        ("plot", "tenon.plot needs matplotlib: pip install 'tenon-vlm[plot]'"),
    ],
)
def test_a_missing_package_is_named(module, sentence):
    program = f"{WITHOUT_OTHERS}\nimport tenon.{module}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[-1] == f"ImportError: {sentence}"
    assert "During handling" not in done.stderr


def test_importing_needs_numpy_alone():
    program = WITHOUT_OTHERS + (
        "import numpy, tenon\n"
        "a = tenon.build_adapter('linear', 8, 4, seed=1, dtype='bf16')\n"
        "print(a(numpy.zeros((1, 2, 8), numpy.float32)).dtype)\n"
        "try: a.state_dict()\nexcept ValueError as e: print(e)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "float32" and "NumPy has no bfloat16" in done.stdout

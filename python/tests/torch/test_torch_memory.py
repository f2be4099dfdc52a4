# SPDX-License-Identifier: MIT
"""Gradients in memory that is lent: it comes back when they are dropped, and only then."""

import gc
import os
import pathlib
import subprocess
import sys
import threading

import pytest
import torch
from test_life import resident

import tenon.torch
from tenon import _C

WIDE, OUT = 256, 4608  # 4.7 MB a gradient


def module():
    torch.manual_seed(3)
    return tenon.torch.LinearAdapter(WIDE, OUT)


def step(adapter, x):
    for parameter in adapter.parameters():
        parameter.grad = None
    adapter(x).sum().backward()
    return adapter.proj.weight.grad


def expected(x):
    return x.sum(dim=(0, 1)).expand(OUT, WIDE)


@pytest.fixture
def x():
    return torch.randn(1, 5, WIDE, generator=torch.manual_seed(4))


def test_a_dropped_gradient_is_written_again(x):
    adapter = module()
    first = step(adapter, x).data_ptr()
    assert step(adapter, 2 * x).data_ptr() == first
    torch.testing.assert_close(adapter.proj.weight.grad, expected(2 * x))


def test_a_kept_gradient_is_not(x):
    adapter = module()
    kept = [step(adapter, i * x) for i in range(1, 5)]
    views = [grad[:2] for grad in kept]
    assert len({grad.data_ptr() for grad in kept}) == 4
    del kept
    step(adapter, -x)
    for i, view in enumerate(views, 1):
        torch.testing.assert_close(view, expected(i * x)[:2])


def test_a_gradient_outlives_its_module(x):
    grad = step(module(), x)
    gc.collect()
    torch.testing.assert_close(grad, expected(x))


def test_gradients_are_added_as_ever(x):
    adapter = module()
    step(adapter, x)
    for _ in range(3):
        adapter(x).sum().backward()
    torch.testing.assert_close(adapter.proj.weight.grad, expected(4 * x))


PROGRAMS = {
    "one set stays, and goes with the adapter": """
adapter = _C.Adapter('{"type": "linear"}', 2304, 4096)  # 36 MiB, which malloc gives back to the system
mib, empty = 1 << 20, resident()
lent = [torch.from_dlpack(adapter.lend_gradient(0)).fill_(i) for i in range(3)]
assert resident() - empty > 100 * mib
lent.clear()
assert 30 * mib < resident() - empty < 45 * mib
again = torch.from_dlpack(adapter.lend_gradient(0)).fill_(7)
assert resident() - empty < 45 * mib
del adapter
assert (again == 7).all()
del again
assert resident() - empty < 10 * mib
""",
    "a child has gradients of its own": """
torch.set_num_threads(1)
adapter, x = module(), torch.randn(1, 5, WIDE)
grad = step(adapter, x)
other = step(adapter, 3 * x)
del other
adapter.zero_grad()  # one is at home when the child inherits it
child = os.fork()
if child == 0:
    step(adapter, 2 * x)
    torch.testing.assert_close(adapter.proj.weight.grad, expected(2 * x))
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
torch.testing.assert_close(grad, expected(x))
""",
    "dropped at exit": "kept = step(module(), torch.randn(1, 5, WIDE))",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_in_a_process_of_its_own(name):
    folder = pathlib.Path(__file__).parent
    path = f"import sys\nsys.path[:0] = {[str(folder), str(folder.parent)]}\n"
    program = f"{path}from {__name__} import *\nfrom tenon import _C\n{PROGRAMS[name]}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_gradients_in_16_bits(x):
    x = x.bfloat16()
    grad = step(module().bfloat16(), x)
    assert grad.dtype == torch.bfloat16
    torch.testing.assert_close(grad.float(), expected(x.float()), atol=0.05, rtol=0.01)


def test_threads_drop_and_take():
    adapter = _C.Adapter('{"type": "linear"}', WIDE, OUT)
    adapter.reset_parameters("f32", 1)
    wrong = []

    def work(number):
        for _ in range(200):
            grad = torch.from_dlpack(adapter.lend_gradient(0)).fill_(number)
            if not (grad == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_parameters_that_are_not_there():
    adapter = _C.Adapter('{"type": "linear"}', WIDE, OUT)
    with pytest.raises((ValueError, KeyError, IndexError), match="2"):
        adapter.lend_gradient(2)

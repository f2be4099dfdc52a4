# SPDX-License-Identifier: MIT
"""Forks while other threads build, load, pack and run: forks.py COUNT FOLDER [torch]. Each child does the same things
once, on one thread, and must end with the right bits within a minute."""

import copy
import faulthandler
import os
import sys
import threading
import traceback
import warnings

import numpy as np

import tenon

warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forks beside threads; these are the subject


class Scene:
    """Adapters that threads change and run, and all tokens that are right."""

    def __init__(self, folder):
        self.path = os.path.join(folder, "adapter.safetensors")
        self.x = np.random.default_rng(0).standard_normal((2, 64, 32)).astype(np.float32)
        self.config = tenon.Config("attentional_pool", pool_heads=4)
        self.shared = tenon.build_adapter(self.config, 32, 48, seed=1)
        self.trained = tenon.build_adapter("mlp_2layer", 32, 48, seed=1)
        self.trained.prepare(train=True)
        self.states = []
        self.right = set()
        for seed in (1, 2):
            self.shared.reset_parameters(seed)
            self.states.append(self.shared.state_dict())
            self.right.add(self.shared(self.x).tobytes())
        self.shared.save(self.path)
        self.gradients = self.train()

    def run(self):
        assert self.shared(self.x).tobytes() in self.right

    def reset(self):
        for seed in (1, 2):
            self.shared.reset_parameters(seed)

    def prepare(self):
        self.shared.prepare()
        self.run()

    def load(self):
        self.shared.load(self.path)
        other = tenon.load(self.path)
        assert other(self.x).tobytes() in self.right

    def build(self):
        other = tenon.build_adapter(self.config, 32, 48)
        for state in self.states:
            other.load_state_dict(state)
            assert other(self.x).tobytes() in self.right
        assert other.state_dict().keys() == self.states[0].keys()

    def train(self):
        trained = self.trained
        trained.prepare(train=True)
        saved = np.zeros(trained.saved_size(2, 64), np.uint8)
        y = np.zeros((2, 64, 48), np.float32)
        trained.forward(y, self.x, None, None, None, None, None, 0, saved)
        gradients = [np.asarray(trained.lend_gradient(i)) for i in range(4)]
        trained.backward(y, self.x, None, gradients, None, None, None, None, 0, saved, True)
        return [gradient.tobytes() for gradient in gradients]

    def check_training(self):
        assert self.train() == self.gradients

    def beside(self):
        """What threads do while the process forks."""
        return [self.run, self.reset, self.prepare, self.load, self.build, self.check_training]

    def work(self):
        """What a child does."""
        return self.beside()


class TorchScene(Scene):
    """And modules of PyTorch."""

    def __init__(self, folder):
        super().__init__(folder)
        import torch

        import tenon.torch

        torch.set_num_threads(1)  # OpenMP's threads of PyTorch's own would not be there in a child
        self.torch = torch
        self.module = tenon.torch.AttentionalPoolAdapter(32, 48, pool_heads=4)
        self.features = torch.from_numpy(self.x)
        self.modules = []
        for state in self.states:
            self.module.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
            self.modules.append(self.module.state_dict())

    def run_module(self):
        with self.torch.no_grad():
            y = self.module(self.features)
        assert y.numpy().tobytes() in self.right

    def change_module(self):
        module = copy.deepcopy(self.module)  # a new one takes the lock of PyTorch's generator, which stays taken in a child
        for state in self.modules:
            module.load_state_dict(state)
            with self.torch.no_grad():
                assert module(self.features).numpy().tobytes() in self.right
        self.module.refresh()

    def train_module(self):
        x = self.features.clone().requires_grad_()
        y = self.module(x)
        self.torch.autograd.grad(y.sum(), (x, *self.module.parameters()))

    def beside(self):
        # PyTorch's autograd engine locks its list of observers without the GIL; a fork at that moment leaves the lock
        # taken in the child, whoever wrote the module. Children train, threads beside a fork do not.
        return [*super().beside(), self.run_module, self.change_module]

    def work(self):
        return [*self.beside(), self.train_module]


def child(scene):
    """Never returns."""
    status = 1
    faulthandler.dump_traceback_later(60, exit=True)  # of a child that hangs
    try:
        for work in scene.work():
            work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def main(count, scene):
    done = threading.Event()
    failures = []

    def repeat(work):
        try:
            while not done.is_set():
                work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=repeat, args=(work,)) for work in scene.beside()]
    for thread in threads:
        thread.start()
    try:
        for number in range(count):
            process = os.fork()
            if process == 0:
                child(scene)
            _, status = os.waitpid(process, 0)
            if status != 0:
                raise SystemExit(f"child {number} of {count} ended with {os.waitstatus_to_exitcode(status)}")
    finally:
        done.set()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


if __name__ == "__main__":
    kind = TorchScene if sys.argv[3:] == ["torch"] else Scene
    main(int(sys.argv[1]), kind(sys.argv[2]))

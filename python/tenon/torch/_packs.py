# SPDX-License-Identifier: MIT
"""Packed weights, and when they may be used again.

The library reads weights in an order of its own, so they are packed before a call. A pack that no longer is what the
parameters are is the worst thing that could happen here, so a pack is used again only if all of this holds:

- Gradients are off. With gradients on, every call packs.
- Every parameter is *known*: an ``nn.Parameter`` that a connector of ours made, loaded, moved or unpickled itself.
  The tensors that ``functional_call`` or FSDP put in its place are not, and neither are inference tensors.
- Of every parameter the object, data pointer, shape, strides, dtype, sign, version counter, eight values and epoch are
  what they were (``_C.tensor_state``). The pack keeps the storages alive, so that a pointer cannot come back with other
  data behind it. The epoch moves with ``refresh()`` and with every step of an optimizer: fused ones write without
  moving the version counter.

The backward pass of a call may use what its forward packed, under the same conditions; else it packs again.

What is packed hangs on the first parameter of its list and goes when that goes. A pack for inference is never changed
once it is there, so any number of threads may run it while others replace it. A pack for training is taken out while a
call uses it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from tenon import _C

DTYPES = frozenset((torch.float32, torch.bfloat16, torch.float16))  # that there are kernels for

Key = tuple[str, int, int]  # config, in_dim, out_dim


class _Known:
    """A parameter that we can follow."""

    __slots__ = ("epoch", "tensor")

    def __init__(self, tensor: Tensor, forget: Any) -> None:
        self.tensor = weakref.ref(tensor, forget)
        self.epoch = object()  # a new one each time, so that no two threads can bring an old one back


class _Stamp(NamedTuple):
    """What parameters were when they were packed."""

    place: tuple  # of each: which object; pointer, dtype, shape, strides and sign
    state: tuple  # of each: epoch; version and some values


class _Pack:
    """An adapter of the library with its weights packed, and what they were packed from."""

    __slots__ = ("adapter", "borrows", "dense", "key", "place", "state", "storages")

    def __init__(self, key: Key) -> None:
        self.adapter = _C.Adapter(*key)
        self.key = key
        self.borrows = False  # the adapter reads the parameters' own memory
        self.dense: list[Tensor] = []  # what it reads
        self.place: tuple | None = None  # None: somewhere that we cannot follow
        self.state: tuple | None = None  # None: fits no call
        self.storages: list[Any] = []  # of the parameters

    def fits(self, key: Key, stamp: _Stamp | None) -> bool:
        return stamp is not None and self.state == stamp.state and self.place == stamp.place and self.key == key

    def fill(self, parameters: Sequence[Tensor], stamp: _Stamp | None, train: bool) -> None:
        """Packs. The stamp was taken before: what changes while the weights are read makes it old."""
        self.state = None
        if not self.borrows or stamp is None or self.place != stamp.place:
            self._take(parameters, stamp)
        self.adapter.prepare(None, torch.get_num_threads(), train)
        if stamp is not None and self.place is not None:
            self.state = stamp.state

    def _take(self, parameters: Sequence[Tensor], stamp: _Stamp | None) -> None:
        """Hands the parameters' memory to the adapter, or a dense copy of it."""
        self.borrows = all(p.is_contiguous() and not p.is_neg() for p in parameters)
        self.dense = [p.detach().resolve_neg().contiguous() for p in parameters]
        self.adapter.set_parameters(self.dense)
        if stamp is not None and _can_follow(parameters):
            self.place = stamp.place
            self.storages = [p.untyped_storage() for p in parameters]
        else:
            self.place = None
            self.storages = []

    def drop_parameters(self) -> None:
        """What is packed stays."""
        self.adapter.release_parameters()
        self.dense = []


class _Slot:
    """The packs of one list of parameters, found by the first of them."""

    __slots__ = ("inference", "lock", "tensor", "training")

    def __init__(self, owner: Tensor, forget: Any) -> None:
        self.tensor = weakref.ref(owner, forget)
        self.inference: _Pack | None = None
        self.training: list[_Pack] = []  # at most one, absent while a call uses it
        self.lock = threading.Lock()  # held by who packs for inference


_known: dict[int, _Known] = {}
_slots: dict[int, _Slot] = {}
generation = object()  # another one whenever an epoch moved, or a parameter was forgotten


def _move_generation() -> None:
    """Last: who reads the new one sees what it stands for."""
    global generation
    generation = object()


def know(parameters: Iterable[Tensor]) -> None:
    """These are a connector's own. What was packed from them is forgotten."""
    for parameter in parameters:
        if type(parameter) is not nn.Parameter or parameter.is_inference():
            continue
        number = id(parameter)
        found = _known.get(number)
        if found is None or found.tensor() is not parameter:
            _known[number] = _Known(parameter, lambda gone, number=number: _drop(_known, number, gone))
        else:
            found.epoch = object()
        _slots.pop(number, None)
    _move_generation()


def forget(parameters: Iterable[Tensor]) -> None:
    """Leaves no weak reference: torch.utils.swap_tensors, which moving and loading may use, wants none."""
    for parameter in parameters:
        _known.pop(id(parameter), None)
        _slots.pop(id(parameter), None)
    _move_generation()


def may_be_sharded() -> bool:
    """Is fully_shard in use? It puts parameters of its own into modules, and fills them without a trace."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed import _composable_state

    return bool(getattr(_composable_state, "_module_state_mapping", True))


def is_known(parameter: Tensor) -> bool:
    found = _known.get(id(parameter))
    return found is not None and found.tensor() is parameter


def _drop(table: dict, number: int, gone: weakref.ref) -> None:
    """Removes an entry whose tensor died, unless a new tensor has its number by now."""
    found = table.get(number)
    if found is not None and found.tensor is gone:
        del table[number]


def _after_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            found = _known.get(id(parameter))
            if found is not None:
                found.epoch = object()
    _move_generation()


register_optimizer_step_post_hook(_after_step)


def _stamp(parameters: Sequence[Tensor]) -> _Stamp | None:
    """None where a change could not be seen."""
    place, state = [], []
    for parameter in parameters:
        found = _known.get(id(parameter))
        if found is None or found.tensor() is not parameter:
            return None
        seen = _C.tensor_state(parameter)
        if seen is None:  # `.data =` can make it an inference tensor
            return None
        values, where = seen
        place.append((found, where))
        state.append((found.epoch, values))
    return _Stamp(tuple(place), tuple(state))


def _can_follow(parameters: Sequence[Tensor]) -> bool:
    """False for memory that others write without a trace: shared with another process, or, where a process group
    exists, part of a larger storage, as the flat parameters of FSDP's first version are."""
    in_group = torch.distributed.is_available() and torch.distributed.is_initialized()
    for parameter in parameters:
        storage = parameter.untyped_storage()
        if storage.is_shared() or (in_group and storage.nbytes() != parameter.nbytes):
            return False
    return True


def _slot(parameters: Sequence[Tensor]) -> _Slot:
    owner = parameters[0]
    number = id(owner)
    slot = _slots.get(number)
    if slot is None or slot.tensor() is not owner:
        slot = _Slot(owner, lambda gone, number=number: _drop(_slots, number, gone))
        _slots[number] = slot
    return slot


def inference(key: Key, parameters: Sequence[Tensor], fresh: bool) -> _C.Adapter:
    """An adapter to run forward; `fresh`: packed now."""
    stamp = None if fresh else _stamp(parameters)
    if stamp is None:
        pack = _Pack(key)
        pack.fill(parameters, None, train=False)
        pack.drop_parameters()
        return pack.adapter
    slot = _slot(parameters)
    found = slot.inference
    if found is not None and found.fits(key, stamp):
        return found.adapter
    with slot.lock:
        stamp = _stamp(parameters)
        found = slot.inference
        if found is None or not found.fits(key, stamp):
            found = _Pack(key)
            found.fill(parameters, stamp, train=False)
            found.drop_parameters()
            slot.inference = found if found.state is not None else None
    return found.adapter


def kept(key: Key, parameters: Sequence[Tensor]) -> _C.Adapter | None:
    """What `inference` would use again now."""
    stamp = _stamp(parameters)
    slot = _slots.get(id(parameters[0]))
    found = slot.inference if slot is not None and slot.tensor() is parameters[0] else None
    return found.adapter if found is not None and found.fits(key, stamp) else None


@contextlib.contextmanager
def training(key: Key, parameters: Sequence[Tensor], fresh: bool) -> Iterator[_C.Adapter]:
    """An adapter to run forward or backward, for nobody else meanwhile; `fresh`: packed now."""
    keep = isinstance(parameters[0], nn.Parameter)
    idle = _slot(parameters).training if keep else []
    stamp = _stamp(parameters)
    try:
        pack = idle.pop()
    except IndexError:
        pack = _Pack(key)
    if pack.key != key:
        pack = _Pack(key)
    if fresh or not pack.fits(key, stamp):
        pack.fill(parameters, stamp, train=True)
    yield pack.adapter
    if not idle:
        idle.append(pack)


def _unlock_child() -> None:
    """A thread that packed while the process forked is not there to give its lock back."""
    for slot in list(_slots.values()):
        slot.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_child)

# SPDX-License-Identifier: MIT
"""Packed weights, and when they may be reused.

The library packs the weights in an order of its own before a call. A pack must never differ from the parameters, so it
is reused only if all of this holds:

- Gradients are disabled. With gradients enabled, every call packs.
- Every parameter is *known*: an ``nn.Parameter`` that one of our connectors created, loaded, moved or unpickled.
  Tensors that ``functional_call`` or FSDP put in its place are not known, and neither are inference tensors.
- The object, data pointer, shape, strides, dtype, sign, version counter, eight values and epoch of every parameter are
  unchanged (``_C.tensor_state``). The pack keeps the storages alive, so that a pointer cannot be reused for other data.
  The epoch changes with ``refresh()`` and with every optimizer step: fused optimizers do not change the version
  counter.

The backward pass of a call uses the pack of its forward under the same conditions; otherwise it packs again.

A pack is stored with the first parameter of its list and is freed with it. A pack for inference is immutable, so
threads may run it while others replace it. A pack for training is removed from the store while a call uses it.
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
    """A parameter that is tracked."""

    __slots__ = ("epoch", "tensor")

    def __init__(self, tensor: Tensor, forget: Any) -> None:
        self.tensor = weakref.ref(tensor, forget)
        self.epoch = object()  # always a new one, so that two threads cannot restore an old one


class _Stamp(NamedTuple):
    """The state of the parameters when they were packed."""

    place: tuple  # of each: which object; pointer, dtype, shape, strides and sign
    state: tuple  # of each: epoch; version and some values


class _Pack:
    """An adapter of the library with packed weights, and the state of the parameters they were packed from."""

    __slots__ = ("adapter", "borrows", "dense", "key", "place", "state", "storages")

    def __init__(self, key: Key) -> None:
        self.adapter = _C.Adapter(*key)
        self.key = key
        self.borrows = False  # the adapter reads the parameters' own memory
        self.dense: list[Tensor] = []  # what it reads
        self.place: tuple | None = None  # None: they cannot be tracked
        self.state: tuple | None = None  # None: the pack fits no call
        self.storages: list[Any] = []  # of the parameters

    def fits(self, key: Key, stamp: _Stamp | None) -> bool:
        return stamp is not None and self.state == stamp.state and self.place == stamp.place and self.key == key

    def fill(self, parameters: Sequence[Tensor], stamp: _Stamp | None, train: bool) -> None:
        """Packs the parameters. The stamp was taken before, so that a change during packing makes the pack invalid."""
        self.state = None
        if not self.borrows or stamp is None or self.place != stamp.place:
            self._take(parameters, stamp)
        self.adapter.prepare(None, torch.get_num_threads(), train)
        if stamp is not None and self.place is not None:
            self.state = stamp.state

    def _take(self, parameters: Sequence[Tensor], stamp: _Stamp | None) -> None:
        """Gives the adapter the memory of the parameters, or a dense copy of it."""
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
        """Drops the parameters and keeps the packed weights."""
        self.adapter.release_parameters()
        self.dense = []


class _Slot:
    """The packs of a list of parameters, stored with the first of them."""

    __slots__ = ("inference", "lock", "tensor", "training")

    def __init__(self, owner: Tensor, forget: Any) -> None:
        self.tensor = weakref.ref(owner, forget)
        self.inference: _Pack | None = None
        self.training: list[_Pack] = []  # at most one, absent while a call uses it
        self.lock = threading.Lock()  # held while a thread packs for inference


_known: dict[int, _Known] = {}
_slots: dict[int, _Slot] = {}
generation = object()  # replaced whenever an epoch changes or a parameter is forgotten


def _move_generation() -> None:
    """Must be called last, after the change that it announces."""
    global generation
    generation = object()


def know(parameters: Iterable[Tensor]) -> None:
    """Tracks parameters of a connector, and drops what was packed from them."""
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
    """Stops tracking, without weak references left: torch.utils.swap_tensors, used by moving and loading, forbids them.
    """
    for parameter in parameters:
        _known.pop(id(parameter), None)
        _slots.pop(id(parameter), None)
    _move_generation()


def may_be_sharded() -> bool:
    """Whether fully_shard is in use: it puts its own parameters into modules, and writes them unrecorded."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed import _composable_state

    return bool(getattr(_composable_state, "_module_state_mapping", True))


def is_known(parameter: Tensor) -> bool:
    found = _known.get(id(parameter))
    return found is not None and found.tensor() is parameter


def _drop(table: dict, number: int, gone: weakref.ref) -> None:
    """Removes the entry of a tensor that was freed, unless a new tensor has the same number."""
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
    """The state of the parameters; None if a change could not be detected."""
    place, state = [], []
    for parameter in parameters:
        found = _known.get(id(parameter))
        if found is None or found.tensor() is not parameter:
            return None
        seen = _C.tensor_state(parameter)
        if seen is None:  # `.data =` can make a parameter an inference tensor
            return None
        values, where = seen
        place.append((found, where))
        state.append((found.epoch, values))
    return _Stamp(tuple(place), tuple(state))


def _can_follow(parameters: Sequence[Tensor]) -> bool:
    """False for memory that others write unrecorded: shared with another process, or, if a process group exists, part
    of a larger storage, as the flat parameters of the first version of FSDP are."""
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
    """An adapter for a forward pass. `fresh`: pack now."""
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
    """The pack that `inference` would reuse now."""
    stamp = _stamp(parameters)
    slot = _slots.get(id(parameters[0]))
    found = slot.inference if slot is not None and slot.tensor() is parameters[0] else None
    return found.adapter if found is not None and found.fits(key, stamp) else None


@contextlib.contextmanager
def training(key: Key, parameters: Sequence[Tensor], fresh: bool) -> Iterator[_C.Adapter]:
    """An adapter for a forward or backward pass, used by no other call meanwhile. `fresh`: pack now."""
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
    """Replaces locks that threads of the parent process held when it forked."""
    for slot in list(_slots.values()):
        slot.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_child)

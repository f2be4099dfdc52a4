# SPDX-License-Identifier: MIT
"""The base class of all connector modules: it runs a call through the library's kernels, or else in plain PyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.onnx import is_in_onnx_export

from tenon import _C
from tenon._config import to_json

from . import _ops, _packs
from ._errors import FeaturesError
from ._ops import Masks, is_inside_transform
from ._plain import Layer

Grid = tuple[int, int]


def patches_left(tokens: int, prefix_tokens: int) -> int:
    """The number of patches. Raises the library's ValueError if there are fewer tokens than prefix tokens."""
    if tokens < prefix_tokens:
        raise ValueError(f"num_tokens={tokens} leaves no patches after prefix_tokens={prefix_tokens}")
    return tokens - prefix_tokens


def _as_images(x: Tensor) -> Tensor:
    """Features (..., N, C), with any number of leading axes, as (B, N, C)."""
    if x.dim() > 3:
        return x.flatten(0, -3)
    return x[(None,) * (3 - x.dim())]


def _as_given(y: Tensor, x: Tensor) -> Tensor:
    """Tokens (B, M, D) with the leading axes of x."""
    if x.dim() > 3:
        return y.unflatten(0, x.shape[:-2])
    return y[(0,) * (3 - x.dim())]


def check_settings(kind: str, settings: dict[str, Any]) -> None:
    """Checks the arguments that a builder does not use. Raises ValueError unless they are fields of every config."""
    _C.check_config(to_json({"type": kind, **settings}))


class VisionAdapter(nn.Module):
    """The base class of all connectors: ``forward`` maps ``(B, N, in_dim)`` to ``(B, M, out_dim)``, and
    ``output_num_tokens(N)`` is M."""

    def output_num_tokens(self, num_input_tokens: int) -> int:
        """The number of tokens for an image of ``num_input_tokens`` patches; here the same number."""
        return num_input_tokens

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no forward")


class Plainly:
    """Reads like ``_C.Watch`` but records nothing: for calls that are not repeated, and for torch.compile."""

    @staticmethod
    def attribute(owner: Any, name: str) -> Any:
        return getattr(owner, name)

    @staticmethod
    def has_own(owner: Any, name: str) -> bool:
        return name in owner.__dict__

    @staticmethod
    def item(mapping: dict[Any, Any], key: Any) -> Any:
        return mapping.get(key)

    @staticmethod
    def is_empty(mapping: Any) -> bool:
        return not mapping

    @staticmethod
    def type_of(owner: Any) -> Any:
        return type(owner)

    @staticmethod
    def tensor(tensor: Tensor) -> Tensor:
        return tensor


Reader = _C.Watch | type[Plainly]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_HOOKS_OF_ALL = tuple(getattr(torch.nn.modules.module, f"_global{name}") for name in _HOOKS)


def is_bare(module: nn.Module, read: Reader) -> bool:
    """Whether the module has no hooks and the forward of its class."""
    if read.has_own(module, "forward"):
        return False
    for name in _HOOKS:
        if not read.is_empty(read.attribute(module, name)):
            return False
    return True


_STRIDED = torch.strided
_CLASSES = (Tensor, nn.Parameter)


def _has_kernel(tensor: Tensor) -> bool:
    if not tensor.is_cpu or tensor.dtype not in _packs.DTYPES or tensor.layout is not _STRIDED:
        return False
    return type(tensor) in _CLASSES or is_compiling()


_said: set[tuple[str, torch.dtype]] = set()


def _say_once(tensors: Sequence[Tensor]) -> None:
    """Warns about the first device or dtype that has no kernel, once for each."""
    for tensor in tensors:
        known_device = tensor.device.type in ("cpu", "meta")
        kind = (tensor.device.type, tensor.dtype)
        if (known_device and tensor.dtype in _packs.DTYPES) or kind in _said:
            continue
        _said.add(kind)
        warnings.warn(
            f"tenon has no kernel for {tensor.dtype} on {tensor.device.type}; such connectors run in plain PyTorch "
            "(this warning is shown once)",
            stacklevel=6,
        )


def _after_load(module: Connector, incompatible_keys: Any) -> None:
    module._know_again(module.__dict__.pop("_known_before_load", frozenset()))


# Looked up once: every step of the interpreter is slow when the caches are cold.
_profiler = _ops.profiler
_is_grad_enabled = torch.is_grad_enabled
_is_any_autocast_enabled = torch._C._is_any_autocast_enabled
_len_torch_dispatch_stack = torch._C._len_torch_dispatch_stack


def _is_ordinary() -> bool:
    """Whether no gradients are computed and no mode of PyTorch changes the route or the result of a call."""
    return not (
        _is_grad_enabled() or _is_any_autocast_enabled() or _len_torch_dispatch_stack() or is_inside_transform()
    )


class _Route(NamedTuple):
    """The route of the last call without gradients. The next call takes it if nothing that decided it has changed."""

    watch: _C.Watch  # of everything that decided it, except x and the masks
    adapter: _C.Adapter
    dtype: torch.dtype  # of tokens


class Connector(VisionAdapter):
    """A connector of linear layers that the library can run.

    Parameters are ordinary ``nn.Parameter`` objects. With gradients enabled, each call packs them. Under
    ``torch.no_grad()`` or ``inference_mode()`` a pack is reused until a parameter changes. Call ``refresh`` after a
    change of a few values that PyTorch does not record: in-place changes through `.data`, writes of NumPy or of other
    processes into a parameter's memory, and collectives on a parameter.
    """

    _type: str  # the library's name of it
    _linears: tuple[str, ...]  # in declaration order
    _last: _Route | None = None

    def _setup(self, prefix_tokens: int) -> None:
        """Must be called last in a constructor."""
        self.prefix_tokens = prefix_tokens
        _C.check_config(self._config())
        self.register_load_state_dict_post_hook(_after_load)
        _packs.know(parameter for _, parameter in self._own())

    def reset_parameters(self) -> None:
        """Initialises every layer, in order, as ``nn.Linear`` does."""
        for name in self._linears:
            getattr(self, name).reset_parameters()

    def refresh(self) -> None:
        """Drops the packed weights, so that the next call packs the parameters again. Any thread may call it."""
        self._last = None
        self._know_again(self._known_places())

    # ---- which parameters can be tracked (_packs) ----

    def _own(self) -> Iterator[tuple[tuple[str, str], Tensor]]:
        """((layer, name), parameter) of the linear layers."""
        for layer in self._linears:
            module = self._modules.get(layer)
            if isinstance(module, nn.Linear):
                yield from (((layer, name), p) for name, p in module._parameters.items() if p is not None)

    def _known_places(self) -> frozenset[tuple[str, str]]:
        return frozenset(place for place, parameter in self._own() if _packs.is_known(parameter))

    def _know_again(self, places: frozenset[tuple[str, str]]) -> None:
        """Tracks the parameters again; if they may be sharded, only those at the given places."""
        sharded = _packs.may_be_sharded()
        _packs.know(parameter for place, parameter in self._own() if place in places or not sharded)

    def _forget(self) -> frozenset[tuple[str, str]]:
        self._last = None
        places = self._known_places()
        _packs.forget(parameter for _, parameter in self._own())
        return places

    def _apply(self, fn: Any, recurse: bool = True) -> Connector:
        places = self._forget()
        try:
            return super()._apply(fn, recurse)
        finally:
            self._know_again(places)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._known_before_load = self._forget()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_last": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        _packs.know(parameter for _, parameter in self._own())

    # ---- one call ----

    # What `_config` and `_native_parameters` read decides the route of a call. They read through `read` only, which may
    # record it: a change of anything else would not be noticed.

    def _config(self, read: Reader = Plainly) -> str:
        """The JSON config of the library's adapter; valid if `_native_parameters` is not None."""
        raise NotImplementedError

    def _plain(self, layers: Sequence[Layer], x: Tensor, window: int, grid: Grid | None, masks: Masks) -> Tensor:
        """`_run` in plain PyTorch, with the layers of `_linears`."""
        raise NotImplementedError

    def _check(self, x: Tensor, masks: Masks) -> None:
        """Refuses what the library refuses, with its sentences: plain PyTorch has other sentences, or none."""
        if isinstance(x, torch.masked.MaskedTensor):
            raise ValueError(_C.MASKED_SENTENCE % ("x", "torch.masked.MaskedTensor"))
        if not x.is_floating_point():
            kind = str(x.dtype).removeprefix("torch.")
            raise FeaturesError(f"x is {kind}; expected float32, bfloat16, float16 or another floating-point dtype")
        first = self._modules.get(self._linears[0])
        if type(first) is nn.Linear and x.shape[-1] != first.in_features:
            raise FeaturesError(f"x has width {x.shape[-1]}; the adapter's in_dim is {first.in_features}")
        batch, tokens, _ = x.shape
        patches = patches_left(tokens, self.prefix_tokens)
        for name, mask, shape in zip(("patch_mask", "frame_mask"), masks, ((batch, patches), (batch,)), strict=True):
            _expect_tensor(name, mask)
            if mask is not None and tuple(mask.shape) != shape:
                raise ValueError(f"{name} has shape {tuple(mask.shape)}; expected {shape}")

    def _in_their_dtype(self, x: Tensor) -> Tensor:
        """x in the dtype of the parameters, as PyTorch's products do not mix dtypes."""
        for _, first in self._own():  # torch.compile of PyTorch 2.7 knows no next() with a default
            if first.dtype != x.dtype and x.is_floating_point() and not torch.is_autocast_enabled(x.device.type):
                return x.to(first.dtype)
            break
        return x

    def _native_parameters(self, read: Reader) -> list[Tensor] | None:
        """The parameters in declaration order, or None if a layer is not a plain product that has a kernel."""
        parameters: list[Tensor] = []
        for hooks in _HOOKS_OF_ALL:
            if not read.is_empty(hooks):
                return None
        layers = read.attribute(self, "_modules")
        for layer_name in self._linears:
            layer = read.item(layers, layer_name)
            if read.type_of(layer) is not nn.Linear or not is_bare(layer, read):
                return None
            own = read.attribute(layer, "_parameters")
            for name in ("weight", "bias"):
                parameter = read.item(own, name)
                if parameter is None or not _has_kernel(read.tensor(parameter)):
                    return None
                parameters.append(parameter)
        return parameters

    def _run_reshaped(self, x: Tensor, window: int, grid: Grid | None, masks: Masks) -> Tensor:
        """x (..., N, in_dim) -> (..., M, out_dim). The mask of one image (N, in_dim) may have one axis."""
        patch_mask, frame_mask = masks
        if x.dim() == 2 and isinstance(patch_mask, Tensor) and patch_mask.dim() == 1:
            masks = (patch_mask[None], frame_mask)
        return _as_given(self._run(_as_images(x), window, grid, masks), x)

    def _run(
        self, x: Tensor, window: int, grid: Grid | None, masks: Masks, is_shown: bool = False
    ) -> Tensor:
        """x (B, N, in_dim) -> (B, M, out_dim)"""
        eager = not is_compiling()
        if eager and _profiler._is_profiler_enabled and not is_shown:
            with _ops.shown("forward", self._type):
                return self._run(x, window, grid, masks, True)
        ordinary = eager and _is_ordinary()
        if ordinary:
            route = self._last
            if route is not None and route.watch.holds(self, x) and _on_cpu(masks):
                settings = _ops.settings(window, *(grid or (0, 0)))
                return _ops.run(route.adapter, x, masks, settings, route.dtype)
        if eager and self._last is not None:
            self._last = None  # it would keep what it has read alive
        elsewhere = is_inside_transform() if eager else is_in_onnx_export()  # which knows PyTorch's own operators alone
        computed = _has_kernel(x) and x.numel() > 0 and _on_cpu(masks) and not elsewhere
        watch = None
        if computed and ordinary:
            watch = _C.Watch(self, x)
            watch.item(vars(_packs), "generation")
        read: Reader = watch if watch is not None else Plainly
        parameters = self._native_parameters(read) if computed else None
        if parameters is None or x.shape[2] != parameters[0].shape[1]:
            if eager:
                self._check(x, masks)
                _say_once((x, *(parameter for _, parameter in self._own())))
            layers = [getattr(self, name) for name in self._linears]
            return self._plain(layers, self._in_their_dtype(x), window, grid, masks)
        fresh = torch.is_grad_enabled()
        train = fresh and (x.requires_grad or any(p.requires_grad for p in parameters))
        place = _ops.Place(self._config(read), window, *(grid or (0, 0)))
        call = _ops.Call(_token_dtype(parameters[-1]), fresh, train)

        def plain(layers: Sequence[Layer], x: Tensor) -> Tensor:
            return self._plain(layers, self._in_their_dtype(x), window, grid, masks)

        y = _ops.connect(x, parameters, masks, place, call, plain)
        if watch is not None:
            self._last = _find_route(watch, x, parameters, place)
        return y


def _find_route(watch: _C.Watch, x: Tensor, parameters: Sequence[Tensor], place: _ops.Place) -> _Route | None:
    """The route of the next call; None if no pack is kept."""
    adapter = _packs.kept(_ops.key(x, parameters, place), parameters)
    return None if adapter is None else _Route(watch, adapter, parameters[-1].dtype)


def _on_cpu(masks: Masks) -> bool:
    patches, frames = masks
    return (patches is None and frames is None) or (_is_cpu("patch_mask", patches) and _is_cpu("frame_mask", frames))


def _is_cpu(name: str, mask: Tensor | None) -> bool:
    _expect_tensor(name, mask)
    return mask is None or mask.is_cpu


def _expect_tensor(name: str, mask: Any) -> None:
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise TypeError(f"{name} is of type {type(mask).__name__}; expected a torch.Tensor")
    if mask.is_floating_point() or mask.is_complex():
        raise ValueError(_C.MASK_SENTENCE % (name, str(mask.dtype).removeprefix("torch.")))


def _token_dtype(parameter: Tensor) -> torch.dtype:
    """The dtype of the result of nn.Linear."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else parameter.dtype

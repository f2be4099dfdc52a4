# SPDX-License-Identifier: MIT
"""The base class of all connector modules: it runs a call through the library's kernels, or else in plain PyTorch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.onnx import is_in_onnx_export

from tenon import _C
from tenon._adapter import Adapter, load
from tenon._config import Config, as_config, to_json

from . import _ops, _packs, _plain
from ._arguments import Grid, as_given, as_images, expect_tensor, patches_left, read_grid, token_dtype
from ._errors import FeaturesError
from ._graph import Graph, Layer, graph_of
from ._layers import ACTIVATIONS, Group, Part, parts_of
from ._ops import Masks, is_inside_transform
from ._plain import Modules, Source, Tensors
from ._several import run_several


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
    """A connector of any type of the library::

        connector = Connector({"type": "qwen2_vl", "spatial_merge_size": 2}, in_dim=1280, out_dim=3584)
        tokens = connector(features, grid=(24, 32))

    ``config`` is a :class:`tenon.Config`, a mapping, a type's name, or an object with ``type`` and ``extra_kwargs()``.
    Parameters are ordinary ``nn.Parameter`` objects; their names are the type's, and dots in them make submodules. They
    are initialised as the library does: after ``torch.manual_seed(seed)`` they are those of
    ``tenon.build_adapter(config, in_dim, out_dim, seed=seed)``, bit for bit.

    With gradients enabled, each call packs them. Under ``torch.no_grad()`` or ``inference_mode()`` a pack is reused
    until a parameter changes. Call ``refresh`` after a change of a few values that PyTorch does not record: in-place
    changes through `.data`, writes of NumPy or of other processes into a parameter's memory, and collectives on a
    parameter. Compiled calls of connectors with further inputs or outputs, and of packed batches, run in plain PyTorch.
    """

    _graph: Graph  # as it was built; `_overrides` are newer
    _parts: tuple[Part, ...]  # in declaration order
    _linears: tuple[str, ...]  # their names
    _last: _Route | None = None

    def __init__(self, config: Any, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self._build(as_config(config).to_json(), in_dim, out_dim)
        settings = {name: value for name, value in self._graph.config.items() if name != "prefix_tokens"}
        self._head = to_json(settings)[:-1]  # of the config

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        config: Any = None,
        in_dim: int | None = None,
        out_dim: int | None = None,
        prefix: str | None = None,
        rename: Mapping[str, str] | None = None,
    ) -> Connector:
        """The connector in a file or folder, with its parameters in their dtype. The arguments are those of
        :func:`tenon.load`."""
        if cls is not Connector:
            raise TypeError(f"{cls.__name__} cannot be loaded from a file; use Connector.load, or load_state_dict")
        adapter = load(path, config, in_dim, out_dim, prefix, rename)
        with torch.device("meta"):
            made = Connector(adapter.config, adapter.in_dim, adapter.out_dim)
        names = [name for name, *_ in adapter.parameters()]
        state = {name: torch.from_dlpack(adapter.parameter(name)).clone() for name in names}
        made.load_state_dict(state, strict=True, assign=True)
        return made

    def save(
        self, path: str | os.PathLike[str], prefix: str | None = None, *, allow_nonfinite: bool = False
    ) -> None:
        """Writes a safetensors file that describes itself, as :meth:`tenon.Adapter.save` does."""
        adapter = Adapter(self.config, self.in_dim, self.out_dim)
        for part in self._parts:
            module = self.get_submodule(part.name)
            for name, parameter in zip(part.names, part.parameters, strict=True):
                adapter.set_parameter(parameter.name, getattr(module, name).detach().cpu().contiguous())
        adapter.save(path, prefix, allow_nonfinite=allow_nonfinite)

    def _build(self, config: str, in_dim: int, out_dim: int) -> None:
        """Makes the submodules. Must be called last in a constructor."""
        self._graph = graph = graph_of(config, in_dim, out_dim)
        self.in_dim, self.out_dim, self.prefix_tokens = in_dim, out_dim, graph.prefix_tokens
        self._parts = tuple(part for layer in graph.layers for part in parts_of(layer))
        self._linears = tuple(part.name for part in self._parts)
        self._type = graph.type
        single = len(graph.inputs) == len(graph.outputs) == 1 and not graph.integers
        self._is_single = single and len(self._parts) > 0
        self._ends_in_product = _ends_in_product(graph)
        for layer in graph.layers:
            self._add(layer)
        self.register_load_state_dict_post_hook(_after_load)
        _packs.know(parameter for _, parameter in self._own())

    def _add(self, layer: Layer) -> None:
        """Makes the submodules of a layer."""
        for part in parts_of(layer):
            around: nn.Module = self
            for name in part.path if part.kind is None else part.path[:-1]:
                if name not in around._modules:
                    around.add_module(name, Group())
                around = around._modules[name]
            if part.kind is not None:
                around.add_module(part.path[-1], part.make())
                continue
            for name, parameter in zip(part.names, part.parameters, strict=True):
                around.register_parameter(name, nn.Parameter(torch.empty(parameter.shape)))
            part.reset(around)

    @property
    def config(self) -> Config:
        """The type and its settings."""
        return Config.from_json(self._config())

    def reset_parameters(self) -> None:
        """Initialises every layer, in order."""
        for part in self._parts:
            part.reset(self.get_submodule(part.name))

    def refresh(self) -> None:
        """Drops the packed weights, so that the next call packs the parameters again. Any thread may call it."""
        self._last = None
        self._know_again(self._known_places())

    def output_num_tokens(
        self, num_input_tokens: int, pool_window: int | None = None, *, grid: Grid | None = None
    ) -> int:
        """The number of tokens that ``forward`` returns for an image of ``num_input_tokens`` tokens. A count that is
        not positive means "not known yet" and is returned."""
        return _C.config_output_num_tokens(self._config(), num_input_tokens, pool_window, grid)

    def forward(
        self,
        x: Tensor,
        pool_window: int | None = None,
        *,
        grid: Grid | None = None,
        grids: Any = None,
        inputs: Mapping[str, Tensor] | None = None,
        patch_mask: Tensor | None = None,
        frame_mask: Tensor | None = None,
    ) -> Tensor | dict[str, Tensor]:
        """Maps ``(B, N, in_dim)`` to ``(B, M, out_dim)``, with any number of leading axes. If the type needs a grid, the
        patches lie on ``grid`` (height, width), by default a square. ``pool_window`` replaces the window of a type that
        pools.

        With ``grids``, (images, 2) heights and widths or (images, 3) times, heights and widths, the batch is packed: x is
        (rows, in_dim), image after image, and so are the tokens.

        ``inputs`` are the further inputs that the type declares, by name. If it declares further outputs, the result is
        a dictionary of all outputs, ``"tokens"`` first.

        Patches that are 0 in ``patch_mask`` (B, N - prefix_tokens), and images that are 0 in ``frame_mask`` (B), are
        not read. Where a token has no valid patch it is zero. B is the product of the leading axes; the ``patch_mask``
        of one image may have one axis, and that of a packed batch is (rows).
        """
        if pool_window is not None and pool_window <= 0:
            raise ValueError(f"pool_window must be positive (got {pool_window})")
        window, masks = pool_window or 0, (patch_mask, frame_mask)
        if grid is not None:
            grid = read_grid(grid)
        if grids is not None or not self._is_single or inputs:
            return run_several(self, x, window, grid, grids, inputs or {}, masks)
        if x.dim() == 3:
            return self._run(x, window, grid, masks)
        return self._run_reshaped(x, window, grid, masks)

    # ---- which parameters can be tracked (_packs) ----

    def _own(self) -> Iterator[tuple[tuple[str, str], Tensor]]:
        """((part, name), parameter) of the parts that are as they were made."""
        for part in self._parts:
            module: nn.Module | None = self
            for name in part.path:
                module = module._modules.get(name) if module is not None else None
            if module is not None and (part.kind is None or isinstance(module, part.kind)):
                for name, parameter in module._parameters.items():
                    if parameter is not None and (part.kind is not None or name in part.names):
                        yield (part.name, name), parameter

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
        return f'{read.attribute(self, "_head")}, "prefix_tokens": {read.attribute(self, "prefix_tokens")}}}'

    def _overrides(self) -> dict[str, Any]:
        """Settings of layers and windows that have changed since the graph was made."""
        return {}

    def _activation(self, name: str) -> Callable[[Tensor], Tensor]:
        return ACTIVATIONS[name]

    def _in_width(self) -> int | None:
        """The width of features; None if it cannot be told."""
        return self._graph.in_dim

    def _widths(self, parameters: Sequence[Tensor]) -> tuple[int, int] | None:
        """Widths of features and tokens; None if the parameters do not fit the graph."""
        for wanted, found in zip(self._graph.parameters, parameters, strict=True):
            if found.shape != wanted.shape:
                return None
        return self._graph.in_dim, self._graph.out_dim

    def _plain(self, source: Source, x: Tensor, window: int, grid: Grid | None, masks: Masks) -> Tensor:
        """`_run` in plain PyTorch, with the parts of a source."""
        if not is_compiling():
            self._check_grid(x.shape[1], window, grid)
        x = _plain.without_prefix(x, self.prefix_tokens)
        there = _plain.present(x, *masks)
        return self._interpret(source, [x], there, masks[1], _plain.Settings(window, grid))["tokens"]

    def _interpret(
        self,
        source: Source,
        inputs: Sequence[Tensor],
        there: Tensor | None,
        frames: Tensor | None,
        settings: _plain.Settings,
    ) -> dict[str, Tensor]:
        settings = settings._replace(overrides=self._overrides())
        return _plain.Run(self._graph, source, self._activation, settings).run(inputs, there, frames)

    def _check_grid(self, tokens: int, window: int, grid: Grid | None) -> None:
        """Refuses what the library refuses, with its sentences."""
        if tokens <= 0 and self._graph.has_grid:
            raise ValueError(f"num_input_tokens must be positive (got {tokens})")
        if self._graph.has_one_space:
            _C.config_output_num_tokens(self._config(), tokens, window or None, grid)

    def _check(self, x: Tensor, masks: Masks) -> None:
        """Refuses what the library refuses, with its sentences: plain PyTorch has other sentences, or none."""
        if isinstance(x, torch.masked.MaskedTensor):
            raise ValueError(_C.MASKED_SENTENCE % ("x", "torch.masked.MaskedTensor"))
        if not x.is_floating_point():
            kind = str(x.dtype).removeprefix("torch.")
            raise FeaturesError(f"x is {kind}; expected float32, bfloat16, float16 or another floating-point dtype")
        width = self._in_width()
        if width is not None and x.shape[-1] != width:
            raise FeaturesError(f"x has width {x.shape[-1]}; the adapter's in_dim is {width}")
        batch, tokens, _ = x.shape
        patches = patches_left(tokens, self.prefix_tokens)
        for name, mask, shape in zip(("patch_mask", "frame_mask"), masks, ((batch, patches), (batch,)), strict=True):
            expect_tensor(name, mask)
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
        """The parameters in declaration order, or None if a part is not as it was made, or has no kernel."""
        parameters: list[Tensor] = []
        for hooks in _HOOKS_OF_ALL:
            if not read.is_empty(hooks):
                return None
        layers = read.attribute(self, "_modules")
        for part in self._parts:
            module = self if not part.path else read.item(layers, part.path[0])
            for name in part.path[1:]:
                module = None if module is None else read.item(read.attribute(module, "_modules"), name)
            if module is None or not _is_as_made(module, part, read):
                return None
            own = read.attribute(module, "_parameters")
            for name in part.names:
                parameter = read.item(own, name)
                if parameter is None or not _has_kernel(read.tensor(parameter)):
                    return None
                parameters.append(parameter)
            if part.lacks_bias and read.item(own, "bias") is not None:
                return None
        return parameters

    def _run_reshaped(self, x: Tensor, window: int, grid: Grid | None, masks: Masks) -> Tensor:
        """x (..., N, in_dim) -> (..., M, out_dim). The mask of one image (N, in_dim) may have one axis."""
        patch_mask, frame_mask = masks
        if x.dim() == 2 and isinstance(patch_mask, Tensor) and patch_mask.dim() == 1:
            masks = (patch_mask[None], frame_mask)
        return as_given(self._run(as_images(x), window, grid, masks), x)

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
        if computed and not self._ends_in_product and _is_any_autocast_enabled():
            computed = False  # the result has another dtype than that of products
        watch = None
        if computed and ordinary:
            watch = _C.Watch(self, x)
            watch.item(vars(_packs), "generation")
        read: Reader = watch if watch is not None else Plainly
        parameters = self._native_parameters(read) if computed else None
        widths = self._widths(parameters) if parameters is not None else None
        if widths is None or x.shape[2] != widths[0]:
            if eager:
                self._check(x, masks)
                _say_once((x, *(parameter for _, parameter in self._own())))
            return self._plain(Modules(self), self._in_their_dtype(x), window, grid, masks)
        fresh = torch.is_grad_enabled()
        train = fresh and (x.requires_grad or any(p.requires_grad for p in parameters))
        place = _ops.Place(self._config(read), window, *(grid or (0, 0)), widths[1])
        call = _ops.Call(token_dtype(parameters[-1]), fresh, train)

        def plain(tensors: Sequence[Tensor], x: Tensor) -> Tensor:
            return self._plain(self._tensors(tensors), self._in_their_dtype(x), window, grid, masks)

        y = _ops.connect(x, parameters, masks, place, call, plain)
        if watch is not None:
            self._last = _find_route(watch, x, parameters, place)
        return y

    def _kernel_parameters(
        self, values: Sequence[Tensor], integers: Iterable[Tensor], masks: Masks
    ) -> list[Tensor] | None:
        """The parameters for a call of several tensors in the kernels; None: it runs in plain PyTorch."""
        if is_compiling() or is_inside_transform() or _len_torch_dispatch_stack() or not self._parts:
            return None
        if not self._ends_in_product and _is_any_autocast_enabled():
            return None
        if not all(_has_kernel(value) and value.numel() > 0 for value in values) or not _on_cpu(masks):
            return None
        if not all(type(numbers) in _CLASSES and numbers.is_cpu for numbers in integers):
            return None
        parameters = self._native_parameters(Plainly)
        return parameters if parameters is not None and self._widths(parameters) is not None else None

    def _tensors(self, tensors: Sequence[Tensor]) -> Tensors:
        names = [parameter.name for part in self._parts for parameter in part.parameters]
        return Tensors(dict(zip(names, tensors, strict=True)))

def _ends_in_product(graph: Graph) -> bool:
    """Whether the tokens are those of a linear layer or of attention, with an activation behind it or not."""
    makers = {layer.output: layer for layer in graph.layers}
    last = makers[graph.outputs["tokens"]]
    while last.type in ("activation", "copy") and last.inputs[0] in makers:
        last = makers[last.inputs[0]]
    return last.type in ("linear", "window_attention")


def _is_as_made(module: nn.Module, part: Part, read: Reader) -> bool:
    """Whether the library computes what this submodule computes."""
    if part.kind is None:
        return True
    if read.type_of(module) is not part.kind or not is_bare(module, read):
        return False
    return all(read.attribute(module, name) == value for name, value in part.settings.items())


def _find_route(watch: _C.Watch, x: Tensor, parameters: Sequence[Tensor], place: _ops.Place) -> _Route | None:
    """The route of the next call; None if no pack is kept."""
    adapter = _packs.kept(_ops.key(x, parameters, place), parameters)
    return None if adapter is None else _Route(watch, adapter, parameters[-1].dtype)


def _on_cpu(masks: Masks) -> bool:
    patches, frames = masks
    return (patches is None and frames is None) or (_is_cpu("patch_mask", patches) and _is_cpu("frame_mask", frames))


def _is_cpu(name: str, mask: Tensor | None) -> bool:
    expect_tensor(name, mask)
    return mask is None or mask.is_cpu

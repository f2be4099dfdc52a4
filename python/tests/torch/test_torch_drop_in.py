# SPDX-License-Identifier: MIT
"""Code and checkpoints of KempnerForge's adapter module, with the import changed: constructors, attributes, names,
initial values, exceptions and messages."""

import dataclasses

import pytest
import torch
from oracle import TYPES, build
from torch import nn

import tenon
import tenon.torch as tt
from tenon.torch import (
    DIVISIBLE_ONLY_POOL_TYPES,
    POOLING_ADAPTER_TYPES,
    AdapterConfig,
    AttentionalPoolAdapter,
    AvgPoolAdapter,
    LinearAdapter,
    MLP2LayerAdapter,
    VisionAdapter,
    build_adapter,
    pooled_token_count,
    registry,
)

SHAPES = {  # of the names that checkpoints have, for widths 8 -> 5
    "linear": {"proj.weight": (5, 8), "proj.bias": (5,)},
    "avgpool": {"proj.weight": (5, 8), "proj.bias": (5,)},
    "mlp_2layer": {"proj1.weight": (5, 8), "proj1.bias": (5,), "proj2.weight": (5, 5), "proj2.bias": (5,)},
    "attentional_pool": {
        f"{name}.{part}": (out, 8)[: 2 if part == "weight" else 1]
        for name, out in (("q_proj", 8), ("k_proj", 8), ("v_proj", 8), ("o_proj", 8), ("out_proj", 5))
        for part in ("weight", "bias")
    },
}


def test_every_type_of_the_seed_has_a_module():
    assert set(registry.list_adapters()) >= set(SHAPES) and set(tenon.registry.list_adapters()) >= set(SHAPES)


@pytest.mark.parametrize("norm", ("rmsnorm", "layernorm"))
def test_a_norm_before_the_first_layer(norm):
    """An option that the seed's config does not have, and the newer one has."""
    with pytest.raises(ValueError, match="pre_norm"):
        AdapterConfig(type="mlp_2layer", pre_norm=norm)
    with pytest.raises(ValueError, match="pre_norm"):
        MLP2LayerAdapter(8, 5, pre_norm="batchnorm")
    adapter = build_adapter(tenon.Config("mlp_2layer", pre_norm=norm), 8, 5)
    assert type(adapter) is MLP2LayerAdapter and list(adapter._modules) == ["ln_q", "proj1", "act", "proj2"]
    with torch.no_grad():
        adapter.ln_q.weight.uniform_(0.5, 2)
        wanted = adapter.proj2(adapter.act(adapter.proj1(adapter.ln_q(X))))
        agree(adapter(X), wanted)
        assert adapter._last is not None
        adapter.double()
        agree(adapter(X.double()).float(), wanted)
    with pytest.raises(ValueError, match="x has width 7; the adapter's in_dim is 8"):
        adapter(torch.randn(1, 16, 7).double())


@pytest.mark.parametrize("kind", TYPES)
def test_checkpoints_load_strictly(kind):
    adapter = build(kind)
    assert {name: tuple(value.shape) for name, value in adapter.state_dict().items()} == SHAPES[kind]
    assert list(adapter.state_dict()) == list(SHAPES[kind])
    state = {name: torch.randn(shape) for name, shape in SHAPES[kind].items()}
    assert not any(adapter.load_state_dict(state, strict=True))
    assert all(torch.equal(adapter.state_dict()[name], value) for name, value in state.items())
    native = tenon.build_adapter(tenon.Config(kind, pool_heads=4), 8, 5, seed=0)
    assert [(name, shape) for name, _, shape, _ in native.parameters()] == list(SHAPES[kind].items())


@pytest.mark.parametrize("kind", TYPES)
def test_initial_values_are_those_of_nn_linear(kind):
    """The same draws from the same generator, at construction and again."""
    names = list(dict.fromkeys(name.partition(".")[0] for name in SHAPES[kind]))
    torch.manual_seed(7)
    layers = {name: nn.Linear(*reversed(SHAPES[kind][f"{name}.weight"])) for name in names}
    again = {name: nn.Linear(*reversed(SHAPES[kind][f"{name}.weight"])) for name in names}
    after = torch.rand(1)
    adapter = build(kind, seed=7)
    for step in (layers, again):
        for name in names:
            assert torch.equal(getattr(adapter, name).weight, step[name].weight)
            assert torch.equal(getattr(adapter, name).bias, step[name].bias)
        if step is layers:
            adapter.reset_parameters()
    assert torch.equal(torch.rand(1), after)


@pytest.mark.parametrize("kind", TYPES)
def test_initial_values_are_those_of_the_library(kind):
    native = tenon.build_adapter(tenon.Config(kind, pool_heads=4), 8, 5, seed=7)
    for name, value in build(kind, seed=7).state_dict().items():
        assert torch.equal(value, torch.from_numpy(native.state_dict()[name]))


def test_attributes():
    mlp = MLP2LayerAdapter(8, 5, hidden_dim=6, activation="silu")
    assert (mlp.proj1.in_features, mlp.proj1.out_features, mlp.proj2.out_features) == (8, 6, 5)
    assert isinstance(mlp.act, nn.SiLU) and isinstance(mlp, VisionAdapter) and isinstance(mlp, nn.Module)
    assert MLP2LayerAdapter(8, 5).proj1.out_features == MLP2LayerAdapter(8, 5, hidden_dim=0).proj1.out_features == 5
    assert isinstance(MLP2LayerAdapter(8, 5).act, nn.GELU) and MLP2LayerAdapter(8, 5).act.approximate == "none"
    assert isinstance(MLP2LayerAdapter(8, 5, activation="relu").act, nn.ReLU)
    assert LinearAdapter(8, 5).proj.out_features == 5
    pool = AvgPoolAdapter(8, 5)
    assert (pool.in_dim, pool.out_dim, pool.pool_window, pool.proj.in_features) == (8, 5, 2, 8)
    pool = AttentionalPoolAdapter(8, 5, pool_window=3, pool_heads=2)
    assert (pool.in_dim, pool.out_dim, pool.pool_window, pool.pool_heads, pool.head_dim) == (8, 5, 3, 2, 4)
    assert all(layer.bias is not None for layer in pool.children())


def test_counts():
    assert POOLING_ADAPTER_TYPES == ("avgpool", "attentional_pool")
    assert DIVISIBLE_ONLY_POOL_TYPES == ("attentional_pool",)
    for (tokens, window), count in {
        (196, 2): 49,
        (729, 3): 81,
        (16, 3): 4,
        (16, 4): 1,
        (729, 2): 196,
        (4, 9): 1,
    }.items():
        assert pooled_token_count(tokens, window) == AvgPoolAdapter(8, 5, window).output_num_tokens(tokens) == count
    assert LinearAdapter(8, 5).output_num_tokens(577) == VisionAdapter().output_num_tokens(577) == 577
    assert LinearAdapter(8, 5, prefix_tokens=1).output_num_tokens(577) == 576
    assert AvgPoolAdapter(8, 5, prefix_tokens=1).output_num_tokens(577) == 144
    assert AvgPoolAdapter(8, 5).output_num_tokens(6, grid=(2, 3), pool_window=1) == 6


@pytest.mark.parametrize("kind", TYPES)
def test_config_counts_as_the_module_does(kind):
    config = AdapterConfig(type=kind, pool_heads=4, pool_window=3)
    adapter = build_adapter(config, 8, 5)
    assert config.output_num_tokens(81) == adapter.output_num_tokens(81) == adapter(torch.randn(1, 81, 8)).shape[1]
    assert [config.output_num_tokens(n) for n in (0, -1)] == [0, -1]


X = torch.randn(1, 16, 8)
ATTENTION = AttentionalPoolAdapter(8, 4, pool_window=2, pool_heads=4)
NO_SQUARE = (
    "pooling requires a square patch grid, but num_tokens=10 is not a perfect square. Use a vision encoder that strips "
    "any CLS token so the patch tokens form a square grid."
)
RAGGED_COUNT = (
    "this pooling connector requires the patch grid (3x3) be divisible by the pool window (2); got a ragged grid "
    "(num_tokens=9). Use avgpool for ragged grids, or pick a divisible window."
)
RAGGED_FORWARD = (
    "attentional_pool v1 requires the patch grid (3x3) be divisible by the pool window (2); ragged edge windows are not "
    "yet supported. Use avgpool for ragged grids, or pick a divisible window."
)
WHOLE_MESSAGES = [  # every one that the seed's module raises, whole; advice may follow
    (lambda: pooled_token_count(16, 0), "pool window must be positive (got 0)"),
    (lambda: pooled_token_count(0, -1), "pool window must be positive (got -1)"),
    (lambda: pooled_token_count(0, 2), "num_input_tokens must be positive (got 0)"),
    (lambda: pooled_token_count(9, 2, require_divisible=True), RAGGED_COUNT),
    (lambda: pooled_token_count(10, 2), NO_SQUARE),
    (lambda: pooled_token_count(10, 2, require_divisible=True), NO_SQUARE),
    (lambda: MLP2LayerAdapter(0, 4), "MLP2LayerAdapter in_dim and out_dim must be positive"),
    (lambda: MLP2LayerAdapter(4, 0, activation="tanh"), "MLP2LayerAdapter in_dim and out_dim must be positive"),
    (
        lambda: MLP2LayerAdapter(4, 4, activation="tanh"),
        "Unknown adapter activation: 'tanh'. Options: ['gelu', 'silu', 'relu'",  # and others
    ),
    (lambda: LinearAdapter(4, -1), "LinearAdapter in_dim and out_dim must be positive"),
    (lambda: AvgPoolAdapter(0, 4, pool_window=0), "AvgPoolAdapter in_dim and out_dim must be positive"),
    (lambda: AvgPoolAdapter(4, 4, pool_window=0), "AvgPoolAdapter pool_window must be positive (got 0)"),
    (lambda: AvgPoolAdapter(8, 4).output_num_tokens(0), "num_input_tokens must be positive (got 0)"),
    (lambda: AvgPoolAdapter(8, 4).output_num_tokens(10), NO_SQUARE),
    (lambda: AvgPoolAdapter(8, 4)(X, pool_window=0), "pool_window must be positive (got 0)"),
    (lambda: AvgPoolAdapter(8, 4)(X[0], pool_window=0), "pool_window must be positive (got 0)"),
    (lambda: AvgPoolAdapter(8, 4)(X[:, :10]), NO_SQUARE),
    (lambda: AvgPoolAdapter(8, 4).double()(X[:, :10].double()), NO_SQUARE),
    (lambda: AvgPoolAdapter(8, 4)(X[0, 0]), "not enough values to unpack (expected 3, got 1)"),
    (lambda: AvgPoolAdapter(8, 4)(X[None]), "too many values to unpack (expected 3"),
    (lambda: AttentionalPoolAdapter(4, 0), "AttentionalPoolAdapter in_dim and out_dim must be positive"),
    (
        lambda: AttentionalPoolAdapter(4, 4, pool_window=-2, pool_heads=0),
        "AttentionalPoolAdapter pool_window must be positive (got -2)",
    ),
    (lambda: AttentionalPoolAdapter(4, 4, pool_heads=0), "AttentionalPoolAdapter pool_heads must be positive (got 0)"),
    (
        lambda: AttentionalPoolAdapter(6, 4, pool_heads=4),
        "AttentionalPoolAdapter in_dim (6) must be divisible by pool_heads (4)",
    ),
    (lambda: ATTENTION.output_num_tokens(9), RAGGED_COUNT),
    (lambda: ATTENTION.output_num_tokens(10), NO_SQUARE),
    (lambda: ATTENTION(X, pool_window=-1), "pool_window must be positive (got -1)"),
    (lambda: ATTENTION(X[:, :10]), NO_SQUARE),
    (lambda: ATTENTION(X[:, :9]), RAGGED_FORWARD),
    (lambda: ATTENTION(X, pool_window=3), RAGGED_FORWARD.replace("3x3", "4x4").replace("(2)", "(3)")),
    (lambda: AttentionalPoolAdapter(8, 4, 2, 4).double()(X[:, :9].double()), RAGGED_FORWARD),
    (lambda: ATTENTION(X[0, 0]), "not enough values to unpack (expected 3, got 1)"),
    (lambda: ATTENTION(X[0, :9]), RAGGED_FORWARD),
]


@pytest.mark.parametrize("number", range(len(WHOLE_MESSAGES)))
def test_messages_are_those_of_the_seed(number):
    call, message = WHOLE_MESSAGES[number]
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value).startswith(message)


MESSAGES = [
    (lambda: ATTENTION(X[:, :9], grid=(3, 3)), "requires the patch grid (3x3) be divisible by the pool window"),
    (lambda: AvgPoolAdapter(8, 4, ragged="reject")(X[:, :9]), "requires the patch grid (3x3) be divisible by the pool"),
    (lambda: AvgPoolAdapter(8, 4, ragged="fold"), "unknown ragged 'fold'; options: reject, partial, drop"),
    (lambda: LinearAdapter(8, 4, prefix_tokens=-1), "prefix_tokens must not be negative (got -1)"),
    (
        lambda: AdapterConfig(type="mlp3"),
        "Unknown adapter type: 'mlp3'. Options: attentional_pool, avgpool, linear, mlp_2l",
    ),
    (lambda: AdapterConfig(hidden_dim=-1), "hidden_dim must not be negative (got -1)"),
    (lambda: AdapterConfig(type="linear", activation="tanh"), "unknown adapter activation: 'tanh'. Options: "),
    (lambda: AdapterConfig(pool_window=0), "pool_window must be positive (got 0)"),
    (lambda: AdapterConfig(pool_heads=-1), "pool_heads must be positive (got -1)"),
    (lambda: registry.register_adapter("linear")(None), "adapter/linear is already registered"),
]


@pytest.mark.parametrize("number", range(len(MESSAGES)))
def test_messages_of_what_is_around_it(number):
    call, message = MESSAGES[number]
    with pytest.raises(ValueError) as caught:
        call()
    assert message.lower() in str(caught.value).lower()


@pytest.mark.parametrize("kind", TYPES)
def test_a_wrong_width_is_pytorchs_error_and_tenons(kind):
    for error in (RuntimeError, ValueError):
        with pytest.raises(error, match="x has width 7; the adapter's in_dim is 8"):
            build(kind)(torch.randn(1, 16, 7))


def test_an_unknown_builder():
    with pytest.raises(KeyError, match="attentional_pool, avgpool, linear, mlp_2layer"):
        registry.get_adapter("mlp3")


def test_the_base_class_has_no_forward():
    with pytest.raises(NotImplementedError):
        VisionAdapter()(X)


def test_config_hands_every_field_on():
    config = AdapterConfig(type="attentional_pool", hidden_dim=3, pool_window=4, pool_heads=2)
    assert config.extra_kwargs() == {"hidden_dim": 3, "activation": "gelu", "pool_window": 4, "pool_heads": 2}
    assert dataclasses.asdict(AdapterConfig()) == {
        "type": "mlp_2layer",
        "hidden_dim": 0,
        "activation": "gelu",
        "pool_window": 2,
        "pool_heads": 16,
        "prefix_tokens": 0,
        "ragged": None,
    }
    adapter = build_adapter(config, 8, 5)
    assert (adapter.pool_window, adapter.pool_heads, adapter.ragged) == (4, 2, "reject")
    assert build_adapter(AdapterConfig(type="avgpool", ragged="drop", prefix_tokens=1), 8, 5).ragged == "drop"


def test_any_object_with_a_type_will_do():
    class Config:
        type = "mlp_2layer"

        def extra_kwargs(self):
            return {"hidden_dim": None, "activation": "relu", "pool_window": 2, "pool_heads": 16}

    assert isinstance(build_adapter(Config(), 8, 5).act, nn.ReLU)


def test_a_builder_of_ones_own(monkeypatch):
    monkeypatch.setattr(registry, "_builders", {"adapter": dict(registry._builders["adapter"])})

    class Gated(VisionAdapter):
        def __init__(self, in_dim, out_dim):
            super().__init__()
            self.proj = nn.Linear(in_dim, out_dim)

        def forward(self, x):
            return self.proj(x).sigmoid()

    @registry.register_adapter("gated")
    def build_gated(in_dim, out_dim, hidden_dim=None, activation="gelu", pool_window=2, pool_heads=16):
        return Gated(in_dim, out_dim)

    config = AdapterConfig(type="gated")
    assert config.output_num_tokens(10) == 10
    assert build_adapter(config, 8, 5)(X).shape == (1, 16, 5)
    with pytest.raises(ValueError, match="adapter/gated is already registered"):
        registry.register_adapter("gated")(build_gated)


@pytest.mark.parametrize("kind", TYPES)
def test_what_is_put_around_a_layer_takes_part(kind):
    """Hooks, parametrizations and other layers are seen, as they are by the seed's module."""
    adapter = build(kind)
    name = next(iter(SHAPES[kind])).partition(".")[0]
    layer, seen = getattr(adapter, name), []
    with torch.no_grad():
        before = adapter(X)
        handle = layer.register_forward_hook(lambda module, args, output: seen.append(output.shape))
        agree(adapter(X), before)
        assert seen
        handle.remove()
        nn.utils.parametrize.register_parametrization(layer, "weight", Doubled())
        assert not torch.allclose(adapter(X), before)
        nn.utils.parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        agree(adapter(X), before)
        setattr(adapter, name, LowRank(layer))
        assert not torch.allclose(adapter(X), before)


def test_another_activation_takes_part():
    adapter = build("mlp_2layer")
    adapter.act = nn.Tanh()
    agree(adapter(X), adapter.proj2(torch.tanh(adapter.proj1(X))))
    adapter.act = nn.GELU(approximate="tanh")
    agree(adapter(X), adapter.proj2(nn.functional.gelu(adapter.proj1(X), approximate="tanh")))


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


class LowRank(nn.Module):
    """As fine-tuning wraps a layer."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down, self.up = nn.Linear(base.in_features, 2), nn.Linear(2, base.out_features)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def agree(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_modules_print_as_they_did():
    assert repr(tt.LinearAdapter(8, 5)) == (
        "LinearAdapter(\n  (proj): Linear(in_features=8, out_features=5, bias=True)\n)"
    )

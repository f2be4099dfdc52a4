# SPDX-License-Identifier: MIT
"""Connectors declared in Python; test_configs.py runs this file with a folder to write in."""

import sys

import numpy as np
import pytest

import tenon


def check_a_connector(folder):
    kept = []

    @tenon.registry.register_adapter("bottleneck")
    def bottleneck(builder):
        kept.append(builder)
        builder.window_mean(2)
        builder.linear("down", builder.option_int("rank", 3), bias=False)
        builder.activation(builder.option_string("activation", "silu"))
        builder.linear("up", builder.out_dim)

    assert "bottleneck" in tenon.registry
    adapter = tenon.build_adapter({"type": "bottleneck", "rank": 2}, 5, 7, seed=1)
    x = np.random.default_rng(0).standard_normal((2, 16, 5)).astype(np.float32)
    state = adapter.state_dict("float64")
    pooled = x.astype(np.float64).reshape(2, 2, 2, 2, 2, 5).mean((2, 4)).reshape(2, 4, 5)
    hidden = pooled @ state["down.weight"].T
    expected = hidden / (1 + np.exp(-hidden)) @ state["up.weight"].T + state["up.bias"]
    assert np.abs(adapter(x) - expected).max() < 1e-6
    adapter.save(f"{folder}/a.safetensors")
    assert tenon.load(f"{folder}/a.safetensors")(x).tobytes() == adapter(x).tobytes()
    with pytest.raises(ValueError, match="only while the builder function runs"):
        kept[0].linear("late", 3)
    with pytest.raises(ValueError, match="rank"):
        tenon.build_adapter({"type": "bottleneck", "rang": 2}, 5, 7)


def check_its_module(folder):
    """The same type as a module of PyTorch."""
    torch = pytest.importorskip("torch")
    import tenon.torch as tt

    assert "bottleneck" in tt.registry.list_adapters()
    module = tt.Connector.load(f"{folder}/a.safetensors")
    assert list(module.state_dict()) == ["down.weight", "up.weight", "up.bias"] and module.down.bias is None
    x = torch.randn(2, 16, 5)
    with torch.no_grad():
        found = module(x)
        assert found.numpy().tobytes() == tenon.load(f"{folder}/a.safetensors")(x.numpy()).tobytes()
        assert torch.allclose(module.double()(x.double()).float(), found, atol=1e-5)
    made = tt.build_adapter(tenon.Config("bottleneck", rank=4), 5, 7)
    assert type(made) is tt.Connector and made.down.out_features == 4
    with pytest.raises(ValueError, match="did you mean 'rank'"):
        tt.Connector({"type": "bottleneck", "rang": 2}, 5, 7)


def check_what_a_connector_raises():
    @tenon.registry.register_adapter("never")
    def never(builder):
        raise RuntimeError("not today")

    with pytest.raises(ValueError, match="not today"):
        tenon.build_adapter("never", 4, 4)


if __name__ == "__main__":
    check_a_connector(sys.argv[1])
    check_its_module(sys.argv[1])
    check_what_a_connector_raises()

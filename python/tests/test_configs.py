# SPDX-License-Identifier: MIT
"""Configs, counts, the registry."""

import dataclasses
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

import tenon


def test_defaults_and_fields():
    config = tenon.Config()
    assert (config.type, config.hidden_dim, config.activation) == ("mlp_2layer", 0, "gelu")
    assert (config.pool_window, config.pool_heads, config.prefix_tokens, config.ragged) == (2, 16, 0, None)
    other = tenon.Config("avgpool", pool_window=np.int64(3), hidden_dim=None, ragged="drop")
    assert other.to_dict() == {"type": "avgpool", "pool_window": 3, "ragged": "drop"}
    assert other == tenon.Config.from_json(other.to_json()) == pickle.loads(pickle.dumps(other))
    assert len({other, tenon.Config.from_dict(other.to_dict())}) == 1
    assert other != config and other != 3 and repr(other) == "Config(type='avgpool', pool_window=3, ragged='drop')"
    assert other.extra_kwargs() == {
        "hidden_dim": 0, "activation": "gelu", "pool_window": 3, "pool_heads": 16, "ragged": "drop",
    }  # fmt: skip
    with pytest.raises(AttributeError, match="no option 'rank'"):
        other.rank
    with pytest.raises(AttributeError, match="cannot be changed"):
        other.pool_window = 4


@pytest.mark.parametrize(
    "options, kind, sentence",
    [
        ({"type": "pixelshuffle"}, KeyError, "registered types: attentional_pool, avgpool, .*linear, .*mlp_2layer"),
        ({"hidden_dim": -1}, ValueError, "hidden_dim"),
        ({"activation": "tanh"}, ValueError, "gelu"),
        ({"hiden_dim": None}, ValueError, r"no option 'hiden_dim' \(did you mean 'hidden_dim'\?\)"),
        ({"pool_window": 0}, ValueError, r"pool_window must be positive \(got 0\)"),
        ({"pool_heads": 0}, ValueError, "pool_heads"),
        ({"pool_window": "3"}, ValueError, "pool_window"),
        ({"pool_window": [1]}, ValueError, "pool_window.* is a list of integers; expected an integer"),
        ({"pool_window": True}, ValueError, "pool_window.* is a boolean; expected an integer"),
        ({"pool_window": np.True_}, ValueError, "pool_window.* is a boolean; expected an integer"),
        ({"pool_window": b"1"}, TypeError, "a config holds integers, real numbers, strings, booleans and lists"),
        ({"ragged": "maybe"}, ValueError, "reject"),
    ],
)
def test_bad_configs(options, kind, sentence):
    with pytest.raises(kind, match=sentence):
        tenon.Config(**options)


def test_an_option_nobody_reads_is_refused():
    with pytest.raises(ValueError, match="windows"):
        tenon.build_adapter(tenon.Config("avgpool", windows=3), 4, 4)


def test_toml_as_kempnerforge_writes_it(tmp_path):
    path = tmp_path / "train.toml"
    path.write_text('[model]\ndim = 4096\n\n[adapter]\ntype = "attentional_pool"\npool_window = 3\npool_heads = 12\n')
    config = tenon.Config.from_toml(path)
    assert config == tenon.Config("attentional_pool", pool_window=3, pool_heads=12)
    path.write_text("[model]\ndim = 4096\n")
    with pytest.raises(KeyError, match=r"has no table \[adapter\]; its tables: \[model\]"):
        tenon.Config.from_toml(path)
    path.write_text("[adapter\n")
    with pytest.raises(ValueError, match="train.toml"):
        tenon.Config.from_toml(path)
    with pytest.raises(FileNotFoundError):
        tenon.Config.from_toml(tmp_path / "none.toml")


def test_counts():
    examples = [(196, 2, 49), (256, 2, 64), (729, 3, 81), (16, 3, 4), (100, 3, 16), (16, 1, 16), (16, 4, 1), (4, 9, 1)]
    for tokens, window, count in examples:
        assert tenon.pooled_token_count(tokens, window) == count
    assert tenon.pooled_grid_count(27, 27, 2) == 196 and tenon.pooled_grid_count(27, 27, 2, ragged="drop") == 169
    assert tenon.tokens_per_frame(12, 3) == 4 and tenon.sequence_length(8, 81, 100) == 748
    with pytest.raises(ValueError, match="divisible"):
        tenon.pooled_token_count(16, 3, require_divisible=True)
    with pytest.raises(ValueError, match="not a perfect square"):
        tenon.pooled_token_count(577, 2)
    with pytest.raises(ValueError, match="pool window must be positive"):
        tenon.pooled_token_count(16, 0)
    with pytest.raises(ValueError, match="12.*5|5.*12"):
        tenon.tokens_per_frame(12, 5)
    assert tenon.Config("avgpool", pool_window=3).output_num_tokens(0) == 0


def test_types_that_pool():
    assert tenon.POOLING_ADAPTER_TYPES == ("avgpool", "attentional_pool")
    assert tenon.DIVISIBLE_ONLY_POOL_TYPES == ("attentional_pool",)


def test_what_build_adapter_takes():
    @dataclasses.dataclass
    class ForgeConfig:
        type: str = "avgpool"

        def extra_kwargs(self):
            return {"hidden_dim": None, "activation": "gelu", "pool_window": 3, "pool_heads": 16}

    for config in (ForgeConfig(), {"type": "avgpool", "pool_window": 3}, tenon.Config("avgpool", pool_window=3)):
        assert tenon.build_adapter(config, 4, 4).output_num_tokens(81) == 9
    assert tenon.build_adapter("linear", 4, 4).config.type == "linear"
    with pytest.raises(TypeError, match="config is of type int"):
        tenon.build_adapter(3, 4, 4)
    with pytest.raises(ValueError, match="must be positive"):
        tenon.build_adapter("linear", 0, 4)


def test_registry():
    assert "avgpool" in tenon.registry and "foo" not in tenon.registry
    adapter = tenon.registry.get_adapter("avgpool")(in_dim=4, out_dim=8, pool_window=3)
    assert adapter.output_num_tokens(81) == 9
    with pytest.raises(KeyError, match="unknown adapter type 'foo'; registered types: "):
        tenon.registry.get_adapter("foo")
    with pytest.raises(ValueError, match="adapter/avgpool is already registered"):
        tenon.registry.register_adapter("avgpool")(lambda builder: None)
    with pytest.raises(TypeError, match="expected a function"):
        tenon.registry.register_adapter("three")(3)


def test_connectors_of_pythons(tmp_path):
    """In a process of their own: what is registered stays for the rest of it."""
    script = pathlib.Path(__file__).with_name("own_connectors.py")
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

# SPDX-License-Identifier: MIT
"""tenon tokens: counts, budgets, and what it refuses."""
import pytest


def count(tenon, *words):
    text = tenon("tokens", *words).out
    assert tenon("tokens", *words, "--json").json["tokens"] == int(text.splitlines()[0].split()[-1])
    return int(text.splitlines()[0].split()[-1])


def test_the_issue_example(tenon):
    out = tenon("tokens", "--type", "avgpool", "--window", "3", "729").out
    assert out.count("\n") == 1 and out.split()[-1] == "81"


@pytest.mark.parametrize(
    "n, window, expected",
    [(196, 2, 49), (256, 2, 64), (729, 3, 81), (16, 3, 4), (100, 3, 16), (16, 1, 16), (16, 4, 1), (729, 2, 196), (9, 99, 1)],
)
def test_counts_of_the_specification(tenon, n, window, expected):
    assert count(tenon, "--type", "avgpool", "--window", window, n) == expected


def test_B1_nothing_is_dropped_unasked(tenon):
    assert count(tenon, "--type", "mlp_2layer", "729") == 729
    assert count(tenon, "--type", "mlp_2layer", "730", "--prefix-tokens", "1") == 729
    assert count(tenon, "--type", "avgpool", "--window", "3", "730", "--prefix-tokens", "1") == 81
    result = tenon("tokens", "--type", "avgpool", "729", "--prefix-tokens", "1", "--grid", "27x27", code=1)
    assert "729" in result.err and ("730" in result.err or "728" in result.err)


def test_B2_rows_and_grid_disagree(tenon):
    assert count(tenon, "--type", "linear", "577") == 577
    for kind in ("avgpool", "attentional_pool"):
        result = tenon("tokens", "--type", kind, "577", "--grid", "24x24", code=1)
        assert "577" in result.err and "576" in result.err
    assert count(tenon, "--type", "avgpool", "577", "--prefix-tokens", "1") == 144


def test_a_count_that_is_no_square_hints_at_prefix_tokens(tenon):
    result = tenon("tokens", "--type", "avgpool", "577", code=1)
    assert "577" in result.err and "prefix" in result.err.lower() and result.out == ""


def test_B19_ceil_and_floor(tenon):
    assert count(tenon, "--type", "avgpool", "--window", "2", "--grid", "27x27") == 196
    assert count(tenon, "--type", "avgpool", "--window", "2", "--ragged", "drop", "--grid", "27x27") == 169


def test_B11_thin_grids(tenon):
    for grid in ("1x64", "64x1"):
        assert count(tenon, "--type", "avgpool", "--window", "3", "--grid", grid) == 22


def test_B68_a_grid_that_does_not_divide_is_refused_by_the_count(tenon):
    for grid, side in (("3x3", "3"), ("1x1", "1")):
        result = tenon("tokens", "--type", "attentional_pool", "--window", "2", "--grid", grid, code=1)
        assert side in result.err and "divisible" in result.err
    assert count(tenon, "--type", "attentional_pool", "--window", "2", "--ragged", "partial", "--grid", "3x3") == 4


def test_B80_smallest_grid(tenon):
    assert count(tenon, "--type", "avgpool", "--window", "2", "--grid", "1x1") == 1
    tenon("tokens", "--type", "avgpool", "--window", "2", "--ragged", "drop", "--grid", "1x1", code=1)


def test_B82_the_grid_is_given(tenon):
    assert count(tenon, "--type", "avgpool", "--window", "4", "--grid", "32x128") == 8 * 32
    result = tenon("tokens", "--type", "avgpool", "--window", "4", "4095", code=1)
    assert "4095" in result.err


def test_B132_json_has_every_number(tenon):
    got = tenon("tokens", "--type", "avgpool", "--window", "3", "730", "--prefix-tokens", "1", "--frames", "4", "--text", "10",
                "--max-seq", "400", "--json").json
    assert (got["tokens_in"], got["patches"], got["tokens"], got["visual"], got["length"]) == (730, 729, 81, 324, 334)
    assert got["fits"] is True and got["config"]["pool_window"] == 3


def test_B138_unknown_type_lists_the_types(tenon):
    result = tenon("tokens", "--type", "mlp3", "729", code=2)
    for name in ("mlp3", "linear", "mlp_2layer", "avgpool", "attentional_pool"):
        assert name in result.err


def test_B139_image_and_patch(tenon):
    out = tenon("tokens", "--type", "linear", "--image", "336x336", "--patch", "14").out
    assert "24x24" in out and out.split()[-1] == "576"
    assert tenon("tokens", "--type", "avgpool", "--window", "3", "--image", "384x384", "--patch", "14").out.split()[-1] == "81"
    result = tenon("tokens", "--type", "avgpool", "577", "--image", "336x336", "--patch", "16", code=1)
    assert "577" in result.err and "441" in result.err


def test_options_of_a_type(tenon):
    words = ("--type", "idefics3", "--grid", "12x18")
    assert count(tenon, *words, "--option", "scale_factor=3") == 24 and count(tenon, *words) == 54
    assert count(tenon, "--type", "llava", "576", "--option", "norm=true", "--option=bias=false") == 576
    for pair, says in (
        ("norm=1", "option 'norm' of adapter type 'llava' is an integer; expected a boolean"),
        ("depth=true", "option 'depth' of adapter type 'llava' is a boolean; expected an integer"),
        ("depth=[2,3]", "is a list of integers; expected an integer"),
        ("depth=[2,0.5]", "'depth' is no list of at most 64 integers"),
        ("dept=2", "--option dept does not apply to the type 'llava'"),
        ("depth", "--option takes NAME=VALUE, got 'depth'"),
    ):
        code = 1 if "adapter type" in says or "expected an integer" in says else 2
        assert says in tenon("tokens", "--type", "llava", "576", "--option", pair, code=code).err


def test_block_ordered_features_need_no_grid(tenon):
    """Any grid of as many blocks gives the same tokens."""
    assert count(tenon, "--type", "qwen2_vl", "24") == count(tenon, "--type", "qwen3_vl", "24", "--grid", "2x12") == 6
    assert "no whole number of blocks of 2x2" in tenon("tokens", "--type", "qwen2_vl", "26", code=1).err
    assert "does not divide the patch grid (3x4)" in tenon("tokens", "--type", "internvl", "12", "--grid", "3x4", code=1).err


def test_budget(tenon):
    words = ["--type", "avgpool", "--window", "3", "729", "--frames", "16", "--text", "512", "--max-seq"]
    out = tenon("tokens", *words, "1808").out
    assert "1808 of 1808: fits, 0 left" in out
    result = tenon("tokens", *words, "1807", code=1)
    assert "does not fit, 1 too many" in result.out and result.err == ""
    assert tenon("tokens", *words, "1807", "--json", code=1).json["fits"] is False


@pytest.mark.parametrize(
    "words, says",
    [
        (["--type", "avgpool", "--window", "0", "729"], "must be positive"),
        (["--type", "avgpool", "--window", "-3", "729"], "must be positive"),
        (["--type", "avgpool", "--window", "3x", "729"], "'3x'"),
        (["--type", "avgpool", "--window", " 3", "729"], "' 3'"),
        (["--type", "avgpool", "--window", "99999999999999999999", "729"], "--window takes a whole number below 2^63"),
        (["--type", "avgpool", "--frames", "0", "729"], "--frames must be positive (got 0)"),
        (["--type", "avgpool", "--prefix-tokens", "-1", "729"], "--prefix-tokens"),
        (["--type", "avgpool", "--text", "-1", "729"], "--text"),
        (["--type", "avgpool", "--ragged", "maybe", "729"], "partial"),
        (["--type", "avgpool", "--grid", "27", "729"], "--grid"),
        (["--type", "avgpool", "--grid", "0x4"], "--grid"),
        (["--type", "avgpool", "--grid", "9999999999x9999999999"], "9999999999"),
        (["--type", "avgpool", "--patch", "14", "729"], "--image"),
        (["--type", "avgpool", "0"], "must be positive"),
        (["--type", "avgpool", "-729"], "must be positive"),
        (["--type", "avgpool", "many"], "'many'"),
        (["--type", "avgpool"], "--grid"),
        (["729"], "--type"),
        (["--type"], "--type needs its argument"),
        (["--type", "avgpool", "--colour", "729"], "unknown option '--colour' for tokens;"),
        (["--type", "avgpool", "--windw", "3", "729"], "unknown option '--windw' for tokens (did you mean --window?)"),
        (["--type", "avgpool", "--max_seq=3", "729"], "(did you mean --max-seq?)"),
        (["--type", "avgpool", "--pool-window", "3", "729"], "(did you mean --window?)"),
        (["--type", "avgpool", "-window", "3", "729"], "(did you mean --window?)"),
        (["--type", "avgpol", "729"], "(did you mean 'avgpool'?)"),
        (["--type", "avgpool", "--ragged", "drpo", "729"], "--ragged takes reject, partial or drop, got 'drpo'"),
        (["--type", "linear", "--ragged", "drop", "729"], "--ragged does not apply to the type 'linear'"),
        (["--type", "linear", "--window", "3", "729"], "--window does not apply to the type 'linear'"),
        (["--type", "avgpool", "729", "730"], "unexpected argument '730'"),
        (["--type", "avgpool", "--json=yes", "729"], "--json takes no argument"),
    ],
)
def test_usage_errors(tenon, words, says):
    result = tenon("tokens", *words, code=2)
    assert says in result.err and "tenon tokens --help" in result.err and result.out == ""


@pytest.mark.parametrize(
    "words, says",
    [
        (["--type", "avgpool", "577"], "Or set --grid. --prefix-tokens 1 would leave 24x24 patches."),
        (["--type", "avgpool", "577", "--prefix-tokens", "2"], "less --prefix-tokens 2, which is 575,"),
        (["--type", "avgpool", "5", "--prefix-tokens", "5"], "leaves no patches after --prefix-tokens 5"),
        (["--type", "avgpool", "577", "--grid", "24x24"], "with --prefix-tokens 0 takes 0 + 576"),
        (["--type", "attentional_pool", "729"], "Or set --ragged partial."),
        (["--type", "avgpool", "--ragged", "drop", "--window", "9", "16"], "a window of 9 with --ragged drop leaves"),
    ],
)
def test_messages_name_the_options_and_not_the_fields(tenon, words, says):
    said = tenon("tokens", *words, code=1).err
    assert says in said and "`" not in said and "_" not in said.replace("num_tokens", "")


def test_option_spellings(tenon):
    for words in (["--type=avgpool", "--window=3", "729"], ["--window", "3", "--type", "avgpool", "--", "729"]):
        assert tenon("tokens", *words).out.split()[-1] == "81"

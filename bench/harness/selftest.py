# SPDX-License-Identifier: MIT
"""Checks of the harness itself, without contenders and without time: `run.py --self-test`."""

from __future__ import annotations

import math
import pathlib
import tempfile

SKIPPED = 77  # ctest's SKIP_RETURN_CODE


def _measures() -> None:
    from .measures import Series, geometric_mean, in_turns

    s = Series((4.0, 1.0, 3.0, 2.0, 100.0))
    assert s.median == 3.0 and s.quartiles == (2.0, 4.0) and s.spread == 2.0 / 3.0
    assert Series((5.0,)).quartiles == (5.0, 5.0)
    assert Series((6.0, 8.0)).over(Series((2.0, 4.0))).values == (3.0, 2.0)
    assert math.isclose(geometric_mean([1.0, 4.0]), 2.0)
    order: list[str] = []
    turns = in_turns({n: lambda n=n: order.append(n) or 1.0 for n in "abc"}, 3)
    assert "".join(order) == "abcbcacab" and all(len(t.values) == 3 for t in turns.values())


def _protocol() -> None:
    from .workers import WorkerError, numbers, parse_answer

    assert parse_answer("ok ns=1,2 level=avx2\n") == {"ns": "1,2", "level": "avx2"}
    assert numbers("1,2.5") == [1.0, 2.5]
    for line in ("error it is missing\n", "segmentation fault\n"):
        try:
            parse_answer(line)
        except WorkerError:
            continue
        raise AssertionError(line)


def _inputs() -> None:
    import numpy as np

    from . import inputs
    from .cases import Connector

    values = np.array([1.0, 1.00390625, 1.01171875, -3.1415927], np.float32)  # two ties, to even either way
    assert inputs.rounded(values, "bf16").tolist() == [1.0, 1.0, 1.015625, -3.140625]
    assert inputs.rounded(values, "f32") is values
    case = Connector("attentional_pool", 2, 16, 8, 6, window=2, heads=2)
    p = inputs.parameters(case)
    assert list(p)[:2] == ["q_proj.weight", "q_proj.bias"] and p["out_proj.weight"].shape == (6, 8)
    ref = inputs.reference(case)
    assert ref.shape == (2, 4, 6)
    cut = inputs.windows(np.arange(16.0).reshape(1, 16, 1), 2)
    assert cut[0, 1, :, 0].tolist() == [2.0, 3.0, 6.0, 7.0]
    assert inputs.worst_token(ref.astype(np.float32), ref) < 1e-7
    flat = np.arange(sum(a.size for a in p.values()) + 2 * 16 * 8, dtype=np.float32)
    split = inputs.split_gradients(flat, case)
    assert list(split) == ["x", *p] and split["x"].size == 256 and split["out_proj.bias"][-1] == flat[-1]
    off = ref.copy()
    off[1, 2] *= 1.5
    assert math.isclose(inputs.worst_token(off, ref), 0.5)
    off[0, 0, 0] = math.nan
    assert inputs.worst_token(off, ref) == math.inf


def _agreement() -> None:
    """A contender that is wrong is refused."""
    import numpy as np

    from . import inputs
    from .cases import Connector
    from .connectors import check
    from .report import Disagreement

    case = Connector("mlp_2layer", 1, 4, 8, 6)
    reference = inputs.reference(case)

    class Fake:
        def __init__(self, output):
            self.output = lambda: output

    assert check("fake", Fake(reference.astype(np.float32).ravel()), case, reference) < 1e-6
    try:
        check("fake", Fake(reference.ravel() * 1.001), case, reference)
    except Disagreement as error:
        assert "fake" in str(error)
    else:
        raise AssertionError("a wrong result was accepted")


def _against() -> None:
    """Old and new in turns, by pairs of processes; what is refused and what is judged."""
    import numpy as np

    from . import against
    from .report import Disagreement
    from .workers import WorkerError

    row = against.rows("engine")[0]
    old = np.full(3 * 4096, 0.5, np.float32)

    class Fake:
        turns: list[str] = []

        def __init__(self, name, seconds, output):
            self.name, self.time, self.numbers, self.closed = name, seconds, output, 0

        def prepared(self, worker, **fields):
            assert worker == "engine" and fields == row.fields
            return self

        def seconds(self):
            Fake.turns.append(self.name)
            return self.time

        def output(self):
            return self.numbers

        def close(self):
            self.closed += 1

    def result(new, seconds=1.0, rounds=5):
        sessions = {"old": Fake("o", 1.0, old), "new": Fake("n", seconds, new)}
        found = against.measure(sessions, row, rounds)
        assert all(session.closed == min(against.STARTS, rounds) for session in sessions.values())
        return found

    slower = result(old, 1.01)
    assert "".join(Fake.turns) == "noonnonoon" and slower["ratio"] == 1.01 and slower["same"]  # pairs of 1, 2, 2 rounds
    assert slower["new"]["rounds"] == 5 and not result(old * np.float32(1 + 1e-6))["same"]
    for wrong, refusal in ((old * np.float32(1.001), Disagreement), (old[:4096], WorkerError)):
        try:
            result(wrong)
        except refusal:
            continue
        raise AssertionError("results that differ were compared")
    assert against.verdict([result(old), result(old, 1.004, 1)])[0]
    assert not against.verdict([slower, slower])[0]  # 1.01 on the average
    passed, sentence = against.verdict([result(old)] * 9 + [result(old, 1.03)])
    assert not passed and "worst row 1.030" in sentence and "1.005: met" in sentence
    assert "| 1.010 | 1.010-1.010 | the same | met |" in against.table([slower])
    titles = [row.title for section in ("connectors", "training", "engine") for row in against.rows(section)]
    assert len(set(titles)) == len(titles) == 21
    training = against.rows("training")[1]
    assert training.fields["train"] == 1 and training.fields["type"] == "avgpool"


def _report() -> None:
    from . import chart, machine, report, roofline
    from .cases import CONNECTORS

    page = "a\n<!-- x:begin -->\n{}\n<!-- x:end -->\nz"
    assert report.insert(page.format("old"), "x", "new\n") == page.format("new")
    docs = report.DOCS.read_text()
    assert report.insert(docs, "roofline", roofline.table()) == docs, "docs/performance.md: run.py --write-docs"
    picture = chart.PICTURE.read_text()
    assert chart.draw(chart.source(picture)) == picture, f"{chart.PICTURE}: run.py --docs-only"
    assert "<!-- bench:begin -->" in docs and "<!-- bench:end -->" in docs
    assert machine.slug("AMD EPYC (R) 7763") == "amd-epyc-r-7763"
    assert report.cell_ms({"median": 0.1234, "low": 0.12, "high": 0.2}) == "123 (120-200)"
    assert len({case.title for case in CONNECTORS}) == len(CONNECTORS)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a/b.json"
        report.write_json(path, {"commit": "1", "versions": {}, "sections": {"x": 1, "y": 2}})
        report.write_json(path, {"commit": "2", "versions": {}, "sections": {"y": 3}})
        assert '"x": 1' in path.read_text() and '"y": 3' in path.read_text() and '"2"' in path.read_text()


def run() -> int:
    try:
        import numpy  # noqa: F401
    except ImportError:
        print("NumPy is missing: skipped")
        return SKIPPED
    for check in (_measures, _protocol, _inputs, _agreement, _against, _report):
        check()
    print("the harness agrees with itself")
    return 0

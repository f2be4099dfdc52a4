# SPDX-License-Identifier: MIT
"""OpenVINO as a contender: latency hint, f32 arithmetic, constant weights, all cores."""

from __future__ import annotations

from serve import Connector, Contender, Fields, serve

import numpy as np  # isort: skip
import onnx_model  # isort: skip
import openvino  # isort: skip

from harness import inputs  # noqa: E402


class Peer(Contender):
    def prepare(self, case: Connector, fields: Fields) -> dict[str, object]:
        if case.dtype != "f32":
            raise ValueError("this contender runs f32")
        core = openvino.Core()
        model = core.read_model(onnx_model.Graph(case).build().SerializeToString())
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": int(fields["threads"]),
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self.request = core.compile_model(model, "CPU", settings).create_infer_request()
        self.request.set_input_tensor(openvino.Tensor(inputs.features(case)))
        for _ in range(3):
            self.call()
        return {"version": openvino.__version__.split("-")[0]}

    def call(self) -> None:
        self.request.infer()

    def output(self) -> np.ndarray:
        return self.request.get_output_tensor().data


if __name__ == "__main__":
    serve(Peer())

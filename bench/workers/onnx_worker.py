# SPDX-License-Identifier: MIT
"""ONNX Runtime as a contender: all optimisations, weights packed when the session is made, buffers bound once."""

from __future__ import annotations

from serve import Connector, Contender, Fields, serve

import numpy as np  # isort: skip
import onnx_model  # isort: skip
import onnxruntime  # isort: skip

from harness import inputs  # noqa: E402


class Peer(Contender):
    def prepare(self, case: Connector, fields: Fields) -> dict[str, object]:
        if case.dtype != "f32":
            raise ValueError("this contender runs f32")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = int(fields["threads"])
        self.session = onnxruntime.InferenceSession(
            onnx_model.Graph(case).build().SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.binding = self.session.io_binding()
        self.y = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            [case.batch, case.out_tokens, case.out_dim], np.float32
        )
        self.binding.bind_cpu_input("x", inputs.features(case))
        self.binding.bind_ortvalue_output("y", self.y)
        for _ in range(3):
            self.call()
        return {"version": onnxruntime.__version__}

    def call(self) -> None:
        self.session.run_with_iobinding(self.binding)

    def output(self) -> np.ndarray:
        return self.y.numpy()


if __name__ == "__main__":
    serve(Peer())

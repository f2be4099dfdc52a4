# SPDX-License-Identifier: MIT
"""The connectors as ONNX graphs, weights as constants, as a converter would write them: rows flattened to two
dimensions, so that each linear layer is one Gemm with its weights as PyTorch stores them."""

from __future__ import annotations

import math

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from harness import inputs
from harness.cases import Connector

OPSET = 20  # has Gelu


class Graph:
    def __init__(self, case: Connector):
        self.case = case
        self.nodes, self.constants, self.count = [], [], 0
        self.p = inputs.parameters(case)

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def op(self, kind: str, *values: str, **attributes: object) -> str:
        self.count += 1
        self.nodes.append(helper.make_node(kind, list(values), [f"v{self.count}"], **attributes))
        return f"v{self.count}"

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, self.constant(np.array(shape, np.int64)))

    def mean(self, x: str, *axes: int) -> str:
        return self.op("ReduceMean", x, self.constant(np.array(axes, np.int64)), keepdims=0)

    def linear(self, x: str, name: str) -> str:
        weight, bias = self.constant(self.p[f"{name}.weight"]), self.constant(self.p[f"{name}.bias"])
        return self.op("Gemm", x, weight, bias, transB=1)

    def cut(self, x: str) -> str:
        """(B, N, C) -> (B, per, w, per, w, C)"""
        case, w = self.case, self.case.window
        per = math.isqrt(case.tokens) // w
        return self.reshape(x, case.batch, per, w, per, w, case.in_dim)

    def mlp_2layer(self, x: str) -> str:
        rows = self.reshape(x, -1, self.case.in_dim)
        return self.linear(self.op("Gelu", self.linear(rows, "proj1")), "proj2")

    def project(self, x: str) -> str:
        return self.linear(self.reshape(x, -1, self.case.in_dim), "proj")

    def avgpool(self, x: str) -> str:
        return self.linear(self.reshape(self.mean(self.cut(x), 2, 4), -1, self.case.in_dim), "proj")

    def attentional_pool(self, x: str) -> str:
        c, heads, k = self.case.in_dim, self.case.heads, self.case.window**2
        rows = self.reshape(self.op("Transpose", self.cut(x), perm=[0, 1, 3, 2, 4, 5]), -1, k, c)
        flat = self.reshape(rows, -1, c)
        split = lambda v, n: self.reshape(v, -1, n, heads, c // heads)
        q = self.op("Transpose", split(self.linear(self.mean(rows, 1), "q_proj"), 1), perm=[0, 2, 1, 3])
        keys = self.op("Transpose", split(self.linear(flat, "k_proj"), k), perm=[0, 2, 3, 1])
        values = self.op("Transpose", split(self.linear(flat, "v_proj"), k), perm=[0, 2, 1, 3])
        scale = self.constant(np.array(1.0 / math.sqrt(c // heads), np.float32))
        weights = self.op("Softmax", self.op("MatMul", self.op("Mul", q, scale), keys), axis=-1)
        pooled = self.reshape(self.op("Transpose", self.op("MatMul", weights, values), perm=[0, 2, 1, 3]), -1, c)
        return self.linear(self.linear(pooled, "o_proj"), "out_proj")

    def build(self) -> ModelProto:
        case = self.case
        method = {"linear": self.project}.get(case.kind) or getattr(self, case.kind)
        rows = method("x")
        shape = [case.batch, case.out_tokens, case.out_dim]
        self.nodes.append(
            helper.make_node("Reshape", [rows, self.constant(np.array(shape, np.int64))], ["y"])
        )
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [case.batch, case.tokens, case.in_dim])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
        graph = helper.make_graph(self.nodes, case.kind, [x], [y], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)

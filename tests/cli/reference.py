# SPDX-License-Identifier: MIT
"""The four connectors in float64, straight from their definition (attention in its direct form)."""
import json
import math
import struct

import numpy

NUMPY_TYPES = {"F32": numpy.float32, "F16": numpy.float16, "F64": numpy.float64, "U8": numpy.uint8}


def from_bf16(bits):
    return (bits.astype(numpy.uint32) << 16).view(numpy.float32)


def to_bf16(array):
    """float32 to bfloat16 bits, to nearest even."""
    bits = numpy.ascontiguousarray(array, numpy.float32).view(numpy.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(numpy.uint16)


def read_header(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length)), 8 + length


def load_safetensors(path):
    """Every tensor of a file; bfloat16 widened, so no library is needed that knows it."""
    header, start = read_header(path)
    data = open(path, "rb").read()
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        raw = data[start + begin : start + end]
        if entry["dtype"] == "BF16":
            array = from_bf16(numpy.frombuffer(raw, numpy.uint16))
        else:
            array = numpy.frombuffer(raw, NUMPY_TYPES[entry["dtype"]])
        tensors[name] = array.reshape(entry["shape"])
    return tensors


def erf(x):
    return numpy.vectorize(math.erf)(x)


ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + numpy.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x / (1 + numpy.exp(-1.702 * x)),
    "silu": lambda x: x / (1 + numpy.exp(-x)),
    "relu": lambda x: numpy.maximum(x, 0),
}


class Adapter:
    def __init__(self, name, tensors, config):
        self.name = name
        self.p = {key: value.astype(numpy.float64) for key, value in tensors.items()}
        self.type = config["type"]
        self.window = config.get("pool_window", 2)
        self.heads = config.get("pool_heads", 16)
        self.prefix_tokens = config.get("prefix_tokens", 0)
        self.activation = config.get("activation", "gelu")

    @classmethod
    def read(cls, name):
        header, _ = read_header(name)
        configs = [json.loads(v) for v in header["__metadata__"].values() if v.startswith("{")]
        config = next(c for c in configs if "type" in c or "config" in c)
        return cls(name, load_safetensors(name), config.get("config", config))

    def linear(self, name, x):
        return x @ self.p[f"{name}.weight"].T + self.p[f"{name}.bias"]

    def __call__(self, x, grid=None, window=None, frame_mask=None, patch_mask=None):
        """Tokens and attention weights (None for the others) of x (images, tokens, in_dim)."""
        x = numpy.asarray(x, numpy.float64)[:, self.prefix_tokens :]
        images, patches, _ = x.shape
        mask = numpy.ones((images, patches), bool) if patch_mask is None else numpy.asarray(patch_mask) != 0
        frames = numpy.ones(images, bool) if frame_mask is None else numpy.asarray(frame_mask).reshape(-1) != 0
        mask = mask & frames[:, None]
        if self.type in ("linear", "mlp_2layer"):
            y = numpy.where(mask[..., None], self.project(numpy.where(mask[..., None], x, 0)), 0)
            return y, None
        side = math.isqrt(patches)
        height, width = grid or (side, side)
        assert height * width == patches
        outputs = [self.pool(x[i], mask[i], height, width, window or self.window) for i in range(images)]
        return numpy.stack([o[0] for o in outputs]), numpy.stack([o[1] for o in outputs])

    def project(self, x):
        if self.type == "linear":
            return self.linear("proj", x)
        return self.linear("proj2", ACTIVATIONS[self.activation](self.linear("proj1", x)))

    def pool(self, x, mask, height, width, w):
        """One image, window by window; a window without a valid patch gives zeros."""
        out_dim = next(v.shape[0] for k, v in self.p.items() if k in ("proj.weight", "out_proj.weight"))
        tokens, weights = [], []
        for top in range(0, height, w):
            for left in range(0, width, w):
                cells = [
                    (i, (top + i // w) * width + left + i % w)
                    for i in range(w * w)
                    if top + i // w < height and left + i % w < width
                ]
                cells = [(i, j) for i, j in cells if mask[j]]
                token, weight = numpy.zeros(out_dim), numpy.zeros((self.heads, w * w))
                if cells:
                    token, weight[:, [i for i, _ in cells]] = self.one_window(x[[j for _, j in cells]])
                tokens.append(token)
                weights.append(weight)
        return numpy.stack(tokens), numpy.stack(weights)

    def one_window(self, x):
        mean = x.mean(axis=0)
        if self.type == "avgpool":
            return self.linear("proj", mean), 0
        heads, width = self.heads, x.shape[1] // self.heads
        q = self.linear("q_proj", mean).reshape(heads, width)
        k = self.linear("k_proj", x).reshape(-1, heads, width)
        v = self.linear("v_proj", x).reshape(-1, heads, width)
        scores = numpy.einsum("hd,jhd->hj", q, k) / math.sqrt(width)
        a = numpy.exp(scores - scores.max(axis=1, keepdims=True))
        a /= a.sum(axis=1, keepdims=True)
        joined = numpy.einsum("hj,jhd->hd", a, v).reshape(-1)
        return self.linear("out_proj", self.linear("o_proj", joined)), a

# SPDX-License-Identifier: MIT
"""Writes tests/golden: what the connectors must give, from a float64 reference and from PyTorch. Run by hand:

    pip install torch numpy
    python scripts/make_golden.py            writes all
    python scripts/make_golden.py --check    compares the files with the manifest (needs neither)

Nothing here is needed to run the tests. Each .json is a list of cases; numbers lie in the .bin beside it, raw and
little endian, and a case names the byte offset where its array starts.

    init.json     parameters after torch.manual_seed(seed): crc32 of their bytes in declaration order, first values
    small.json    every token of small cases: ref64 (float64), torch_f32 (float32), torch_bf16 (bfloat16)
    real.json     the tokens `rows` of real widths: ref_hi (float32) + ref_lo (bfloat16) is the reference, to 2^-33
    gradients.json  of some of the small cases: gradients of sum(y dy) by PyTorch's autograd in float64, rounded to
                  float32: `dx` (float32, tokens without gradient zero), and `parameters` one after another
    manifest.json versions, and the sha256 of each file

Fields of a case: `config` as tenon_config_from_json takes it; in_dim, out_dim, batch, tokens (prefix_tokens included);
`weights` and `features`, their dtypes; `seed` of tenon_adapter_reset_parameters and `weights_crc32` of what it gives;
the features are counter_rng's `inputs` times `scale` from `input_seed`, rounded to their dtype; `call` holds
pool_window and grid where they are given, `patch_mask` and `frame_mask` are strings of 0 and 1. `error_f32` and
`error_bf16`: relative error of PyTorch's worst token, ||y - ref|| / ||ref||, when the same (rounded) weights and
features are computed in float32, and when everything is rounded to bfloat16. dy is counter_rng's values from `dy_seed`;
`gradient_error`: the worst ||g - ref|| / ||ref|| of PyTorch's own float32 gradients, k_proj.bias left out.
"""

import argparse
import hashlib
import json
import pathlib
import platform
import zlib

import golden_cases

FOLDER = pathlib.Path(__file__).parent.parent / "tests/golden"
FILES = ("init.json", "small.json", "small.bin", "real.json", "real.bin", "gradients.json", "gradients.bin")


class Store:
    """The .json and .bin of one set of cases."""

    def __init__(self, name):
        self.name, self.data, self.cases = name, bytearray(), []

    def add(self, array):
        """Appends a tensor's bytes and returns where they start, aligned to 8."""
        self.data += bytes(-len(self.data) % 8)
        offset = len(self.data)
        self.data += raw(array)
        return offset

    def write(self):
        lines = ",\n".join(json.dumps(c) for c in self.cases)
        (FOLDER / f"{self.name}.json").write_text(f"[\n{lines}\n]\n")
        if self.data:
            (FOLDER / f"{self.name}.bin").write_bytes(self.data)


def raw(tensor):
    import torch

    tensor = tensor.detach().contiguous()
    return tensor.view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def parameters(layers):
    return [p for layer in layers for p in (layer.weight, layer.bias)]


def crc(layers):
    return zlib.crc32(b"".join(raw(p) for p in parameters(layers)))


def worst(y, ref):
    """Largest ||y - ref|| / ||ref|| of a token; tokens that must be zero must be exactly that."""
    y, ref = y.double(), ref.double()
    norm, error = ref.norm(dim=-1), (y - ref).norm(dim=-1)
    assert bool((error[norm == 0] == 0).all())
    return float((error[norm > 0] / norm[norm > 0]).max())


def geometry(case):
    """Tokens without prefix_tokens, window lists (None for projections), and the call's fields for the json."""
    import reference
    import torch_connectors

    config, call, grid = case["config"], dict(case["call"]), case["grid"]
    if config["type"] not in ("avgpool", "attentional_pool"):
        return grid if isinstance(grid, int) else grid[0] * grid[1], None, call
    n = grid[0] * grid[1]
    if tuple(grid) != torch_connectors.square(n):
        call["grid"] = list(grid)
    window = call.get("pool_window", config.get("pool_window", 2))
    return n, reference.windows(*grid, window, config.get("ragged", "partial")), call


def masks(case, n, seed):
    """(B, N) and (B) bool tensors."""
    import counter_rng
    import torch

    batch, masked, frames = case["batch"], case["masked"], case["frames"]
    patch = torch.ones(batch, n, dtype=torch.bool)
    if isinstance(masked, float):
        patch = torch.from_numpy(counter_rng.array(seed, (batch, n)) >= 2 * masked - 1)
    elif masked:
        for image, p in masked:
            patch[image, p] = False
    frame = torch.tensor([c == "1" for c in frames or "1" * batch])
    return patch, frame


def bit_string(mask):
    return "".join("01"[int(b)] for b in mask.flatten())


def run(case, number):
    """Runs one case; returns its json fields, the reference and PyTorch's outputs, all (B, M, out) tensors."""
    import counter_rng
    import numpy as np
    import reference
    import torch
    import torch_connectors as tc

    config, (in_dim, out_dim), batch = case["config"], case["dims"], case["batch"]
    n, maps, call = geometry(case)
    prefix_tokens = config.get("prefix_tokens", 0)
    seed, input_seed = 1000 + number, 2000 + number
    layers = tc.default_init(config, in_dim, out_dim, tc.DTYPES[case["weights"]], seed)
    x = torch.from_numpy(counter_rng.array(input_seed, (batch, n + prefix_tokens, in_dim), case["inputs"]) * case["scale"])
    x = x.float().to(tc.DTYPES[case["features"]])
    patch, frame = masks(case, n, 3000 + number)
    patches = x[:, prefix_tokens:]

    doubles = [(layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()) for layer in layers]
    images = [
        reference.image(config, doubles, patches[b].double().numpy(), (patch[b] & frame[b]).numpy(), maps)
        for b in range(batch)
    ]
    ref = torch.from_numpy(np.stack(images))
    outputs = {
        dtype: tc.forward(config, tc.cast(layers, dtype), patches.to(dtype), patch, frame, maps)
        for dtype in (torch.float64, torch.float32, torch.bfloat16)
    }
    assert worst(outputs[torch.float64], ref) < 1e-12, case["name"]
    fields = {
        "name": case["name"],
        "config": config,
        "in_dim": in_dim,
        "out_dim": out_dim,
        "batch": batch,
        "tokens": n + prefix_tokens,
        "out_tokens": ref.shape[1],
        "features": case["features"],
        "weights": case["weights"],
        "seed": seed,
        "weights_crc32": crc(layers),
        "input_seed": input_seed,
        "inputs": case["inputs"],
        "scale": case["scale"],
        "call": call,
        **({"patch_mask": bit_string(patch)} if case["masked"] else {}),
        **({"frame_mask": case["frames"]} if case["frames"] else {}),
        "error_f32": worst(outputs[torch.float32], ref),
        "error_bf16": worst(outputs[torch.bfloat16], ref),
    }
    return fields, ref, outputs[torch.float32], outputs[torch.bfloat16]


def gradients(case, layers, patches, dy, patch, frame, maps, dtype):
    """Gradients of sum(y dy): of the patches, then of each parameter, in the dtype."""
    import torch
    import torch_connectors as tc

    layers = tc.cast(layers, dtype)
    with torch.enable_grad():
        x = patches.to(dtype, copy=True).requires_grad_()
        y = tc.forward(case["config"], layers, x, patch, frame, maps)
        found = torch.autograd.grad(y, [x, *parameters(layers)], dy.to(dtype), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, [x, *parameters(layers)])]


def run_gradients(case, number, fields):
    """The case's gradients in float64, and the worst relative error of those in float32."""
    import counter_rng
    import torch
    import torch_connectors as tc

    (in_dim, out_dim), batch, prefix_tokens = case["dims"], case["batch"], case["config"].get("prefix_tokens", 0)
    n, maps, _ = geometry(case)
    layers = tc.default_init(case["config"], in_dim, out_dim, tc.DTYPES[case["weights"]], fields["seed"])
    shape = (batch, n + prefix_tokens, in_dim)
    x = torch.from_numpy(counter_rng.array(fields["input_seed"], shape, case["inputs"]) * case["scale"])
    patches = x.float().to(tc.DTYPES[case["features"]])[:, prefix_tokens:]
    dy = torch.from_numpy(counter_rng.array(fields["dy_seed"], (batch, fields["out_tokens"], out_dim)))
    patch, frame = masks(case, n, 3000 + number)
    arguments = (case, layers, patches, dy, patch, frame, maps)
    ref, single = gradients(*arguments, torch.float64), gradients(*arguments, torch.float32)
    silent = 4 if case["config"]["type"] == "attentional_pool" else None  # k_proj.bias, after x
    errors = [
        float((a.double() - b).norm() / b.norm())
        for i, (a, b) in enumerate(zip(single, ref))
        if i != silent and float(b.norm()) > 0
    ]
    dx = torch.zeros(shape, dtype=torch.float64)
    dx[:, prefix_tokens:] = ref[0]
    return dx, ref[1:], max(errors)


def make_gradients():
    store = Store("gradients")
    for number, case in enumerate(golden_cases.small()):
        if case["name"] not in golden_cases.GRADIENTS:
            continue
        fields = {**run(case, number)[0], "dy_seed": 4000 + number}
        dx, weights, error = run_gradients(case, number, fields)
        offsets = [store.add(g.float()) for g in weights]
        fields.update(gradient_error=error, dx=store.add(dx.float()), parameters=offsets)
        store.cases.append(fields)
    assert len(store.cases) == len(golden_cases.GRADIENTS)
    store.write()


def make_small():
    store = Store("small")
    for number, case in enumerate(golden_cases.small()):
        fields, ref, single, half = run(case, number)
        fields.update(ref64=store.add(ref), torch_f32=store.add(single), torch_bf16=store.add(half))
        store.cases.append(fields)
    store.write()


def make_real():
    import torch

    store = Store("real")
    for number, case in enumerate(golden_cases.real()):
        fields, ref, single, half = run(case, 500 + number)
        count = ref.shape[1]
        rows = [0, count // 3, count // 2, count - 1]
        part = ref[0, rows]
        high = part.float()
        low = (part - high.double()).to(torch.bfloat16)
        assert worst(high.double() + low.double(), part) < 1e-9
        fields.update(rows=rows, ref_hi=store.add(high), ref_lo=store.add(low))
        store.cases.append(fields)
        print(f"{fields['name']}: float32 {fields['error_f32']:.3g}, bfloat16 {fields['error_bf16']:.3g}", flush=True)
    store.write()


def replaced(layers, seed):
    """How many values of bfloat16 layers would have been the upper bound had they only been rounded."""
    import torch

    torch.manual_seed(seed)
    full = [torch.nn.Linear(layer.in_features, layer.out_features) for layer in layers]
    pairs = zip(parameters(layers), parameters(full))
    return sum(int((p != q.to(p.dtype)).sum()) for p, q in pairs)


def make_init():
    import torch_connectors as tc

    store, count = Store("init"), 0
    for config, in_dim, out_dim in golden_cases.INIT:
        for name, dtype in tc.DTYPES.items():
            for seed in golden_cases.INIT_SEEDS:
                layers = tc.default_init(config, in_dim, out_dim, dtype, seed)
                count += replaced(layers, seed) if name == "bf16" else 0
                entry = {"config": config, "in_dim": in_dim, "out_dim": out_dim, "dtype": name, "seed": seed}
                names = [n + part for n, _, _ in tc.shapes(config, in_dim, out_dim) for part in (".weight", ".bias")]
                first = [[float(v) for v in p.flatten()[:3]] for p in parameters(layers)]
                entry.update(crc32=crc(layers), parameters=names, first=first)
                store.cases.append(entry)
    assert count > 0
    print(f"init: {count} bfloat16 values were the upper bound and became the lower")
    store.write()


def sha256(name):
    return hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()


def make_manifest():
    import numpy
    import torch

    manifest = {
        "generator": "scripts/make_golden.py",
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "torch_cpu": torch.backends.cpu.get_cpu_capability(),
        "torch_threads": torch.get_num_threads(),
        "sha256": {name: sha256(name) for name in FILES},
    }
    (FOLDER / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    print(json.dumps(manifest, indent=2))


def check():
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    assert sorted(manifest["sha256"]) == sorted(FILES)
    for name, expected in manifest["sha256"].items():
        if sha256(name) != expected:
            raise SystemExit(f"tests/golden/{name}: sha256 {sha256(name)}, the manifest says {expected}")
    print(f"{len(FILES)} files as in the manifest, made with torch {manifest['torch']}, numpy {manifest['numpy']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare the files with the manifest")
    if parser.parse_args().check:
        return check()
    import torch

    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        make_init()
        make_small()
        make_real()
        make_gradients()
    make_manifest()


if __name__ == "__main__":
    main()

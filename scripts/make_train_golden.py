# SPDX-License-Identifier: MIT
"""Writes tests/golden/train.json: what PyTorch's optimizer, schedules and losses give. Run by hand:

    pip install torch numpy
    python scripts/make_train_golden.py

Nothing here is needed to run the tests. Parameters, gradients, tokens and targets are counter_rng's, so that only
PyTorch's answers are kept.

    optimizers  a weight and a bias after 1, 10 and 100 steps of clip_grad_norm_ and AdamW. Parameter i starts as
                array(seed + i) / 4; its gradient at step s = 1, 2, ... is array(1000 s + i) * (1 + s % 7) / 8. `dtype`
                bf16 or f16 with `master`: the values are the rounded copies of a float32 parameter; without: the
                float32 parameter is rounded after each step
    schedules   the rate at each step, of LinearLR and then CosineAnnealingLR
    runs        20 steps of a whole connector in float64, from torch.manual_seed(seed): the loss at each step, and the
                parameters after the last, but for k_proj.bias, whose gradient is rounding noise in PyTorch. Step s =
                0, 1, ... sees images 2 s and 2 s + 1 of array(seed) and targets array(seed + 1) / 2
    losses      loss and gradient, from float64, of the mean over tokens; y is array(seed) * scale, t is
                array(seed + 1) * scale rounded to `targets`
"""

import json
import pathlib

import counter_rng
import numpy as np
import reference
import torch
import torch_connectors as tc

OUTPUT = pathlib.Path(__file__).parent.parent / "tests/golden/train.json"
SHAPES = ((6, 9), (6,))
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
OPTIMIZERS = [
    {"dtype": "f32", "master": False, "clip": 1.0},
    {"dtype": "f32", "master": False, "clip": 0.0, "decay_biases": True, "weight_decay": 0.3, "lr": 0.05},
    {"dtype": "f32", "master": False, "clip": 0.5, "beta1": 0.8, "beta2": 0.95, "eps": 1e-4},
    {"dtype": "bf16", "master": True, "clip": 1.0},
    {"dtype": "bf16", "master": False, "clip": 1.0},
    {"dtype": "f16", "master": True, "clip": 1.0},
    {"dtype": "f16", "master": False, "clip": 1.0},
]
SCHEDULES = [(1e-3, 1e-5, 5, 30), (1.0, 0.0, 0, 12), (2e-4, 0.0, 1, 7)]
RUNS = [  # config, grid, out tokens, in_dim, out_dim, loss
    ({"type": "linear"}, 3, 9, 7, 5, "mse"),
    ({"type": "mlp_2layer", "hidden_dim": 11}, 3, 9, 7, 5, "smooth_l1"),
    ({"type": "avgpool", "pool_window": 2}, 3, 4, 7, 5, "cosine"),
    ({"type": "attentional_pool", "pool_window": 2, "pool_heads": 2}, 4, 4, 8, 5, "mse"),
]
RUN = {"lr": 0.01, "warmup": 4, "steps": 20, "floor": 0.001, "weight_decay": 0.1, "clip": 0.4, "batch": 2}
LOSSES = [("mse", 1, "f32"), ("cosine", 1, "f32"), ("smooth_l1", 2, "f32"), ("mse", 1, "bf16"), ("cosine", 3, "f16")]


def tensor(seed, shape):
    return torch.from_numpy(counter_rng.array(seed, shape))


def floats(t):
    return [float(v) for v in t.detach().flatten()]


def optimizer(case, seed):
    case = {"lr": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01, "decay_biases": False, **case}
    dtype = DTYPES[case["dtype"]]
    start = [(tensor(seed + i, shape) / 4).to(dtype).float() for i, shape in enumerate(SHAPES)]
    parameters = [torch.nn.Parameter(p) for p in start]
    groups = [
        {"params": [p], "weight_decay": case["weight_decay"] if p.ndim == 2 or case["decay_biases"] else 0.0}
        for p in parameters
    ]
    adamw = torch.optim.AdamW(groups, lr=case["lr"], betas=(case["beta1"], case["beta2"]), eps=case["eps"], foreach=False)
    kept = {}
    for step in range(1, 101):
        for i, p in enumerate(parameters):
            p.grad = tensor(1000 * step + i, p.shape) * ((1 + step % 7) / 8)
        if case["clip"]:
            torch.nn.utils.clip_grad_norm_(parameters, case["clip"], foreach=False)
        adamw.step()
        if not case["master"]:
            for p in parameters:
                p.data = p.data.to(dtype).float()
        if step in (1, 10, 100):
            kept[str(step)] = [floats(p.to(dtype).float()) for p in parameters]
    return {**case, "seed": seed, "after": kept}


def schedule(lr, floor, warmup, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - warmup, floor)
    rule = cosine
    if warmup > 1:
        linear = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, 1.0, warmup - 1)
        rule = torch.optim.lr_scheduler.SequentialLR(optimizer, [linear, cosine], [warmup])
    elif warmup == 1:  # one step at the full rate
        constant = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0, 1)
        rule = torch.optim.lr_scheduler.SequentialLR(optimizer, [constant, cosine], [warmup])
    rates = []
    for _ in range(steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        rule.step()
    return {"lr": lr, "floor": floor, "warmup": warmup, "steps": steps, "rates": rates}


def distance(name, y, t):
    f = torch.nn.functional
    if name == "cosine":
        return (1 - f.cosine_similarity(y, t, dim=-1)).mean()
    return (f.mse_loss if name == "mse" else f.smooth_l1_loss)(y, t)


def run(config, grid, out_tokens, in_dim, out_dim, name, seed):
    layers = tc.cast(tc.default_init(config, in_dim, out_dim, torch.float32, seed), torch.float64)
    groups = [{"params": [p], "weight_decay": RUN["weight_decay"] if p.ndim == 2 else 0.0}
              for layer in layers for p in (layer.weight, layer.bias)]
    adamw = torch.optim.AdamW(groups, lr=RUN["lr"], foreach=False)
    rates = schedule(RUN["lr"], RUN["floor"], RUN["warmup"], RUN["steps"])["rates"]
    maps = reference.windows(grid, grid, config["pool_window"], "partial") if "pool_window" in config else None
    count = RUN["batch"] * RUN["steps"]
    x = tensor(seed, (count, grid * grid, in_dim)).double()
    targets = tensor(seed + 1, (count, out_tokens, out_dim)).double() / 2
    seen = torch.ones(RUN["batch"], grid * grid, dtype=torch.bool)
    losses = []
    for step in range(RUN["steps"]):
        part = slice(RUN["batch"] * step, RUN["batch"] * (step + 1))
        adamw.zero_grad()
        value = distance(name, tc.forward(config, layers, x[part], seen, seen[:, 0], maps), targets[part])
        value.backward()
        losses.append(float(value.detach()))
        torch.nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], RUN["clip"], foreach=False)
        for group in adamw.param_groups:
            group["lr"] = rates[step]
        adamw.step()
    names = [n + part for n, _, _ in tc.shapes(config, in_dim, out_dim) for part in (".weight", ".bias")]
    after = {n: floats(g["params"][0]) for n, g in zip(names, groups) if n != "k_proj.bias"}
    return {**RUN, "config": config, "tokens": grid * grid, "out_tokens": out_tokens, "in_dim": in_dim,
            "out_dim": out_dim, "loss": name, "seed": seed, "losses": losses, "after": after}


def loss(name, scale, targets, seed):
    shape = (2, 3, 17)
    y = (tensor(seed, shape) * scale).double().requires_grad_()
    t = (tensor(seed + 1, shape) * scale).to(DTYPES[targets]).double()
    value = distance(name, y, t)
    value.backward()
    return {"loss": name, "scale": scale, "targets": targets, "seed": seed, "shape": shape, "value": float(value.detach()),
            "gradient": floats(y.grad)}


def main():
    torch.set_num_threads(1)
    golden = {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "optimizers": [optimizer(case, 10 + 10 * i) for i, case in enumerate(OPTIMIZERS)],
        "schedules": [schedule(*s) for s in SCHEDULES],
        "runs": [run(*case, 300 + 10 * i) for i, case in enumerate(RUNS)],
        "losses": [loss(*case, 500 + 10 * i) for i, case in enumerate(LOSSES)],
    }
    lines = [f'"{key}": ' + ("[\n" + ",\n".join(map(json.dumps, value)) + "\n]" if isinstance(value, list)
                             else json.dumps(value)) for key, value in golden.items()]
    OUTPUT.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()

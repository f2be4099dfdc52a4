# SPDX-License-Identifier: MIT
"""What two processes do in test_torch_distributed.py: `python ranks.py RANK PORT`. Their words go to the test."""

import copy
import os
import sys

import torch
import torch.distributed as dist
from torch import nn

import tenon.torch as tt
from tenon.torch import _ops, _packs

_ops.LARGE = 0  # all gradients are lent, as large ones are
WORLD = 2
KINDS = ("mlp_2layer", "attentional_pool")


class Model(nn.Module):
    """A connector between two layers."""

    def __init__(self, kind):
        super().__init__()
        self.encoder = nn.Linear(6, 8)
        self.adapter = tt.build_adapter(tt.AdapterConfig(type=kind, pool_heads=4), 8, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.adapter(self.encoder(x)))


def build(kind, seed=0):
    torch.manual_seed(seed)
    return Model(kind)


def batch(step, rank):
    return torch.randn(2, 16, 6, generator=torch.Generator().manual_seed(100 * step + rank))


def both(step):
    return torch.cat([batch(step, rank) for rank in range(WORLD)])


def plain(model):
    """The same model without a kernel of ours, which no pack can make stale."""
    model = copy.deepcopy(model)
    for name in model.adapter._linears:
        getattr(model.adapter, name).register_forward_hook(lambda module, args, output: None)
    return model


def step_of(model, optimizer, x, scale=1.0):
    optimizer.zero_grad()
    (model(x).square().mean() / scale).backward()
    optimizer.step()


def close(found, wanted, what):
    error = float((found - wanted).abs().max())
    assert error < 1e-5, f"{what}: {error}"


def check_inference(model, reference, what):
    for x in (both(50), both(51)):
        with torch.no_grad():
            close(model(x), reference(x), what)
        with torch.inference_mode():
            close(model(x), reference(x), f"{what}, inference mode")


def ddp(rank):
    from torch.nn.parallel import DistributedDataParallel

    for kind in KINDS:
        model = build(kind, seed=rank)  # rank 0's weights are to win, over what rank 1 has packed by then
        reference = plain(build(kind))
        with torch.no_grad():
            model(both(0))
        wrapped = DistributedDataParallel(model)
        check_inference(model, reference, f"{kind} after the broadcast")
        optimizers = [torch.optim.AdamW(m.parameters(), lr=0.05, fused=True) for m in (wrapped, reference)]
        for step in range(3):
            step_of(wrapped, optimizers[0], batch(step, rank))
            step_of(reference, optimizers[1], both(step))
            check_inference(model, reference, f"{kind}, step {step}")
            check_inference(wrapped, reference, f"{kind}, step {step}, wrapped")


def train_sharded(model, reference, rank, what, between, scale=1.0):
    """Optimizers come before the first forward, which may leave whole parameters where the sharded ones belong.
    `scale` is what the wrapper multiplies gradients by."""
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.05) for m in (model, reference)]
    for name, act in between.items():
        check_inference(model, reference, f"{what}, {name}, before")
        for step in range(3):
            act()
            step_of(model, optimizers[0], batch(step, rank), scale)
            step_of(reference, optimizers[1], both(step))
            check_inference(model, reference, f"{what}, {name}, step {step}")


def and_refresh(adapter):
    """Also with what looks at the parameters before each step, where the last inference may have left FSDP's own."""
    return {"alone": lambda: None, "refreshed": adapter.refresh, "moved": lambda: adapter.to(torch.float32)}


def nothing_kept(adapter):
    """No parameter that the connector holds now has a pack to be used again."""
    for parameter in adapter.parameters():
        assert not _packs.is_known(parameter)
        slot = _packs._slots.get(id(parameter))
        assert slot is None or slot.inference is None


# (connector, reshard_after_forward, whether it is a unit of its own or part of its parent's)
UNITS = (
    ("mlp_2layer", True, True),
    ("mlp_2layer", False, True),
    ("mlp_2layer", False, False),
    ("attentional_pool", False, True),
)


def gradient_scale_of_fsdp2():
    """1, or WORLD where PyTorch adds gradients up that it should average, as version 2.7 does on gloo."""
    from torch.distributed.fsdp import fully_shard

    layer = fully_shard(nn.Linear(1, 1, bias=False))
    layer(torch.ones(1, 1)).sum().backward()
    return float(layer.weight.grad.full_tensor())


def fsdp2(rank):
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    scale = gradient_scale_of_fsdp2()
    for kind, reshard, whole in UNITS:
        model = build(kind)
        reference = plain(model)
        with torch.no_grad():
            model(both(0))  # packed before it is sharded
        if whole:
            fully_shard(model.adapter, reshard_after_forward=reshard)
        fully_shard(model, reshard_after_forward=reshard)
        what = f"{kind}, reshard_after_forward={reshard}, unit of its own: {whole}"
        train_sharded(model, reference, rank, what, and_refresh(model.adapter), scale)
        nothing_kept(model.adapter)

    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    model = build("mlp_2layer")
    fully_shard(model, mp_policy=policy)
    y = model(both(0))
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def fsdp2_meta(rank):
    """Made without memory, sharded, then filled."""
    from torch.distributed.fsdp import fully_shard

    for kind in KINDS:
        with torch.device("meta"):
            model = Model(kind)
        fully_shard(model.adapter)
        fully_shard(model)
        model.to_empty(device="cpu")
        torch.manual_seed(3)
        for module in (model.encoder, model.adapter, model.head):
            module.reset_parameters()
        with torch.no_grad():
            y = model(both(0))
        whole = build(kind)
        whole.load_state_dict({name: p.full_tensor() for name, p in model.state_dict().items()})
        close(y, plain(whole)(both(0)), kind)
        model(batch(0, rank)).sum().backward()


def fsdp1(rank):
    from torch.distributed.fsdp import FullyShardedDataParallel

    for kind in KINDS:
        model = build(kind)
        reference = plain(model)
        with torch.no_grad():
            model(both(0))
        wrapped = FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))
        train_sharded(wrapped, reference, rank, kind, and_refresh(model.adapter))


def main():
    rank, port = int(sys.argv[1]), sys.argv[2]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    try:
        for what in (ddp, fsdp1, fsdp2_meta, fsdp2):
            what(rank)
    finally:
        dist.destroy_process_group()
    print("done", flush=True)
    # A gloo thread that drops its last work while the interpreter shuts down asks for the lock on it and is ended by
    # Python before 3.14, through destructors that may not throw: PyTorch aborts then, about once in 20 runs. Its threads
    # outlive destroy_process_group, so the interpreter does not shut down here.
    os._exit(0)


if __name__ == "__main__":
    main()

"""State dicts as published code lays them out, from the architecture alone, with random values."""

import torch


def conv(out, into, rows, columns=None, *, bias=True):
    shapes = {"weight": (out, into, rows, columns or rows)}
    return {**shapes, "bias": (out,)} if bias else shapes


def batch_norm(channels):
    return {name: (channels,) for name in ("weight", "bias", "running_mean", "running_var")} | {
        "num_batches_tracked": ()
    }


def nested(name, shapes):
    return {f"{name}.{key}": shape for key, shape in shapes.items()}


def encoder(name, out, *, norm):
    """Residual encoder; ``norm`` says whether its norms have parameters (batch) or none (instance)."""
    shapes = nested("conv1", conv(64, 3, 7)) | (nested("norm1", batch_norm(64)) if norm else {})
    into = 64
    for stage, width in enumerate((64, 96, 128), start=1):
        for block in (0, 1):
            at = f"layer{stage}.{block}"
            shapes |= nested(f"{at}.conv1", conv(width, into, 3)) | nested(
                f"{at}.conv2", conv(width, width, 3)
            )
            if norm:
                shapes |= nested(f"{at}.norm1", batch_norm(width)) | nested(f"{at}.norm2", batch_norm(width))
            if into != width:
                shapes |= nested(f"{at}.downsample.0", conv(width, into, 1))
                if norm:
                    shapes |= nested(f"{at}.downsample.1", batch_norm(width))
                    shapes |= nested(f"{at}.norm3", batch_norm(width))
            into = width
    return nested(name, shapes | nested("conv2", conv(out, 128, 1)))


MOTION = {
    "tiny": (64, 48, 32, 16, 32),
    "b": (256, 192, 128, 64, 128),
    "l": (384, 288, 192, 96, 192),
    "h": (512, 384, 256, 128, 256),
    "g": (640, 480, 320, 160, 320),
}
HIDDEN = {"tiny": 32, "b": 128, "l": 192, "h": 256, "g": 384}


def shapes_of(size, *, gma=False, head=None, mask="mask", raft=False):
    """Published name -> shape, without weight norm."""
    c1, c2, f1, f2, out = MOTION[size]
    hidden = HIDDEN[size]
    into = 2 * hidden + out * (2 if gma else 1)
    head = head or 2 * out
    update = {
        **nested("encoder.convc1", conv(c1, 324, 1)),
        **nested("encoder.convc2", conv(c2, c1, 3)),
        **nested("encoder.convf1", conv(f1, 2, 7)),
        **nested("encoder.convf2", conv(f2, f1, 3)),
        **nested("encoder.conv", conv(out - 2, c2 + f2, 3)),
        **nested("flow_head.conv1", conv(head, hidden, 3)),
        **nested("flow_head.conv2", conv(2, head, 3)),
    }
    for gate in "zrq":
        update |= nested(f"gru.conv{gate}1", conv(hidden, into, 1, 5))
        update |= nested(f"gru.conv{gate}2", conv(hidden, into, 5, 1))
    if gma:
        update |= {"gma.gamma": (1,), **nested("gma.to_v", conv(out, out, 1, bias=False))}
    shapes = {
        **encoder("fnet", 64 if size == "tiny" else 256, norm=False),
        **encoder("cnet", hidden * (2 if raft else 1), norm=True),
        **nested("update_block", update),
        **nested(f"{mask}.0", conv(256, hidden, 3)),
        **nested(f"{mask}.2", conv(576, 256, 1)),
    }
    if gma:
        shapes |= nested("attn.to_qk", conv(2 * hidden, hidden, 1, bias=False))
    return shapes


def state_dict(size, *, weight_norm=False, prefix="module.", seed=0, **options):
    """Random values of a harmless size in the published layout."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes_of(size, **options).items():
        if name.endswith("num_batches_tracked"):
            value = torch.tensor(7)
        elif name.endswith("running_var"):
            value = 0.5 + torch.rand(shape, generator=generator)
        else:
            value = 0.05 * torch.randn(shape, generator=generator)
        tensors[name] = value
    for name in list(tensors):
        if ".norm3." in name:
            tensors[name] = tensors[name.replace("norm3", "downsample.1")]
        if (
            weight_norm
            and name.startswith("update_block.")
            and name.endswith(".weight")
            and ".mask." not in name
        ):
            weight = tensors.pop(name)
            tensors[f"{name}_g"] = weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            # The direction's length does not matter.
            tensors[f"{name}_v"] = 3 * weight
    return {f"{prefix}{name}": value for name, value in tensors.items()}

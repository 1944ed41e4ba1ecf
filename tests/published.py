"""Published models from the architecture alone: layouts of state dicts, and a plain forward pass."""

import torch
import torch.nn.functional as F


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


def frames(height, width, batch=1, seed=0):
    """Two batches of noise of 0..255."""
    generator = torch.Generator().manual_seed(seed)
    return 255 * torch.rand(2, batch, 3, height, width, generator=generator)


def written(path, tensors):
    """The path, once the tensors are in it as PyTorch saves them."""
    torch.save(tensors, path)
    return path


def naive_lookup(features1, features2, flow, levels, radius):
    """All-pairs volume, pooled level by level, sampled bilinearly with zeros outside."""
    batch, channels, height, width = features1.shape
    volume = torch.einsum("bcij,bckl->bijkl", features1, features2) / channels**0.5
    volume = volume.reshape(batch * height * width, 1, *features2.shape[-2:])
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    center = torch.stack((x, y)) + flow
    offset = torch.arange(-radius, radius + 1).to(flow)
    channels = []
    for level in range(levels):
        h, w = volume.shape[-2:]
        at = center.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2) / 2**level
        at = at + torch.stack(torch.meshgrid(offset, offset, indexing="ij"), dim=-1)
        if min(h, w) < 1:
            seen = torch.zeros(at.shape[:-1])
        else:
            # align_corners=False keeps the formula free of a division by (size - 1).
            grid = (2 * at + 1) / torch.tensor([w, h]) - 1
            seen = F.grid_sample(volume, grid, align_corners=False, padding_mode="zeros")
        channels.append(seen.reshape(batch, height, width, -1))
        volume = F.avg_pool2d(volume, 2) if min(h, w) > 1 else volume[..., :0, :0]
    return torch.cat(channels, dim=-1).permute(0, 3, 1, 2)


class PlainForward:
    """Flow after some steps, computed from a state dict (no prefix, no weight norm) in the obvious way."""

    def __init__(self, weights, *, raft=False, gma=False):
        self.weights, self.raft, self.gma = weights, raft, gma

    def conv(self, x, name, stride=1):
        weight = self.weights[f"{name}.weight"]
        padding = (weight.shape[2] // 2, weight.shape[3] // 2)
        return F.conv2d(x, weight, self.weights.get(f"{name}.bias"), stride, padding)

    def norm(self, x, name):
        if f"{name}.weight" not in self.weights:
            return F.instance_norm(x)
        values = [self.weights[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *values)

    def encode(self, x, name):
        x = F.relu(self.norm(self.conv(x, f"{name}.conv1", 2), f"{name}.norm1"))
        for stage in (1, 2, 3):
            for block in (0, 1):
                at = f"{name}.layer{stage}.{block}"
                stride = 2 if stage > 1 and block == 0 else 1
                y = F.relu(self.norm(self.conv(x, f"{at}.conv1", stride), f"{at}.norm1"))
                y = F.relu(self.norm(self.conv(y, f"{at}.conv2"), f"{at}.norm2"))
                if stride == 2:
                    x = self.norm(self.conv(x, f"{at}.downsample.0", 2), f"{at}.downsample.1")
                x = F.relu(x + y)
        return self.conv(x, f"{name}.conv2")

    def gru(self, hidden, x, suffix):
        both = torch.cat((hidden, x), dim=1)
        update = torch.sigmoid(self.conv(both, f"update_block.gru.convz{suffix}"))
        reset = torch.sigmoid(self.conv(both, f"update_block.gru.convr{suffix}"))
        candidate = torch.tanh(
            self.conv(torch.cat((reset * hidden, x), dim=1), f"update_block.gru.convq{suffix}")
        )
        return (1 - update) * hidden + update * candidate

    def step(self, hidden, flow, context, attention, features):
        seen = naive_lookup(*features, flow, 4, 4)
        at = "update_block.encoder"
        seen = F.relu(self.conv(F.relu(self.conv(seen, f"{at}.convc1")), f"{at}.convc2"))
        moved = F.relu(self.conv(F.relu(self.conv(flow, f"{at}.convf1")), f"{at}.convf2"))
        motion = F.relu(self.conv(torch.cat((seen, moved), dim=1), f"{at}.conv"))
        motion = torch.cat((motion, flow), dim=1)
        x = torch.cat((context, motion), dim=1)
        if self.gma:
            value = self.conv(motion, "update_block.gma.to_v")
            together = torch.einsum("bij,bcj->bci", attention, value.flatten(2)).view_as(value)
            x = torch.cat((x, motion + self.weights["update_block.gma.gamma"] * together), dim=1)
        hidden = self.gru(self.gru(hidden, x, "1"), x, "2")
        delta = F.relu(self.conv(hidden, "update_block.flow_head.conv1"))
        return hidden, flow + self.conv(delta, "update_block.flow_head.conv2")

    def __call__(self, image1, image2, steps):
        image1, image2 = (2 * image / 255 - 1 for image in (image1, image2))
        features = self.encode(image1, "fnet"), self.encode(image2, "fnet")
        context = self.encode(image1, "cnet")
        batch, channels, height, width = context.shape
        hidden = torch.zeros_like(context)
        if self.raft:
            hidden, context = context.split(channels // 2, dim=1)
            hidden = torch.tanh(hidden)
        context = F.relu(context)
        attention = None
        if self.gma:
            query, key = self.conv(context, "attn.to_qk").chunk(2, dim=1)
            product = torch.einsum("bci,bcj->bij", query.flatten(2), key.flatten(2))
            attention = torch.softmax(product * query.shape[1] ** -0.5, dim=2)
        flow = torch.zeros(batch, 2, height, width)
        for _ in range(steps):
            hidden, flow = self.step(hidden, flow, context, attention, features)
        mask = 0.25 * self.conv(F.relu(self.conv(hidden, "mask.0")), "mask.2")
        mask = torch.softmax(mask.view(batch, 1, 9, 8, 8, height, width), dim=2)
        around = F.unfold(8 * flow, 3, padding=1).view(batch, 2, 9, 1, 1, height, width)
        full = (mask * around).sum(dim=2).permute(0, 1, 4, 2, 5, 3)
        return full.reshape(batch, 2, 8 * height, 8 * width)

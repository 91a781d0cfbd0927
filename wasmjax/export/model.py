"""A transformer that runs programs, in plain PyTorch.

Everything here is torch.nn and ordinary softmax attention; the weights beside this file do the
rest. A token is a tuple of small integers, one per field; its embedding is the sum of its fields'.

    python model.py prompt.npy

runs the program that a prompt holds, prints what it writes, and how it ended.
"""

import json
import pathlib
import sys
from collections.abc import Iterator

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

HERE = pathlib.Path(__file__).resolve().parent
Cache = list[tuple[Tensor, Tensor]]


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, scale: float) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple]:
        q, k, v = (
            linear(x).unflatten(-1, (self.heads, -1)).transpose(-3, -2)
            for linear in (self.q, self.k, self.v)
        )
        k, v = torch.cat([past[0], k], -2), torch.cat([past[1], v], -2)
        new, every = q.shape[-2], k.shape[-2]
        causal = torch.ones(new, every, dtype=torch.bool).tril(every - new)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=causal, scale=self.scale)
        return self.o(y.transpose(-3, -2).flatten(-2)), (k, v)


class FeedForward(nn.Module):
    def __init__(self, width: int, neurons: int) -> None:
        super().__init__()
        self.gate, self.value = (nn.Linear(width, neurons, bias=False) for _ in range(2))
        self.out = nn.Linear(neurons, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.gate(x)) * self.value(x))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, neurons: int, scale: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, scale)
        self.feed_forward = FeedForward(width, neurons)

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple]:
        y, past = self.attention(x, past)
        x = x + y
        return x + self.feed_forward(x), past


class Transformer(nn.Module):
    def __init__(self, config: dict) -> None:
        super().__init__()
        width, heads, fields = config["width"], config["heads"], config["fields"]
        self.heads, self.low = heads, torch.tensor([field["lo"] for field in fields])
        self.emitted = [n for n, field in enumerate(fields) if field["emitted"]]
        self.embedding = nn.ModuleList([nn.Embedding(f["size"], width) for f in fields])
        self.position = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(
            [
                Block(width, heads, config["neurons"], config["softmax_scale"])
                for _ in range(config["layers"])
            ]
        )
        self.unembedding = nn.ModuleDict(
            {str(n): nn.Linear(width, fields[n]["size"], bias=False) for n in self.emitted}
        )

    def empty(self) -> Cache:
        none = torch.zeros(self.heads, 0, 2, dtype=self.position.dtype)
        return [(none, none) for _ in self.blocks]

    def forward(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """The token after these [L, fields], which come after those in the cache: [fields]."""
        first = cache[0][0].shape[-2] + 1
        count = torch.arange(first, first + len(tokens), dtype=self.position.dtype)
        x = count[:, None] * self.position
        for table, values in zip(self.embedding, (tokens - self.low).T, strict=True):
            x = x + table(values)
        after = []
        for block, past in zip(self.blocks, cache, strict=True):
            x, past = block(x, past)
            after.append(past)
        token = torch.zeros(len(self.low), dtype=torch.long)
        for n in self.emitted:
            token[n] = self.unembedding[str(n)](x[-1]).argmax() + self.low[n]
        return token, after


@torch.inference_mode()
def generate(model: Transformer, prompt: Tensor, config: dict, block: int = 32) -> Iterator[Tensor]:
    """Tokens after a prompt, up to a stop token; the prompt is read in blocks."""
    cache, token = model.empty(), prompt[0]
    for part in prompt.split(block):
        token, cache = model(part, cache)
    while True:
        yield token
        if int(token[config["stop"]["field"]]) in config["stop"]["values"]:
            return
        token, cache = model(token[None], cache)


def load(folder: pathlib.Path = HERE) -> tuple[Transformer, dict]:
    """The model in float64: scores are exact there, and a loser's softmax weight is exactly 0."""
    config = json.loads((folder / "config.json").read_text())
    model = Transformer(config).double()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model, config


def main() -> None:
    model, config = load()
    prompt = torch.from_numpy(np.load(sys.argv[1])).long()
    stop, steps, token = config["stop"], 0, prompt[-1]
    for token in generate(model, prompt, config):
        steps += 1
        for stream in config["output"]:
            if int(token[stop["field"]]) == stream["value"]:
                sys.stdout.buffer.write(bytes([int(token[stream["byte"]])]))
                sys.stdout.flush()
    fields = [field["name"] for field in config["fields"]]
    last = {name: int(value) for name, value in zip(fields, token, strict=True) if value}
    print(f"{steps} tokens; the last one: {last}", file=sys.stderr)


if __name__ == "__main__":
    main()

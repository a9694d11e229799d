#!/usr/bin/env python3
"""Write a synthetic Llama checkpoint, for measuring builds and speed.

usage: synthetic_model.py DIRECTORY [GIGABYTES] [--hidden N] [--layers N] [--heads N] [--kv-heads N] [--ffn N] [--vocab N]

Without --layers there are as many as make the size, 4 GB by default. Python's standard library is enough.
The weights are bell-shaped BF16 values with a standard deviation of 0.02. The tokenizer is that
of testdata/storyteller, of 2048 tokens.
"""
import argparse, json, os, random, shutil, struct

parser = argparse.ArgumentParser(description="Write a synthetic Llama checkpoint.")
parser.add_argument("directory")
parser.add_argument("gigabytes", nargs="?", type=float, default=4.0)
for name, default in (("hidden", 2560), ("layers", None), ("heads", 20), ("kv-heads", None), ("ffn", 6912), ("vocab", 2048)):
    parser.add_argument(f"--{name}", type=int, default=default)
arguments = parser.parse_args()
out, hidden, heads, ffn, vocab = arguments.directory, arguments.hidden, arguments.heads, arguments.ffn, arguments.vocab
kv_heads = arguments.kv_heads or heads
kv = hidden // heads * kv_heads
per_layer = 2 * hidden * hidden + 2 * kv * hidden + 3 * hidden * ffn + 2 * hidden
layers = arguments.layers or max(1, round(arguments.gigabytes * 1e9 / 2 / per_layer))

os.makedirs(out, exist_ok=True)
here = os.path.dirname(os.path.abspath(__file__))
for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
    shutil.copyfile(os.path.join(here, "..", "testdata", "storyteller", name), os.path.join(out, name))
json.dump({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": vocab,
    "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": heads,
    "num_key_value_heads": kv_heads, "max_position_embeddings": 8192, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True, "bos_token_id": 2043, "eos_token_id": 2044, "attention_bias": False, "mlp_bias": False,
}, open(os.path.join(out, "config.json"), "w"), indent=1)
open(os.path.join(out, "Modelfile"), "w").write("FROM .\nSYSTEM You are synthetic.\n")

shapes = {"model.embed_tokens.weight": [vocab, hidden], "model.norm.weight": [hidden]}
for i in range(layers):
    at = f"model.layers.{i}."
    shapes |= {
        at + "input_layernorm.weight": [hidden], at + "post_attention_layernorm.weight": [hidden],
        at + "self_attn.q_proj.weight": [hidden, hidden], at + "self_attn.k_proj.weight": [kv, hidden],
        at + "self_attn.v_proj.weight": [kv, hidden], at + "self_attn.o_proj.weight": [hidden, hidden],
        at + "mlp.gate_proj.weight": [ffn, hidden], at + "mlp.up_proj.weight": [ffn, hidden],
        at + "mlp.down_proj.weight": [hidden, ffn],
    }

rng = random.Random(1)
pool = b"".join(struct.pack("<f", rng.gauss(0, 0.02))[2:] for _ in range(1 << 20))
header, offset = {}, 0
for name, shape in shapes.items():
    count = 2
    for d in shape:
        count *= d
    header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + count]}
    offset += count
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with open(os.path.join(out, "model.safetensors"), "wb") as f:
    f.write(struct.pack("<Q", len(text)) + text)
    for entry in header.values():
        left = entry["data_offsets"][1] - entry["data_offsets"][0]
        while left:
            at = 2 * rng.randrange(1 << 19)
            piece = pool[at : at + min(left, len(pool) - at)]
            f.write(piece)
            left -= len(piece)
print(f"{out}: {layers} layers, {offset / 1e9:.2f} GB")

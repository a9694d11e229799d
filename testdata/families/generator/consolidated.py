"""A model in the layout of its maker: params.json, consolidated.safetensors and tekken.json."""

import dataclasses
import pathlib
import tempfile

import torch
import transformers

from . import checkpoint, text, vocabulary
from .case import Case


@dataclasses.dataclass(kw_only=True)
class Consolidated(Case):
    """`config` is params.json. Queries and keys lie with the two halves of a rotated pair beside each other."""

    def write(self, folder):
        files = text.tekken()
        checkpoint.write_json(folder / "tekken.json", vocabulary.tekken(files["tokenizer.json"]))
        with tempfile.TemporaryDirectory() as scratch:
            checkpoint.write_json(pathlib.Path(scratch) / "tokenizer.json", files["tokenizer.json"])
            checkpoint.write_json(folder / "tokenizer-cases.json", vocabulary.cases(pathlib.Path(scratch)))
        checkpoint.write_json(folder / "params.json", self.config)
        tensors = checkpoint.draw_all(self.name, self.shapes(), self.gain)
        stored = {name: tensor.to(checkpoint.DTYPES[self.dtype]) for name, tensor in tensors.items()}
        checkpoint.write_tensors(folder / "consolidated.safetensors", stored)
        self.write_reference(folder, files, self.library_model(tensors))

    def shapes(self):
        p = self.config
        wide, dim = p["n_heads"] * p["head_dim"], p["dim"]
        narrow = p["n_kv_heads"] * p["head_dim"]
        layer = {
            "attention.wq.weight": (wide, dim), "attention.wk.weight": (narrow, dim), "attention.wv.weight": (narrow, dim), "attention.wo.weight": (dim, wide),
            "attention_norm.weight": (dim,), "ffn_norm.weight": (dim,), "feed_forward.w1.weight": (p["hidden_dim"], dim),
            "feed_forward.w2.weight": (dim, p["hidden_dim"]), "feed_forward.w3.weight": (p["hidden_dim"], dim),
        }
        shapes = {"tok_embeddings.weight": (p["vocab_size"], dim), "norm.weight": (dim,), "output.weight": (p["vocab_size"], dim)}
        return shapes | {f"layers.{i}.{name}": shape for i in range(p["n_layers"]) for name, shape in layer.items()}

    def library_model(self, tensors):
        """The same model as the library has it, where a pair's halves lie half a head apart."""
        p = self.config
        names = {
            "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj", "attention.wo": "self_attn.o_proj",
            "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
            "feed_forward.w3": "mlp.up_proj",
        }
        state = {}
        for name, tensor in tensors.items():
            if name.startswith("layers."):
                _, i, rest = name.split(".", 2)
                part = rest.removesuffix(".weight")
                if part in ("attention.wq", "attention.wk"):
                    tensor = tensor.view(-1, p["head_dim"] // 2, 2, p["dim"]).transpose(1, 2).reshape(tensor.shape)
                state[f"model.layers.{i}.{names[part]}.weight"] = tensor
            else:
                state[{"tok_embeddings.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}[name]] = tensor
        config = transformers.MistralConfig(
            vocab_size=p["vocab_size"], hidden_size=p["dim"], intermediate_size=p["hidden_dim"], num_hidden_layers=p["n_layers"], num_attention_heads=p["n_heads"],
            num_key_value_heads=p["n_kv_heads"], head_dim=p["head_dim"], rms_norm_eps=p["norm_eps"], rope_parameters={"rope_type": "default", "rope_theta": p["rope_theta"]},
            max_position_embeddings=p["max_position_embeddings"], sliding_window=None, tie_word_embeddings=False, attn_implementation="eager")
        model = transformers.MistralForCausalLM(config).to(torch.float32)
        model.load_state_dict(state)
        return model.eval()


CONSOLIDATED = {
    "mistral-consolidated": Consolidated(
        cls="", text=text.tekken, pre="tekken", first=(1,), converter=("--mistral-format",),
        config={
            "dim": 64, "n_layers": 2, "head_dim": 32, "hidden_dim": 96, "n_heads": 4, "n_kv_heads": 2, "rope_theta": 1000000.0, "norm_eps": 1e-05, "vocab_size": 384,
            "max_position_embeddings": 512}),
}

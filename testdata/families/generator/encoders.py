"""The models that embed a text: a transformer, a pooling, and what follows it, in the layout of sentence-transformers."""

import dataclasses

import torch
import transformers
from tokenizers import Tokenizer

from . import checkpoint, corpus, text
from .case import NORM, Case
from .decoders import GEMMA, QWEN, without

POOLINGS = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
TINY_BERT = {
    "attention_probs_dropout_prob": 0.1, "classifier_dropout": None, "gradient_checkpointing": False, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 64,
    "initializer_range": 0.02, "intermediate_size": 96, "layer_norm_eps": 1e-12, "max_position_embeddings": 128, "model_type": "bert", "num_attention_heads": 4,
    "num_hidden_layers": 2, "pad_token_id": 0, "position_embedding_type": "absolute", "type_vocab_size": 2, "use_cache": True, "vocab_size": 384,
}
NOMIC = {
    "activation_function": "swiglu", "attn_pdrop": 0.0, "bos_token_id": None, "causal": False, "dense_seq_output": True, "embd_pdrop": 0.0, "eos_token_id": None,
    "fused_bias_fc": True, "fused_dropout_add_ln": True, "initializer_range": 0.02, "layer_norm_epsilon": 1e-12, "max_trained_positions": 2048, "mlp_fc1_bias": False,
    "mlp_fc2_bias": False, "model_type": "nomic_bert", "n_embd": 64, "n_head": 4, "n_inner": 96, "n_layer": 2, "n_positions": 8192, "pad_vocab_size_multiple": 64,
    "parallel_block": False, "parallel_block_tied_norm": False, "prenorm": False, "qkv_proj_bias": False, "reorder_and_upcast_attn": False, "resid_pdrop": 0.0,
    "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False, "rotary_emb_scale_base": None, "rotary_scaling_factor": None,
    "scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True, "summary_activation": None, "summary_first_dropout": 0.0, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True, "type_vocab_size": 2, "use_cache": True, "use_flash_attn": True, "use_rms_norm": False, "use_xentropy": True,
    "vocab_size": 384,
}
GEMMA_WEIGHTS = NORM | {"norm": 0.0, "final": 0.5, "embedding": 0.05}


@dataclasses.dataclass(kw_only=True)
class Encoder(Case):
    """`modules` are the modules after the transformer: "pooling", ("dense", in, out) and "normalize"."""

    pooling: str
    modules: tuple = ("pooling",)
    maximum: int = 128
    model: str = ""
    positions: bool = False

    def configuration(self, folder):
        if self.config["model_type"] != "nomic_bert":
            return transformers.AutoConfig.from_pretrained(folder)
        c = self.config
        return transformers.NomicBertConfig(
            vocab_size=c["vocab_size"], hidden_size=c["n_embd"], num_hidden_layers=c["n_layer"], num_attention_heads=c["n_head"], intermediate_size=c["n_inner"],
            hidden_act="silu", max_position_embeddings=c["n_positions"], type_vocab_size=c["type_vocab_size"], layer_norm_eps=c["layer_norm_epsilon"],
            rope_parameters={"rope_type": "default", "rope_theta": float(c["rotary_emb_base"])}, attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0)

    def tensors(self, folder):
        model = getattr(transformers, self.model)(self.configuration(folder))
        tensors = checkpoint.draw_all(self.name, checkpoint.saved_shapes(model), self.gain)
        if self.positions:
            tensors["embeddings.position_ids"] = torch.arange(self.config["max_position_embeddings"]).unsqueeze(0)
        return tensors

    def write_reference(self, folder, files):
        model = checkpoint.load(folder, self.model, self.configuration(folder))
        self.write_resaved(folder, model)
        dense = self.write_modules(folder)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        inputs = []
        for sentence in corpus.SENTENCES:
            ids = tokenizer.encode(sentence).ids
            with torch.inference_mode():
                hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
                pooled = {"mean_tokens": hidden.mean(0), "cls_token": hidden[0], "lasttoken": hidden[-1]}[self.pooling]
                value = pooled
                for i, module in enumerate(self.modules[1:], 1):
                    value = dense[i] @ value if module[0] == "dense" else value / value.norm()
            inputs.append({"text": sentence, "ids": ids, "pooled": checkpoint.encode(pooled), "embedding": checkpoint.encode(value)})
        checkpoint.write_json(folder / "reference.json", {"arithmetic": "float32, from the stored values", "inputs": inputs})

    def dense_weights(self):
        return {i: checkpoint.draw(self.name, f"dense.{i}.weight", (m[2], m[1]), self.gain) for i, m in enumerate(self.modules) if m[0] == "dense"}

    def write_modules(self, folder):
        """`modules.json` and the folder of every module; gives the matrices of the dense ones."""
        dense = self.dense_weights()
        listed = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
        for i, module in enumerate(self.modules, 1):
            kind = "Dense" if module[0] == "dense" else module.capitalize()
            path = folder / f"{i}_{kind}"
            listed.append({"idx": i, "name": str(i), "path": path.name, "type": f"sentence_transformers.models.{kind}"})
            if kind == "Pooling":
                path.mkdir()
                modes = {f"pooling_mode_{mode}": mode == self.pooling for mode in POOLINGS}
                checkpoint.write_json(path / "config.json", {"word_embedding_dimension": self.config.get("hidden_size", self.config.get("n_embd"))} | modes | {"include_prompt": True})
            elif kind == "Dense":
                path.mkdir()
                outputs, inputs = dense[i - 1].shape
                checkpoint.write_json(path / "config.json", {
                    "in_features": inputs, "out_features": outputs, "bias": False, "activation_function": "torch.nn.modules.linear.Identity"})
                checkpoint.store(path, {"linear.weight": dense[i - 1]}, self.dtype)
        checkpoint.write_json(folder / "modules.json", listed)
        checkpoint.write_json(folder / "sentence_bert_config.json", {"max_seq_length": self.maximum, "do_lower_case": False})
        checkpoint.write_json(folder / "config_sentence_transformers.json", {
            "__version__": {"sentence_transformers": "5.1.0", "transformers": transformers.__version__, "pytorch": torch.__version__.split("+")[0]},
            "prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"})
        return dense


ENCODERS = {
    "bert": Encoder(cls="BertModel", model="BertModel", text=text.bert, pooling="mean_tokens", dtype="f32", config=TINY_BERT | {"intermediate_size": 64}),
    # A list of positions among the tensors, as files of its time have it.
    "bge": Encoder(cls="BertModel", model="BertModel", text=text.bert, pre="bert-bge", pooling="cls_token", modules=("pooling", "normalize"), positions=True, config=TINY_BERT),
    "nomic-bert": Encoder(cls="NomicBertModel", model="NomicBertModel", text=text.bert, pooling="mean_tokens", maximum=8192, published_config=True, config=NOMIC),
    # A causal model; its tensors are saved without the prefix "model.".
    "qwen3-embedding": Encoder(
        cls="Qwen3ForCausalLM", model="Qwen3Model", text=lambda: text.qwen2(None, after=["<|endoftext|>"], eos="<|endoftext|>"), pre="qwen2", pooling="lasttoken",
        modules=("pooling", "normalize"), maximum=512,
        config=QWEN | {
            "attention_bias": False, "bos_token_id": 374, "eos_token_id": 374, "head_dim": 32, "model_type": "qwen3", "rope_scaling": None, "sliding_window": None,
            "tie_word_embeddings": True}),
    # Attention in both directions, also within the window of the first five layers.
    "embeddinggemma": Encoder(
        cls="Gemma3TextModel", model="Gemma3TextModel", text=text.embedding_gemma, pooling="mean_tokens", gain=GEMMA_WEIGHTS, maximum=256,
        modules=("pooling", ("dense", 64, 96), ("dense", 96, 64), "normalize"), converter=("--sentence-transformers-dense-modules",),
        config=without(GEMMA, "rope_theta") | {
            "_sliding_window_pattern": 6, "attn_logit_softcapping": None, "final_logit_softcapping": None, "intermediate_size": 64,
            "layer_types": ["sliding_attention"] * 5 + ["full_attention"], "model_type": "gemma3_text", "num_hidden_layers": 6, "num_key_value_heads": 1,
            "query_pre_attn_scalar": 32, "rope_local_base_freq": 10000.0, "rope_scaling": None, "rope_theta": 1000000.0, "sliding_window": 16,
            "use_bidirectional_attention": True}),
}

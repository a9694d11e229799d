"""Every family's case: its configuration as published checkpoints write it, made tiny."""

import dataclasses

import transformers

from . import checkpoint, text, vocabulary

NORM = {"norm": 1.0, "final": 1.0, "embedding": 0.3, "head": 0.3, "matrix": 1.5}
# Gemma multiplies by 1 + weight. Its embedding, multiplied by sqrt(hidden_size) and tied, is small so that a token does not just repeat itself.
GEMMA = NORM | {"norm": 0.0, "final": 4.0, "embedding": 0.03}
TINY = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


@dataclasses.dataclass(kw_only=True)
class Case:
    """A decoder: a folder as it is published, and `reference.json`."""

    cls: str
    config: dict
    text: object
    pre: str = "default"
    dtype: str = "bf16"
    shards: int = 1
    gain: dict = dataclasses.field(default_factory=lambda: NORM)
    first: tuple = ()
    prompts: dict = dataclasses.field(default_factory=lambda: {"prompt": 64})
    generation: dict = dataclasses.field(default_factory=dict)
    converter: tuple = ()
    name: str = ""

    def tensors(self, folder):
        """The checkpoint's tensors, drawn for the names and shapes that the library itself would save."""
        configuration = transformers.AutoConfig.from_pretrained(folder)
        model = getattr(transformers, self.cls)(configuration)
        return checkpoint.draw_all(self.name, checkpoint.saved_shapes(model), self.gain)

    def write_text(self, folder):
        files = self.text()
        for file, content in files.items():
            if isinstance(content, bytes):
                (folder / file).write_bytes(content)
            else:
                checkpoint.write_json(folder / file, content)
        checkpoint.write_json(folder / "tokenizer-cases.json", vocabulary.cases(folder))
        return files

    def write(self, folder):
        files = self.write_text(folder)
        checkpoint.write_json(folder / "config.json", {"architectures": [self.cls]} | self.config)
        if self.generation:
            checkpoint.write_json(folder / "generation_config.json", self.generation)
        checkpoint.store(folder, self.tensors(folder), self.dtype, self.shards)
        model = checkpoint.load(folder, self.cls)
        self.write_reference(folder, model, files)

    def write_reference(self, folder, model, files):
        runs = {key: checkpoint.generate(model, f"{self.name}/{key}", n, self.first, text.ordinary(files)) for key, n in self.prompts.items()}
        main = runs.pop("prompt")
        checkpoint.write_json(folder / "reference.json", {"arithmetic": "float32, from the stored values"} | main | runs)


ALL = {
    "llama3": Case(
        cls="LlamaForCausalLM", text=text.llama3, pre="llama-bpe", first=(375,),
        generation={"bos_token_id": 375, "do_sample": True, "eos_token_id": [376, 381, 382], "temperature": 0.6, "top_p": 0.9},
        config=TINY | {
            "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 375, "eos_token_id": [376, 381, 382], "head_dim": 16, "hidden_act": "silu",
            "max_position_embeddings": 512, "mlp_bias": False, "model_type": "llama", "num_key_value_heads": 2, "rms_norm_eps": 1e-05,
            "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 64, "rope_type": "llama3"},
            "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 384,
        }),
    "gemma2": Case(
        cls="Gemma2ForCausalLM", text=text.gemma, gain=GEMMA, first=(2,),
        config=TINY | {
            "attention_bias": False, "attention_dropout": 0.0, "attn_logit_softcapping": 3.0, "bos_token_id": 2, "eos_token_id": 1, "final_logit_softcapping": 8.0,
            "head_dim": 32, "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 96, "max_position_embeddings": 256,
            "model_type": "gemma2", "num_key_value_heads": 2, "pad_token_id": 0, "query_pre_attn_scalar": 24, "rms_norm_eps": 1e-06,
            "rope_theta": 10000.0, "sliding_window": 16, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 448,
        }),
    "qwen3": Case(
        cls="Qwen3ForCausalLM", text=lambda: text.qwen2(text.chat.QWEN3, chat_file=True, thinking=True), pre="qwen2",
        generation={"bos_token_id": 372, "do_sample": True, "eos_token_id": [374, 372], "pad_token_id": 372, "temperature": 0.6, "top_k": 20, "top_p": 0.95},
        config=TINY | {
            "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 372, "eos_token_id": 374, "head_dim": 32, "hidden_act": "silu",
            "max_position_embeddings": 512, "max_window_layers": 2, "model_type": "qwen3", "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_scaling": None,
            "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True, "use_sliding_window": False,
            "vocab_size": 384,
        }),
}
for _name, _case in ALL.items():
    _case.name = _name

"""The decoders: each family's configuration as published checkpoints write it, made tiny."""

from . import chat, text
from .case import NORM, Case

# Gemma multiplies by 1 + weight. Its embedding, multiplied by sqrt(hidden_size) and tied, is small so that a token does not just repeat itself.
GEMMA_WEIGHTS = NORM | {"norm": 0.0, "final": 4.0, "embedding": 0.03}
GRANITE_WEIGHTS = NORM | {"embedding": 0.06, "final": 8.0, "matrix": 2.5}
# The keys that nearly every configuration has.
TINY = {
    "attention_dropout": 0.0, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "initializer_range": 0.02, "use_cache": True,
}
LLAMA = TINY | {
    "attention_bias": False, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "max_position_embeddings": 256, "mlp_bias": False, "model_type": "llama",
    "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0, "tie_word_embeddings": False, "vocab_size": 448,
}
MISTRAL = TINY | {
    "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "max_position_embeddings": 512, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
    "sliding_window": None, "tie_word_embeddings": False,
}
GEMMA = TINY | {
    "attention_bias": False, "bos_token_id": 2, "eos_token_id": 1, "head_dim": 32, "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 256,
    "pad_token_id": 0, "rms_norm_eps": 1e-06, "vocab_size": 448,
}
PHI3 = TINY | {
    "attention_bias": False, "embd_pdrop": 0.0, "hidden_act": "silu", "model_type": "phi3", "resid_pdrop": 0.0, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
}
QWEN = TINY | {
    "bos_token_id": 372, "eos_token_id": 374, "hidden_act": "silu", "max_position_embeddings": 512, "max_window_layers": 2, "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0, "use_sliding_window": False, "vocab_size": 384,
}
OLMO = TINY | {
    "attention_bias": False, "bos_token_id": None, "hidden_act": "silu", "max_position_embeddings": 256, "num_key_value_heads": 4, "rms_norm_eps": 1e-06,
    "rope_theta": 500000, "tie_word_embeddings": False, "vocab_size": 384,
}
STABLELM = TINY | {
    "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "silu", "hidden_dropout": 0.0, "layer_norm_eps": 1e-05, "max_position_embeddings": 256,
    "model_type": "stablelm", "num_key_value_heads": 4, "partial_rotary_factor": 0.25, "rope_scaling": None, "rope_theta": 10000, "tie_word_embeddings": False,
    "use_qkv_bias": False, "vocab_size": 384,
}
PIXTRAL = {
    "attention_dropout": 0.0, "head_dim": 16, "hidden_act": "silu", "hidden_size": 32, "image_size": 28, "initializer_range": 0.02, "intermediate_size": 32,
    "model_type": "pixtral", "num_attention_heads": 2, "num_channels": 3, "num_hidden_layers": 1, "patch_size": 14, "rope_theta": 10000.0,
}
PIXTRAL_PARAMETERS = {k: v for k, v in PIXTRAL.items() if k != "rope_theta"} | {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}
SIGLIP = {
    "hidden_size": 32, "image_size": 28, "intermediate_size": 32, "model_type": "siglip_vision_model", "num_attention_heads": 2, "num_hidden_layers": 1, "patch_size": 14,
    "vision_use_head": False,
}
YARN = {
    "beta_fast": 32.0, "beta_slow": 1.0, "factor": 8.0, "llama_4_scaling_beta": 0.1, "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 32,
    "rope_theta": 1000000.0, "rope_type": "yarn", "type": "yarn",
}
MINISTRAL = {k: v for k, v in MISTRAL.items() if k != "rope_theta"} | {
    "head_dim": 32, "max_position_embeddings": 256, "model_type": "ministral3", "pad_token_id": 11, "rope_parameters": YARN, "vocab_size": 384,
}


def without(config, *keys):
    return {k: v for k, v in config.items() if k not in keys}


DECODERS = {
    # Multi-head attention; no head_dim, no biases and no rope_theta in its configuration.
    "llama2": Case(
        cls="LlamaForCausalLM", text=text.llama2, dtype="f16", first=(1,), generation={"bos_token_id": 1, "do_sample": True, "eos_token_id": 2, "temperature": 0.6, "top_p": 0.9},
        config=without(LLAMA, "attention_bias", "mlp_bias", "rope_theta", "attention_dropout") | {"num_key_value_heads": 4, "pretraining_tp": 1}),
    "llama3": Case(
        cls="LlamaForCausalLM", text=text.llama3, pre="llama-bpe", first=(375,),
        generation={"bos_token_id": 375, "do_sample": True, "eos_token_id": [376, 381, 382], "temperature": 0.6, "top_p": 0.9},
        config=LLAMA | {
            "bos_token_id": 375, "eos_token_id": [376, 381, 382], "head_dim": 16, "max_position_embeddings": 512, "rope_theta": 500000.0, "tie_word_embeddings": True,
            "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 64, "rope_type": "llama3"},
            "vocab_size": 384}),
    "llama-linear": Case(
        cls="LlamaForCausalLM", text=text.llama2, dtype="f32", first=(1,),
        config=LLAMA | {"attention_bias": True, "mlp_bias": True, "intermediate_size": 64, "rope_scaling": {"type": "linear", "factor": 4.0}, "tie_word_embeddings": True}),
    "falcon3": Case(
        cls="LlamaForCausalLM", text=text.falcon3, pre="falcon3",
        config=LLAMA | {"bos_token_id": 0, "eos_token_id": 0, "head_dim": 32, "rms_norm_eps": 1e-06, "rope_theta": 1000042, "vocab_size": 384}),
    # A window shorter than the prompt.
    "mistral": Case(
        cls="MistralForCausalLM", text=text.mistral, first=(1,),
        config=MISTRAL | {"model_type": "mistral", "rope_theta": 10000.0, "sliding_window": 16, "vocab_size": 448}),
    "mistral-nemo": Case(
        cls="MistralForCausalLM", text=text.tekken, pre="tekken", first=(1,), config=MISTRAL | {"head_dim": 32, "model_type": "mistral", "vocab_size": 384}),
    "mistral3": Case(
        cls="Mistral3ForConditionalGeneration", text=lambda: text.tekken(chat_file=True), pre="tekken", first=(1,),
        config={
            "image_token_index": 10, "model_type": "mistral3", "multimodal_projector_bias": False, "projector_hidden_act": "gelu", "spatial_merge_size": 2,
            "text_config": MISTRAL | {"head_dim": 32, "model_type": "mistral", "rope_theta": 1000000000.0, "vocab_size": 384},
            "tie_word_embeddings": False, "vision_config": PIXTRAL, "vision_feature_layer": -1}),
    # Betas that are not the usual ones, and a base for which they matter.
    "ministral3": Case(
        cls="Ministral3ForCausalLM", text=lambda: text.tekken(chat_file=True), pre="tekken", first=(1,),
        config=MINISTRAL | {"rope_parameters": YARN | {"beta_fast": 2.0, "beta_slow": 0.5, "rope_theta": 100.0}}),
    # As published: inside a model that sees.
    "ministral3-conditional": Case(
        cls="Mistral3ForConditionalGeneration", text=lambda: text.tekken(chat_file=True), pre="tekken", first=(1,),
        config={
            "image_token_index": 10, "model_type": "mistral3", "multimodal_projector_bias": False, "projector_hidden_act": "gelu", "spatial_merge_size": 2,
            "text_config": MINISTRAL | {"tie_word_embeddings": True}, "tie_word_embeddings": True, "vision_config": PIXTRAL_PARAMETERS, "vision_feature_layer": -1}),
    "mixtral": Case(
        cls="MixtralForCausalLM", text=text.mixtral, first=(1,),
        config=MISTRAL | {
            "intermediate_size": 64, "model_type": "mixtral", "num_experts_per_tok": 2, "num_local_experts": 4, "output_router_logits": False,
            "router_aux_loss_coef": 0.02, "vocab_size": 448}),
    # A single head of keys and values, and heads that are wider than hidden_size / num_attention_heads.
    "gemma": Case(
        cls="GemmaForCausalLM", text=text.gemma, first=(2,), gain=GEMMA_WEIGHTS,
        config=GEMMA | {"hidden_act": "gelu_pytorch_tanh", "hidden_size": 96, "model_type": "gemma", "num_key_value_heads": 1, "rope_theta": 10000.0}),
    "gemma2": Case(
        cls="Gemma2ForCausalLM", text=text.gemma, first=(2,), gain=GEMMA_WEIGHTS,
        config=GEMMA | {
            "attn_logit_softcapping": 3.0, "cache_implementation": "hybrid", "final_logit_softcapping": 8.0, "hidden_act": "gelu_pytorch_tanh", "hidden_size": 96,
            "model_type": "gemma2", "query_pre_attn_scalar": 24, "rope_theta": 10000.0, "sliding_window": 16}),
    # Every sixth layer sees everything; the others see a window and have a rope of their own.
    "gemma3": Case(
        cls="Gemma3ForCausalLM", text=text.gemma, first=(2,), gain=GEMMA_WEIGHTS,
        config=GEMMA | {
            "attn_logit_softcapping": None, "cache_implementation": "hybrid", "final_logit_softcapping": None, "model_type": "gemma3_text", "num_hidden_layers": 7,
            "query_pre_attn_scalar": 24, "rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 16, "sliding_window_pattern": 6}),
    "gemma3-conditional": Case(
        cls="Gemma3ForConditionalGeneration", text=lambda: text.gemma(chat_file=True), first=(2,), gain=GEMMA_WEIGHTS,
        config={
            "boi_token_index": 5, "eoi_token_index": 6, "eos_token_id": [1, 6], "image_token_index": 4, "initializer_range": 0.02, "mm_tokens_per_image": 4,
            "model_type": "gemma3",
            "text_config": without(GEMMA, "attention_dropout", "attention_bias", "use_cache", "initializer_range", "bos_token_id", "eos_token_id", "pad_token_id") | {
                "intermediate_size": 64, "model_type": "gemma3_text", "num_hidden_layers": 6, "query_pre_attn_scalar": 32,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "rope_theta": 1000000.0, "sliding_window": 16},
            "vision_config": SIGLIP}),
    "phi3": Case(
        cls="Phi3ForCausalLM", text=text.phi3, generation={"bos_token_id": 1, "eos_token_id": [440, 441, 443], "pad_token_id": 440},
        config=PHI3 | {
            "bos_token_id": 1, "eos_token_id": 440, "max_position_embeddings": 256, "num_key_value_heads": 4, "original_max_position_embeddings": 256, "pad_token_id": 440,
            "rope_scaling": None, "sliding_window": 255, "tie_word_embeddings": False, "vocab_size": 448}),
    # `short` and its continuation end where the short factors do; `prompt` begins beyond.
    "phi3-longrope": Case(
        cls="Phi3ForCausalLM", text=text.phi3, prompts={"prompt": 64, "short": 16}, generation={"bos_token_id": 1, "eos_token_id": [440, 441, 443], "pad_token_id": 440},
        config=PHI3 | {
            "bos_token_id": 1, "eos_token_id": 440, "max_position_embeddings": 192, "num_key_value_heads": 4, "original_max_position_embeddings": 48, "pad_token_id": 440,
            "rope_scaling": {
                "long_factor": [1.08, 1.25, 1.75, 2.5, 4.0, 8.5, 16.0, 20.5], "short_factor": [1.0, 1.05, 1.1, 1.15, 1.3, 1.6, 2.0, 2.4], "type": "longrope"},
            "sliding_window": 192, "tie_word_embeddings": False, "vocab_size": 448}),
    "phi4-mini": Case(
        cls="Phi3ForCausalLM", text=text.phi4, pre="gpt-4o", generation={"bos_token_id": 373, "eos_token_id": [377, 373], "pad_token_id": 373},
        config=PHI3 | {
            "bos_token_id": 373, "eos_token_id": 373, "full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False, "max_position_embeddings": 512, "mlp_bias": False,
            "original_max_position_embeddings": 128, "pad_token_id": 373, "partial_rotary_factor": 0.75,
            "rope_scaling": {"long_factor": [1, 1.1, 1.5, 2.5, 9, 30], "short_factor": [1.0, 1.0, 1.2, 1.4, 1.7, 2.1], "type": "longrope"},
            "sliding_window": 512, "tie_word_embeddings": True, "vocab_size": 384}),
    # Two files and an index.
    "qwen2": Case(
        cls="Qwen2ForCausalLM", text=text.qwen2, pre="qwen2", shards=2,
        generation={"bos_token_id": 374, "do_sample": True, "eos_token_id": [376, 374], "repetition_penalty": 1.05, "temperature": 0.7, "top_k": 20, "top_p": 0.8},
        config=QWEN | {"bos_token_id": 374, "eos_token_id": 376, "model_type": "qwen2", "sliding_window": 512, "tie_word_embeddings": False}),
    "qwen3": Case(
        cls="Qwen3ForCausalLM", text=lambda: text.qwen2(chat.QWEN3, chat_file=True, thinking=True), pre="qwen2",
        generation={"bos_token_id": 372, "do_sample": True, "eos_token_id": [374, 372], "pad_token_id": 372, "temperature": 0.6, "top_k": 20, "top_p": 0.95},
        config=QWEN | {"attention_bias": False, "head_dim": 32, "model_type": "qwen3", "rope_scaling": None, "sliding_window": None, "tie_word_embeddings": True}),
    "qwen3moe": Case(
        cls="Qwen3MoeForCausalLM", text=lambda: text.qwen2(chat.QWEN3, chat_file=True, thinking=True), pre="qwen2",
        config=QWEN | {
            "attention_bias": False, "decoder_sparse_step": 1, "head_dim": 32, "mlp_only_layers": [], "model_type": "qwen3_moe", "moe_intermediate_size": 32,
            "norm_topk_prob": True, "num_experts": 4, "num_experts_per_tok": 2, "output_router_logits": False, "rope_scaling": None, "router_aux_loss_coef": 0.001,
            "sliding_window": None, "tie_word_embeddings": False}),
    "granite": Case(
        cls="GraniteForCausalLM", text=text.granite, pre="refact", gain=GRANITE_WEIGHTS,
        config=TINY | {
            "attention_bias": False, "attention_multiplier": 0.1, "bos_token_id": 0, "embedding_multiplier": 12.0, "eos_token_id": 0, "hidden_act": "silu",
            "logits_scaling": 2.0, "max_position_embeddings": 256, "mlp_bias": False, "model_type": "granite", "pad_token_id": 0, "residual_multiplier": 0.22,
            "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0, "tie_word_embeddings": True, "vocab_size": 384}),
    "olmo2": Case(
        cls="Olmo2ForCausalLM", text=text.olmo2, pre="dbrx", config=OLMO | {"eos_token_id": 374, "model_type": "olmo2", "pad_token_id": 379, "rope_scaling": None}),
    # Three layers with a window for one without; only that one's rope is scaled.
    "olmo3": Case(
        cls="Olmo3ForCausalLM", text=text.olmo3, pre="dbrx",
        config=OLMO | {
            "eos_token_id": 380, "intermediate_size": 64, "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
            "model_type": "olmo3", "num_hidden_layers": 4, "pad_token_id": 381,
            "rope_scaling": {
                "attention_factor": 1.2079441541679836, "beta_fast": 32.0, "beta_slow": 1.0, "factor": 8.0, "original_max_position_embeddings": 32, "rope_type": "yarn"},
            "sliding_window": 16}),
    "stablelm": Case(cls="StableLmForCausalLM", text=text.stablelm, pre="olmo", config=STABLELM),
    "stablelm2": Case(cls="StableLmForCausalLM", text=text.stablelm2, pre="stablelm2", config=STABLELM | {"bos_token_id": 377, "eos_token_id": 377, "use_qkv_bias": True}),
    # Attention and feed-forward side by side, and a norm for every head's queries and keys.
    "stablelm2-12b": Case(
        cls="StableLmForCausalLM", text=text.stablelm2, pre="stablelm2",
        refusal="llama.cpp runs such a model. Its converter collects the norms of the heads, but loses the stack that it makes of them: a generator returned by a generator.",
        config=STABLELM | {"bos_token_id": 377, "eos_token_id": 377, "num_key_value_heads": 2, "qk_layernorm": True, "use_parallel_residual": True}),
    "glm4": Case(
        cls="Glm4ForCausalLM", text=text.glm4, pre="glm4", first=(372, 374), generation={"eos_token_id": [370, 377, 379], "pad_token_id": 370},
        config=TINY | {
            "attention_bias": True, "eos_token_id": [370, 377, 379], "head_dim": 16, "hidden_act": "silu", "max_position_embeddings": 256, "model_type": "glm4",
            "pad_token_id": 370, "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": False, "vocab_size": 384}),
}

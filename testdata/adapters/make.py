"""Makes the adapters of this folder and what merging them gives.

    python make.py base          the base model (needs torch, transformers)
    python make.py peft          one folder for each case of PEFT (needs peft, too)
    python make.py mlx           one folder for each case of MLX (needs mlx, mlx-lm)
    python make.py gguf CONVERT  gguf/*.gguf of cases of PEFT (CONVERT: llama.cpp's convert_lora_to_gguf.py)

Each folder has the adapter as its library saves it and `merged.safetensors`: the tensors of the base
that the adapter changes, after PEFT's `merge_and_unload` in float64 (MLX's `fuse` in float32), rounded
to float32. Weights are random: nothing is trained, the numbers are what counts.
Made with peft 0.21.2, transformers 5.24.0, torch 2.15.0, mlx 0.32.4, mlx-lm 0.32.2.
"""
import json, pathlib, shutil, subprocess, sys

HERE = pathlib.Path(__file__).parent
WIDTH, HEADS, KV_HEADS, FEED, LAYERS = 16, 4, 2, 24, 2


def byte_tokens():
    """The 256 characters that byte-level BPE writes bytes as, and two special tokens."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]


def base():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    out = HERE / "base"
    config = LlamaConfig(
        vocab_size=258, hidden_size=WIDTH, intermediate_size=FEED, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=64,
        tie_word_embeddings=True, attention_bias=True, bos_token_id=256, eos_token_id=257,
    )
    torch.manual_seed(1)
    model = LlamaForCausalLM(config)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    model.save_pretrained(out)
    (out / "generation_config.json").unlink(missing_ok=True)
    tokens = byte_tokens()
    special = ["<s>", "</s>"]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": 256 + i, "content": s, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True} for i, s in enumerate(special)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "behavior": "Isolated", "invert": False, "pattern": {"Regex":
             r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"}},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
                  "vocab": {t: i for i, t in enumerate(tokens + special)}, "merges": []},
    }
    (out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    (out / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}))


EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PEFT = {
    "plain": dict(r=4, lora_alpha=8, target_modules=EVERY),
    "patterns": dict(
        r=4, lora_alpha=8, target_modules="all-linear", use_rslora=True, bias="all",
        rank_pattern={"k_proj": 2, r"^model\.layers\.1\..*v_proj": 3},
        alpha_pattern={"layers.0.mlp.(up|gate)_proj": 32, "up_proj": 1},
    ),
    "dora": dict(r=4, lora_alpha=8, target_modules=EVERY, use_dora=True, bias="lora_only"),
    "head": dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head", "mlp"]),
    "embed": dict(r=4, lora_alpha=8, target_modules=["q_proj", "embed_tokens"]),
    "embed-alone": dict(r=4, lora_alpha=8, target_modules=["v_proj", "embed_tokens"]),
    "head-lora": dict(r=4, lora_alpha=8, target_modules=["k_proj", "lm_head"]),
    "tied": dict(r=4, lora_alpha=8, target_modules=["k_proj"], modules_to_save=["embed_tokens"],
                 ensure_weight_tying=True),
}


def peft():
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import save_file
    from transformers import LlamaForCausalLM

    for number, (name, members) in enumerate(PEFT.items()):
        torch.manual_seed(100 + number)
        base = LlamaForCausalLM.from_pretrained(HERE / "base", dtype=torch.float64)
        before = {k: v.clone() for k, v in base.state_dict().items()}
        if name != "tied":
            # In-place merging would change both of two tied matrices, of which the adapter has one.
            base.lm_head.weight = torch.nn.Parameter(base.lm_head.weight.detach().clone())
            base.config.tie_word_embeddings = False
        model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **members))
        for p in model.parameters():
            if p.requires_grad:
                # Magnitudes stay positive, as training leaves them.
                p.data = torch.randn_like(p).mul(0.3) + (2.0 if p.ndim == 1 else 0.0)
                p.data = p.data.float().double()
        out = HERE / f"peft-{name}"
        shutil.rmtree(out, ignore_errors=True)
        for p in model.parameters():
            p.data = p.data.float()
        # Nothing of the embedding was trained, but PEFT would save it with what changes it.
        model.save_pretrained(out, save_embedding_layers=name == "embed")
        (out / "README.md").unlink()
        for p in model.parameters():
            p.data = p.data.double()
        merged = model.merge_and_unload().state_dict()
        changed = {k: v.float().contiguous() for k, v in merged.items()
                   if k not in before or not torch.equal(before[k], v)}
        if name == "tied":
            changed.pop("lm_head.weight")
        save_file(changed, out / "merged.safetensors")
        config = json.loads((out / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = "base"
        (out / "adapter_config.json").write_text(json.dumps(config, indent=1))


MLX = {
    "lora": dict(fine_tune_type="lora", keys=["self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"]),
    "dora": dict(fine_tune_type="dora", keys=["self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj"]),
    "embed": dict(fine_tune_type="lora", keys=["self_attn.k_proj"], embed=True),
    "full": dict(fine_tune_type="full"),
}


def mlx():
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map
    from mlx_lm.models.llama import Model, ModelArgs
    from mlx_lm.tuner.dora import DoRAEmbedding, DoRALinear
    from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear

    mx.set_default_device(mx.cpu)
    for number, (name, case) in enumerate(MLX.items()):
        mx.random.seed(200 + number)
        config = json.loads((HERE / "base/config.json").read_text())
        config.setdefault("rope_theta", 10000.0)
        model = Model(ModelArgs.from_dict(config))
        model.load_weights(list(mx.load(str(HERE / "base/model.safetensors")).items()))
        before = dict(tree_flatten(model.parameters()))
        out = HERE / f"mlx-{name}"
        out.mkdir(exist_ok=True)
        kind = case["fine_tune_type"]
        model.freeze()
        if kind == "full":
            model.layers[1].unfreeze()
        else:
            wrap = DoRALinear if kind == "dora" else LoRALinear
            for layer in model.layers:
                named = dict(layer.named_modules())
                layer.update_modules(__import__("mlx.utils").utils.tree_unflatten(
                    [(k, wrap.from_base(named[k], r=4, scale=10.0, dropout=0.0)) for k in case["keys"]]))
            if case.get("embed"):
                model.model.embed_tokens = LoRAEmbedding.from_base(
                    model.model.embed_tokens, r=4, scale=10.0, dropout=0.0)
        def random(path, p):
            return mx.random.normal(p.shape) * 0.1 + (1.5 if p.ndim == 1 else 0.0)
        trained = [(k, random(k, v)) for k, v in tree_flatten(model.trainable_parameters())]
        model.load_weights(trained, strict=False)
        mx.save_safetensors(str(out / "adapters.safetensors"), dict(trained))
        members = {"fine_tune_type": kind, "model": "base", "num_layers": LAYERS, "seed": 0}
        members["lora_parameters"] = {"rank": 4, "scale": 10.0, "dropout": 0.0}
        (out / "adapter_config.json").write_text(json.dumps(members, indent=1))
        fused = [(k, m.fuse()) for k, m in model.named_modules() if hasattr(m, "fuse")]
        if fused:
            from mlx.utils import tree_unflatten
            model.update_modules(tree_unflatten(fused))
        after = dict(tree_flatten(model.parameters()))
        mx.save_safetensors(str(out / "merged.safetensors"),
                            {k: v for k, v in after.items() if not mx.array_equal(before[k], v)},
                            metadata={"format": "mlx"})


def gguf(convert):
    out = HERE / "gguf"
    out.mkdir(exist_ok=True)
    for case, name in [("plain", "adapter"), ("embed-alone", "embed")]:
        subprocess.run([sys.executable, convert, "--base", HERE / "base", "--outtype", "f32",
                        "--outfile", out / f"{name}.gguf", HERE / f"peft-{case}"], check=True)


{"base": base, "peft": peft, "mlx": mlx, "gguf": gguf}[sys.argv[1]](*sys.argv[2:])

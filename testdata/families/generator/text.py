"""Each family's tokenizer as the files of its folder, and where its ordinary tokens lie."""

from . import chat, vocabulary as v


def text_files(files, cls, chat_template=None, chat_file=False, **keys):
    if chat_template and chat_file:
        files = files | {"chat_template.jinja": chat_template.encode()}
    elif chat_template:
        keys["chat_template"] = chat_template
    return v.config(files, cls, **keys)


def ordinary(files):
    """The range of ids that prompts draw from: neither special tokens nor, in SentencePiece, the bytes."""
    tokenizer = files["tokenizer.json"]
    model = tokenizer["model"]
    special = {t["id"] for t in tokenizer["added_tokens"]}
    ids = [i for t, i in model["vocab"].items() if i not in special and not t.startswith(("<0x", "["))]
    return min(ids), max(ids) + 1


def plain(*names):
    return [(n, True) for n in names]


def llama2():
    files = v.sentence_piece(size=448, style="llama")
    return text_files(files, "LlamaTokenizer", chat.LLAMA2, add_bos_token=True, add_eos_token=False, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
                      pad_token=None, legacy=False, model_max_length=512, sp_model_kwargs={})


def mistral():
    files = v.sentence_piece(size=448, style="metaspace", symbols=["[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"])
    for token in files["tokenizer.json"]["added_tokens"]:
        token["special"] = True
    return text_files(files, "LlamaTokenizer", chat.MISTRAL, add_bos_token=True, add_eos_token=False, add_prefix_space=True, bos_token="<s>", eos_token="</s>",
                      unk_token="<unk>", legacy=False)


def mixtral():
    files = v.sentence_piece(size=448, style="llama")
    return text_files(files, "LlamaTokenizer", chat.MISTRAL, add_bos_token=True, add_eos_token=False, bos_token="<s>", eos_token="</s>", unk_token="<unk>", legacy=True)


def gemma(chat_file=False):
    symbols = ["<mask>", "<start_of_turn>", "<end_of_turn>", "\n\n", "\n\n\n", "▁▁", "▁▁▁", "▁▁▁▁", "<h1>"]
    files = v.sentence_piece(size=448, style="gemma", control=("<pad>", "<eos>", "<bos>", "<unk>"), symbols=symbols, before=["<bos>"], dummy_prefix=False)
    return text_files(files, "GemmaTokenizer", chat.GEMMA, chat_file, add_bos_token=True, add_eos_token=False, bos_token="<bos>", eos_token="<eos>",
                      unk_token="<unk>", pad_token="<pad>", additional_special_tokens=["<start_of_turn>", "<end_of_turn>"])


def embedding_gemma():
    symbols = ["<mask>", "<start_of_turn>", "<end_of_turn>", "\n\n", "▁▁", "▁▁▁"]
    files = v.sentence_piece(size=448, style="gemma", control=("<pad>", "<eos>", "<bos>", "<unk>"), symbols=symbols, before=["<bos>"], after=["<eos>"], dummy_prefix=False)
    return text_files(files, "GemmaTokenizer", add_bos_token=True, add_eos_token=True, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>")


def phi3():
    after = {"rstrip": True, "normalized": False}
    more = [("<|endoftext|>", True, {})] + [(t, True, after) for t in ("<|assistant|>", "<|system|>", "<|end|>", "<|user|>", "<|placeholder1|>")]
    files = v.sentence_piece(size=440, style="llama", more=more, before=())
    return text_files(files, "LlamaTokenizer", chat.PHI3, add_bos_token=False, add_eos_token=False, bos_token="<s>", eos_token="<|endoftext|>",
                      unk_token="<unk>", pad_token="<|endoftext|>", legacy=False)


def llama3():
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|finetune_right_pad_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>",
                "<|eot_id|>", "<|python_tag|>"]
    files = v.byte_level(size=384, regex=v.LLAMA3, specials=plain(*specials), before=["<|begin_of_text|>"], ignore_merges=True)
    return text_files(files, "PreTrainedTokenizerFast", chat.LLAMA3, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>",
                      model_input_names=["input_ids", "attention_mask"], model_max_length=512)


def tekken(chat_file=False):
    specials = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>",
                "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", "<SPECIAL_20>", "<SPECIAL_21>"]
    files = v.byte_level(size=384, regex=v.TEKKEN, specials=plain(*specials), before=["<s>"], ignore_merges=True, specials_first=True, by_rank=True)
    return text_files(files, "PreTrainedTokenizerFast", chat.TEKKEN, chat_file, add_bos_token=True, add_eos_token=False, bos_token="<s>", eos_token="</s>",
                      unk_token="<unk>", pad_token="<pad>")


def qwen2(chat_template=chat.CHATML, chat_file=False, thinking=False, after=(), eos="<|im_end|>"):
    specials = plain("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_pad|>") + [("<tool_call>", False), ("</tool_call>", False)]
    if thinking:
        specials += [("<think>", False), ("</think>", False)]
    files = v.byte_level(size=380, regex=v.QWEN2, specials=specials, after=after, normalizer={"type": "NFC"}, joined=True, flags={"normalized": False})
    return text_files(files, "Qwen2Tokenizer", chat_template, chat_file, add_bos_token=False, add_prefix_space=False, bos_token=None, eos_token=eos,
                      pad_token="<|endoftext|>", unk_token=None, errors="replace", split_special_tokens=False)


def phi4():
    specials = ["<|endoftext|>", "<|tool|>", "<|/tool|>", "<|assistant|>", "<|end|>", "<|user|>", "<|system|>"]
    files = v.byte_level(size=380, regex=v.O200K, specials=plain(*specials))
    return text_files(files, "GPT2Tokenizer", chat.PHI4, add_bos_token=False, add_eos_token=False, add_prefix_space=False, bos_token="<|endoftext|>",
                      eos_token="<|endoftext|>", pad_token="<|endoftext|>", unk_token="<|endoftext|>")


def granite():
    specials = ["<|end_of_text|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"]
    roles = ["<|start_of_role|>", "<|end_of_role|>", "<|tool_call|>"]
    files = v.byte_level(size=384, regex=v.GPT2, specials=plain(*specials, *roles), specials_first=True, digits=True)
    return text_files(files, "GPT2Tokenizer", chat.GRANITE, add_bos_token=False, add_prefix_space=False, bos_token="<|end_of_text|>", eos_token="<|end_of_text|>",
                      pad_token="<|end_of_text|>", unk_token="<|end_of_text|>", errors="replace", vocab_size=384)


def olmo2():
    specials = ["<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|endofprompt|>", "<|pad|>"]
    files = v.byte_level(size=380, regex=v.LLAMA3, specials=plain(*specials))
    return text_files(files, "GPT2Tokenizer", chat.OLMO2, add_prefix_space=False, bos_token="<|endoftext|>", eos_token="<|endoftext|>", pad_token="<|pad|>",
                      unk_token="<|endoftext|>")


def olmo3():
    specials = plain("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>") + [("<functions>", False), ("</functions>", False)]
    files = v.byte_level(size=384, regex=v.LLAMA3, specials=specials, flags={"normalized": False})
    return text_files(files, "GPT2Tokenizer", chat.CHATML, True, add_prefix_space=False, bos_token="<|endoftext|>", eos_token="<|im_end|>", pad_token="<|pad|>",
                      unk_token="<|endoftext|>")


def stablelm():
    """The tokenizer of GPT-NeoX, with its tokens of runs of spaces."""
    spaces = [("  " * n, False) for n in (4, 3, 2)]
    files = v.byte_level(size=384, regex=v.GPT2, specials=plain("<|endoftext|>", "<|padding|>") + spaces, normalizer={"type": "NFC"}, joined=True)
    return text_files(files, "GPTNeoXTokenizer", chat.STABLELM, add_prefix_space=False, bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>")


def stablelm2():
    specials = ["<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|im_start|>", "<|im_end|>", "<|reg_extra|>"]
    files = v.byte_level(size=384, regex=v.QWEN2, specials=plain(*specials), normalizer={"type": "NFC"})
    return text_files(files, "GPT2Tokenizer", chat.STABLELM, add_prefix_space=False, bos_token="<|endoftext|>", eos_token="<|endoftext|>",
                      pad_token="<|endoftext|>", unk_token="<|endoftext|>")


def falcon3():
    specials = ["<|endoftext|>", "<|pad|>", ">>UNUSED_0<<", ">>UNUSED_1<<", "<tool_call>", "</tool_call>", "<|assistant|>", "<|user|>", "<|system|>"]
    files = v.byte_level(size=384, regex=v.LLAMA3, specials=plain(*specials), specials_first=True)
    return text_files(files, "PreTrainedTokenizerFast", chat.FALCON3, add_prefix_space=False, eos_token="<|endoftext|>", pad_token="<|pad|>",
                      model_input_names=["input_ids", "attention_mask"])


def glm4():
    specials = ["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    files = v.byte_level(size=380, regex=v.LLAMA3, specials=plain(*specials), before=["[gMASK]", "<sop>"])
    return text_files(files, "PreTrainedTokenizerFast", chat.GLM4, eos_token="<|user|>", pad_token="<|endoftext|>", do_lower_case=False, remove_space=False,
                      model_input_names=["input_ids", "attention_mask"], additional_special_tokens=specials)


def bert(size=384):
    files = v.word_piece(size=size)
    return text_files(files, "BertTokenizer", cls_token="[CLS]", do_basic_tokenize=True, do_lower_case=True, mask_token="[MASK]", model_max_length=128,
                      never_split=None, pad_token="[PAD]", sep_token="[SEP]", strip_accents=None, tokenize_chinese_chars=True, unk_token="[UNK]")

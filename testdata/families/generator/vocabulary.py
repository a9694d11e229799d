"""Tiny tokenizers of each family's real kind: the files of a checkpoint folder that describe its text."""

import base64
import io
import json

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as sentencepiece_model
from tokenizers import Tokenizer, normalizers, pre_tokenizers, trainers

from . import corpus

GPT2 = None  # the expression that is built into ByteLevel
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?"
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _letter_bytes():
    """The letter that stands for every byte in a byte-level vocabulary: itself if it is printed, or one from 256 on."""
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + i): byte for i, byte in enumerate(rest)}


LETTER_BYTES = _letter_bytes()


def added(id, content, special=True, **flags):
    """One entry of `added_tokens`."""
    token = {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": not special, "special": special}
    return token | flags


def template(before, after, ids):
    """A TemplateProcessing post-processor that puts tokens before and after a text (and a second text, alike)."""
    def piece(name):
        return {"SpecialToken": {"id": name, "type_id": 0}}

    def sequence(name, kind):
        return {"Sequence": {"id": name, "type_id": kind}}

    single = [piece(t) for t in before] + [sequence("A", 0)] + [piece(t) for t in after]
    pair = single + [{"SpecialToken": {"id": t, "type_id": 1}} for t in before] + [sequence("B", 1)] + [{"SpecialToken": {"id": t, "type_id": 1}} for t in after]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": pair,
        "special_tokens": {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in dict.fromkeys(before + after)},
    }


def document(added_tokens, normalizer, pre_tokenizer, post_processor, decoder, model):
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added_tokens, "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": decoder, "model": model,
    }


def byte_level(*, size, regex, specials, before=(), after=(), normalizer=None, specials_first=False, ignore_merges=False, digits=False, by_rank=False,
               joined=False, flags=None):
    """A byte-level BPE `tokenizer.json`. `specials` is a list of (content, is special); `size` counts them.

    `by_rank`: as made of a file of ranks, where bytes lie in order of value and every way to split a token is a merge.
    `joined`: merges as older files have them, strings with a space between the two.
    """
    split = lambda trim: {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": trim, "use_regex": regex is GPT2}
    if regex is GPT2:
        pre = split(True)
        if digits:
            pre = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, pre]}
    else:
        pre = {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}, split(False)]}
    plain = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
        "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": {}, "merges": [],
    }
    tokenizer = Tokenizer.from_str(json.dumps(document([], normalizer, pre, None, None, plain)))
    trainer = trainers.BpeTrainer(vocab_size=size - len(specials), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=[], show_progress=False)
    tokenizer.train_from_iterator(corpus.TRAINING, trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    words, pairs = sorted(trained["vocab"], key=trained["vocab"].get), trained["merges"]
    if by_rank:
        words[:256] = [letter for _, letter in sorted((byte, letter) for letter, byte in LETTER_BYTES.items())]
        rank = {word: i for i, word in enumerate(words)}
        splits = [[(word[:i], word[i:]) for i in range(1, len(word)) if word[:i] in rank and word[i:] in rank] for word in words[256:]]
        pairs = [list(pair) for local in splits for pair in sorted(local, key=lambda p: (rank[p[0]], rank[p[1]]))]
    base = len(specials) if specials_first else 0
    vocab = {w: i + base for i, w in enumerate(words)}
    first = 0 if specials_first else len(words)
    added_tokens = [added(first + i, content, special, **(flags or {})) for i, (content, special) in enumerate(specials)]
    ids = {t["content"]: t["id"] for t in added_tokens}
    if specials_first:
        vocab = ids | vocab
    model = plain | {"ignore_merges": ignore_merges, "vocab": vocab, "merges": [" ".join(pair) for pair in pairs] if joined else pairs}
    if joined:
        del model["ignore_merges"]
    bytes_post = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    post = bytes_post
    if before or after:
        post = {"type": "Sequence", "processors": [bytes_post, template(list(before), list(after), ids)]}
    decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    return {"tokenizer.json": document(added_tokens, normalizer, pre, post, decoder, model)}


def tekken(tokenizer):
    """`tekken.json` for a `tokenizer.json` made `by_rank`."""
    special = len(tokenizer["added_tokens"])
    vocab = []
    for rank, word in enumerate(sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)[special:]):
        content = bytes(LETTER_BYTES[letter] for letter in word)
        try:
            string = content.decode("utf-8")
        except UnicodeDecodeError:
            string = None
        vocab.append({"rank": rank, "token_bytes": base64.b64encode(content).decode(), "token_str": string})
    config = {"pattern": TEKKEN, "num_vocab_tokens": len(vocab), "default_vocab_size": len(vocab) + special, "default_num_special_tokens": special, "version": "v3"}
    return {"config": config, "vocab": vocab}


def merges(pieces):
    """The merges that give SentencePiece's BPE from its scores, in the order of the published converter."""
    vocab = {piece: i for i, (piece, _) in enumerate(pieces)}
    found = []
    for piece, score in pieces:
        local = [(piece[:i], piece[i:], score) for i in range(1, len(piece)) if piece[:i] in vocab and piece[i:] in vocab]
        found += sorted(local, key=lambda m: (vocab[m[0]], vocab[m[1]]))
    found.sort(key=lambda m: (m[2], len(m[0]), len(m[1])), reverse=True)
    return [[left, right] for left, right, _ in found]


def sentence_piece(*, size, style, control=("<unk>", "<s>", "</s>"), symbols=(), more=(), before=("<s>",), after=(), dummy_prefix=True):
    """A SentencePiece BPE `tokenizer.model` with byte fallback, and the `tokenizer.json` that is made of it.

    `style`: "llama" (normalizer that prepends and replaces), "metaspace", or "gemma" (replaces only, splits at a space).
    `symbols` are user-defined pieces of the model; `more` are tokens added after it in `tokenizer.json` alone.
    """
    writer = io.BytesIO()
    # The rarest letters are left to byte fallback.
    lines = [line for text in corpus.TRAINING for line in text.split("\n") if line for _ in range(8 if line.isascii() else 2)]
    place = {name: control.index(token) if token in control else -1 for name, token in
             [("unk_id", "<unk>"), ("bos_id", "<bos>" if "<bos>" in control else "<s>"), ("eos_id", "<eos>" if "<eos>" in control else "</s>"), ("pad_id", "<pad>")]}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=writer, model_type="bpe",
        vocab_size=size, byte_fallback=True, character_coverage=0.98, split_digits=True, add_dummy_prefix=dummy_prefix, remove_extra_whitespaces=False,
        normalization_rule_name="identity", allow_whitespace_only_pieces=True, user_defined_symbols=list(symbols), num_threads=1, minloglevel=2,
        bos_piece="<bos>" if "<bos>" in control else "<s>", eos_piece="<eos>" if "<eos>" in control else "</s>", **place,
    )
    proto = sentencepiece_model.ModelProto()
    proto.ParseFromString(writer.getvalue())
    pieces = [(p.piece, p.score) for p in proto.pieces]
    vocab = {piece: i for i, (piece, _) in enumerate(pieces)}
    assert len(vocab) == size
    tokens = [added(vocab[t], t) for t in control]
    tokens += [added(vocab[t], t, special=t.startswith("<") and not t.startswith("<h"), normalized=False) for t in symbols]
    tokens += [added(size + i, t, special, **flags) for i, (t, special, flags) in enumerate(more)]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    normalizer = {
        "llama": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}, "metaspace": None, "gemma": replace,
    }[style]
    pre = {
        "llama": None,
        "metaspace": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
        "gemma": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
    }[style]
    decoder = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if style != "gemma":
        decoder.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    ids = {t["content"]: t["id"] for t in tokens}
    model = {
        "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
        "fuse_unk": True, "byte_fallback": True, "vocab": vocab, "merges": merges(pieces),
    }
    if style == "llama":
        model["merges"] = [" ".join(pair) for pair in model["merges"]]
    else:
        model["ignore_merges"] = False
    post = template(list(before), list(after), ids)
    return {
        "tokenizer.model": writer.getvalue(),
        "tokenizer.json": document(tokens, normalizer, pre, post, {"type": "Sequence", "decoders": decoder}, model),
    }


def word_piece(*, size):
    """BERT's uncased WordPiece: `vocab.txt` and `tokenizer.json`. Letters, their continuations, then the commonest words and endings."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    pre = {"type": "BertPreTokenizer"}
    split, clean = pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer()
    counts, letters = {}, {}
    for text in corpus.TRAINING:
        for word, _ in split.pre_tokenize_str(clean.normalize_str(text)):
            for part in [word] + ["##" + word[i:] for i in range(1, len(word)) if 2 <= len(word) - i <= 4]:
                counts[part] = counts.get(part, 0) + 1
            for i, letter in enumerate(word):
                letters[letter] = letters.get(letter, 0) + 1
    common = sorted((c for c in letters if c.isascii() or letters[c] > 2), key=lambda c: (not c.isascii(), c))
    vocab = special[:1] + ["[unused0]", "[unused1]"] + special[1:]
    vocab += common + ["##" + c for c in common if c.isalnum()]
    for part in sorted(counts, key=lambda p: (-counts[p], p)):
        if len(vocab) < size and part not in vocab:
            vocab.append(part)
    ids = {t: i for i, t in enumerate(vocab)}
    post = template(["[CLS]"], ["[SEP]"], ids)
    # A second text has no [CLS] of its own.
    post["pair"] = post["pair"][:3] + post["pair"][4:]
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": ids}
    return {
        "vocab.txt": ("\n".join(vocab) + "\n").encode(),
        "tokenizer.json": document([added(ids[t], t) for t in special], normalizer, pre, post, {"type": "WordPiece", "prefix": "##", "cleanup": True}, model),
    }


def config(files, cls, **keys):
    """`tokenizer_config.json` for the tokens of a `tokenizer.json`."""
    tokens = {str(t["id"]): {k: t[k] for k in ("content", "lstrip", "normalized", "rstrip", "single_word", "special")} for t in files["tokenizer.json"]["added_tokens"]}
    return files | {"tokenizer_config.json": {"added_tokens_decoder": tokens, "clean_up_tokenization_spaces": False, "tokenizer_class": cls} | keys}


def cases(path):
    """What the tokenizer of a folder gives for every string of the corpus."""
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    rows = []
    for text in corpus.CASES:
        row = {"text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids, "ids_with_special": tokenizer.encode(text).ids}
        row["decoded"] = tokenizer.decode(row["ids"], skip_special_tokens=False)
        if row["decoded"] == text:
            del row["decoded"]
        rows.append(row)
    return {"cases": rows}

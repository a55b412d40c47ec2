"""Makes the golden data of the tokenizer tests with the Python packages tokenizers, transformers, gguf.

    python make.py [SMOLLM2.gguf]

Per family: a small tokenizer with that family's components (tokenizer.json, or vocab.json and
merges.txt; for some also as tokenizer.gguf) and expected.txt, one line per corpus line: the number of ids without special tokens, a
hash of these ids followed by the ids with special tokens, and a hash of the text that the latter
decode to followed by that text without special tokens, and a hash of the words that the pre-tokenizer
makes of the normalized text, each closed by a byte 255 (small vocabularies would not show a wrong
split).  samples.jsonl has some lines in full.  The
corpus is corpus.jsonl (texts) followed by bytes.hex.
With the GGUF file the real SmolLM2 tokenizer is recorded in smollm2/ too (ids only; the file itself
is not kept here).
Hashes are the low 32 bits of FNV-1a (64 bit); ids are hashed as little-endian int32.
"""
import json
import os
import sys

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import corpus

HERE = os.path.dirname(os.path.abspath(__file__))
SPACE = "\u2581"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
          r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
          r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def fnv(data):
    h = 14695981039346656037
    for b in data:
        h = ((h ^ b) * 1099511628211) & 0xFFFFFFFFFFFFFFFF
    return h & 0xFFFFFFFF


def fnv_ids(ids):
    return fnv(b"".join(i.to_bytes(4, "little") for i in ids))


def special(text, **kw):
    return AddedToken(text, special=True, normalized=False, **kw)


# ---- families ----

def train_byte_level(tok, vocab_size, first=()):
    """`first` are special tokens that take the first ids."""
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(first), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(corpus.training(), trainer)


def gpt2():
    tok = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=True)
    train_byte_level(tok, 1200)
    tok.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=True)])
    return tok


def opt_files(folder):
    """OPT ships vocab.json and merges.txt; HF's GPT2Tokenizer with add_bos_token makes the rest."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    train_byte_level(tok, 1100, ["<s>", "<pad>", "</s>", "<unk>"])
    tok.model.save(folder)
    pad = {"content": "<pad>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "__type": "AddedToken"}
    end = dict(pad, content="</s>")
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as f:
        json.dump({"errors": "replace", "unk_token": end, "bos_token": end, "eos_token": end, "pad_token": pad,
                   "add_prefix_space": False, "add_bos_token": True, "special_tokens_map_file": None,
                   "name_or_path": "patrickvonplaten/opt-30b", "tokenizer_class": "GPT2Tokenizer"}, f, indent=1)
    with open(os.path.join(folder, "special_tokens_map.json"), "w") as f:
        strip = lambda t: {k: v for k, v in t.items() if k != "__type"}
        json.dump({"bos_token": strip(end), "eos_token": strip(end), "unk_token": strip(end), "pad_token": strip(pad)}, f, indent=1)


def opt(folder):
    """The fast tokenizer that those files stand for (HF transformers' GPT2Converter)."""
    tok = Tokenizer(models.BPE.from_file(os.path.join(folder, "vocab.json"), os.path.join(folder, "merges.txt")))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken("</s>", special=True, normalized=True), AddedToken("<pad>", special=True, normalized=True)])
    tok.post_processor = processors.TemplateProcessing(single="</s>:0 $A:0", pair="</s>:0 $A:0 $B:1", special_tokens=[("</s>", 2)])
    return tok


def llama3():
    tok = Tokenizer(models.BPE(ignore_merges=True))
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    train_byte_level(tok, 1300)
    # A word that is a token but that no merges make, as tiktoken vocabularies have them.
    vocab, spec = tok.get_vocab(), json.loads(tok.to_str())
    spec["model"]["vocab"]["\u0120zyx"] = len(vocab)
    tok = Tokenizer.from_str(json.dumps(spec))
    tok.add_special_tokens([special(t) for t in ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>",
                                                 "<|end_header_id|>", "<|eot_id|>")])
    bos = tok.token_to_id("<|begin_of_text|>")
    tok.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
                                      special_tokens=[("<|begin_of_text|>", bos)])])
    return tok


def qwen2():
    tok = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="", byte_fallback=False, fuse_unk=False))
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    train_byte_level(tok, 1300)
    tok.add_special_tokens([special(t) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    tok.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("</tool_call>", normalized=False)])
    return tok


def smollm():
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tok.decoder = decoders.ByteLevel()
    train_byte_level(tok, 1200, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"])
    return tok


def tekken():
    tok = Tokenizer(models.BPE(ignore_merges=True))
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(TEKKEN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    train_byte_level(tok, 1200, ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"])
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    return tok


def sentencepiece_model(vocab_size=1500):
    """Vocabulary and merges as a sentencepiece BPE model with byte fallback has them."""
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    # Trained with words kept apart, as sentencepiece does; the tokenizer itself does not split.
    tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never", split=True)
    first = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)]
    tok.train_from_iterator(corpus.training(), trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=first, show_progress=False,
                                                                   limit_alphabet=420))
    spec = json.loads(tok.to_str())
    return spec["model"]["vocab"], [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in spec["model"]["merges"]]


def sentencepiece(vocab, merges, normalizer, pre_tokenizer, strip=True):
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizer
    tok.pre_tokenizer = pre_tokenizer
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tok.decoder = decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if strip else []))
    tok.add_special_tokens([special("<unk>"), special("<s>"), special("</s>")])
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    return tok


def legacy():
    return normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])


def llama2_legacy(vocab, merges):
    return sentencepiece(vocab, merges, legacy(), None)


def llama2_metaspace(vocab, merges):
    return sentencepiece(vocab, merges, None, pre_tokenizers.Metaspace(SPACE, prepend_scheme="first", split=False))


def mistral(vocab, merges):
    """Metaspace in every stretch of text, instruction marks, and added tokens with every flag."""
    tok = sentencepiece(vocab, merges, None, pre_tokenizers.Metaspace(SPACE, prepend_scheme="always", split=False))
    tok.add_special_tokens([special("[INST]"), special("[/INST]", lstrip=True, rstrip=True), special("<mask>", lstrip=True)])
    tok.add_tokens([AddedToken("<tool_call>", rstrip=True, normalized=False), AddedToken("<word>", single_word=True, normalized=False),
                    AddedToken("<extra>", normalized=False), AddedToken("<extra><extra>", normalized=False)])
    return tok


def legacy_added(vocab, merges):
    """Legacy form, with added tokens that are looked for in normalized text; Metaspace decoder; no byte fallback."""
    vocab = {t: i for i, t in enumerate(t for t in sorted(vocab, key=vocab.get) if not t.startswith("<0x"))}
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=False, byte_fallback=False))
    tok.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(" ", SPACE)])
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split("x", behavior="merged_with_previous"),
                                                 pre_tokenizers.Split(Regex(r"\p{Lu}+"), behavior="merged_with_next"),
                                                 pre_tokenizers.Punctuation(behavior="contiguous"),
                                                 pre_tokenizers.Split("-", behavior="removed"),
                                                 pre_tokenizers.Digits(individual_digits=False)])
    tok.decoder = decoders.Metaspace(SPACE, prepend_scheme="always", split=True)
    tok.add_special_tokens([AddedToken("<s>", special=True, normalized=True), AddedToken("</s>", special=True, normalized=True, lstrip=True)])
    tok.add_tokens([AddedToken("Hi", normalized=True), AddedToken("<norm-\u00e9>", normalized=True), AddedToken("<word>", single_word=True, normalized=True, rstrip=True),
                    AddedToken("a b", normalized=False)])
    tok.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1",
                                                       special_tokens=[("<s>", tok.token_to_id("<s>")), ("</s>", tok.token_to_id("</s>"))])
    return tok


def llama_scores(vocab):
    """A vocabulary with scores, as sentencepiece has it: the earlier a piece was made, the higher; the
    merges are derived from them as HF transformers does for such a file."""
    from transformers.tokenization_utils_base import generate_merges
    pieces = sorted(vocab, key=vocab.get)
    scores = {t: 0.0 if i < 259 else -float(i - 259) for i, t in enumerate(pieces)}
    return llama2_metaspace(vocab, generate_merges(vocab, scores)), [scores[t] for t in pieces]


def write_gguf(path, tok, model, pre=None, scores=None, bos=None, eos=None, **flags):
    """The metadata of a GGUF file with this tokenizer, and one small tensor, as a file must have."""
    import gguf
    import numpy
    spec = json.loads(tok.to_str())
    tokens = dict(spec["model"]["vocab"])
    types = {t: gguf.TokenType.NORMAL for t in tokens}
    for t in spec["added_tokens"]:
        tokens[t["content"]] = t["id"]
        types[t["content"]] = gguf.TokenType.CONTROL if t["special"] else gguf.TokenType.USER_DEFINED
    names = sorted(tokens, key=tokens.get)
    assert [tokens[t] for t in names] == list(range(len(names)))
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(names)
    writer.add_token_types([types[t] for t in names])
    if scores:
        writer.add_token_scores(scores)
    else:
        writer.add_token_merges([" ".join(m) for m in spec["model"]["merges"]])
    for name, value in (("bos", bos), ("eos", eos)):
        if value:
            getattr(writer, "add_%s_token_id" % name)(tokens[value])
    for name, value in flags.items():
        getattr(writer, name)(value)
    writer.add_tensor("token_embd.weight", numpy.zeros((1, 32), dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def real_smollm2(path):
    """The tokenizer of SmolLM2 from its GGUF metadata, with the pre-tokenizer of its tokenizer.json
    (Digits, then ByteLevel): transformers 5 reads the file as plain GPT-2."""
    import gguf
    fields = gguf.GGUFReader(path).fields
    assert fields["tokenizer.ggml.pre"].contents() == "smollm"
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    types = fields["tokenizer.ggml.token_type"].contents()
    tok = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([special(t) for t, kind in zip(tokens, types) if kind == 3])
    return tok


# ---- writing ----

def json_form(spec):
    """One entry a line, without indent: readable differences, half the size."""
    model = spec["model"]
    vocab, merges = model.pop("vocab"), model.pop("merges")
    head = json.dumps(spec, ensure_ascii=False)
    assert head.endswith("}}") or '"model"' in head
    lines = ",\n".join(json.dumps(t, ensure_ascii=False) + ":" + str(i) for t, i in sorted(vocab.items(), key=lambda x: x[1]))
    pairs = ",\n".join(json.dumps(m, ensure_ascii=False, separators=(",", ":")) for m in merges)
    marker = json.dumps(model, ensure_ascii=False)
    assert head.count(marker) == 1
    return head.replace(marker, marker[:-1] + ', "vocab": {\n' + lines + '},\n"merges": [\n' + pairs + "]}") + "\n"


BYTE_OF = {}
for b in range(256):
    own = 0x21 <= b <= 0x7E or 0xA1 <= b <= 0xAC or b >= 0xAE
    BYTE_OF[chr(b) if own else chr(256 + sum(1 for x in BYTE_OF if ord(x) > 255))] = b


def words(tok, text):
    """What BPE gets, as bytes; letters of ByteLevel are turned back."""
    normal = tok.normalizer.normalize_str(text) if tok.normalizer else text
    if not tok.pre_tokenizer:
        return [normal.encode()] if normal else []
    pieces = [p for p, _ in tok.pre_tokenizer.pre_tokenize_str(normal)] if normal else []
    if "ByteLevel" in repr(tok.pre_tokenizer):
        return [bytes(BYTE_OF[c] for c in p) for p in pieces]
    return [p.encode() for p in pieces]


def expected(tok, texts, folder, samples):
    rows, shown = [], []
    for number, text in enumerate(texts):
        ids = tok.encode(text, add_special_tokens=False).ids
        full = tok.encode(text, add_special_tokens=True).ids
        whole, bare = tok.decode(full, skip_special_tokens=False), tok.decode(full, skip_special_tokens=True)
        split = b"".join(w + b"\xff" for w in words(tok, text))
        rows.append("%d %x %x %x\n" % (len(ids), fnv_ids(ids + full), fnv(whole.encode() + bare.encode()), fnv(split)))
        if number in samples and len(ids) < 40:
            shown.append(json.dumps({"line": number, "text": text, "ids": full, "decoded": whole, "bare": bare}) + "\n")
    with open(os.path.join(folder, "expected.txt"), "w") as f:
        f.writelines(rows)
    with open(os.path.join(folder, "samples.jsonl"), "w") as f:
        f.writelines(shown)


def main():
    lines, raw = corpus.lines(), corpus.byte_lines()
    texts = lines + [b.decode("utf-8", errors="replace") for b in raw]
    samples = set(range(0, len(texts), 97)) | set(range(len(lines), len(texts), 9))
    with open(os.path.join(HERE, "corpus.jsonl"), "w") as f:
        f.writelines(json.dumps(t) + "\n" for t in lines)
    with open(os.path.join(HERE, "bytes.hex"), "w") as f:
        f.writelines(b.hex() + "\n" for b in raw)
    vocab, merges = sentencepiece_model()
    families = {"gpt2": gpt2, "llama3": llama3, "qwen2": qwen2, "smollm": smollm, "tekken": tekken,
                "llama2_legacy": lambda: llama2_legacy(vocab, merges), "llama2_metaspace": lambda: llama2_metaspace(vocab, merges),
                "mistral": lambda: mistral(vocab, merges), "legacy_added": lambda: legacy_added(vocab, merges)}
    for name, make in families.items():
        folder = os.path.join(HERE, name)
        os.makedirs(folder, exist_ok=True)
        spec = json.loads(make().to_str())
        if name in ("smollm", "mistral"):  # the older way to write merges
            spec["model"]["merges"] = [" ".join(m) for m in spec["model"]["merges"]]
        with open(os.path.join(folder, "tokenizer.json"), "w") as f:
            f.write(json_form(spec))
        expected(Tokenizer.from_file(os.path.join(folder, "tokenizer.json")), texts, folder, samples)
    made = lambda name: Tokenizer.from_file(os.path.join(HERE, name, "tokenizer.json"))
    gguf_at = lambda name: os.path.join(HERE, name, "tokenizer.gguf")
    write_gguf(gguf_at("gpt2"), made("gpt2"), "gpt2", "gpt-2", eos="<|endoftext|>")
    write_gguf(gguf_at("llama3"), made("llama3"), "gpt2", "llama-bpe", bos="<|begin_of_text|>", eos="<|end_of_text|>")
    write_gguf(gguf_at("qwen2"), made("qwen2"), "gpt2", "qwen2", bos="<|endoftext|>", eos="<|im_end|>", add_add_bos_token=False)
    write_gguf(gguf_at("smollm"), made("smollm"), "gpt2", "smollm", bos="<|im_start|>", eos="<|im_end|>", add_add_bos_token=False)
    write_gguf(gguf_at("tekken"), made("tekken"), "gpt2", "tekken", bos="<s>", eos="</s>", add_add_bos_token=True)
    folder = os.path.join(HERE, "llama_scores")
    os.makedirs(folder, exist_ok=True)
    tok, scores = llama_scores(vocab)
    write_gguf(gguf_at("llama_scores"), tok, "llama", scores=scores, bos="<s>", eos="</s>", add_unk_token_id=0)
    expected(tok, texts, folder, samples)
    folder = os.path.join(HERE, "opt")
    os.makedirs(folder, exist_ok=True)
    opt_files(folder)
    expected(opt(folder), texts, folder, samples)
    if len(sys.argv) > 1:
        folder = os.path.join(HERE, "smollm2")
        os.makedirs(folder, exist_ok=True)
        expected(real_smollm2(sys.argv[1]), texts, folder, samples)
    with open(os.path.join(HERE, "VERSIONS"), "w") as f:
        f.write("tokenizers %s, Python %s\n" % (tokenizers.__version__, sys.version.split()[0]))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes the tokenizer of SmolLM2's GGUF file as a folder that transformers reads.

Usage: gguf_tokenizer.py MODEL.gguf FOLDER
"""
import sys

import gguf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

fields = gguf.GGUFReader(sys.argv[1]).fields
assert fields["tokenizer.ggml.pre"].contents() == "smollm"
tokens = fields["tokenizer.ggml.tokens"].contents()
merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
types = fields["tokenizer.ggml.token_type"].contents()
tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
    pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
tokenizer.decoder = decoders.ByteLevel()
tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, kind in zip(tokens, types)
                              if kind == 3])
PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|im_start|>",
                        eos_token="<|im_end|>").save_pretrained(sys.argv[2])

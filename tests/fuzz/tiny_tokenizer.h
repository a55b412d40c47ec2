/* tiny_tokenizer.h - a tokenizer of four single bytes, for fuzz entries of requests. */
#ifndef SL_TESTS_FUZZ_TINY_TOKENIZER_H
#define SL_TESTS_FUZZ_TINY_TOKENIZER_H

#include "model/tokenizer.h"

static const char tiny_tokenizer_json[] =
    "{\"version\": \"1.0\", \"added_tokens\": [{\"id\": 4, \"content\": \"<|im_end|>\", "
    "\"special\": true, \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
    "\"normalized\": false}], \"normalizer\": null, \"pre_tokenizer\": {\"type\": \"ByteLevel\", "
    "\"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true}, "
    "\"post_processor\": null, \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, "
    "\"trim_offsets\": true, \"use_regex\": true}, \"model\": {\"type\": \"BPE\", \"vocab\": "
    "{\"a\": 0, \"b\": 1, \"s\": 2, \"u\": 3}, \"merges\": []}}";

static inline sl_status tiny_tokenizer_open(sl_tokenizer **out) {
    return sl_tokenizer_open_json(tiny_tokenizer_json, sizeof tiny_tokenizer_json - 1, NULL, 0,
                                  "fuzz", out);
}

#endif

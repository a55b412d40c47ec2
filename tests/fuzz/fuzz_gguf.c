/* Fuzz entry of gguf.c and gguf_meta.c: any bytes as a GGUF file. */
#include "use_checkpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t text_bytes(const sl_gguf_value *v) {
    size_t n = 0;
    for (size_t i = 0; v && v->kind == SL_GGUF_ARRAY && v->elem_kind == SL_GGUF_STRING && i < v->n;
         i++) {
        REQUIRE(v->strings[i][v->string_bytes[i]] == '\0');
        n += v->string_bytes[i];
    }
    return n;
}

static void use_gguf(sl_checkpoint *ckpt) {
    const sl_gguf_value *v = sl_gguf_find(ckpt, "general.architecture");
    if (v && v->kind == SL_GGUF_STRING) REQUIRE(v->s[v->s_bytes] == '\0');
    REQUIRE(text_bytes(sl_gguf_find(ckpt, "tokenizer.ggml.tokens")) < SIZE_MAX);
    v = sl_gguf_find(ckpt, "tokenizer.ggml.scores");
    if (v && v->kind == SL_GGUF_ARRAY && v->n > 0) REQUIRE(v->ints || v->floats || v->strings);
    use_checkpoint(ckpt);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    use_bytes(data, size, sl_gguf_open, use_gguf);
    return 0;
}

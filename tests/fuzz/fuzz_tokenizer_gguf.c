/* Fuzz entry of tokenizer_gguf.c: the tokenizer in a GGUF file of any bytes. */
#include "use_checkpoint.h"

#include "model/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use_tokenizer(sl_checkpoint *gguf) {
    static const char text[] = "Don't <s> stop\n\t123 caf\xc3\xa9 ab e\xcc\x81 \xe2\x96\x81 \xff";
    sl_tokenizer *tok = NULL;
    int32_t *ids = NULL;
    char *back = NULL;
    size_t n = 0, bytes = 0;
    const sl_status opened = sl_tokenizer_open_gguf(gguf, &tok);
    sl_checkpoint_close(gguf); /* the tokenizer keeps nothing of it */
    if (opened != SL_OK || !tok) return;
    REQUIRE(sl_tokenizer_encode(tok, text, sizeof text - 1, 1, &ids, &n) == SL_OK);
    for (size_t i = 0; i < n; i++) REQUIRE(ids[i] >= 0 && ids[i] < sl_tokenizer_n_tokens(tok));
    REQUIRE(sl_tokenizer_decode(tok, ids, n, 1, &back, &bytes) == SL_OK);
    REQUIRE(strlen(back) <= bytes);
    free(back);
    free(ids);
    sl_tokenizer_close(tok);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    use_bytes(data, size, sl_gguf_open, use_tokenizer);
    return 0;
}

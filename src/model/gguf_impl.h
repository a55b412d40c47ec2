/* gguf_impl.h - the cursor over a GGUF file's header, and its metadata.
 *
 * Private to gguf.c and gguf_meta.c.
 * Layer: model.  May include: base.  Thread safety: one thread per cursor.
 */
#ifndef SL_MODEL_GGUF_IMPL_H
#define SL_MODEL_GGUF_IMPL_H

#include "model/checkpoint_impl.h"

/* Reads a header front to back through a buffer: it is parsed byte by byte, and mapping it would
 * turn a file that shrinks meanwhile into a signal. */
typedef struct {
    const sl_checkpoint_file *file;
    uint64_t pos; /* of the next byte to take */
    uint64_t end; /* of what may be taken: the file's end, or the limit for headers */
    char where[SL_TENSOR_NAME_MAX + 32]; /* what is being read, for messages */
    size_t buf_pos, buf_bytes;
    unsigned char buf[16384];
} sl_gguf_cursor;

/* Takes the next bytes.  Errors: SL_ERR_FORMAT when fewer are left, SL_ERR_IO. */
sl_status sl_gguf_take(sl_gguf_cursor *cursor, void *dst, size_t bytes);
sl_status sl_gguf_take_u32(sl_gguf_cursor *cursor, uint32_t *out);
sl_status sl_gguf_take_u64(sl_gguf_cursor *cursor, uint64_t *out);

/* Takes a string's length and checks it against `max` and what is left of the file. */
sl_status sl_gguf_take_length(sl_gguf_cursor *cursor, size_t max, size_t *out);

/* Fails unless `n` items of at least `min_bytes` each can follow. */
sl_status sl_gguf_check_count(const sl_gguf_cursor *cursor, uint64_t n, uint64_t min_bytes);

typedef struct {
    char *key;
    sl_gguf_value value; /* owns what it points to */
} sl_gguf_pair;

typedef struct {
    sl_gguf_pair *pairs; /* [n], sorted by key */
    size_t n;
} sl_gguf_meta;

/* Reads `n` key-value pairs.  *meta_out is written only on success; the caller frees it. */
sl_status sl_gguf_meta_read(sl_gguf_cursor *cursor, uint64_t n, sl_gguf_meta **meta_out);
void sl_gguf_meta_free(void *meta);
const sl_gguf_value *sl_gguf_meta_find(const sl_gguf_meta *meta, const char *key);

#endif

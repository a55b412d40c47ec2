/* buffer.h - a growing byte buffer, and a bounds-checked reader over bytes.
 *
 * Messages between ranks are written and read with these.  Numbers are in the machine's own order:
 * all ranks run the same build, which they check when they start.
 * Layer: base.  Thread safety: one owner.
 */
#ifndef SL_BASE_BUFFER_H
#define SL_BASE_BUFFER_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct {
    unsigned char *data;
    size_t n;        /* bytes written */
    size_t capacity; /* bytes allocated; kept by reset */
    int failed;      /* 1 after an allocation failed; later puts do nothing */
} sl_buffer;

/* A zeroed sl_buffer is empty and valid. */
void sl_buffer_free(sl_buffer *b);
static inline void sl_buffer_reset(sl_buffer *b) {
    b->n = 0;
    b->failed = 0;
}
void sl_buffer_put(sl_buffer *b, const void *data, size_t bytes);
static inline void sl_buffer_put_i32(sl_buffer *b, int32_t v) {
    sl_buffer_put(b, &v, sizeof v);
}
static inline void sl_buffer_put_u64(sl_buffer *b, uint64_t v) {
    sl_buffer_put(b, &v, sizeof v);
}
static inline void sl_buffer_put_f32(sl_buffer *b, float v) {
    sl_buffer_put(b, &v, sizeof v);
}
/* SL_ERR_NOMEM if any put failed. */
sl_status sl_buffer_status(const sl_buffer *b);

typedef struct {
    const unsigned char *data;
    size_t n, at;
    int failed; /* 1 after a read beyond the end; later reads give zeros */
} sl_reader;

static inline sl_reader sl_reader_of(const void *data, size_t bytes) {
    return (sl_reader){data, bytes, 0, 0};
}
void sl_reader_get(sl_reader *r, void *out, size_t bytes);
/* A pointer to the next bytes in place, NULL beyond the end. */
const void *sl_reader_view(sl_reader *r, size_t bytes);
static inline int32_t sl_reader_i32(sl_reader *r) {
    int32_t v;
    sl_reader_get(r, &v, sizeof v);
    return v;
}
static inline uint64_t sl_reader_u64(sl_reader *r) {
    uint64_t v;
    sl_reader_get(r, &v, sizeof v);
    return v;
}
static inline float sl_reader_f32(sl_reader *r) {
    float v;
    sl_reader_get(r, &v, sizeof v);
    return v;
}

#endif

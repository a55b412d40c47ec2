#include "base/buffer.h"

#include <stdlib.h>
#include <string.h>

void sl_buffer_free(sl_buffer *b) {
    free(b->data);
    *b = (sl_buffer){0};
}

void sl_buffer_put(sl_buffer *b, const void *data, size_t bytes) {
    if (b->failed || bytes == 0) return;
    if (bytes > SIZE_MAX / 2 - b->n) {
        b->failed = 1;
        return;
    }
    if (b->n + bytes > b->capacity) {
        size_t more = b->capacity ? b->capacity : 256;
        while (more < b->n + bytes) more *= 2;
        unsigned char *grown = realloc(b->data, more);
        if (!grown) {
            b->failed = 1;
            return;
        }
        b->data = grown;
        b->capacity = more;
    }
    memcpy(b->data + b->n, data, bytes);
    b->n += bytes;
}

sl_status sl_buffer_status(const sl_buffer *b) {
    return b->failed ? SL_FAIL(SL_ERR_NOMEM, "out of host memory for a message of %zu bytes", b->n)
                     : SL_OK;
}

const void *sl_reader_view(sl_reader *r, size_t bytes) {
    if (r->failed || bytes > r->n - r->at) {
        r->failed = 1;
        return NULL;
    }
    const void *view = r->data + r->at;
    r->at += bytes;
    return view;
}

void sl_reader_get(sl_reader *r, void *out, size_t bytes) {
    const void *view = sl_reader_view(r, bytes);
    if (view)
        memcpy(out, view, bytes);
    else
        memset(out, 0, bytes);
}

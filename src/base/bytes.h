/* bytes.h - checked arithmetic on sizes, alignment, and sizes as text.
 *
 * Sizes that come from files and flags are multiplied and added here, so that
 * an overflow is an error and never a small allocation.
 * Layer: base.  Thread safety: pure functions.
 */
#ifndef SL_BASE_BYTES_H
#define SL_BASE_BYTES_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* *out = a * b.  Errors: SL_ERR_NOMEM when the product exceeds size_t. */
sl_status sl_size_mul(size_t a, size_t b, size_t *out);

/* *out = a + b.  Errors: SL_ERR_NOMEM when the sum exceeds size_t. */
sl_status sl_size_add(size_t a, size_t b, size_t *out);

/* Smallest multiple of `align` (a power of two) that is >= bytes. */
static inline size_t sl_align_up(size_t bytes, size_t align) {
    return (bytes + align - 1) & ~(align - 1);
}

/* "16GiB", "512MiB", "4096", "1.5GiB" -> bytes.  Units: B, KiB, MiB, GiB, TiB and K, M, G, T,
 * all powers of 1024.  Errors: SL_ERR_ARG naming the text. */
sl_status sl_bytes_parse(const char *text, size_t *out);

/* Writes bytes in a readable unit ("1.25 GiB") into buf and returns buf. */
const char *sl_bytes_format(size_t bytes, char *buf, size_t buf_bytes);

#ifdef __cplusplus
}
#endif
#endif

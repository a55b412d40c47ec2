/* measure_pages.h - what is measured with: cache pages and rows with something in them, never
 * constants, which chips compute faster than what a model holds.
 *
 * Layer: policy.  May include: src.  Thread safety: pure functions.
 */
#ifndef SL_POLICY_MEASURE_PAGES_H
#define SL_POLICY_MEASURE_PAGES_H

#include <stddef.h>

#include <stdint.h>

#include "base/status.h"
#include "measure.h"
#include "store/kv_format.h"

/* Fills n pages one after another: all heads hold the same random keys and values, near 0.
 *   pages  host, [n * format->page_bytes] */
sl_status sl_measure_fill_pages(const sl_kv_format *format, void *pages, int n);

/* n activations as a norm leaves them, of act_bytes each (2: f16, 4: f32); the same each time. */
void sl_measure_fill_row(void *row, size_t act_bytes, int n, uint64_t seed);

/* Rows where the backend computes: [n_rows, cols], a few hundred different ones over and over.
 * Errors: SL_ERR_NOMEM, those of sl_measure_upload(). */
sl_status sl_measure_fill_rows(sl_measure *m, void *rows, int n_rows, int cols);

/* out[i] = the address of page i of n, in an order that is random but the same each time. */
void sl_measure_mix_pages(void *pages, size_t page_bytes, int n, void **out);

#endif

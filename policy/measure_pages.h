/* measure_pages.h - cache pages with something in them, to attend to.
 *
 * Layer: policy.  May include: src.  Thread safety: pure functions.
 */
#ifndef SL_POLICY_MEASURE_PAGES_H
#define SL_POLICY_MEASURE_PAGES_H

#include <stddef.h>

#include "base/status.h"
#include "store/kv_format.h"

/* Fills n pages one after another: all heads hold the same random keys and values, near 0.
 *   pages  host, [n * format->page_bytes] */
sl_status sl_measure_fill_pages(const sl_kv_format *format, void *pages, int n);

/* out[i] = the address of page i of n, in an order that is random but the same each time. */
void sl_measure_mix_pages(void *pages, size_t page_bytes, int n, void **out);

#endif

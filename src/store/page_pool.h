/* page_pool.h - numbers of the pages of one tier: which are free, how often the others are shared.
 *
 * Takes runs of consecutive numbers, so that a sequence's pages lie one after another.
 * Layer: store.  May include: base.  Thread safety: one owner.
 */
#ifndef SL_STORE_PAGE_POOL_H
#define SL_STORE_PAGE_POOL_H

#include <stdint.h>

#include "base/status.h"

typedef struct {
    int n, n_free;
    int peak;             /* most in use at a time */
    int first_free;       /* no number below it is free */
    uint32_t *references; /* [n] holders; 0: free */
} sl_page_pool;

/* A zeroed pool is empty and may be freed. */
sl_status sl_page_pool_open(int n, sl_page_pool *out);
void sl_page_pool_close(sl_page_pool *pool);

/* Takes `count` pages: one run if any is long enough, else the longest pieces from the front.
 *   after  the number before the run that is wished for (a sequence goes on there), or -1
 *   out    [count]
 * Errors: SL_ERR_NOMEM; then none is taken. */
sl_status sl_page_pool_take(sl_page_pool *pool, int count, int32_t after, int32_t *out);

void sl_page_pool_share(sl_page_pool *pool, int32_t page);
/* One holder less; the page is free when there is none. */
void sl_page_pool_put(sl_page_pool *pool, int32_t page);

#endif

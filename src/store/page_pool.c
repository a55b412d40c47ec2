#include "store/page_pool.h"

#include <stdlib.h>

sl_status sl_page_pool_open(int n, sl_page_pool *out) {
    uint32_t *references = calloc((size_t)n + 1, sizeof *references);
    if (!references) return SL_FAIL(SL_ERR_NOMEM, "kv cache: out of host memory for %d pages", n);
    *out = (sl_page_pool){.n = n, .n_free = n, .references = references};
    return SL_OK;
}

void sl_page_pool_close(sl_page_pool *pool) {
    free(pool->references);
    *pool = (sl_page_pool){0};
}

/* Free numbers from `from` on, at most `most`. */
static int run_at(const sl_page_pool *p, int from, int most) {
    int n = 0;
    while (n < most && from + n < p->n && p->references[from + n] == 0) n++;
    return n;
}

/* Start of the first run of `count`; -1 if there is none. */
static int find_run(const sl_page_pool *p, int count) {
    for (int i = p->first_free; i + count <= p->n;) {
        const int n = run_at(p, i, count);
        if (n == count) return i;
        i += n + 1;
    }
    return -1;
}

static void take_run(sl_page_pool *p, int from, int count, int32_t *out) {
    for (int i = 0; i < count; i++) {
        p->references[from + i] = 1;
        out[i] = from + i;
    }
    p->n_free -= count;
    while (p->first_free < p->n && p->references[p->first_free]) p->first_free++;
}

sl_status sl_page_pool_take(sl_page_pool *p, int count, int32_t after, int32_t *out) {
    if (count > p->n_free)
        return SL_FAIL(SL_ERR_NOMEM, "kv cache: %d pages are wanted, %d of %d are free", count,
                       p->n_free, p->n);
    if (after >= 0 && run_at(p, after + 1, count) == count) {
        take_run(p, after + 1, count, out);
    } else {
        const int whole = find_run(p, count);
        if (whole >= 0) {
            take_run(p, whole, count, out);
        } else {
            for (int done = 0; done < count;) {
                const int n = run_at(p, p->first_free, count - done);
                take_run(p, p->first_free, n, out + done);
                done += n;
            }
        }
    }
    if (p->n - p->n_free > p->peak) p->peak = p->n - p->n_free;
    return SL_OK;
}

void sl_page_pool_share(sl_page_pool *p, int32_t page) {
    p->references[page]++;
}

void sl_page_pool_put(sl_page_pool *p, int32_t page) {
    if (--p->references[page] > 0) return;
    p->n_free++;
    if (page < p->first_free) p->first_free = page;
}

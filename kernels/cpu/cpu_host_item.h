/* cpu_host_item.h - what the dense and the sparse way of one item share.
 *
 * Layer: kernels/cpu.  Only for cpu_host_job.c and cpu_host_sparse.c.
 */
#ifndef SL_CPU_HOST_ITEM_H
#define SL_CPU_HOST_ITEM_H

#include "cpu/cpu_host_job.h"

/* A job under way: what all of its items read. */
typedef struct {
    const sl_cpu_host *host;
    const sl_host_job *job;
    sl_cpu_host_order order;
    int group; /* query heads per key/value head */
    int heads; /* key/value heads of an item, at most */
    int items_per_row;
    size_t query_floats, mean_floats; /* of one query head */
} sl_cpu_host_work;

/* A thread's scratch.  A query head has its number within the item. */
typedef struct {
    float *x;      /* [heads * group * head_dim], as loaded or before it is stored */
    float *q;      /* [heads * group, query_floats] */
    float *mean;   /* [heads * group, mean_floats], unnormalised */
    float *score;  /* [group, SL_PAGE_TOKENS] */
    float *max;    /* [heads * group] */
    float *sum;    /* [heads * group] */
    float *shrink; /* [group] */
    /* sparse only; n_slots is the number of tokens of the longest row's pages */
    float *scores;  /* [group, n_slots] */
    int32_t *rank;  /* [n_slots] */
    int32_t *bound; /* [group] */
    int32_t *ties;  /* [group] */
    uint8_t *token; /* [2][group, SL_PAGE_TOKENS] */
    int32_t *n;     /* [2][group] */
    size_t n_slots;
    size_t bytes;
} sl_cpu_host_scratch;

/* One item: key/value heads [head0, head0 + n_heads) of one row. */
typedef struct {
    const sl_host_row *row;
    int head0, n_heads;
    int first, last; /* the positions that it sees */
} sl_cpu_host_item;

/* Keys of key/value head `head` of the page that holds position `position`; values lie half_bytes
 * behind. */
static inline char *sl_cpu_host_keys(const sl_cpu_host_work *w, const sl_cpu_host_item *item,
                                     int head, int position) {
    return (char *)item->row->page[position / SL_PAGE_TOKENS] +
           (size_t)head * w->job->format.head_bytes;
}

/* Values that a query head uses in the sparse way, of n_keys >= 1. */
int sl_cpu_host_kept(float sparsity, int n_keys);

/* Attends with packed queries; leaves mean, max and sum of every query head of the item. */
void sl_cpu_host_sparse(const sl_cpu_host_work *w, const sl_cpu_host_item *item,
                        const sl_cpu_host_scratch *s);

#endif

/* host_attention.h - decode attention on the host, beside a device that computes the rest.
 *
 * The pages of some sequences live in host memory.  Reading them there is cheaper than copying them
 * to the device, so the queries come to the pages: a job has the queries, new keys and new values
 * of some rows in host memory, appends the keys and values to the pages, attends, and leaves the
 * results in host memory.  Jobs run one after another on threads of their own, in the order in
 * which they were started. Layer: engine.  May include: base, store.  Thread safety: one caller per
 * object. Source: FlexGen, section 4.1 (attention on the CPU: the cache is B times larger than the
 * activations, so moving activations saves I/O).
 */
#ifndef SL_ENGINE_HOST_ATTENTION_H
#define SL_ENGINE_HOST_ATTENTION_H

#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"
#include "store/kv_format.h"

/* One row: a single new token of one sequence. */
typedef struct {
    int n_tokens;      /* positions that it sees, its own (n_tokens - 1) included; >= 1 */
    void *const *page; /* [ceil(n_tokens / SL_PAGE_TOKENS)] this layer's pages in token order, host,
                        * format.page_bytes each, 64-byte aligned; only the last is written */
} sl_host_row;

typedef struct {
    sl_kv_format format; /* of the pages: F16, F32, Q8G64 or Q4G64 */
    sl_dtype act;        /* elements of q, k, v and out: F16 or F32 */
    int n_heads;         /* query heads; head h reads key/value head h / (n_heads / n_kv_heads) */
    float scale;         /* of the scores, > 0 */
    int window;          /* 0: no limit; else only keys [n_tokens - window, n_tokens) */
    float sparsity; /* 0: dense.  Else, in (0, 1]: all keys are read, and of the values those of
                     * the ceil(sparsity * keys) largest weights per query head; the weights are
                     * those of the dense softmax, not renormalised (FlexGen, section 4.3) */
    int n_rows;
    const sl_host_row *row; /* [n_rows] */
    const void *q;          /* [n_rows, ldq]: n_heads * head_dim columns */
    int ldq;                /* elements */
    const void *k, *v;      /* [n_rows, ldkv]: n_kv_heads * head_dim columns, appended first; both
                             * NULL: they are in the pages already */
    int ldkv;
    void *out; /* [n_rows, ldo]: n_heads * head_dim columns written */
    int ldo;
} sl_host_job;

typedef struct sl_host_attention sl_host_attention;

typedef struct {
    uint64_t page_bytes_read; /* keys and values read, by all jobs so far */
    double busy_s;            /* in jobs */
} sl_host_stats;

typedef struct {
    /* Waits for the jobs under way. */
    void (*close)(sl_host_attention *ha);

    /* Queues a job and returns at once.  All that the job points to stays as it is until is_done()
     * has said so; the job itself is copied.  Results of a row do not depend on the other rows.
     * Errors: SL_ERR_ARG (shapes), SL_ERR_NOMEM (more than SL_HOST_JOBS under way). */
    sl_status (*start)(sl_host_attention *ha, const sl_host_job *job, uint64_t *ticket_out);

    /* Whether a job is done; never waits.  Tickets are those of start(), any number of times.
     *   start_s, end_s  clock (base/clock.h) of a done job; may be NULL
     * Errors: the job's own failure. */
    sl_status (*is_done)(sl_host_attention *ha, uint64_t ticket, int *done_out, double *start_s,
                         double *end_s);

    void (*get_stats)(const sl_host_attention *ha, sl_host_stats *out);
} sl_host_attention_ops;

/* Jobs that may be under way at a time; is_done() remembers as many. */
enum { SL_HOST_JOBS = 64 };

/* Every implementation's state begins with this. */
struct sl_host_attention {
    const sl_host_attention_ops *ops;
};

static inline void sl_host_attention_close(sl_host_attention *ha) {
    if (ha) ha->ops->close(ha);
}

#endif

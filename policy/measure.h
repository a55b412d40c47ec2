/* measure.h - what all measurements of a machine share: their machine, their time and their memory.
 *
 * A measurement runs a piece of work again and again for a fixed time, so that all of them together
 * end in time on a slow machine too; once the time for all is over each curve ends at its next
 * point.
 * Layer: policy.  May include: src.  Thread safety: one owner per object.
 */
#ifndef SL_POLICY_MEASURE_H
#define SL_POLICY_MEASURE_H

#include <stddef.h>

#include "base/status.h"
#include "engine/backend.h"
#include "engine/host_attention.h"
#include "engine/transport.h"
#include "store/pinned.h"

/* Micro-batches whose rows are bound at a time: a backend for measuring takes
 * SL_BOUND_PER_BATCH * SL_MEASURE_MICRO_BATCHES numbers or more, and 4096 rows. */
enum { SL_MEASURE_MICRO_BATCHES = 2 };

enum { SL_MEASURE_TEXT = 48 };

/* done_frac: 0 to 1 of all measurements; what: what is measured now. */
typedef void (*sl_measure_progress)(void *user, const char *what, double done_frac);

/* Everything is borrowed while it measures. */
typedef struct {
    sl_backend *backend;               /* what computes */
    sl_host_attention *host_attention; /* what attends on the host */
    int n_threads;                     /* of host_attention; as many read host memory */
    sl_transport *transport;           /* loopback: no wire */
    size_t host_bytes;                 /* host memory that may be taken meanwhile, at most */
    const char *disk_dir;              /* NULL: no disk */
    size_t disk_bytes;                 /* disk space that may be taken meanwhile, at most */
    double sample_s;                   /* about as long for each number, > 0 */
    double limit_s;                    /* after as long curves end early, > 0 */
    sl_measure_progress on_progress;   /* may be NULL */
    void *user;
} sl_measure_options;

typedef struct {
    const sl_measure_options *opt;
    sl_backend *be;
    const sl_device_ops *device; /* NULL: the host computes */
    sl_tier *host;
    sl_pinned_from pinned; /* host memory for copies */
    double end_s;          /* clock at which the time is over */
    const char *what;      /* the part that is measured, its shares of the progress */
    double from_frac, to_frac;
    char disk_engine[SL_MEASURE_TEXT]; /* sl_disk_engine() of the disk once it is measured */
} sl_measure;

/* *out is closed with sl_measure_close(), which waits for what is queued.  Errors: SL_ERR_NOMEM. */
sl_status sl_measure_open(const sl_measure_options *options, sl_measure *out);
void sl_measure_close(sl_measure *m);

/* Begins a part, and says how much of it is done. */
void sl_measure_part(sl_measure *m, const char *what, double from_frac, double to_frac);
void sl_measure_point(const sl_measure *m, int done, int of);

/* Whether curves are to end. */
int sl_measure_is_late(const sl_measure *m);

/* Queues one piece of work; run counts up from 0, to use other memory each time. */
typedef sl_status sl_measure_work(void *context, int run);

/* Seconds that one piece of work takes among many like it: the median of three batches, each long
 * enough that waiting for its end does not matter.  Work that alone takes longer than a sample is
 * done once or twice. */
sl_status sl_measure_time(const sl_measure *m, sl_measure_work *work, void *context,
                          double *seconds_out);

/* Memory where the backend computes, for `bytes` at least.  Released with sl_measure_put(). */
sl_status sl_measure_take(sl_measure *m, size_t bytes, const char *what, void **out);
void sl_measure_put(sl_measure *m, void *memory);
/* Bytes that may still be taken there. */
size_t sl_measure_room(const sl_measure *m);
/* Brings host bytes there; returns when they are. */
sl_status sl_measure_upload(const sl_measure *m, void *to, const void *from, size_t bytes);

/* Waits for all that is queued. */
sl_status sl_measure_wait(const sl_measure *m);

/* The middle one of n values, n > 0, which come out in order; of two the larger. */
double sl_measure_median(double *values, int n);

/* Three significant digits: what a measurement is worth. */
double sl_measure_round(double value);

#endif

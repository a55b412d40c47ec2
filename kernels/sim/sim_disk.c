#include "sim/sim_disk.h"

#include <stdlib.h>

#include "sim/sim_cost.h"
#include "store/disk_engine.h"

/* Requests under way, in the order in which they were submitted. */
typedef struct {
    sl_disk_request *request;
    sl_sim_mark mark;
} under_way;

typedef struct {
    sl_sim *sim;
    int rank;
    struct {
        under_way at[SL_DISK_DEPTH]; /* a circle; marks stay where they are */
        int first, n;
    } way[2]; /* reads, writes: each ends in order */
} engine;

static void engine_close(void *context) {
    free(context);
}

static void submit(void *context, sl_disk_request *r) {
    engine *e = context;
    sl_sim_machine *m = sl_sim_machine_of(e->sim, e->rank);
    const int q = r->is_write ? SL_SIM_DISK_WRITE : SL_SIM_DISK_READ;
    const sl_sim_load load =
        sl_sim_transfer(sl_sim_machine_rates(m), r->is_write, (double)r->bytes);
    under_way *u = &e->way[r->is_write]
                        .at[(e->way[r->is_write].first + e->way[r->is_write].n) % SL_DISK_DEPTH];
    sl_sim_mark_init(&u->mark, e->rank, -1);
    u->request = r;
    r->result = (ssize_t)r->bytes;
    if (sl_sim_machine_work(m, q, &load) != SL_OK || sl_sim_machine_mark(m, q, &u->mark) != SL_OK)
        r->result = -1; /* out of host memory: EPERM is not said of anything else here */
    e->way[r->is_write].n++;
}

static void flush(void *context) {
    (void)context;
}

static sl_disk_request *take_ended(engine *e) {
    for (int w = 0; w < 2; w++) {
        under_way *u = &e->way[w].at[e->way[w].first];
        if (e->way[w].n == 0 || !sl_sim_mark_is_reached(&u->mark)) continue;
        e->way[w].first = (e->way[w].first + 1) % SL_DISK_DEPTH;
        e->way[w].n--;
        return u->request;
    }
    return NULL;
}

static sl_disk_request *reap(void *context, int wait) {
    engine *e = context;
    sl_disk_request *ended = take_ended(e);
    while (!ended && wait && e->way[0].n + e->way[1].n > 0 &&
           sl_sim_wait_any(e->sim, e->rank, "its disk") == SL_OK)
        ended = take_ended(e);
    return ended;
}

static const sl_disk_engine_ops engine_ops = {
    .name = "simulated", .close = engine_close, .submit = submit, .flush = flush, .reap = reap};

sl_status sl_sim_disk_open(sl_sim *sim, int rank, const char *name, size_t bytes, sl_disk **out) {
    const sl_sim_rates *rates = sl_sim_machine_rates(sl_sim_machine_of(sim, rank));
    if (rates->disk_bytes == 0.0)
        return SL_FAIL(SL_ERR_ARG, "the simulated machine has no disk for %s", name);
    engine *e = calloc(1, sizeof *e);
    if (!e) return SL_FAIL(SL_ERR_NOMEM, "simulated disk: out of host memory");
    e->sim = sim;
    e->rank = rank;
    const sl_status st = sl_disk_open_engine(&engine_ops, e, name, bytes, out);
    if (st != SL_OK) free(e);
    return st;
}

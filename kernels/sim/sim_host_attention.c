#include "sim/sim_host_attention.h"

#include <stdlib.h>

#include "sim/sim_cost.h"

typedef struct {
    sl_sim_mark begin, end;
} job_marks;

typedef struct {
    sl_host_attention base; /* first: both have the same address */
    sl_sim *sim;
    int rank;
    uint64_t n_started;
    job_marks job[SL_HOST_JOBS]; /* job t, counted from 1, at t % SL_HOST_JOBS */
    double bytes_read;
    double busy_s; /* of jobs that were seen to end */
    uint64_t n_seen;
} attention;

/* Jobs end in order: those before `ticket` are over when it is. */
static void count_ended(attention *a, uint64_t ticket) {
    for (; a->n_seen < ticket; a->n_seen++) {
        const job_marks *j = &a->job[(a->n_seen + 1) % SL_HOST_JOBS];
        a->busy_s += j->end.at_s - j->begin.at_s;
    }
}

static void attention_close(sl_host_attention *ha) {
    attention *a = (attention *)ha;
    for (uint64_t i = 0; i < SL_HOST_JOBS; i++)
        (void)sl_sim_wait_mark(a->sim, a->rank, &a->job[i].end, "attention on its host");
    free(a);
}

static sl_status attention_start(sl_host_attention *ha, const sl_host_job *job,
                                 uint64_t *ticket_out) {
    attention *a = (attention *)ha;
    sl_sim_machine *m = sl_sim_machine_of(a->sim, a->rank);
    sl_sim_load load;
    double bytes;
    SL_TRY(sl_sim_host_attend(sl_sim_machine_rates(m), job, &load, &bytes));
    const uint64_t ticket = a->n_started + 1;
    job_marks *j = &a->job[ticket % SL_HOST_JOBS];
    if (!sl_sim_mark_is_reached(&j->end))
        return SL_FAIL(SL_ERR_NOMEM, "host attention: %d jobs are under way already",
                       (int)SL_HOST_JOBS);
    if (ticket > SL_HOST_JOBS) count_ended(a, ticket - SL_HOST_JOBS);
    SL_TRY(sl_sim_machine_mark(m, SL_SIM_ATTEND, &j->begin));
    SL_TRY(sl_sim_machine_work(m, SL_SIM_ATTEND, &load));
    SL_TRY(sl_sim_machine_mark(m, SL_SIM_ATTEND, &j->end));
    a->bytes_read += bytes;
    a->n_started = ticket;
    *ticket_out = ticket;
    return SL_OK;
}

static sl_status attention_is_done(sl_host_attention *ha, uint64_t ticket, int *done_out,
                                   double *start_s, double *end_s) {
    attention *a = (attention *)ha;
    if (ticket < 1 || ticket > a->n_started || a->n_started - ticket >= SL_HOST_JOBS)
        return SL_FAIL(SL_ERR_ARG, "host attention: ticket %llu of %llu",
                       (unsigned long long)ticket, (unsigned long long)a->n_started);
    const job_marks *j = &a->job[ticket % SL_HOST_JOBS];
    *done_out = sl_sim_mark_is_reached(&j->end);
    if (!*done_out) return SL_OK;
    count_ended(a, ticket);
    if (start_s) *start_s = j->begin.at_s;
    if (end_s) *end_s = j->end.at_s;
    return SL_OK;
}

static void attention_get_stats(const sl_host_attention *ha, sl_host_stats *out) {
    const attention *a = (const attention *)ha;
    *out = (sl_host_stats){.page_bytes_read = (uint64_t)a->bytes_read, .busy_s = a->busy_s};
}

static const sl_host_attention_ops attention_ops = {.close = attention_close,
                                                    .start = attention_start,
                                                    .is_done = attention_is_done,
                                                    .get_stats = attention_get_stats};

sl_status sl_sim_host_attention_open(sl_sim *sim, int rank, sl_host_attention **out) {
    attention *a = calloc(1, sizeof *a);
    if (!a) return SL_FAIL(SL_ERR_NOMEM, "host attention: out of host memory");
    a->base.ops = &attention_ops;
    a->sim = sim;
    a->rank = rank;
    for (int i = 0; i < SL_HOST_JOBS; i++) {
        sl_sim_mark_init(&a->job[i].begin, rank, -1);
        sl_sim_mark_init(&a->job[i].end, rank, -1);
    }
    *out = &a->base;
    return SL_OK;
}

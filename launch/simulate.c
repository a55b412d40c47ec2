#include "simulate.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/sim_backend.h"
#include "sim/sim_host_attention.h"

/* ---- profiles ---- */

static sl_sim_curve curve_of(const sl_curve *from) {
    _Static_assert((int)SL_CURVE_MAX <= (int)SL_SIM_CURVE_MAX, "a profile's curve fits");
    sl_sim_curve to = {.n = from->n};
    memcpy(to.x, from->x, sizeof from->x);
    memcpy(to.y, from->y, sizeof from->y);
    return to;
}

sl_sim_rates sl_simulated_rates(const sl_profile *p) {
    _Static_assert((int)SL_PROFILE_FORMATS == (int)SL_SIM_FORMATS, "the same formats, in order");
    sl_sim_rates r = {.gpu_bytes = p->device[0] ? p->gpu_bytes : 0.0,
                      .cpu_bytes = p->cpu_bytes,
                      .disk_bytes = p->disk_bytes,
                      .h2d_bps = curve_of(&p->h2d_bps),
                      .d2h_bps = curve_of(&p->d2h_bps),
                      .duplex_bps = p->duplex_bps,
                      .dram_bps = p->dram_bps,
                      .dram_beside_h2d_bps = p->dram_beside_h2d_bps,
                      .disk_read_bps = curve_of(&p->disk_read_bps),
                      .disk_write_bps = curve_of(&p->disk_write_bps),
                      .wire_bps = p->wire_bps,
                      .wire_latency_s = p->wire_latency_s,
                      .memory_bps = p->memory_bps,
                      .compute_beside_h2d_frac = p->compute_beside_h2d_frac,
                      .layer_s = p->layer_s,
                      .sweep_s = p->sweep_s,
                      .host_job_s = p->host_job_s};
    for (int f = 0; f < SL_PROFILE_FORMATS; f++) {
        r.host_attend_bps[f] = curve_of(&p->host_attend_bps[f]);
        r.gemm_flops[f] = curve_of(&p->gemm_flops[f]);
        r.gemm_small_flops[f] = curve_of(&p->gemm_small_flops[f]);
        r.gemm_large_flops[f] = curve_of(&p->gemm_large_flops[f]);
        r.attend_bps[f] = curve_of(&p->attend_bps[f]);
        r.prefill_attend_flops[f] = curve_of(&p->prefill_attend_flops[f]);
    }
    return r;
}

/* ---- the parts of a rank ---- */

sl_status sl_simulated_open_transport(const sl_simulated *s, sl_transport **out) {
    return sl_sim_n_ranks(s->sim) > 1 ? sl_sim_transport_open(s->mail, s->rank, out)
                                      : sl_transport_open_loopback(out);
}

sl_status sl_simulated_open_backend(const sl_simulated *s, size_t device_bytes, sl_backend **out) {
    const sl_sim_backend_options options = {.device_bytes = device_bytes};
    return sl_sim_backend_open(s->sim, s->rank, &options, out);
}

sl_status sl_simulated_open_host_attention(const sl_simulated *s, sl_host_attention **out) {
    return sl_sim_host_attention_open(s->sim, s->rank, out);
}

void sl_simulated_set_budgets(const sl_simulated *s, sl_policy *policy) {
    if (policy->cpu_budget_bytes == 0) policy->cpu_budget_bytes = (size_t)s->profile->cpu_bytes;
    if (s->profile->disk_bytes == 0.0) return;
    if (policy->disk_budget_bytes == 0) policy->disk_budget_bytes = (size_t)s->profile->disk_bytes;
    if (!policy->disk_dir) policy->disk_dir = "the simulated disk";
}

/* ---- ranks ---- */

/* Held until it is known whether all ranks have a thread: one that has none would leave the others
 * waiting. */
typedef struct {
    pthread_mutex_t lock;
    int is_open;
} gate;

/* One thread's rank and how it ended. */
typedef struct {
    gate *gate;
    sl_launch launch;
    sl_simulated place;
    sl_rank_main run;
    const void *all;
    pthread_t thread;
    sl_status status;
    char message[1024];
} rank_thread;

static void *run_rank(void *context) {
    rank_thread *r = context;
    pthread_mutex_lock(&r->gate->lock);
    const int goes_on = r->gate->is_open;
    pthread_mutex_unlock(&r->gate->lock);
    if (!goes_on) return NULL;
    sl_sim_enter(r->place.sim, r->place.rank);
    r->status = r->run(&r->launch, r->all);
    if (r->status != SL_OK) snprintf(r->message, sizeof r->message, "%s", sl_error_message());
    sl_sim_leave(r->place.sim, r->place.rank);
    return NULL;
}

static void init_rank(rank_thread *r, const sl_launch *launch, int rank, int n_ranks) {
    r->launch = *launch;
    r->launch.is_mpi = 0;
    r->launch.info.rank = rank;
    r->launch.info.n_ranks = n_ranks;
    r->launch.info.local_rank = 0;
    r->launch.info.n_local_ranks = 1;
    r->launch.simulated = &r->place;
}

/* The first rank is this thread. */
static sl_status run_ranks(rank_thread *rank, int n_ranks) {
    sl_status st = SL_OK;
    gate all = {.lock = PTHREAD_MUTEX_INITIALIZER};
    int n = 1;
    pthread_mutex_lock(&all.lock);
    for (int r = 0; r < n_ranks; r++) rank[r].gate = &all;
    for (; n < n_ranks; n++) {
        const int err = pthread_create(&rank[n].thread, NULL, run_rank, &rank[n]);
        if (err == 0) continue;
        st = SL_FAIL(SL_ERR_NOMEM, "start simulated rank %d: %s", n, strerror(err));
        break;
    }
    all.is_open = st == SL_OK;
    pthread_mutex_unlock(&all.lock);
    if (st == SL_OK) run_rank(&rank[0]);
    for (int r = 1; r < n; r++) (void)pthread_join(rank[r].thread, NULL);
    /* The first rank's failure, rather one with a cause of its own than that others are missing. */
    for (int r = n_ranks - 1; r >= 0; r--) {
        const int is_echo = rank[r].status == SL_ERR_COMM && st != SL_OK && st != SL_ERR_COMM;
        if (rank[r].status != SL_OK && !is_echo) st = sl_fail_text(rank[r].status, rank[r].message);
    }
    return st;
}

static sl_status simulate(const sl_launch *launch, const sl_setup_options *o, int n_ranks,
                          sl_rank_main run, const void *all) {
    sl_status st = SL_OK;
    const int n_files = o->cluster.n;
    sl_sim *sim = NULL;
    sl_sim_mail *mail = NULL;
    sl_profile *profile = calloc((size_t)n_files, sizeof *profile);
    sl_sim_rates *rates = calloc((size_t)n_ranks, sizeof *rates);
    rank_thread *rank = calloc((size_t)n_ranks, sizeof *rank);
    if (!profile || !rates || !rank) {
        st = SL_FAIL(SL_ERR_NOMEM, "simulation of %d ranks: out of host memory", n_ranks);
        goto fail;
    }
    for (int i = 0; i < n_files; i++) SL_GO(sl_profile_read(o->cluster.values[i], &profile[i]));
    for (int r = 0; r < n_ranks; r++)
        rates[r] = sl_simulated_rates(&profile[r < n_files ? r : n_files - 1]);
    SL_GO(sl_sim_open(rates, n_ranks, &sim));
    SL_GO(sl_sim_mail_open(sim, &mail));
    for (int r = 0; r < n_ranks; r++) {
        init_rank(&rank[r], launch, r, n_ranks);
        rank[r].place = (sl_simulated){sim, mail, r, &profile[r < n_files ? r : n_files - 1]};
        rank[r].run = run;
        rank[r].all = all;
    }
    SL_GO(run_ranks(rank, n_ranks));

fail:
    sl_sim_mail_close(mail);
    sl_sim_close(sim);
    free(rank);
    free(rates);
    free(profile);
    return st;
}

/* Under mpirun: the first process simulates, all come to its outcome. */
static sl_status simulate_for_all(const sl_launch *launch, const sl_setup_options *o, int n_ranks,
                                  sl_rank_main run, const void *all) {
    sl_transport *t = NULL;
    SL_TRY(sl_transport_open_mpi(&t));
    sl_status st = launch->info.rank == 0 ? simulate(launch, o, n_ranks, run, all) : SL_OK;
    st = t->ops->agree(t, st);
    sl_transport_close(t);
    return st;
}

sl_status sl_simulate_or_run(const sl_launch *launch, const sl_setup_options *o, sl_rank_main run,
                             const void *all) {
    const int is_sim = strcmp(sl_setup_backends[o->backend], "sim") == 0;
    if (!is_sim && o->sim_ranks)
        return SL_FAIL(SL_ERR_ARG, "--sim-ranks: goes with --backend sim only");
    if (!is_sim) return run(launch, all);
    if (o->cluster.n == 0)
        return SL_FAIL(SL_ERR_ARG, "--backend sim: found no --cluster, expected the profile of a "
                                   "machine, such as cluster/t4.json");
    int n_ranks = o->sim_ranks ? o->sim_ranks : o->cluster.n;
    if (launch->is_mpi && !o->sim_ranks) n_ranks = launch->info.n_ranks;
    if (o->cluster.n > n_ranks)
        return SL_FAIL(SL_ERR_ARG,
                       "--cluster: found %d profiles, expected at most one for each of "
                       "%d ranks",
                       o->cluster.n, n_ranks);
    return launch->is_mpi ? simulate_for_all(launch, o, n_ranks, run, all)
                          : simulate(launch, o, n_ranks, run, all);
}

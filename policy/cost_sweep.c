#include "cost_sweep.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/seats.h"

/* ---- seats ---- */

/* Where the sequences of a sweep sit: not all seats are taken in small jobs and towards the end,
 * and small micro-batches differ from each other. */
enum { MOST_BATCHES = 1024 };

typedef struct {
    /* The variables' values, of the seats whose prompts are computed, and of those that decode. */
    double x[SL_COST_N_VARS], decode[SL_COST_N_VARS];
    int n_batches;
    /* Of the first block's micro-batches, beside the mean's 1: sequences whose pages visit, and
     * those that attend on the host. */
    double pages[MOST_BATCHES], attends[MOST_BATCHES];
    unsigned char on_disk[MOST_BATCHES];
    double attending_frac; /* of the micro-batches, those with attention on the host */
} seating;

/* Sequences of some micro-batches: in all, and as the variables from SL_COST_CACHE_GPU on. */
typedef struct {
    double n, kind[5];
} seat_count;

static int kind_of(const sl_seat *seat, int has_device) {
    if (seat->home == SL_TIER_GPU) return 0;
    if (!has_device && seat->home == SL_TIER_CPU) return 1;
    return (seat->home == SL_TIER_CPU ? 1 : 3) + (has_device && seat->on_host);
}

/* taken: of each part of the seats, how much is. */
static void count(const sl_seat *seat, int micro_batch, const double *taken, int has_device,
                  seat_count *out) {
    for (int i = 0; i < micro_batch; i++) {
        const double part = taken[sl_seat_part(i, micro_batch)];
        out->n += part;
        out->kind[kind_of(&seat[i], has_device)] += part;
    }
}

static double below_of(const seat_count *c, int has_device) {
    return (has_device ? c->kind[1] + c->kind[2] : 0) + c->kind[3] + c->kind[4];
}

static double attends_of(const seat_count *c) {
    return c->kind[2] + c->kind[4];
}

static double beside_mean(double one, double all, int n) {
    return all > 1e-6 ? one * n / all : 0;
}

/* Of each part of the seats, how much is in use. */
static void find_parts(const sl_policy *p, const double *in_use, double n_active, double *out) {
    int n[SL_SEAT_PARTS] = {0};
    for (int i = 0; i < p->micro_batch; i++) n[sl_seat_part(i, p->micro_batch)]++;
    for (int i = 0; i < SL_SEAT_PARTS; i++)
        out[i] = n[i] && n_active > 0 ? fmax(0, in_use[i]) / n_active / n[i] : 0;
}

/* The micro-batches of all blocks in *all, those of the first in one[n_batches]. */
static void count_all(const sl_policy *p, const sl_seat *seat, int n_all, int n_batches,
                      const double *parts, int has_device, seat_count *all, seat_count *one) {
    memset(all, 0, sizeof *all);
    memset(one, 0, (size_t)n_batches * sizeof *one);
    for (int m = 0; m < n_all; m++)
        count(seat + (size_t)m * p->micro_batch, p->micro_batch, parts, has_device, all);
    for (int m = 0; m < n_batches; m++)
        count(seat + (size_t)m * p->micro_batch, p->micro_batch, parts, has_device, &one[m]);
}

static void set_variables(const seat_count *all, double *x) {
    for (int v = 0; v < 5 && all->n > 1e-9; v++) x[SL_COST_CACHE_GPU + v] = all->kind[v] / all->n;
}

static void fill_seating(const sl_policy *p, const sl_seat *seat, int n_all,
                         const sl_sweep_load *load, int n_batches, int has_device, seating *out) {
    double parts[SL_SEAT_PARTS], prompts[SL_SEAT_PARTS], pages = 0, attends = 0;
    seat_count all, prompt[MOST_BATCHES], decode[MOST_BATCHES];
    int n_attending = 0;
    for (int i = 0; i < SL_SEAT_PARTS; i++) prompts[i] = load->taken[i] - load->decoding[i];
    sl_cost_variables(p, has_device, out->x);
    sl_cost_variables(p, has_device, out->decode);
    find_parts(p, prompts, load->n_active, parts);
    count_all(p, seat, n_all, n_batches, parts, has_device, &all, prompt);
    set_variables(&all, out->x);
    find_parts(p, load->decoding, load->n_active, parts);
    count_all(p, seat, n_all, n_batches, parts, has_device, &all, decode);
    set_variables(&all, out->decode);
    out->n_batches = n_batches;
    for (int m = 0; m < n_batches; m++) {
        out->attends[m] = has_device ? attends_of(&decode[m]) : 0;
        out->pages[m] =
            below_of(&prompt[m], has_device) + below_of(&decode[m], has_device) - out->attends[m];
        out->on_disk[m] =
            prompt[m].kind[3] + prompt[m].kind[4] + decode[m].kind[3] + decode[m].kind[4] > 1e-6;
        n_attending += out->attends[m] > 1e-6;
        pages += out->pages[m];
        attends += out->attends[m];
    }
    out->attending_frac = (double)n_attending / n_batches;
    for (int m = 0; m < n_batches; m++) {
        out->pages[m] = beside_mean(out->pages[m], pages, n_batches);
        out->attends[m] = beside_mean(out->attends[m], attends, n_batches);
    }
}

static sl_status find_seating(const sl_cost_problem *problem, const sl_policy *p,
                              const sl_sweep_load *load, int n_batches, seating *out) {
    const int blocks = p->blocks_in_flight > 0 ? p->blocks_in_flight : problem->n_ranks;
    const int n_all = p->num_micro_batches * blocks;
    if (n_batches < 1 || n_batches > MOST_BATCHES || n_batches > p->num_micro_batches)
        return SL_FAIL(SL_ERR_ARG, "cost of a block of %d micro-batches, expected 1 to %d",
                       n_batches, (int)MOST_BATCHES);
    sl_seat *seat = calloc((size_t)p->micro_batch * (size_t)n_all, sizeof *seat);
    if (!seat) return SL_FAIL(SL_ERR_NOMEM, "cost: out of host memory");
    sl_seats_assign(&p->cache, p->host_attends, p->micro_batch, n_all, seat);
    fill_seating(p, seat, n_all, load, n_batches, problem->has_device, out);
    free(seat);
    return SL_OK;
}

/* ---- one rank ---- */

static double sum(const double *coef, const double *x, int from, int to) {
    double s = 0;
    for (int v = from; v <= to; v++) s += x[v] != 0 ? coef[v] * x[v] : 0;
    return s;
}

/* What prompts take, at the places of the one, and decode rows, at those of the other. */
static double both(const double *coef, const double *decode, const seating *seats, int from,
                   int to) {
    return sum(coef, seats->x, from, to) - sum(decode, seats->x, from, to) +
           sum(decode, seats->decode, from, to);
}

static double on_host(const double *x) {
    return x[SL_COST_CACHE_CPU_ATTENDS] + x[SL_COST_CACHE_DISK_ATTENDS];
}

/* So many seconds of a sweep, and the bytes that go with them, for `n` tasks. */
static sl_replay_load load_of(const sl_cost_phase_terms *t, sl_cost_queue queue,
                              const seating *seats, int from, int to, double n) {
    const double seconds = both(t->coef[queue], t->decode_coef[queue], seats, from, to);
    const double bytes = both(t->bytes[queue], t->decode_bytes[queue], seats, from, to);
    return (sl_replay_load){seconds / n, seconds > 0 ? bytes / seconds : 0};
}

static sl_replay_load small_copy(const sl_curve *bps, double bytes) {
    const double rate = sl_curve_at(bps, bytes);
    return bytes > 0 && rate > 0 ? (sl_replay_load){bytes / rate, rate} : (sl_replay_load){0, 0};
}

static int n_batches_of(const sl_cost_phase_terms *t) {
    const int n = (int)floor(t->n_batches + 0.5);
    return n > 1 ? n : 1;
}

static void fill_batches(const sl_cost_phase_terms *t, const seating *seats, int hidden_on_disk,
                         sl_replay_batch *batch) {
    for (int m = 0; m < seats->n_batches; m++) {
        const double pages = seats->pages[m];
        unsigned char bits = 0;
        if (pages > 0) bits |= SL_VISIT_UPLOAD | SL_VISIT_STORE;
        if (seats->on_disk[m] || hidden_on_disk) bits |= SL_VISIT_FETCH | SL_VISIT_WRITE;
        if (seats->attends[m] > 0 && t->decode_rows > 0) bits |= SL_VISIT_HOST;
        batch[m] = (sl_replay_batch){bits, pages, seats->attends[m]};
    }
}

static sl_replay_work work_of(const sl_cost_problem *problem, const sl_cost_phase_terms *t,
                              const seating *seats, const double *q, const sl_replay_batch *batch) {
    enum {
        W0 = SL_COST_WEIGHTS_GPU,
        W1 = SL_COST_WEIGHTS_DISK,
        C0 = SL_COST_CACHE_GPU,
        C1 = SL_COST_CACHE_DISK_ATTENDS,
        H0 = SL_COST_HIDDEN_GPU,
        H1 = SL_COST_HIDDEN_DISK
    };
    const double *x = seats->x;
    const sl_profile *m = problem->profile;
    const int k = n_batches_of(t);
    const double layers = problem->n_layers, items = layers * k;
    const double after_s = t->products_s * (1 - t->before_frac) / items;
    const double all_s = (q[SL_COST_COMPUTE] - t->head_s - t->embed_s) / items;
    const double hidden = x[SL_COST_HIDDEN_CPU] + x[SL_COST_HIDDEN_DISK];
    const double host_part = on_host(seats->decode);
    sl_replay_work w = {
        .n_layers = problem->n_layers,
        .n_micro_batches = k,
        .has_device = problem->has_device,
        .is_fetched = x[SL_COST_WEIGHTS_DISK] > 0,
        .is_uploaded = problem->has_device && x[SL_COST_WEIGHTS_CPU] + x[SL_COST_WEIGHTS_DISK] > 0,
        .batch = batch,
        .hidden_travels = problem->has_device ? hidden > 1e-9 : x[SL_COST_HIDDEN_DISK] > 1e-9,
        .embed_s = t->embed_s / k,
        .head_s = t->head_s / k,
        .before_s = all_s - after_s,
        .after_s = after_s,
        .fetch = load_of(t, SL_COST_DISK_READ, seats, W0, W1, layers),
        .upload = load_of(t, SL_COST_H2D, seats, W0, W1, layers),
        .visit_upload = load_of(t, SL_COST_H2D, seats, C0, C1, items),
        .visit_store = load_of(t, SL_COST_D2H, seats, C0, C1, items),
        .visit_fetch = load_of(t, SL_COST_DISK_READ, seats, C0, C1, items),
        .visit_write = load_of(t, SL_COST_DISK_WRITE, seats, C0, C1, items),
        .hidden_upload = load_of(t, SL_COST_H2D, seats, H0, H1, items),
        .hidden_store = load_of(t, SL_COST_D2H, seats, H0, H1, items),
        .hidden_fetch = load_of(t, SL_COST_DISK_READ, seats, H0, H1, items),
        .hidden_write = load_of(t, SL_COST_DISK_WRITE, seats, H0, H1, items),
        .duplex_bps = m->duplex_bps,
        .dram_bps = m->dram_bps,
        .dram_beside_h2d_bps = m->dram_beside_h2d_bps,
        .lost_frac = sl_profile_lost_frac(m)};
    const double attend_s =
        both(t->coef[SL_COST_ATTEND], t->decode_coef[SL_COST_ATTEND], seats, 0, SL_COST_N_VARS - 1);
    w.attend.seconds = q[SL_COST_ATTEND] / items;
    if (attend_s > 0) w.attend.bps = t->host_attend_bps * attend_s / q[SL_COST_ATTEND];
    if (problem->has_device) {
        w.ask = small_copy(&m->d2h_bps, t->ask_bytes * host_part);
        w.answer = small_copy(&m->h2d_bps, t->answer_bytes * host_part);
    }
    return w;
}

static sl_status queues_of(const sl_cost_phase_terms *t, const seating *seats, double *q) {
    for (int i = 0; i < SL_COST_N_QUEUES; i++) {
        q[i] = both(t->coef[i], t->decode_coef[i], seats, 0, SL_COST_N_VARS - 1);
        if (i == SL_COST_ATTEND && on_host(seats->decode) > 0)
            q[i] += t->host_jobs_s * seats->attending_frac;
        if (!isfinite(q[i]))
            return SL_FAIL(SL_ERR_ARG, "the machine profile has no rate for %s",
                           sl_cost_queue_name((sl_cost_queue)i));
    }
    return SL_OK;
}

/* ---- ranks ---- */

/* The longest sweep of a rank, and how long a block takes from rank to rank. */
typedef struct {
    double longest_s, way_s, cold_s;
} pipeline;

/* One of the ranks alone. */
typedef struct {
    sl_cost_problem problem;
    sl_policy policy;
    int is_first, is_last;
} rank_of;

static rank_of find_rank(const sl_cost_problem *problem, const sl_policy *policy, int rank) {
    rank_of r = {.problem = *problem,
                 .policy = *policy,
                 .is_first = rank == 0,
                 .is_last = rank == problem->n_ranks - 1};
    if (problem->layers_per_rank) r.problem.n_layers = problem->layers_per_rank[rank];
    if (problem->profile_per_rank) {
        r.problem.profile = &problem->profile_per_rank[rank];
        r.problem.has_device = r.problem.profile->device[0] != '\0';
    }
    if (problem->weights_per_rank) r.policy.weights = problem->weights_per_rank[rank];
    return r;
}

/* Whether a rank takes as long as the one before. */
static int is_like(const rank_of *a, const rank_of *b) {
    return !a->is_first && !a->is_last && !b->is_first && !b->is_last &&
           a->problem.n_layers == b->problem.n_layers && a->problem.profile == b->problem.profile &&
           memcmp(&a->policy.weights, &b->policy.weights, sizeof a->policy.weights) == 0;
}

/* Its sweep, added to those of the others. */
static sl_status add_rank(const rank_of *r, const sl_turns *turns, int phase,
                          const seating *seats_of_all, pipeline *all, pipeline *mine,
                          sl_cost_terms *terms, sl_cost_sweep *out) {
    double whole[SL_COST_N_QUEUES], q[SL_COST_N_QUEUES], busiest_s = 0;
    sl_replay_batch batch[MOST_BATCHES];
    sl_replay_times times;
    seating seats = *seats_of_all;
    sl_cost_variables(&r->policy, r->problem.has_device, seats.x);
    memcpy(seats.x + SL_COST_CACHE_GPU, seats_of_all->x + SL_COST_CACHE_GPU, 5 * sizeof(double));
    const double on_device = r->problem.has_device ? 1 - on_host(seats.decode) : 1;
    SL_TRY(sl_cost_terms_make(&r->problem, &r->policy, turns, on_device, terms));
    const sl_cost_phase_terms *t = &terms->phase[phase];
    SL_TRY(queues_of(t, &seats, whole));
    const double lost = sl_profile_lost_frac(r->problem.profile), beside_s = whole[SL_COST_COMPUTE];
    whole[SL_COST_COMPUTE] -= lost * whole[SL_COST_H2D];
    memcpy(q, whole, sizeof q);
    q[SL_COST_COMPUTE] = fmin(beside_s, whole[SL_COST_COMPUTE] / (1 - lost));
    if (!r->is_last) q[SL_COST_COMPUTE] -= t->head_s;
    if (!r->is_first) q[SL_COST_COMPUTE] -= t->embed_s;
    fill_batches(t, &seats, r->policy.hidden.frac[SL_TIER_DISK] > 0, batch);
    sl_replay_work w = work_of(&r->problem, t, &seats, whole, batch);
    w.is_first_rank = r->is_first;
    w.is_last_rank = r->is_last;
    SL_TRY(sl_replay_sweep(&w, &times));
    if (r->is_first && phase == SL_PHASE_PREFILL) {
        sl_replay_times cold;
        w.is_cold = 1;
        SL_TRY(sl_replay_sweep(&w, &cold));
        all->cold_s = cold.sweep_s - times.sweep_s;
    }
    for (int i = 0; i < SL_COST_N_QUEUES; i++) busiest_s = fmax(busiest_s, q[i]);
    mine->longest_s = fmax(times.sweep_s, busiest_s) + terms->fixed_s;
    mine->way_s = (r->is_last ? times.last_s : times.first_s) + terms->fixed_s;
    /* What is on the wire is waited for by the next rank alone. */
    if (!r->is_last) mine->way_s += q[SL_COST_WIRE] / n_batches_of(t);
    all->way_s += mine->way_s;
    if (mine->longest_s <= all->longest_s) return SL_OK;
    all->longest_s = mine->longest_s;
    memcpy(out->queue_s, q, sizeof q);
    return SL_OK;
}

sl_status sl_cost_sweep_of(const sl_cost_problem *problem, const sl_policy *policy,
                           const sl_turns *turns, int phase, sl_cost_terms *terms,
                           sl_cost_sweep *out) {
    const int from = problem->is_one_rank ? problem->rank : 0;
    const int to = problem->is_one_rank ? problem->rank + 1 : problem->n_ranks;
    pipeline all = {0, 0, 0}, one = {0, 0, 0};
    seating seats;
    rank_of before = find_rank(problem, policy, from);
    memset(out, 0, sizeof *out);
    SL_TRY(sl_cost_terms_make(&before.problem, policy, turns, 1, terms));
    SL_TRY(find_seating(&before.problem, policy, &turns->load[phase],
                        n_batches_of(&terms->phase[phase]), &seats));
    for (int r = from; r < to; r++) {
        const rank_of here = find_rank(problem, policy, r);
        if (r > from && is_like(&before, &here))
            all.way_s += one.way_s;
        else
            SL_TRY(add_rank(&here, turns, phase, &seats, &all, &one, terms, out));
        before = here;
    }
    if (to - from == 1) all.way_s = all.longest_s;
    out->sweep_s = fmax(all.longest_s, all.way_s / terms->phase[phase].n_blocks);
    out->cold_s = all.cold_s + fmax(0, all.way_s - out->sweep_s);
    return SL_OK;
}

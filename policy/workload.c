#include "workload.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

sl_workload sl_workload_uniform(int prompt_len, int gen_len, int n_prompts) {
    return (sl_workload){.n_prompts = n_prompts, .n_bins = 1, .bin = {{prompt_len, gen_len, 1.0}}};
}

int sl_workload_context(const sl_workload *w) {
    int most = 0;
    for (int b = 0; b < w->n_bins; b++) {
        const int n = w->bin[b].prompt_len + w->bin[b].gen_len;
        if (n > most) most = n;
    }
    return most;
}

int sl_seat_part(int seat, int micro_batch) {
    return (int)((long)seat * SL_SEAT_PARTS / micro_batch);
}

/* What leaves at the end of a sweep. */
typedef struct {
    int n, first_seat; /* -1: none */
    double tokens;     /* that they have seen in their last row */
} leaving;

typedef struct {
    int kind, seat;
} prompt;

/* One micro-batch. */
typedef struct {
    const sl_workload *w;
    int micro_batch, max_rows;
    double total_weight;
    int n_waiting;
    double owed[SL_WORKLOAD_MAX_BINS]; /* sequences of each kind, less those that came */
    prompt *prompt;                    /* [micro_batch] ring: prompts being computed */
    int first, n_prompts, done;        /* the ring's first, how many, rows done of the first */
    leaving *at;                       /* [n_at] ring over sweeps */
    int n_at, now;
    unsigned char *is_taken; /* [micro_batch] */
    int *next_seat;          /* [micro_batch] that leaves in the same sweep; -1: none */
    int least_free;          /* all seats before are taken */
    int freed;               /* first of the seats that are free from the next sweep on, chained */
    int n_decoding, n_seated;
    double taken[SL_SEAT_PARTS], decoding[SL_SEAT_PARTS];
    double decode_tokens; /* that the decoding rows see in this sweep */
    double most_tokens;   /* that all rows of a sweep could see */
    sl_sweep_load group[SL_SWEEP_GROUPS];
    double seated_sweeps;
} turn_state;

static int next_kind(turn_state *t) {
    int best = 0;
    for (int b = 0; b < t->w->n_bins; b++) {
        t->owed[b] += t->w->bin[b].weight / t->total_weight;
        if (t->owed[b] > t->owed[best]) best = b;
    }
    t->owed[best] -= 1;
    return best;
}

static void leave_seats(turn_state *t) {
    for (int seat = t->freed; seat >= 0; seat = t->next_seat[seat]) {
        t->is_taken[seat] = 0;
        t->taken[sl_seat_part(seat, t->micro_batch)]--;
        t->n_seated--;
        if (seat < t->least_free) t->least_free = seat;
    }
    t->freed = -1;
}

static void admit(turn_state *t) {
    leave_seats(t);
    while (t->n_seated < t->micro_batch && t->n_waiting > 0) {
        while (t->is_taken[t->least_free]) t->least_free++;
        const int seat = t->least_free;
        t->prompt[(t->first + t->n_prompts++) % t->micro_batch] = (prompt){next_kind(t), seat};
        t->is_taken[seat] = 1;
        t->taken[sl_seat_part(seat, t->micro_batch)]++;
        t->n_seated++;
        t->n_waiting--;
    }
}

static void put_seat(turn_state *t, int *first, int seat) {
    t->next_seat[seat] = *first;
    *first = seat;
}

/* The prompt is done and has its first token: it decodes from the next sweep on. */
static void end_prompt(turn_state *t, const sl_workload_bin *kind, int *n_new, double *new_tokens) {
    const int n_steps = kind->gen_len - 1, seat = t->prompt[t->first].seat;
    t->first = (t->first + 1) % t->micro_batch;
    t->n_prompts--;
    t->done = 0;
    if (n_steps < 1) {
        put_seat(t, &t->freed, seat);
        return;
    }
    leaving *l = &t->at[(t->now + n_steps) % t->n_at];
    l->n++;
    l->tokens += kind->prompt_len + n_steps;
    put_seat(t, &l->first_seat, seat);
    t->decoding[sl_seat_part(seat, t->micro_batch)]++;
    ++*n_new;
    *new_tokens += kind->prompt_len + 1;
}

/* The group of a sweep that holds prompt rows or does not; the last ones are of sweeps in which
 * only some micro-batches have work. */
static int group_of(const turn_state *t, const sl_sweep_load *one) {
    enum {
        STEPS = (SL_SWEEP_GROUPS_PREFILL - 1) / 2,
        DECODE = SL_SWEEP_GROUPS - SL_SWEEP_GROUPS_PREFILL - 1
    };
    const double part = one->decode_tokens / t->most_tokens;
    const int is_whole = one->n_active > 1 - 1e-9;
    if (one->prefill_rows == 0) {
        const int at = (int)(part * DECODE);
        return is_whole ? SL_SWEEP_GROUPS_PREFILL + (at < DECODE ? at : DECODE - 1)
                        : SL_SWEEP_GROUPS - 1;
    }
    if (!is_whole) return SL_SWEEP_GROUPS_PREFILL - 1;
    const int at = part > 0 ? 1 + (int)(part * (STEPS - 1)) : 0;
    const int is_full = one->prefill_rows >= 0.75 * (t->max_rows - one->decode_rows);
    return 2 * (at < STEPS ? at : STEPS - 1) + is_full;
}

/* to += from * times; all fields are doubles. */
static void add_load(sl_sweep_load *to, const sl_sweep_load *from, double times) {
    double *x = (double *)to;
    const double *y = (const double *)from;
    for (size_t i = 0; i < sizeof *to / sizeof *x; i++) x[i] += y[i] * times;
}

static void compute(turn_state *t, sl_sweep_load *load) {
    int room = t->max_rows - t->n_decoding, n_new = 0;
    double new_tokens = 0;
    *load = (sl_sweep_load){.n_sweeps = 1,
                            .n_active = 1,
                            .decode_rows = t->n_decoding,
                            .decode_tokens = t->decode_tokens};
    memcpy(load->taken, t->taken, sizeof load->taken);
    memcpy(load->decoding, t->decoding, sizeof load->decoding);
    t->seated_sweeps += t->n_seated;
    if (room < 1) room = 1;
    while (t->n_prompts > 0 && room > 0) {
        const sl_workload_bin *kind = &t->w->bin[t->prompt[t->first].kind];
        const int left = kind->prompt_len - t->done, rows = left < room ? left : room;
        load->prefill_rows += rows;
        load->prefill_pairs += rows * (t->done + 0.5 * (rows + 1.0));
        load->earlier_tokens += t->done;
        t->done += rows;
        room -= rows;
        if (rows < left) break;
        load->n_prompts++;
        end_prompt(t, kind, &n_new, &new_tokens);
    }
    /* Those whose last row this was. */
    leaving *l = &t->at[t->now % t->n_at];
    t->decode_tokens += t->n_decoding - l->tokens - l->n + new_tokens;
    t->n_decoding += n_new - l->n;
    for (int seat = l->first_seat; seat >= 0;) {
        const int next = t->next_seat[seat];
        t->decoding[sl_seat_part(seat, t->micro_batch)]--;
        put_seat(t, &t->freed, seat);
        seat = next;
    }
    *l = (leaving){0, -1, 0};
    t->now = (t->now + 1) % t->n_at;
}

static void close_turns(turn_state *t) {
    free(t->prompt);
    free(t->at);
    free(t->is_taken);
    free(t->next_seat);
    t->prompt = NULL;
    t->at = NULL;
    t->is_taken = NULL;
    t->next_seat = NULL;
}

static sl_status open_turns(const sl_workload *w, int micro_batch, int max_rows, int n,
                            turn_state *out) {
    turn_state t = {
        .w = w, .micro_batch = micro_batch, .max_rows = max_rows, .n_waiting = n, .freed = -1};
    int longest = 1;
    for (int b = 0; b < w->n_bins; b++) {
        t.total_weight += w->bin[b].weight;
        if (w->bin[b].gen_len > longest) longest = w->bin[b].gen_len;
    }
    t.n_at = longest + 1;
    t.most_tokens = (double)(micro_batch < n ? micro_batch : n) * sl_workload_context(w);
    t.prompt = calloc((size_t)micro_batch, sizeof *t.prompt);
    t.at = calloc((size_t)t.n_at, sizeof *t.at);
    t.is_taken = calloc((size_t)micro_batch, 1);
    t.next_seat = calloc((size_t)micro_batch, sizeof *t.next_seat);
    *out = t;
    if (!t.prompt || !t.at || !t.is_taken || !t.next_seat)
        return SL_FAIL(SL_ERR_NOMEM, "workload: out of host memory");
    for (int i = 0; i < t.n_at; i++) t.at[i].first_seat = -1;
    return SL_OK;
}

/* Micro-batches with the same number of prompts. */
typedef struct {
    int n_prompts, n_batches;
} alike;

enum { MOST_ALIKE = 4 };

/* One turn of all micro-batches; 0: nothing is left to do. */
static int take_turn(turn_state *t, const alike *all, int n, double n_batches, sl_sweep_load *out) {
    sl_sweep_load one, mean = {0};
    for (int i = 0; i < n; i++) {
        admit(&t[i]);
        if (t[i].n_seated == 0) continue;
        compute(&t[i], &one);
        add_load(&mean, &one, all[i].n_batches / n_batches);
    }
    *out = mean;
    out->n_sweeps = 1;
    return mean.n_active > 0;
}

/* Sums come out in group and seated_sweeps of *out. */
static sl_status play(const sl_workload *w, int micro_batch, int max_rows, const alike *all, int n,
                      turn_state *out) {
    turn_state t[MOST_ALIKE];
    sl_sweep_load load;
    sl_status st = SL_OK;
    double n_batches = 0, seated = 0;
    memset(t, 0, sizeof t);
    for (int i = 0; i < n; i++) {
        const sl_status one = open_turns(w, micro_batch, max_rows, all[i].n_prompts, &t[i]);
        if (st == SL_OK) st = one;
        n_batches += all[i].n_batches;
    }
    while (st == SL_OK && take_turn(t, all, n, n_batches, &load))
        add_load(&t[0].group[group_of(&t[0], &load)], &load, 1);
    for (int i = 0; i < n; i++) {
        seated += t[i].seated_sweeps * all[i].n_batches;
        close_turns(&t[i]);
    }
    *out = t[0];
    out->seated_sweeps = seated;
    return st;
}

/* a + (a - b) * more, for all sums.  What comes out below zero, because only the end
 * of the job has it, goes to the fullest group of the phase. */
static void extend(turn_state *a, const turn_state *b, double more) {
    for (int g = 0; g < SL_SWEEP_GROUPS; g++) {
        double *x = (double *)&a->group[g];
        const double *y = (const double *)&b->group[g];
        for (size_t i = 0; i < sizeof(sl_sweep_load) / sizeof(double); i++)
            x[i] += (x[i] - y[i]) * more;
    }
    for (int g = 0; g < SL_SWEEP_GROUPS; g++) {
        static const sl_sweep_load none;
        const int from = g < SL_SWEEP_GROUPS_PREFILL ? 0 : SL_SWEEP_GROUPS_PREFILL;
        const int to = g < SL_SWEEP_GROUPS_PREFILL ? SL_SWEEP_GROUPS_PREFILL : SL_SWEEP_GROUPS;
        int fullest = from;
        for (int i = from; i < to; i++)
            if (a->group[i].n_sweeps > a->group[fullest].n_sweeps) fullest = i;
        if (a->group[g].n_sweeps >= 0 || g == fullest) continue;
        add_load(&a->group[fullest], &a->group[g], 1);
        a->group[g] = none;
    }
}

static sl_status check(const sl_workload *w, int micro_batch, int n_batches, int n_blocks,
                       int max_rows) {
    if (micro_batch < 1 || n_batches < 1 || n_blocks < 1 || max_rows < 1 || w->n_prompts < 1 ||
        w->n_bins < 1 || w->n_bins > SL_WORKLOAD_MAX_BINS)
        return SL_FAIL(SL_ERR_ARG,
                       "workload of %d prompts of %d kinds in %d blocks of %d micro-batches of %d "
                       "seats and %d rows",
                       w->n_prompts, w->n_bins, n_blocks, n_batches, micro_batch, max_rows);
    for (int b = 0; b < w->n_bins; b++)
        if (w->bin[b].prompt_len < 1 || w->bin[b].gen_len < 1 || !(w->bin[b].weight > 0) ||
            !isfinite(w->bin[b].weight))
            return SL_FAIL(SL_ERR_ARG, "workload: prompts of %d tokens, %d generated, weight %g",
                           w->bin[b].prompt_len, w->bin[b].gen_len, w->bin[b].weight);
    return SL_OK;
}

static void add_alike(alike *all, int *n, long n_prompts, long n_batches) {
    if (n_batches > 0 && n_prompts > 0) all[(*n)++] = (alike){(int)n_prompts, (int)n_batches};
}

/* Prompts spread over micro-batches, on top of so many that each has anyway. */
static void spread(alike *all, int *n, long have, long n_prompts, long n_batches) {
    const long less = n_prompts / n_batches, n_more = n_prompts % n_batches;
    add_alike(all, n, have + less + 1, n_more);
    add_alike(all, n, have + less, n_batches - n_more);
}

/* How many prompts each micro-batch gets in all.  The first that come are spread over all blocks;
 * later, whichever block has room takes as many as it holds.  First those that have most. */
static int distribute(const sl_workload *w, int micro_batch, int n_batches, int n_blocks,
                      int *fills_out, alike all[MOST_ALIKE]) {
    const long seats = (long)micro_batch * n_batches, n_prompts = w->n_prompts;
    int n = 0;
    *fills_out = 0;
    if (n_prompts <= seats * n_blocks) {
        spread(all, &n, 0, n_prompts, (long)n_batches * n_blocks);
        return n;
    }
    const long fills = n_prompts / (seats * n_blocks), rest = n_prompts % (seats * n_blocks);
    const long n_full = rest / seats, left = rest % seats;
    add_alike(all, &n, (fills + 1) * micro_batch, n_full * n_batches);
    if (left > 0) spread(all, &n, fills * micro_batch, left, n_batches);
    add_alike(all, &n, fills * micro_batch, (n_blocks - n_full - (left > 0)) * n_batches);
    *fills_out = (int)fills;
    return n;
}

sl_status sl_workload_turns(const sl_workload *w, int micro_batch, int n_batches, int n_blocks,
                            int max_rows, sl_turns *out) {
    enum { FEWER = 3, FILLS = 8 }; /* of the seats: from there on it goes on in the same way */
    SL_TRY(check(w, micro_batch, n_batches, n_blocks, max_rows));
    alike alike_ones[MOST_ALIKE];
    turn_state all, fewer;
    int fills;
    const int n = distribute(w, micro_batch, n_batches, n_blocks, &fills, alike_ones);
    const int left_out = fills > FILLS ? fills - FILLS : 0;
    double n_played = 0;
    sl_turns turns = {.n_batches = 0};
    for (int i = 0; i < n; i++) {
        turns.n_batches += alike_ones[i].n_batches;
        alike_ones[i].n_prompts -= left_out * micro_batch;
        n_played += (double)alike_ones[i].n_prompts * alike_ones[i].n_batches;
    }
    SL_TRY(play(w, micro_batch, max_rows, alike_ones, n, &all));
    turns.seated_sweeps = all.seated_sweeps / n_played;
    if (left_out > 0) {
        for (int i = 0; i < n; i++) alike_ones[i].n_prompts -= FEWER * micro_batch;
        SL_TRY(play(w, micro_batch, max_rows, alike_ones, n, &fewer));
        extend(&all, &fewer, (double)left_out / FEWER);
    }
    memcpy(turns.group, all.group, sizeof turns.group);
    for (int g = 0; g < SL_SWEEP_GROUPS; g++)
        add_load(&turns.load[g < SL_SWEEP_GROUPS_PREFILL ? SL_PHASE_PREFILL : SL_PHASE_DECODE],
                 &all.group[g], 1);
    double weight = 0, gen = 0, prompt_tokens = 0;
    for (int b = 0; b < w->n_bins; b++) {
        weight += w->bin[b].weight;
        gen += w->bin[b].weight * w->bin[b].gen_len;
        prompt_tokens += w->bin[b].weight * w->bin[b].prompt_len;
    }
    turns.n_tokens = w->n_prompts * gen / weight;
    turns.n_prompt_tokens = w->n_prompts * prompt_tokens / weight;
    *out = turns;
    return SL_OK;
}

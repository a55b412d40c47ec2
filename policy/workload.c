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

/* What leaves at the end of a sweep. */
typedef struct {
    int n;
    double tokens; /* that they have seen in their last row */
} leaving;

/* One micro-batch. */
typedef struct {
    const sl_workload *w;
    int micro_batch, max_rows;
    double total_weight;
    int n_waiting, n_admitted;
    double owed[SL_WORKLOAD_MAX_BINS]; /* sequences of each kind, less those that came */
    int *prompt;                       /* [micro_batch] ring: kinds of the prompts being computed */
    int first, n_prompts, done;        /* the ring's first, how many, rows done of the first */
    leaving *at;                       /* [n_at] ring over sweeps */
    int n_at, now;
    int n_decoding, n_freed; /* freed: seats that are free from the next sweep on */
    int n_seated;
    double decode_tokens; /* that the decoding rows see in this sweep */
    sl_sweep_load load[SL_N_PHASES];
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

static void admit(turn_state *t) {
    t->n_seated -= t->n_freed;
    t->n_freed = 0;
    while (t->n_seated < t->micro_batch && t->n_waiting > 0) {
        t->prompt[(t->first + t->n_prompts++) % t->micro_batch] = next_kind(t);
        t->n_seated++;
        t->n_waiting--;
    }
}

/* The prompt is done and has its first token: it decodes from the next sweep on. */
static void end_prompt(turn_state *t, const sl_workload_bin *kind, int *n_new, double *new_tokens) {
    const int n_steps = kind->gen_len - 1;
    t->first = (t->first + 1) % t->micro_batch;
    t->n_prompts--;
    t->done = 0;
    if (n_steps < 1) {
        t->n_freed++;
        return;
    }
    leaving *l = &t->at[(t->now + n_steps) % t->n_at];
    l->n++;
    l->tokens += kind->prompt_len + n_steps;
    ++*n_new;
    *new_tokens += kind->prompt_len + 1;
}

static void compute(turn_state *t) {
    int room = t->max_rows - t->n_decoding, n_new = 0;
    double new_tokens = 0;
    sl_sweep_load *load = &t->load[t->n_prompts > 0 ? SL_PHASE_PREFILL : SL_PHASE_DECODE];
    load->n_sweeps++;
    load->decode_rows += t->n_decoding;
    load->decode_tokens += t->decode_tokens;
    t->seated_sweeps += t->n_seated;
    if (room < 1) room = 1;
    while (t->n_prompts > 0 && room > 0) {
        const sl_workload_bin *kind = &t->w->bin[t->prompt[t->first]];
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
    t->n_freed += l->n;
    *l = (leaving){0, 0};
    t->now = (t->now + 1) % t->n_at;
}

static sl_status play(const sl_workload *w, int micro_batch, int max_rows, int n, turn_state *out) {
    turn_state t = {.w = w, .micro_batch = micro_batch, .max_rows = max_rows, .n_waiting = n};
    int longest = 1;
    for (int b = 0; b < w->n_bins; b++) {
        t.total_weight += w->bin[b].weight;
        if (w->bin[b].gen_len > longest) longest = w->bin[b].gen_len;
    }
    t.n_at = longest + 1;
    t.prompt = calloc((size_t)micro_batch, sizeof *t.prompt);
    t.at = calloc((size_t)t.n_at, sizeof *t.at);
    const int ok = t.prompt && t.at;
    for (admit(&t); ok && t.n_seated > 0; admit(&t)) compute(&t);
    free(t.prompt);
    free(t.at);
    t.prompt = NULL;
    t.at = NULL;
    *out = t;
    return ok ? SL_OK : SL_FAIL(SL_ERR_NOMEM, "workload: out of host memory");
}

/* a + (a - b) * more, times scale, for all sums. */
static void extend(turn_state *a, const turn_state *b, double more, double scale) {
    for (int p = 0; p < SL_N_PHASES; p++) {
        double *x = (double *)&a->load[p]; /* all fields are doubles */
        const double *y = (const double *)&b->load[p];
        for (size_t i = 0; i < sizeof(sl_sweep_load) / sizeof(double); i++) {
            x[i] += (x[i] - y[i]) * more;
            if (i > 0) x[i] *= scale; /* the number of sweeps is that of the fullest */
        }
    }
}

static sl_status check(const sl_workload *w, int micro_batch, int n_batches, int max_rows) {
    if (micro_batch < 1 || n_batches < 1 || max_rows < 1 || w->n_prompts < 1 || w->n_bins < 1 ||
        w->n_bins > SL_WORKLOAD_MAX_BINS)
        return SL_FAIL(SL_ERR_ARG,
                       "workload of %d prompts of %d kinds in %d micro-batches of %d seats and %d "
                       "rows",
                       w->n_prompts, w->n_bins, n_batches, micro_batch, max_rows);
    for (int b = 0; b < w->n_bins; b++)
        if (w->bin[b].prompt_len < 1 || w->bin[b].gen_len < 1 || !(w->bin[b].weight > 0) ||
            !isfinite(w->bin[b].weight))
            return SL_FAIL(SL_ERR_ARG, "workload: prompts of %d tokens, %d generated, weight %g",
                           w->bin[b].prompt_len, w->bin[b].gen_len, w->bin[b].weight);
    return SL_OK;
}

sl_status sl_workload_turns(const sl_workload *w, int micro_batch, int n_batches, int max_rows,
                            sl_turns *out) {
    enum { FEWER = 5, FILLS = 8 }; /* of the seats: from there on it goes on in the same way */
    SL_TRY(check(w, micro_batch, n_batches, max_rows));
    sl_turns turns = {.n_batches = n_batches < w->n_prompts ? n_batches : w->n_prompts};
    const double mean_n = (double)w->n_prompts / turns.n_batches;
    const double n = ceil(mean_n - 1e-9);
    turn_state all, fewer;
    const int seats = micro_batch < n ? micro_batch : (int)n;
    const double n_played = n > (double)FILLS * seats ? (double)FILLS * seats : n;
    SL_TRY(play(w, seats, max_rows, (int)n_played, &all));
    turns.seated_sweeps = all.seated_sweeps / n_played;
    fewer = all;
    double more = 0;
    if (n > n_played) {
        SL_TRY(play(w, seats, max_rows, FEWER * seats, &fewer));
        more = (n - n_played) / (n_played - (double)FEWER * seats);
    }
    extend(&all, &fewer, more, mean_n / n);
    memcpy(turns.load, all.load, sizeof turns.load);
    double weight = 0, gen = 0, prompt = 0;
    for (int b = 0; b < w->n_bins; b++) {
        weight += w->bin[b].weight;
        gen += w->bin[b].weight * w->bin[b].gen_len;
        prompt += w->bin[b].weight * w->bin[b].prompt_len;
    }
    turns.n_tokens = w->n_prompts * gen / weight;
    turns.n_prompt_tokens = w->n_prompts * prompt / weight;
    *out = turns;
    return SL_OK;
}

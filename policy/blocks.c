#include "blocks.h"

#include <math.h>

/* From one block of a rank to its next: its sweep, the wire's time, or the way of a block through
 * all ranks and wires, shared among the blocks that are on it.  sweep_s: without wires. */
static double period_s(const sl_plan_problem *q, const sl_policy *p, const sl_cost_phase *c,
                       double sweep_s) {
    const double wire_s = c->queue_s[SL_COST_WIRE], hop_s = wire_s / p->num_micro_batches;
    return fmax(fmax(sweep_s, wire_s), q->n_ranks * (sweep_s + hop_s) / p->blocks_in_flight);
}

/* Takes what the ranks wait for blocks out of a cost as it comes, which knows of one block at a
 * time, and counts it anew. */
static sl_status count_waiting(const sl_plan_problem *q, const sl_policy *p, sl_cost *c) {
    sl_profile no_wire = *q->profile;
    sl_cost_problem cost = sl_plan_cost_problem(q);
    sl_cost alone;
    const double prefill_s = c->prefill_s, decode_s = c->decode_s, total_s = c->total_s;
    no_wire.wire_bps = 1e30;
    no_wire.wire_latency_s = 0;
    cost.profile = &no_wire;
    SL_TRY(sl_cost_measured(&cost, p, &alone));
    for (int i = 0; i < SL_N_PHASES; i++)
        c->phase[i].sweep_s = period_s(q, p, &c->phase[i], alone.phase[i].sweep_s);
    const sl_cost_phase *prefill = &c->phase[SL_PHASE_PREFILL],
                        *decode = &c->phase[SL_PHASE_DECODE];
    c->prefill_s = prefill->n_sweeps * prefill->sweep_s;
    c->decode_s = decode->n_sweeps * decode->sweep_s;
    c->total_s = c->prefill_s + c->decode_s;
    if (c->prefill_s > 0) c->prefill_tokens_per_s *= prefill_s / c->prefill_s;
    if (c->decode_s > 0) c->decode_tokens_per_s *= decode_s / c->decode_s;
    c->tokens_per_s *= total_s / c->total_s;
    c->request_s *= c->total_s / total_s;
    return SL_OK;
}

static int fits(const sl_plan_problem *q, const sl_footprint *m) {
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        if (t == SL_TIER_GPU && !q->has_device) continue;
        if ((double)m->need_bytes[t] > q->budget_bytes[t]) return 0;
    }
    return 1;
}

/* The plan with another number of blocks; total_s INFINITY where it does not fit. */
static sl_status try_blocks(const sl_plan_problem *q, const sl_measured_plan *from, int blocks,
                            int micro_batch, int num_micro_batches, sl_measured_plan *out) {
    const sl_cost_problem cost = sl_plan_cost_problem(q);
    sl_measured_plan p = *from;
    p.shape.micro_batch = p.policy.micro_batch = micro_batch;
    p.shape.num_micro_batches = p.policy.num_micro_batches = num_micro_batches;
    p.policy.blocks_in_flight = blocks;
    SL_TRY(sl_plan_measure(q, &p.policy, 0, &p.memory));
    SL_TRY(sl_cost_measured(&cost, &p.policy, &p.cost));
    SL_TRY(count_waiting(q, &p.policy, &p.cost));
    if (!fits(q, &p.memory) || (q->max_request_s > 0 && p.cost.request_s > q->max_request_s))
        p.cost.total_s = INFINITY;
    *out = p;
    return SL_OK;
}

static int part_of(int n, int n_ranks, int blocks) {
    return (n * n_ranks + blocks - 1) / blocks;
}

sl_status sl_blocks_choose(const sl_plan_problem *q, sl_measured_plan *plan) {
    static const double LEAST_GAIN = 0.99;
    if (q->n_ranks < 2) return SL_OK;
    SL_TRY(count_waiting(q, &plan->policy, &plan->cost));
    const sl_measured_plan from = *plan;
    sl_measured_plan next;
    for (int blocks = q->n_ranks + 1; blocks <= SL_BLOCKS_MOST_PER_RANK * q->n_ranks; blocks++) {
        /* As large as before, and about as many sequences as before in all. */
        const int size = from.policy.micro_batch, n = from.policy.num_micro_batches;
        const int shapes[][2] = {{size, n},
                                 {q->micro_batch ? size : part_of(size, q->n_ranks, blocks), n},
                                 {size, q->num_micro_batches ? n : part_of(n, q->n_ranks, blocks)}};
        for (int i = 0; i < 3; i++) {
            if (i > 0 && shapes[i][0] == size && shapes[i][1] == n) continue;
            SL_TRY(try_blocks(q, &from, blocks, shapes[i][0], shapes[i][1], &next));
            if (next.cost.total_s < LEAST_GAIN * plan->cost.total_s) *plan = next;
        }
    }
    return SL_OK;
}

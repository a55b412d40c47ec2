#include "engine/settle.h"

#include <stdlib.h>
#include <string.h>

/* Defaults where the policy says "choose".  32 sequences fill a GEMM's rows in decode; 512 rows
 * make prefill run at its full rate while the buffers stay small. */
enum { DEFAULT_BLOCK = 32, DEFAULT_ROWS = 512 };

void sl_policy_init(sl_policy *policy) {
    memset(policy, 0, sizeof *policy);
    policy->cache_dtype = SL_DTYPE_F16;
    policy->weights_dtype = SL_DTYPE_AS_STORED;
}

sl_status sl_settle_policy(sl_policy *p, const sl_model_config *c, int n_ranks) {
    if (p->micro_batch < 0 || p->num_micro_batches < 0 || p->max_rows < 0 ||
        p->blocks_in_flight < 0 || p->max_context < 0)
        return SL_FAIL(SL_ERR_ARG, "the policy has a negative number");
    if (p->cache_dtype != SL_DTYPE_F16 && p->cache_dtype != SL_DTYPE_F32 &&
        !sl_dtype_group_bits(p->cache_dtype))
        return SL_FAIL(SL_ERR_ARG, "cache in %s: expected F16, F32, Q8G64 or Q4G64",
                       sl_dtype_name(p->cache_dtype));
    if (!(p->host_attends >= 0.0 && p->host_attends <= 1.0))
        return SL_FAIL(SL_ERR_ARG, "%g of the sequences are to attend on the host, expected 0 to 1",
                       p->host_attends);
    if (!(p->sparsity >= 0.0f && p->sparsity <= 1.0f))
        return SL_FAIL(SL_ERR_ARG, "attention to a share of %g of the values, expected 0 to 1",
                       (double)p->sparsity);
    if (sl_shares_are_set(&p->cache)) SL_TRY(sl_shares_check(&p->cache, "KV cache"));
    if (sl_shares_are_set(&p->hidden)) SL_TRY(sl_shares_check(&p->hidden, "hidden states"));
    if (p->cpu_budget_bytes == 0) return SL_FAIL(SL_ERR_ARG, "the policy has no cpu budget");
    /* Two micro-batches let the next rank start on the first while this one computes the second. */
    if (p->num_micro_batches == 0) p->num_micro_batches = n_ranks > 1 ? 2 : 1;
    if (p->micro_batch == 0)
        p->micro_batch = (DEFAULT_BLOCK + p->num_micro_batches - 1) / p->num_micro_batches;
    if (p->max_rows == 0) p->max_rows = DEFAULT_ROWS;
    if (p->max_rows < p->micro_batch) p->max_rows = p->micro_batch;
    if (p->blocks_in_flight == 0) p->blocks_in_flight = n_ranks;
    if (p->max_context == 0 || p->max_context > c->max_positions) p->max_context = c->max_positions;
    const int64_t seats = (int64_t)p->micro_batch * p->num_micro_batches * p->blocks_in_flight;
    if (seats > 1 << 20 || p->num_micro_batches > 1 << 16 || p->max_rows > 1 << 24)
        return SL_FAIL(SL_ERR_ARG, "%lld sequences in %d micro-batches of %d rows are too many",
                       (long long)seats, p->num_micro_batches, p->max_rows);
    return SL_OK;
}

int sl_settle_n_seats(const sl_policy *p) {
    return p->micro_batch * p->num_micro_batches * p->blocks_in_flight;
}

sl_status sl_settle_seats(const sl_policy *p, sl_seat **out) {
    const int n_batches = p->num_micro_batches * p->blocks_in_flight;
    sl_seat *seats = calloc((size_t)sl_settle_n_seats(p), sizeof *seats);
    if (!seats) return SL_FAIL(SL_ERR_NOMEM, "seats: out of host memory");
    sl_seats_assign(&p->cache, p->host_attends, p->micro_batch, n_batches, seats);
    *out = seats;
    return SL_OK;
}

sl_stage_options sl_settle_stage(const sl_policy *p, const sl_seat *seats) {
    return (sl_stage_options){.micro_batch = p->micro_batch,
                              .num_micro_batches = p->num_micro_batches,
                              .max_rows = p->max_rows,
                              .n_slots = sl_settle_n_seats(p),
                              .max_context = p->max_context,
                              .cache_dtype = p->cache_dtype,
                              .cpu_budget_bytes = p->cpu_budget_bytes,
                              .disk_dir = p->disk_dir,
                              .disk_budget_bytes = p->disk_budget_bytes,
                              .weights = p->weights,
                              .weights_dtype = p->weights_dtype,
                              .seats = seats,
                              .hidden = p->hidden,
                              .sparsity = p->sparsity,
                              .no_overlap = p->no_overlap,
                              .host_attention = p->host_attention,
                              .on_span = p->on_span,
                              .span_user = p->span_user,
                              .on_failure = p->on_failure,
                              .failure_user = p->failure_user,
                              .pulse = p->pulse};
}

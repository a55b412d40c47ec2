#include "engine/stage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/stage_impl.h"

void sl_stage_note_failure(sl_stage *s, sl_status status, const char *message, int add_rank) {
    if (s->failed != SL_OK || status == SL_OK) return;
    s->failed = status;
    if (add_rank && s->opt.transport->n_ranks > 1)
        snprintf(s->message, sizeof s->message, "rank %d: %.230s", s->opt.transport->rank, message);
    else
        snprintf(s->message, sizeof s->message, "%.250s", message);
    if (add_rank && s->opt.on_failure) s->opt.on_failure(s->opt.failure_user, message);
}

sl_block_limits sl_stage_limits(const sl_stage *s) {
    return (sl_block_limits){.n_slots = s->opt.n_slots,
                             .max_micro_batches = s->opt.num_micro_batches,
                             .max_rows = s->opt.max_rows,
                             .vocab = s->config.vocab,
                             .max_context = s->opt.max_context,
                             .n_kept = s->kv ? sl_kv_n_kept_max(s->kv) : 0};
}

sl_status sl_stage_finish(sl_stage *s) {
    for (int set = 0; set < s->n_sets; set++) SL_TRY(sl_stage_wait_sent(s, set));
    sl_stage_end(s);
    for (int slot = 0; slot < s->opt.n_slots; slot++) sl_kv_release(s->kv, slot);
    sl_kv_drop_all(s->kv);
    return SL_OK;
}

sl_status sl_stage_run(sl_stage *s, const sl_block *block, sl_block_result *result) {
    s->result = result;
    if (!s->expects) sl_stage_expect(s, block);
    s->expects = 0;
    s->set = (s->set + 1) % s->n_sets;
    sl_stage_turn *turn = &s->turn[s->set];
    turn->block = block;
    const double t0 = sl_clock_s();
    if (s->is_first) SL_TRY(sl_stage_wait_sent(s, s->set)); /* others receive into what is free */
    s->wait_s += sl_clock_s() - t0;

    const int is_prepared = s->is_prepared;
    s->is_prepared = 0;
    sl_status st = s->failed;
    if (st == SL_OK && !is_prepared) st = sl_stage_take_in(s, s->set, block);
    if (st == SL_OK && s->is_last) st = sl_block_result_reserve(result, sl_block_n_wanted(block));
    sl_stage_note_failure(s, st, sl_error_message(), 1);
    if (!is_prepared) SL_TRY(sl_stage_begin_sweep(s, SL_STREAM_COMPUTE));
    s->n_unqueued = 0;
    for (int i = 0; i < turn->sweep.n_tasks; i++)
        s->n_unqueued += turn->sweep.task[i].queue == SL_QUEUE_COMPUTE;
    const sl_task_runner runner = sl_stage_runner(s);
    double wait_s = 0.0;
    SL_TRY(sl_executor_run(s->executor, &turn->sweep, &runner, s->opt.no_overlap, &wait_s));
    s->wait_s += wait_s;
    s->sweep_s += sl_clock_s() - t0;
    /* After a failure work may still be queued on buffers that are about to be used again. */
    if (s->failed != SL_OK && s->device) {
        (void)s->device->drain(s->opt.backend);
        s->n_drains++;
    }

    if (s->is_last) {
        result->number = block->number;
        result->status = s->failed;
        result->n_choices = s->failed == SL_OK ? sl_block_n_wanted(block) : 0;
        snprintf(result->message, sizeof result->message, "%s", s->message);
    }
    return SL_OK;
}

#include "setup_job.h"

#include <string.h>

#include "capacity.h"
#ifdef SL_CUDA
#include "cuda/cuda_backend.h"
#endif
#include "setup_wire.h"
#include "simulate.h"

sl_status sl_setup_find_device(const sl_setup *setup, sl_setup_device *out) {
    const sl_simulated *sim = setup->launch->simulated;
    sl_setup_device d = {setup->options->gpu_mem_bytes, 4};
    if (sim && sim->profile->device[0]) {
        d.act_bytes = 2;
        if (d.bytes == 0) d.bytes = (size_t)sim->profile->gpu_bytes;
    }
#ifdef SL_CUDA
    const int is_cpu = strcmp(sl_setup_backends[setup->options->backend], "cpu") == 0;
    const int n_devices = is_cpu || sim ? 0 : sl_cuda_device_count();
    if (n_devices > 0) {
        const sl_capacity_gpu gpu = sl_capacity_gpu_of(setup->launch, n_devices);
        size_t free_bytes;
        d.act_bytes = 2;
        d.bytes -= sl_setup_wire_share(setup, d.bytes);
        if (d.bytes == 0) {
            SL_TRY(sl_cuda_free_bytes(gpu.device, &free_bytes));
            d.bytes = sl_capacity_gpu_bytes(&gpu, free_bytes);
        }
    }
#endif
    *out = d;
    return SL_OK;
}

int sl_setup_context(const sl_setup *setup) {
    const int positions = setup->config.max_positions, wanted = setup->options->max_context;
    return wanted > 0 && wanted < positions ? wanted : positions;
}

sl_workload sl_setup_workload(const sl_setup *setup) {
    const int context = sl_setup_context(setup);
    sl_workload w = setup->workload;
    for (int b = 0; b < w.n_bins; b++) {
        sl_workload_bin *bin = &w.bin[b];
        if (bin->gen_len > context - 1) bin->gen_len = context - 1;
        if (bin->gen_len < 1) bin->gen_len = 1;
        if (bin->prompt_len > context - bin->gen_len) bin->prompt_len = context - bin->gen_len;
        if (bin->prompt_len < 1) bin->prompt_len = 1;
    }
    if (w.n_prompts < 1) w.n_prompts = 1;
    return w;
}

/* Precisions as the planner numbers them: its auto is 0.  1: there are such plans. */
static int find_precisions(const sl_setup *setup, int is_cuda, sl_planner_ask *ask) {
    const sl_setup_options *o = setup->options;
    if (o->weights == SL_SETUP_WEIGHTS_F32 || o->cache == SL_SETUP_CACHE_F32) return 0;
    ask->weights = o->weights == SL_SETUP_WEIGHTS_STORED ? 1
                   : o->weights == SL_SETUP_WEIGHTS_AUTO ? 0
                                                         : o->weights - SL_SETUP_WEIGHTS_F16 + 1;
    ask->keeps_stored = o->weights == SL_SETUP_WEIGHTS_STORED && !is_cuda;
    ask->cache = o->cache == SL_SETUP_CACHE_F16    ? 1
                 : o->cache == SL_SETUP_CACHE_AUTO ? 0
                                                   : o->cache - SL_SETUP_CACHE_F32 + 1;
    ask->quality = o->quality;
    ask->max_request_s = o->max_latency_s;
    return 1;
}

sl_planner_ask sl_setup_ask(const sl_setup *setup, const sl_policy *budgets, sl_setup_device d,
                            const sl_profile *profile, const sl_workload *workload, int *can_out) {
    sl_planner_ask ask = {
        .source = setup->source,
        .profile = profile,
        .workload = workload,
        .has_device = d.bytes > 0,
        .act_bytes = d.act_bytes,
        .n_ranks = setup->transport->n_ranks,
        .cap_bytes = {d.bytes, budgets->cpu_budget_bytes, budgets->disk_budget_bytes},
        .disk_dir = budgets->disk_dir,
        .uses_disk = budgets->disk_dir != NULL,
        .max_context = sl_setup_context(setup)};
    *can_out = find_precisions(setup, d.act_bytes == 2, &ask);
    return ask;
}

/* The profile of a run's machine: from a file, of the simulation, kept from earlier, measured now.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "profile_cache.h"
#include "profile_report.h"
#include "setup_job.h"
#include "setup_plan.h"
#include "simulate.h"

const char *sl_setup_profile_path(const sl_setup *setup) {
    const sl_setup_options *o = setup->options;
    const int rank = setup->transport->rank, n = o->cluster.n;
    return n > 0 ? o->cluster.values[rank < n ? rank : n - 1] : o->profile_path;
}

static sl_status measure(sl_setup *setup, const sl_policy *budgets, int may_measure) {
    const sl_setup_options *o = setup->options;
    sl_profile_bar bar;
    sl_profile_origin origin;
    sl_profile_bar_init(&bar, sl_launch_is_first(setup->launch) && !o->quiet ? stderr : NULL);
    /* Rates do not depend on how much of host memory the run may use, and measuring them takes more
     * than a small budget. */
    const sl_profile_ask ask = {.launch = setup->launch,
                                .transport = setup->transport,
                                .backend = o->backend,
                                .n_threads = o->n_threads,
                                .gpu_mem_bytes = o->gpu_mem_bytes,
                                .disk_mem_bytes = budgets->disk_budget_bytes,
                                .disk_dir = o->disk_dir,
                                .quiet = o->quiet,
                                .only_cached = !may_measure,
                                .on_progress = sl_profile_bar_update,
                                .user = &bar};
    const sl_status st = sl_launch_profile(&ask, &setup->profile, &origin);
    sl_profile_bar_clear(&bar);
    if (st != SL_OK) return st;
    setup->has_profile = origin.was_cached || origin.measured_s > 0;
    if (origin.measured_s > 0 && !o->quiet && sl_launch_is_first(setup->launch))
        fprintf(stderr, "sluice: note: measured this machine in %.0f s%s%s\n", origin.measured_s,
                origin.path[0] ? ", for later runs too: " : "", origin.path);
    return SL_OK;
}

static sl_status find_own(sl_setup *setup, const sl_policy *budgets, int may_measure) {
    const char *path = sl_setup_profile_path(setup);
    if (setup->launch->simulated) {
        setup->profile = *setup->launch->simulated->profile;
        setup->has_profile = 1;
        return SL_OK;
    }
    if (!path) return measure(setup, budgets, may_measure);
    SL_TRY(sl_setup_agree(setup, sl_profile_read(path, &setup->profile)));
    setup->has_profile = 1;
    return SL_OK;
}

/* Collective.  The first rank gets to know all profiles and budgets. */
static sl_status gather_ranks(sl_setup *setup, const sl_policy *budgets) {
    const int n = setup->transport->n_ranks;
    sl_setup_rank mine = {.profile = setup->profile}, *all = NULL;
    sl_setup_device d = {0, 0};
    sl_status st = sl_setup_find_device(setup, &d);
    if (st == SL_OK && sl_transport_is_first(setup->transport)) {
        all = calloc((size_t)n, sizeof *all);
        if (!all) st = SL_FAIL(SL_ERR_NOMEM, "%d ranks: out of host memory", n);
    }
    SL_GO(sl_setup_agree(setup, st));
    mine.budget_bytes[SL_TIER_GPU] = (double)d.bytes;
    mine.budget_bytes[SL_TIER_CPU] = (double)budgets->cpu_budget_bytes;
    mine.budget_bytes[SL_TIER_DISK] = budgets->disk_dir ? (double)budgets->disk_budget_bytes : 0;
    SL_GO(setup->transport->ops->gather(setup->transport, &mine, sizeof mine, all));
    setup->ranks = all;
    return SL_OK;

fail:
    free(all);
    return st;
}

sl_status sl_setup_find_profile(sl_setup *setup, const sl_policy *budgets, int may_measure) {
    if (setup->has_profile) return SL_OK;
    SL_TRY(find_own(setup, budgets, may_measure));
    return setup->has_profile ? gather_ranks(setup, budgets) : SL_OK;
}

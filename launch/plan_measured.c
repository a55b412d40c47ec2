#include "plan_measured.h"

#include <stdlib.h>

#include "partition_measured.h"
#include "policy_file.h"
#include "profile_cache.h"

/* The profile of a file, or of this machine. */
static sl_status find_profile(const sl_launch *launch, const sl_plan_measured_options *o,
                              sl_profile *out) {
    if (o->cluster.n > 0) return sl_profile_read(o->cluster.values[0], out);
    if (o->profile_path) return sl_profile_read(o->profile_path, out);
    sl_transport *transport = NULL;
    SL_TRY(sl_transport_open_loopback(&transport));
    const sl_profile_ask ask = {.launch = launch, .transport = transport, .disk_dir = "."};
    const sl_status st = sl_launch_profile(&ask, out, NULL);
    sl_transport_close(transport);
    return st;
}

static sl_status print_json(const sl_plan_measured_answer *answer) {
    sl_json_text text = {0};
    sl_status st = sl_plan_measured_json(answer, &text);
    if (st == SL_OK && (puts(text.data) == EOF || fflush(stdout) != 0))
        st = SL_FAIL(SL_ERR_IO, "the plan cannot be written to standard output");
    sl_json_free(&text);
    return st;
}

static sl_status answer_with(const sl_plan_measured_options *o, const sl_plan_problem *problem,
                             const sl_measured_found *found, uint64_t *n_refused_out) {
    const sl_plan_measured_answer answer = {o->model, problem, found};
    if (found->is_feasible && o->save_path)
        SL_TRY(
            sl_policy_write(&found->best.policy, o->model, problem->profile->name, o->save_path));
    if (o->json) {
        SL_TRY(print_json(&answer));
        *n_refused_out = !found->is_feasible;
        return SL_OK;
    }
    if (!found->is_feasible) {
        char reason[768];
        return SL_FAIL(SL_ERR_INFEASIBLE, "%s",
                       sl_planner_refusal(problem, found, reason, sizeof reason));
    }
    sl_plan_measured_text(&answer, stdout);
    return SL_OK;
}

/* A plan for the machines of --cluster, if they differ; *done_out = 0: they do not. */
static sl_status plan_cluster(const sl_plan_measured_options *o, const sl_planner_ask *ask,
                              uint64_t *n_refused_out, int *done_out) {
    const int n = ask->n_ranks;
    const sl_plan_problem problem = sl_planner_problem(ask);
    double budget_bytes[SL_PARTITION_MAX_RANKS][SL_TIER_COUNT] = {{0}};
    *done_out = 0;
    if (o->cluster.n < 2) return SL_OK;
    if (n > SL_PARTITION_MAX_RANKS)
        return SL_FAIL(SL_ERR_ARG, "--cluster: profiles of %d ranks, at most %d", n,
                       (int)SL_PARTITION_MAX_RANKS);
    sl_profile *profiles = calloc((size_t)n, sizeof *profiles);
    if (!profiles) return SL_FAIL(SL_ERR_NOMEM, "%d ranks: out of host memory", n);
    sl_status st = SL_OK;
    for (int r = 0; r < n; r++) {
        const int file = r < o->cluster.n ? r : o->cluster.n - 1;
        SL_GO(sl_profile_read(o->cluster.values[file], &profiles[r]));
        budget_bytes[r][SL_TIER_GPU] = profiles[r].gpu_bytes;
        budget_bytes[r][SL_TIER_CPU] = profiles[r].cpu_bytes;
    }
    const sl_partition_ask together = {.problem = &problem,
                                       .profile = profiles,
                                       .budget_bytes =
                                           (const double(*)[SL_TIER_COUNT])budget_bytes};
    if (sl_partition_is_even(&together)) goto fail;
    *done_out = 1;
    st = sl_plan_ranks(o, &problem, profiles, n_refused_out);

fail:
    free(profiles);
    return st;
}

sl_status sl_plan_measured(const sl_launch *launch, const sl_plan_measured_options *o,
                           uint64_t *n_refused_out) {
    sl_profile profile;
    sl_source *source = NULL;
    sl_measured_found found;
    const sl_workload workload = sl_workload_uniform(o->prompt_len, o->gen_len, o->n_prompts);
    sl_planner_ask ask = o->ask;
    SL_TRY(find_profile(launch, o, &profile));
    SL_TRY(sl_source_open(o->model, 0, &source));
    ask.source = source;
    ask.profile = &profile;
    ask.workload = &workload;
    ask.has_device = profile.device[0] != '\0';
    ask.uses_disk = 1;
    int is_done = 0;
    if (ask.n_ranks == 0) ask.n_ranks = o->cluster.n > 0 ? o->cluster.n : 1;
    const sl_plan_problem problem = sl_planner_problem(&ask);
    sl_status st = plan_cluster(o, &ask, n_refused_out, &is_done);
    if (is_done || st != SL_OK) goto fail;
    st = sl_search_measured(&problem, &found);
    if (st == SL_OK) st = answer_with(o, &problem, &found, n_refused_out);

fail:
    sl_source_close(source);
    return st;
}

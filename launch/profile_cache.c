#include "profile_cache.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/rng.h"
#include "measure_machine.h"
#include "profile_machine.h"
#include "version.h"

/* Curves end early after this, and what is left takes some seconds more. */
static const double LIMIT_S = 60.0, SAMPLE_S = 0.1;

/* ---- the file ---- */

/* Makes a folder below an existing one; whether it is there now. */
static int make_folder(const char *path) {
    return mkdir(path, 0777) == 0 || errno == EEXIST;
}

/* "" where there is no folder. */
static void choose_path(const char *key, char *path, size_t path_bytes) {
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char folder[900];
    int n;
    path[0] = '\0';
    if (cache && cache[0] == '/') { /* others are to be ignored */
        n = snprintf(folder, sizeof folder, "%s", cache);
    } else {
        if (!home || home[0] != '/') return;
        n = snprintf(folder, sizeof folder, "%s/.cache", home);
    }
    if (n < 0 || (size_t)n + 8 > sizeof folder || !make_folder(folder)) return;
    strcat(folder, "/sluice");
    if (!make_folder(folder)) return;
    snprintf(path, path_bytes, "%s/profile-%016" PRIx64 ".json", folder, sl_rng_hash(key));
}

static void set_capacities(const sl_machine *m, sl_profile *p) {
    p->gpu_bytes = (double)m->gpu_bytes;
    p->cpu_bytes = (double)m->cpu_bytes;
    p->disk_bytes = (double)m->disk_bytes;
}

/* What an older version has written, or somebody by hand, is measured again. */
static int find_cached(const char *path, sl_profile *out) {
    return path[0] && access(path, R_OK) == 0 && sl_profile_read(path, out) == SL_OK;
}

static void keep(const sl_profile *p, const char *path, const sl_profile_ask *ask) {
    if (!path[0] || sl_profile_write(p, path) == SL_OK || ask->quiet) return;
    fprintf(stderr, "sluice: note: the machine's profile cannot be kept: %s\n", sl_error_message());
}

/* ---- measuring ---- */

static void set_names(const sl_machine *m, sl_profile *p) {
    char day[16] = "";
    const time_t now = time(NULL);
    struct tm when;
    if (localtime_r(&now, &when)) strftime(day, sizeof day, "%Y-%m-%d", &when);
    snprintf(p->name, sizeof p->name, "%.20s, %.41s", m->host, m->processor);
    snprintf(p->source, sizeof p->source, "measured by sluice %s on %s", SL_VERSION, day);
    snprintf(p->device, sizeof p->device, "%s", m->device);
}

/* Collective. */
static sl_status measure(const sl_profile_ask *ask, const sl_machine *m, sl_profile *out,
                         sl_profile_origin *origin) {
    sl_backend *backend = NULL;
    sl_host_attention *host_attention = NULL;
    const double start_s = sl_clock_s();
    sl_status st = sl_machine_open(m, &backend, &host_attention);
    SL_GO(ask->transport->ops->agree(ask->transport, st));
    const sl_measure_options options = {.backend = backend,
                                        .host_attention = host_attention,
                                        .n_threads = m->n_host_threads,
                                        .transport = ask->transport,
                                        .host_bytes = sl_machine_host_room(m),
                                        .disk_dir = ask->disk_dir,
                                        .disk_bytes = m->disk_bytes,
                                        .sample_s = ask->sample_s > 0.0 ? ask->sample_s : SAMPLE_S,
                                        .limit_s = LIMIT_S,
                                        .on_progress = ask->on_progress,
                                        .user = ask->user};
    SL_GO(sl_measure_machine(&options, out, origin->disk_engine));
    set_names(m, out);
    origin->measured_s = sl_clock_s() - start_s;

fail:
    sl_host_attention_close(host_attention);
    sl_backend_close(backend);
    return st;
}

/* Collective.  Whether all ranks say yes. */
static sl_status all_agree(sl_transport *t, int yes, int *out) {
    int64_t least = yes;
    SL_TRY(t->ops->min_i64(t, &least, 1));
    *out = least != 0;
    return SL_OK;
}

sl_status sl_launch_profile(const sl_profile_ask *ask, sl_profile *out,
                            sl_profile_origin *origin_out) {
    char key[SL_MACHINE_KEY_BYTES];
    sl_machine machine;
    sl_profile profile = {0};
    sl_profile_origin origin = {0};
    SL_TRY(sl_machine_find(ask, &machine));
    sl_machine_key(&machine, ask, key);
    choose_path(key, origin.path, sizeof origin.path);
    const int found = !ask->refresh && find_cached(origin.path, &profile);
    SL_TRY(all_agree(ask->transport, found, &origin.was_cached));
    if (!origin.was_cached && ask->only_cached) {
        if (origin_out) *origin_out = origin;
        return SL_OK;
    }
    if (!origin.was_cached) SL_TRY(measure(ask, &machine, &profile, &origin));
    set_capacities(&machine, &profile);
    SL_TRY(ask->transport->ops->agree(ask->transport, sl_profile_check(&profile)));
    if (!origin.was_cached) keep(&profile, origin.path, ask);
    *out = profile;
    if (origin_out) *origin_out = origin;
    return SL_OK;
}

/* sluice profile: measures what the planner needs to know of this machine. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "job/json_text.h"
#include "options.h"
#include "profile_cache.h"
#include "profile_report.h"
#include "setup.h"
#include "setup_wire.h"

typedef struct {
    const char *output, *disk_dir;
    size_t gpu_mem_bytes, cpu_mem_bytes, disk_mem_bytes;
    int backend, transport, n_threads;
    double sample_s;
    int refresh, json, quiet;
} profile_options;

static const char epilogue[] =
    "Rates are kept in $XDG_CACHE_HOME/sluice, or ~/.cache/sluice, and used again while "
    "processors,\n"
    "threads, GPU, driver, the disk and the version of this program are the same. Capacities are\n"
    "what is free at the moment: limits of control groups hold, and ranks of a host share it.\n"
    "Measuring takes up to 4 GiB of host and GPU memory and 1 GiB of disk for about half a "
    "minute;\n"
    "what else runs on the machine meanwhile shows in the numbers. cluster/README.md describes "
    "the\n"
    "file.\n";

static sl_status parse_options(const sl_launch *launch, int argc, char **argv, int first,
                               profile_options *o, int *help_out) {
    const sl_option table[] = {
        {"output", 'o', SL_OPTION_TEXT, &o->output, "FILE",
         "Write the profile to FILE as JSON; of several ranks one file each, with the rank before "
         "the file's extension (profile.0.json).",
         0, 0, NULL, NULL},
        {"json", 0, SL_OPTION_FLAG, &o->json, NULL,
         "Print the profile as JSON instead of tables: an object, of several ranks an array.", 0, 0,
         NULL, NULL},
        {"refresh", 0, SL_OPTION_FLAG, &o->refresh, NULL,
         "Measure even if an earlier profile of this machine is at hand.", 0, 0, NULL, NULL},
        {"quiet", 'q', SL_OPTION_FLAG, &o->quiet, NULL, "No progress and no notes.", 0, 0, NULL,
         NULL},

        {"", 0, SL_OPTION_FLAG, NULL, NULL, "Machine:", 0, 0, NULL, NULL},
        {"backend", 0, SL_OPTION_CHOICE, &o->backend, "auto|cpu|cuda",
         "What computes: auto takes a GPU where there is one and the program was built with CUDA. "
         "Default auto.",
         0, 0, sl_setup_backends, NULL},
        {"transport", 0, SL_OPTION_CHOICE, &o->transport, "auto|mpi|nccl",
         "Which wire of several ranks is measured. auto: NCCL where every rank has a GPU of its "
         "own, else MPI, as in a run. Default auto.",
         0, 0, sl_setup_transports, NULL},
        {"threads", 0, SL_OPTION_INT, &o->n_threads, "N",
         "Threads of each rank. Default: the processors that it may run on, divided among the "
         "ranks that share them.",
         1, 4096, NULL, NULL},
        {"gpu-mem", 0, SL_OPTION_BYTES, &o->gpu_mem_bytes, "SIZE",
         "Memory that each rank may use of its GPU. Default: 90 % of what is free. With the cpu "
         "backend: a part of host memory that stands in for a GPU's.",
         0, 0, NULL, NULL},
        {"cpu-mem", 0, SL_OPTION_BYTES, &o->cpu_mem_bytes, "SIZE",
         "Host memory that each rank may use. Default: 80 % of what is available, shared by the "
         "ranks of a host.",
         0, 0, NULL, NULL},
        {"disk-dir", 0, SL_OPTION_TEXT, &o->disk_dir, "DIR",
         "Folder whose disk is measured, with a file that is gone afterwards; \"none\" leaves the "
         "disk out. Default: the current folder.",
         0, 0, NULL, NULL},
        {"disk-mem", 0, SL_OPTION_BYTES, &o->disk_mem_bytes, "SIZE",
         "Disk space that each rank may use there. Default: 80 % of what is free, shared by the "
         "ranks of a host.",
         0, 0, NULL, NULL},
        {"sample", 0, SL_OPTION_REAL, &o->sample_s, "SECONDS",
         "Time for each number: more gives steadier ones. Default 0.1.", 1e-4, 10, NULL, NULL},
        {NULL, 0, SL_OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL, NULL},
    };
    const sl_command command = {
        .usage = "sluice profile [--output FILE] [options]",
        .summary = "Measures what this machine can do: capacities, copies, host memory, attention, "
                   "matrix products, disk. Under mpirun also the wire between neighbouring ranks.",
        .options = table,
        .epilogue = epilogue,
    };
    SL_TRY(sl_options_parse(&command, argc, argv, first, NULL, NULL, help_out));
    if (*help_out && sl_launch_is_first(launch)) sl_options_help(&command, stdout);
    if (o->disk_dir && strcmp(o->disk_dir, "none") == 0) o->disk_dir = NULL;
    return SL_OK;
}

/* ---- what comes out, first rank ---- */

/* "profile.json" of several ranks is profile.R.json. */
static sl_status path_of_rank(const char *output, int rank, int n_ranks, char *path, size_t room) {
    const char *slash = strrchr(output, '/'), *dot = strrchr(output, '.');
    if (n_ranks > 1 && (!dot || (slash && dot < slash))) dot = output + strlen(output);
    const int n = n_ranks == 1
                      ? snprintf(path, room, "%s", output)
                      : snprintf(path, room, "%.*s.%d%s", (int)(dot - output), output, rank, dot);
    if (n < 0 || (size_t)n >= room)
        return SL_FAIL(SL_ERR_ARG, "--output: a path of %d characters", n);
    return SL_OK;
}

static sl_status write_files(const profile_options *o, const sl_profile *profiles, int n) {
    char path[4096];
    for (int r = 0; o->output && r < n; r++) {
        SL_TRY(path_of_rank(o->output, r, n, path, sizeof path));
        SL_TRY(sl_profile_write(&profiles[r], path));
    }
    return SL_OK;
}

static sl_status print_json(const sl_profile *profiles, int n) {
    sl_json_text text = {0};
    if (n > 1) sl_json_raw(&text, "[\n");
    for (int r = 0; r < n; r++) {
        if (r > 0) sl_json_raw(&text, ",\n");
        sl_profile_print(&profiles[r], &text);
    }
    if (n > 1) sl_json_raw(&text, "]\n");
    sl_status st = sl_json_status(&text);
    if (st == SL_OK && (fputs(text.data, stdout) == EOF || fflush(stdout) != 0))
        st = SL_FAIL(SL_ERR_IO, "the profile cannot be written to standard output");
    sl_json_free(&text);
    return st;
}

static void print_origin(const sl_profile_origin *origin, FILE *stream) {
    if (origin->was_cached)
        fprintf(stream, "from %s; --refresh measures again\n", origin->path);
    else
        fprintf(stream, "measured in %.1f s%s%s%s\n", origin->measured_s,
                origin->disk_engine[0] ? ", disk by " : "", origin->disk_engine,
                origin->path[0] ? "" : ", kept nowhere: there is no cache folder");
}

static sl_status answer(const profile_options *o, const sl_profile *profiles, int n,
                        const sl_profile_origin *origin) {
    SL_TRY(write_files(o, profiles, n));
    if (!o->quiet) print_origin(origin, stderr);
    if (o->json) return print_json(profiles, n);
    if (o->output) return SL_OK; /* whoever wants a file reads it */
    for (int r = 0; r < n; r++) {
        if (r > 0) putchar('\n');
        sl_profile_report(&profiles[r], n > 1 ? r : -1, stdout);
    }
    if (fflush(stdout) != 0 || ferror(stdout))
        return SL_FAIL(SL_ERR_IO, "the profile cannot be written to standard output");
    return SL_OK;
}

/* ---- all ranks ---- */

static sl_status profile(const sl_launch *launch, const profile_options *o,
                         sl_transport *transport) {
    const int is_first = sl_transport_is_first(transport);
    sl_status st = SL_OK;
    sl_profile mine;
    sl_profile_origin origin;
    sl_profile_bar bar;
    sl_profile *all = calloc((size_t)transport->n_ranks, sizeof *all);
    if (!all) st = SL_FAIL(SL_ERR_NOMEM, "%d ranks: out of host memory", transport->n_ranks);
    SL_GO(transport->ops->agree(transport, st));
    sl_profile_bar_init(&bar, is_first && !o->quiet ? stderr : NULL);
    const sl_profile_ask ask = {.launch = launch,
                                .transport = transport,
                                .backend = o->backend,
                                .n_threads = o->n_threads,
                                .gpu_mem_bytes = o->gpu_mem_bytes,
                                .cpu_mem_bytes = o->cpu_mem_bytes,
                                .disk_mem_bytes = o->disk_mem_bytes,
                                .disk_dir = o->disk_dir,
                                .sample_s = o->sample_s,
                                .refresh = o->refresh,
                                .quiet = o->quiet,
                                .on_progress = sl_profile_bar_update,
                                .user = &bar};
    st = sl_launch_profile(&ask, &mine, &origin);
    sl_profile_bar_clear(&bar);
    if (st != SL_OK) goto fail;
    SL_GO(transport->ops->gather(transport, &mine, sizeof mine, all));
    st = is_first ? answer(o, all, transport->n_ranks, &origin) : SL_OK;
    st = transport->ops->agree(transport, st);

fail:
    free(all);
    return st;
}

sl_status sl_cmd_profile(const sl_launch *launch, int argc, char **argv, int first,
                         uint64_t *n_refused_out) {
    (void)n_refused_out;
    profile_options o = {.disk_dir = "."};
    sl_transport *transport = NULL;
    int help = 0;
    SL_TRY(parse_options(launch, argc, argv, first, &o, &help));
    if (help) return SL_OK;
    if (launch->is_mpi) {
        SL_TRY(sl_transport_open_mpi(&transport));
    } else {
        SL_TRY(sl_transport_open_loopback(&transport));
    }
    const sl_wire_ask wire = {.launch = launch,
                              .backend = o.backend,
                              .transport = o.transport,
                              .timeout_s = SL_SETUP_TIMEOUT_S,
                              .quiet = o.quiet};
    size_t wire_bytes;
    sl_status st = sl_wire_open(&wire, &transport, &wire_bytes);
    if (st == SL_OK) st = profile(launch, &o, transport);
    sl_transport_close(transport);
    return st;
}

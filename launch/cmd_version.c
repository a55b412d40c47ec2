/* sluice version: what this program was built with and what it found on this machine. */
#include <stdio.h>

#include "commands.h"
#include "cpu/cpu_backend.h"
#include "job/json_text.h"
#include "options.h"
#include "version.h"

typedef struct {
    const char *name, *value;
} feature;

static void print_text(const feature *features) {
    printf("sluice %s\n", SL_VERSION);
    for (const feature *f = features; f->name; f++) printf("  %-14s %s\n", f->name, f->value);
}

static sl_status print_json(const feature *features) {
    sl_json_text text = {0};
    sl_json_raw(&text, "{\"version\": ");
    sl_json_cstring(&text, SL_VERSION);
    for (const feature *f = features; f->name; f++) {
        sl_json_raw(&text, ", ");
        sl_json_cstring(&text, f->name);
        sl_json_raw(&text, ": ");
        sl_json_cstring(&text, f->value);
    }
    sl_json_raw(&text, "}");
    const sl_status st = sl_json_status(&text);
    if (st == SL_OK) puts(text.data);
    sl_json_free(&text);
    return st;
}

sl_status sl_cmd_version(const sl_launch *launch, int argc, char **argv, int first,
                         uint64_t *n_refused_out) {
    int help = 0, json = 0;
    const sl_option table[] = {
        {"json", 0, SL_OPTION_FLAG, &json, NULL, "One JSON object.", 0, 0, NULL, NULL},
        {NULL, 0, SL_OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL, NULL},
    };
    const sl_command command = {.usage = "sluice version [--json]",
                                .summary = "Prints the version, the parts that are built in, and "
                                           "the instruction set that was found.",
                                .options = table};
    (void)n_refused_out;
    SL_TRY(sl_options_parse(&command, argc, argv, first, NULL, NULL, &help));
    if (!sl_launch_is_first(launch)) return SL_OK;
    if (help) {
        sl_options_help(&command, stdout);
        return SL_OK;
    }
    sl_backend *cpu = NULL;
    const sl_cpu_options options = {.n_threads = 1};
    SL_TRY(sl_cpu_backend_open(&options, &cpu));
    const feature features[] = {
        {"cpu kernels", sl_cpu_backend_simd(cpu)},
        {"openblas", SL_OPENBLAS_VERSION},
        {"mpi", SL_MPI_STANDARD},
        {"cuda", SL_BUILT_CUDA ? "built in" : "not built in"},
        {"nccl", SL_BUILT_NCCL ? "built in" : "not built in"},
        {"jansson", SL_JANSSON_VERSION},
        {"pcre2", SL_PCRE2_VERSION},
        {"libzip", SL_LIBZIP_VERSION},
        {"glpk", SL_GLPK_VERSION},
        {"libmicrohttpd", SL_HTTP_VERSION[0] ? SL_HTTP_VERSION : "not built in"},
        {"compiler", SL_COMPILER},
        {"build", SL_BUILD_TYPE},
        {"sanitizers", SL_SANITIZERS[0] ? SL_SANITIZERS : "none"},
        {NULL, NULL},
    };
    sl_status st = SL_OK;
    if (json) {
        st = print_json(features);
    } else {
        print_text(features);
    }
    sl_backend_close(cpu);
    return st;
}

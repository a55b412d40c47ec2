/* main.c - finds the subcommand, prints what went wrong, picks the exit status.
 *
 * The only place that does either, and the only one that ends other ranks by force.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "commands.h"
#include "options.h"
#include "undertaker.h"
#include "version.h"
#include "watch.h"

enum { END_WITHIN_S = 5 };
enum { EXIT_ANSWERED = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_SOME_REFUSED = 3 };

typedef struct {
    const char *name, *summary;
    sl_command_main run;
} subcommand;

static const subcommand subcommands[] = {
    {"run", "answer a file of requests", sl_cmd_run},
    {"serve", "answer requests over HTTP", sl_cmd_serve},
    {"bench", "measure prefill and decode on random prompts", sl_cmd_bench},
    {"plan", "predict the fastest block shape and placement", sl_cmd_plan},
    {"profile", "measure what this machine can do", sl_cmd_profile},
    {"inspect", "show what a model is made of", sl_cmd_inspect},
    {"version", "show the version and what is built in", sl_cmd_version},
};
enum { N_SUBCOMMANDS = sizeof subcommands / sizeof subcommands[0] };

static void print_usage(FILE *stream) {
    fprintf(stream, "Usage: sluice COMMAND [options]\n\n"
                    "Generates text with language models larger than the GPU, for jobs where "
                    "throughput counts.\n\nCommands:\n");
    for (int i = 0; i < N_SUBCOMMANDS; i++)
        fprintf(stream, "  %-10s %s\n", subcommands[i].name, subcommands[i].summary);
    fprintf(stream,
            "\n`sluice COMMAND --help` shows the options of each. Under mpirun, run, serve "
            "and bench split\nthe model's layers among the ranks, and profile measures each.\n");
}

static const subcommand *find_subcommand(const char *name) {
    for (int i = 0; i < N_SUBCOMMANDS; i++) {
        if (strcmp(subcommands[i].name, name) == 0) return &subcommands[i];
    }
    return NULL;
}

static sl_status refuse_subcommand(const char *name) {
    const char *names[N_SUBCOMMANDS + 1] = {0};
    for (int i = 0; i < N_SUBCOMMANDS; i++) names[i] = subcommands[i].name;
    const char *nearest = sl_options_nearest(name, names);
    return nearest ? SL_FAIL(SL_ERR_ARG, "unknown command \"%s\"; did you mean %s?", name, nearest)
                   : SL_FAIL(SL_ERR_ARG, "unknown command \"%s\"; see sluice --help", name);
}

static sl_status dispatch(const sl_launch *launch, int argc, char **argv, uint64_t *n_refused_out) {
    const char *word = argc > 1 ? argv[1] : NULL;
    if (!word) {
        if (sl_launch_is_first(launch)) print_usage(stderr);
        return SL_FAIL(SL_ERR_ARG, "no command");
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0) {
        if (sl_launch_is_first(launch)) print_usage(stdout);
        return SL_OK;
    }
    if (strcmp(word, "--version") == 0) {
        if (sl_launch_is_first(launch)) printf("sluice %s\n", SL_VERSION);
        return SL_OK;
    }
    const subcommand *command = find_subcommand(word);
    if (!command) return refuse_subcommand(word);
    return command->run(launch, argc, argv, 2, n_refused_out);
}

/* The place in the source says nothing about what the user typed or asked for, or about a signal.
 */
static void print_error(const sl_launch *launch, sl_status st) {
    char message[1024];
    /* A stop is the first rank's to tell, whichever got the signal. */
    const int culprit = st == SL_ERR_STOPPED ? sl_watch_signalled_rank() : -1;
    sl_watch_name_rank(launch, culprit, sl_error_message(), message, sizeof message);
    const int is_plain = st == SL_ERR_ARG || st == SL_ERR_STOPPED || st == SL_ERR_INFEASIBLE;
    char *place = is_plain ? strrchr(message, '(') : NULL;
    if (place && place > message && strstr(place, ".c:")) place[-1] = '\0';
    fflush(stdout);
    fprintf(stderr, "sluice: %s\n", message[0] ? message : sl_status_name(st));
}

static int exit_status(sl_status st, uint64_t n_refused) {
    if (st == SL_ERR_ARG) return EXIT_USAGE;
    if (st != SL_OK) return EXIT_FAILED;
    return n_refused > 0 ? EXIT_SOME_REFUSED : EXIT_ANSWERED;
}

int main(int argc, char **argv) {
    sl_launch launch = {.info = {.n_ranks = 1, .n_local_ranks = 1}};
    uint64_t n_refused = 0;
    /* A closed pipe and a limit on the size of files are failed writes, with a message. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    launch.is_mpi = sl_mpi_is_launched();
    sl_undertaker undertaker = {.rank = -1};
    if (launch.is_mpi) undertaker = sl_undertaker_start(argc, argv);
    if (launch.is_mpi) {
        const sl_status st = sl_mpi_open(&argc, &argv, &launch.info);
        if (st != SL_OK) {
            print_error(&launch, st);
            return EXIT_FAILED;
        }
    }

    const sl_status st = dispatch(&launch, argc, argv, &n_refused);
    const int status = exit_status(st, n_refused);
    /* What MPI does at the end of a job that failed may take forever: SIGALRM ends this process. */
    if (launch.is_mpi && st != SL_OK) alarm(END_WITHIN_S);
    if (st != SL_OK && sl_launch_is_first(&launch)) print_error(&launch, st);
    if (launch.is_mpi && st == SL_ERR_COMM) {
        /* A peer is gone or cannot be reached, so ranks cannot end together.  The first rank has a
         * moment to say why; if it is the one that is gone, we do. */
        if (!sl_launch_is_first(&launch)) {
            sl_clock_sleep(2.0);
            print_error(&launch, st);
        }
        sl_mpi_abort(status);
    }
    sl_mpi_info_free(&launch.info);
    if (launch.is_mpi) sl_mpi_close();
    alarm(0);
    sl_undertaker_dismiss(&undertaker);
    return status;
}

#include "undertaker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RANK = 0, LAUNCHER = 1, RANK_PROCESS = 2, N_DESCRIPTORS = 3 };
enum { N_SHARED = 2, PATH_BYTES = 512 };

/* mpirun itself gives ranks a second between SIGTERM and SIGKILL.  A rank without a launcher speaks
 * to nobody, and has nothing to wait for. */
enum { LAUNCHER_MS = 2500, ORPHAN_MS = 300, LAST_MS = 1500 };

/* What the child knows; everything is made before it begins, for it may only call what is safe
 * after a fork: the process may have threads of libraries already. */
typedef struct {
    char shared[N_SHARED][PATH_BYTES]; /* files of the rank in /dev/shm */
    int is_daemon;   /* the launcher: mpirun in the middle of its end crashes on a signal */
    char *arguments; /* where the kernel reads the command line from */
    size_t n_arguments_bytes;
} estate;

static const char farewell = 'b';
static const char name[] = "sluice-end";

/* ---- the child ---- */

static int wait_for(int descriptor, int ms) {
    struct pollfd wait = {.fd = descriptor, .events = POLLIN};
    int got;
    do got = poll(&wait, 1, ms);
    while (got < 0 && errno == EINTR);
    return got != 0; /* what cannot be waited for is gone */
}

static void send_signal(int process, int number) {
    syscall(SYS_pidfd_send_signal, process, number, NULL, 0);
}

static void end_process(int process, int grace_ms, int knows_sigterm) {
    if (wait_for(process, grace_ms)) return;
    if (knows_sigterm) {
        send_signal(process, SIGTERM);
        if (wait_for(process, LAST_MS)) return;
    }
    send_signal(process, SIGKILL);
}

static void serve_estate(const estate *e) {
    struct pollfd wait[2] = {{.fd = RANK, .events = POLLIN}, {.fd = LAUNCHER, .events = POLLIN}};
    char word = 0;
    while (poll(wait, 2, -1) < 0 && errno == EINTR) {
    }
    if (wait[0].revents) {
        if (read(RANK, &word, 1) == 1 && word == farewell) return;
        end_process(LAUNCHER, LAUNCHER_MS, e->is_daemon);
    } else {
        end_process(RANK_PROCESS, ORPHAN_MS, 1);
    }
    /* A launcher that ends as it should removes these itself. */
    for (int i = 0; i < N_SHARED; i++) {
        if (e->shared[i][0]) unlink(e->shared[i]);
    }
}

static void become_undertaker(const int descriptor[N_DESCRIPTORS], const estate *e) {
    sigset_t all;
    setsid(); /* launchers signal the rank's whole group */
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    prctl(PR_SET_NAME, name);
    for (size_t i = 0; i < e->n_arguments_bytes; i++)
        e->arguments[i] = i + 1 < sizeof name ? name[i] : '\0';
    /* The rank's own pipes would look alive to the launcher as long as they are open here. */
    int high[N_DESCRIPTORS];
    for (int i = 0; i < N_DESCRIPTORS; i++) high[i] = fcntl(descriptor[i], F_DUPFD, 64);
    for (int i = 0; i < N_DESCRIPTORS; i++) dup2(high[i], i);
    syscall(SYS_close_range, 3u, ~0u, 0u);
    serve_estate(e);
    _exit(0);
}

/* ---- the rank ---- */

/* 0: another program, 1: mpirun, 2: its daemon on another host. */
static int find_kind(pid_t pid) {
    static const char *const names[] = {"mpirun",  "mpiexec", "orterun",
                                        "prterun", "orted",   "prted"};
    enum { FIRST_DAEMON = 4 };
    char path[64], found[64] = "";
    snprintf(path, sizeof path, "/proc/%ld/comm", (long)pid);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    const ssize_t n = read(fd, found, sizeof found - 1);
    close(fd);
    for (size_t i = 0; n > 0 && i < sizeof names / sizeof names[0]; i++) {
        if (strncmp(found, names[i], strlen(names[i])) == 0) return i < FIRST_DAEMON ? 1 : 2;
    }
    return 0;
}

/* The names that Open MPI 4 gives: host, user, job and local rank. */
static void find_shared(estate *e) {
    const char *job = getenv("PMIX_NAMESPACE"), *local = getenv("OMPI_COMM_WORLD_LOCAL_RANK");
    char host[256] = "", *end = NULL;
    if (!job || !local || gethostname(host, sizeof host - 1) != 0) return;
    const unsigned long number = strtoul(job, &end, 10);
    if (end == job || *end) return;
    for (int i = 0; i < N_SHARED; i++) {
        if (i == 1) host[strcspn(host, ".")] = '\0';
        snprintf(e->shared[i], sizeof e->shared[i], "/dev/shm/vader_segment.%.255s.%u.%lx.%d", host,
                 (unsigned)geteuid(), number, atoi(local));
    }
}

sl_undertaker sl_undertaker_start(int argc, char **argv) {
    const sl_undertaker none = {.rank = -1};
    const pid_t parent = getppid(), self = getpid();
    const int kind = find_kind(parent);
    int pipe_ends[2], descriptor[N_DESCRIPTORS];
    const char *last = argv[argc - 1];
    estate e = {.is_daemon = kind == 2,
                .arguments = argv[0],
                .n_arguments_bytes = (size_t)(last + strlen(last) + 1 - argv[0])};
    if (kind == 0) return none;
    if (pipe2(pipe_ends, O_CLOEXEC) != 0) return none;
    find_shared(&e);
    descriptor[RANK] = pipe_ends[0];
    descriptor[LAUNCHER] = (int)syscall(SYS_pidfd_open, parent, 0);
    descriptor[RANK_PROCESS] = (int)syscall(SYS_pidfd_open, self, 0);
    pid_t child = -1;
    /* Not fork(): libraries' handlers would end and renew their threads. */
    if (descriptor[LAUNCHER] >= 0 && descriptor[RANK_PROCESS] >= 0 && getppid() == parent)
        child = _Fork();
    if (child == 0) become_undertaker(descriptor, &e);
    for (int i = 0; i < N_DESCRIPTORS; i++) {
        if (descriptor[i] >= 0) close(descriptor[i]);
    }
    if (child > 0) return (sl_undertaker){.pid = child, .rank = pipe_ends[1]};
    close(pipe_ends[1]);
    return none;
}

void sl_undertaker_dismiss(const sl_undertaker *undertaker) {
    if (undertaker->rank < 0) return;
    const ssize_t n = write(undertaker->rank, &farewell, 1);
    (void)n;
    close(undertaker->rank);
    while (waitpid(undertaker->pid, NULL, 0) < 0 && errno == EINTR) {
    }
}

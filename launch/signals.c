#include "signals.h"

#include <pthread.h>
#include <stddef.h>
#include <unistd.h>

enum { EXIT_STOPPED = 1 };

static volatile sig_atomic_t stop_signal; /* written by the main thread's handler alone */
static atomic_int stop_anywhere;          /* lock-free, so that a handler may set it */
static _Atomic(sl_guard *) told_guard;
static int patience;
static pthread_t main_thread;

static void note_signal(int number) {
    sl_guard *guard = atomic_load(&told_guard);
    stop_signal = number;
    atomic_store(&stop_anywhere, number);
    if (guard)
        sl_guard_signal(guard, number);
    else
        signal(number, SIG_DFL); /* a second one ends the process at once */
    if (!guard && patience) alarm((unsigned)patience);
}

static void lose_patience(int number) {
    static const char text[] =
        "sluice: stopped by a signal in the middle of a pass; what is written "
        "is kept\n";
    const ssize_t n = write(STDERR_FILENO, text, sizeof text - 1);
    (void)number, (void)n;
    _exit(EXIT_STOPPED);
}

void sl_signals_catch(int restarts, int patience_s) {
    struct sigaction action = {.sa_handler = note_signal, .sa_flags = restarts ? SA_RESTART : 0};
    main_thread = pthread_self();
    patience = patience_s;
    if (patience_s) signal(SIGALRM, lose_patience);
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

const volatile sig_atomic_t *sl_signals_stop(void) {
    return &stop_signal;
}
atomic_int *sl_signals_stop_anywhere(void) {
    return &stop_anywhere;
}

void sl_signals_set_guard(sl_guard *guard) {
    atomic_store(&told_guard, guard);
}

void sl_signals_raise(int number) {
    pthread_kill(main_thread, number);
}

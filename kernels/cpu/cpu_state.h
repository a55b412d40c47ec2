/* cpu_state.h - the state of a CPU backend, shared by its operators.
 *
 * Layer: kernels/cpu.  Thread safety: one thread per backend; scratch is grown by the calling
 * thread before a team starts, and kept, so that the steady state allocates nothing.
 */
#ifndef SL_CPU_STATE_H
#define SL_CPU_STATE_H

#include <stddef.h>

#include "cpu/cpu_device.h"
#include "cpu/cpu_kernels.h"
#include "cpu/cpu_team.h"
#include "engine/backend.h"

/* A buffer that only grows; 64-byte aligned. */
typedef struct {
    void *data;
    size_t bytes;
} sl_cpu_buffer;

typedef struct {
    sl_backend base;       /* first: sl_backend * and sl_cpu * are the same address */
    sl_backend_ops ops;    /* the table in use */
    sl_cpu_device *device; /* NULL: operators work on host memory */
    int n_threads;
    int reference;
    sl_cpu_team *team;
    const sl_cpu_kernels *kernels;
    struct sl_cpu_sparse *sparse; /* cpu_sparse.c's, made with its first use */
    sl_cpu_buffer shared;         /* of one operator call, read by the whole team */
    sl_cpu_buffer own;            /* n_threads parts, one for each thread of the team */
    size_t own_bytes;             /* of one part */
    sl_cpu_buffer rope_table;     /* cosines and sines of positions [0, rope_positions) */
    sl_cpu_buffer rope_freq;      /* the frequencies that the table was made with */
    int rope_positions;
    int rope_half;    /* frequencies in rope_freq */
    sl_choice *begun; /* [SL_BEGUN_ROWS], made with the first; of them [n_ended, n_begun) are due */
    int n_begun, n_ended;
} sl_cpu;

static inline sl_cpu *sl_cpu_of(sl_backend *be) {
    return (sl_cpu *)be;
}

void sl_cpu_sparse_close(struct sl_cpu_sparse *sparse);

/* Makes `buffer` hold at least `bytes`; its content is lost when it grows.
 * Errors: SL_ERR_NOMEM naming `what`. */
sl_status sl_cpu_reserve(sl_cpu_buffer *buffer, size_t bytes, const char *what);

/* Makes every thread's part hold at least `bytes`. */
sl_status sl_cpu_reserve_own(sl_cpu *cpu, size_t bytes, const char *what);

/* The part of thread `thread` of the team. */
static inline void *sl_cpu_own(const sl_cpu *cpu, int thread) {
    return (char *)cpu->own.data + (size_t)thread * cpu->own_bytes;
}

/* Computes items [0, n_items), on the calling thread alone where `work` (multiply-adds or
 * comparable steps in all) is less than what waking the team costs. */
void sl_cpu_run(sl_cpu *cpu, double work, int n_items, sl_cpu_item *compute, void *context);

/* Computes rows [begin, end) on thread `thread`. */
typedef void sl_cpu_row_range(void *context, int begin, int end, int thread);

/* The same for rows [0, n_rows) in ranges. */
void sl_cpu_for_rows(sl_cpu *cpu, double work, int n_rows, sl_cpu_row_range *compute,
                     void *context);

#endif

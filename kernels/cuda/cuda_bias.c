/* Biases in the form in which cuBLAS adds them: f16 copies of those that stay as they are. */
#include "cuda/cuda_bias.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "cuda/cuda_check.h"
#include "cuda/cuda_pointwise.h"
#include "cuda/cuda_state.h"

/* Copies begin where cuBLAS loads fastest. */
enum { ALIGN = 256 };

/* Number of runs that begin at or before the address. */
static int n_runs_up_to(const sl_cuda_biases *b, const float *bias) {
    int low = 0, high = b->n_runs;
    while (low < high) {
        const int middle = (low + high) / 2;
        if ((uintptr_t)b->run[middle].from <= (uintptr_t)bias)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static sl_status add_run(sl_cuda_biases *b, int at, sl_cuda_bias_run run) {
    if (b->n_runs == b->room) {
        const int room = b->room ? 2 * b->room : 64;
        sl_cuda_bias_run *more = realloc(b->run, (size_t)room * sizeof *more);
        if (!more) return SL_FAIL(SL_ERR_NOMEM, "out of host memory for %d biases", room);
        b->run = more;
        b->room = room;
    }
    memmove(&b->run[at + 1], &b->run[at], (size_t)(b->n_runs - at) * sizeof *b->run);
    b->run[at] = run;
    b->n_runs++;
    return SL_OK;
}

sl_status sl_cuda_keep_bias(sl_backend *be, const float *bias, int n) {
    sl_cuda *cuda = sl_cuda_of(be);
    sl_cuda_biases *b = &cuda->biases;
    if (!bias || n < 1) return SL_FAIL(SL_ERR_ARG, "keep_bias of %d elements", n);
    if (sl_cuda_kept_bias(cuda, bias, n)) return SL_OK;
    const int at = n_runs_up_to(b, bias);
    sl_cuda_bias_run *before = at > 0 ? &b->run[at - 1] : NULL;
    /* Behind one another, as those of joined matrices: one run of both. */
    const int goes_on =
        before && before->from + before->n == bias && before->first + (size_t)before->n == b->used;
    const size_t first = goes_on ? b->used : sl_align_up(b->used, ALIGN / sizeof(uint16_t));
    if (first + (size_t)n > SL_CUDA_KEPT_BIASES) return SL_OK;
    SL_TRY(sl_cuda_to_f16(b->copy + first, bias, SL_DTYPE_F32, (size_t)n, sl_cuda_compute(cuda)));
    if (goes_on)
        before->n += n;
    else
        SL_TRY(add_run(b, at, (sl_cuda_bias_run){bias, n, first}));
    b->used = first + (size_t)n;
    return SL_OK;
}

void sl_cuda_forget_biases(sl_backend *be) {
    sl_cuda_biases *b = &sl_cuda_of(be)->biases;
    b->n_runs = 0;
    b->used = 0;
}

const void *sl_cuda_kept_bias(const sl_cuda *cuda, const float *bias, int n) {
    const sl_cuda_biases *b = &cuda->biases;
    const int at = n_runs_up_to(b, bias);
    if (at == 0) return NULL;
    const sl_cuda_bias_run *run = &b->run[at - 1];
    const size_t offset = ((uintptr_t)bias - (uintptr_t)run->from) / sizeof *bias;
    return offset + (size_t)n <= (size_t)run->n ? b->copy + run->first + offset : NULL;
}

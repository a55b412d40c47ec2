/* use_checkpoint.h - what the fuzz entries of the checkpoint readers share: bytes as a file, and
 * what must hold of everything that opens. */
#ifndef SL_TESTS_FUZZ_USE_CHECKPOINT_H
#define SL_TESTS_FUZZ_USE_CHECKPOINT_H

#include <sys/mman.h>

#include "model/checkpoint.h"
#include "model/quant.h"

#include "../support/files.h"

/* Reads the first and the last row.  Large tensors are left alone: rows are all alike. */
static inline void use_rows(const sl_checkpoint *ckpt, const sl_tensor *t) {
    const int64_t rows = t->n_dims == 1 ? 1 : t->dims[0];
    int64_t cols = t->n_dims == 1 ? t->dims[0] : 1;
    for (int d = 1; d < t->n_dims; d++) cols *= t->dims[d];
    const size_t row_bytes = t->bytes / (size_t)rows;
    if (row_bytes > 65536) return;
    void *row = malloc(row_bytes);
    float *y = malloc((size_t)cols * sizeof *y);
    REQUIRE(row && y);
    const int64_t chosen[] = {0, rows - 1};
    for (int i = 0; i < 2; i++) {
        /* The whole range was checked and the file does not change. */
        REQUIRE(sl_checkpoint_read_rows(ckpt, t, chosen[i], 1, row, row_bytes) == SL_OK);
        sl_dequantize_row(y, row, t->dtype, cols);
    }
    REQUIRE(sl_checkpoint_read_rows(ckpt, t, rows, 1, row, row_bytes) == SL_ERR_ARG);
    free(y);
    free(row);
}

static inline void use_checkpoint(sl_checkpoint *ckpt) {
    const size_t n = sl_checkpoint_n_tensors(ckpt);
    REQUIRE(n > 0);
    for (size_t i = 0; i < n && i < 64; i++) {
        const sl_tensor *t = sl_checkpoint_tensor(ckpt, i);
        REQUIRE(sl_checkpoint_find(ckpt, t->name) == t);
        REQUIRE(t->n_dims >= 1 && t->n_dims <= SL_TENSOR_MAX_DIMS && t->bytes > 0);
        for (int d = 0; d < t->n_dims; d++) REQUIRE(t->dims[d] > 0);
        use_rows(ckpt, t);
    }
    sl_checkpoint_close(ckpt);
}

/* Opens `bytes` as a file and uses what opens; a failure must say why. */
static inline void use_bytes(const void *bytes, size_t size,
                             sl_status (*open_it)(const char *, sl_checkpoint **),
                             void (*use_it)(sl_checkpoint *)) {
    char path[64];
    sl_checkpoint *ckpt = NULL;
    const int fd = memfd_create("checkpoint", MFD_CLOEXEC);
    REQUIRE(fd >= 0 && write(fd, bytes, size) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    (void)sl_fail_text(SL_OK, "");
    if (open_it(path, &ckpt) == SL_OK)
        use_it(ckpt);
    else
        REQUIRE(sl_error_message()[0] != '\0' && !ckpt);
    close(fd);
}

#endif

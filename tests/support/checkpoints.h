/* checkpoints.h - what the tests of the checkpoint readers share.  Included after cmocka.h. */
#ifndef SL_TESTS_SUPPORT_CHECKPOINTS_H
#define SL_TESTS_SUPPORT_CHECKPOINTS_H

#include "model/checkpoint.h"
#include "model/quant.h"
#include "support/files.h"

typedef sl_status (*open_function)(const char *path, sl_checkpoint **out);

/* Opening fails with `expected`, leaves *out alone, and the message holds every fragment (the list
 * ends with NULL). */
static inline void assert_refused(open_function open_it, const char *path, sl_status expected,
                                  const char *const *fragments) {
    sl_checkpoint *const untouched = (sl_checkpoint *)(uintptr_t)0x1;
    sl_checkpoint *ckpt = untouched;
    const sl_status st = open_it(path, &ckpt);
    if (st == SL_OK) sl_checkpoint_close(ckpt);
    if (st != expected) print_error("%s: status %d, \"%s\"\n", path, (int)st, sl_error_message());
    assert_int_equal(st, expected);
    assert_ptr_equal(ckpt, untouched);
    for (; *fragments; fragments++) {
        if (!strstr(sl_error_message(), *fragments))
            print_error("\"%s\" is not in \"%s\"\n", *fragments, sl_error_message());
        assert_non_null(strstr(sl_error_message(), *fragments));
    }
}
#define FRAGMENTS(...)                                                                             \
    (const char *const[]) {                                                                        \
        __VA_ARGS__, NULL                                                                          \
    }

static inline sl_checkpoint *assert_opens(open_function open_it, const char *path) {
    sl_checkpoint *ckpt = NULL;
    const sl_status st = open_it(path, &ckpt);
    if (st != SL_OK) print_error("%s\n", sl_error_message());
    assert_int_equal(st, SL_OK);
    return ckpt;
}

static inline int64_t elems_of(const sl_tensor *t) {
    int64_t n = 1;
    for (int d = 0; d < t->n_dims; d++) n *= t->dims[d];
    return n;
}

/* The tensor is there with that dtype and shape (0 ends it); its values are read row by row into
 * `y`, float32 [rows * cols]. */
static inline const sl_tensor *read_tensor(const sl_checkpoint *ckpt, const char *name,
                                           sl_dtype dtype, const int64_t *dims, float *y) {
    const sl_tensor *t = sl_checkpoint_find(ckpt, name);
    assert_non_null(t);
    assert_string_equal(t->name, name);
    assert_int_equal(t->dtype, dtype);
    for (int d = 0; d < t->n_dims; d++) assert_int_equal(t->dims[d], dims[d]);
    assert_int_equal(dims[t->n_dims], 0);
    const int64_t rows = t->n_dims == 1 ? 1 : t->dims[0], cols = elems_of(t) / rows;
    const size_t row_bytes = t->bytes / (size_t)rows;
    unsigned char *row = malloc(row_bytes);
    assert_non_null(row);
    for (int64_t r = 0; r < rows; r++) {
        assert_int_equal(sl_checkpoint_read_rows(ckpt, t, r, 1, row, row_bytes), SL_OK);
        sl_dequantize_row(y + r * cols, row, dtype, cols);
    }
    free(row);
    return t;
}
#define DIMS(...)                                                                                  \
    (const int64_t[]) {                                                                            \
        __VA_ARGS__, 0                                                                             \
    }

/* y[i] = start + step * i, exactly. */
static inline void assert_ramp(const float *y, int64_t n, float start, float step) {
    for (int64_t i = 0; i < n; i++) assert_true(y[i] == start + step * (float)i);
}

#endif

#include "base/dtype.h"

#include "base/bytes.h"

static const struct {
    const char *name;
    int block_elems;
    size_t block_bytes;
} formats[SL_DTYPE_COUNT] = {
    [SL_DTYPE_F32] = {"F32", 1, 4},       [SL_DTYPE_F16] = {"F16", 1, 2},
    [SL_DTYPE_BF16] = {"BF16", 1, 2},     [SL_DTYPE_Q4_0] = {"Q4_0", 32, 18},
    [SL_DTYPE_Q4_1] = {"Q4_1", 32, 20},   [SL_DTYPE_Q5_0] = {"Q5_0", 32, 22},
    [SL_DTYPE_Q5_1] = {"Q5_1", 32, 24},   [SL_DTYPE_Q8_0] = {"Q8_0", 32, 34},
    [SL_DTYPE_Q4_K] = {"Q4_K", 256, 144}, [SL_DTYPE_Q5_K] = {"Q5_K", 256, 176},
    [SL_DTYPE_Q6_K] = {"Q6_K", 256, 210},
};

static int is_known(sl_dtype dtype) {
    return (int)dtype >= 0 && dtype < SL_DTYPE_COUNT;
}

const char *sl_dtype_name(sl_dtype dtype) {
    return is_known(dtype) ? formats[dtype].name : "?";
}

int sl_dtype_block_elems(sl_dtype dtype) {
    return is_known(dtype) ? formats[dtype].block_elems : 1;
}

size_t sl_dtype_block_bytes(sl_dtype dtype) {
    return is_known(dtype) ? formats[dtype].block_bytes : 0;
}

sl_status sl_dtype_row_bytes(sl_dtype dtype, int64_t cols, size_t *out) {
    if (!is_known(dtype)) return SL_FAIL(SL_ERR_FORMAT, "unknown number format %d", (int)dtype);
    const int block = formats[dtype].block_elems;
    if (cols < 0 || cols % block != 0)
        return SL_FAIL(SL_ERR_FORMAT, "a row of %lld elements is no multiple of %s's block of %d",
                       (long long)cols, formats[dtype].name, block);
    return sl_size_mul((size_t)(cols / block), formats[dtype].block_bytes, out);
}

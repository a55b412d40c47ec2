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
    [SL_DTYPE_Q6_K] = {"Q6_K", 256, 210}, [SL_DTYPE_Q8G64] = {"Q8G64", 1, 0},
    [SL_DTYPE_Q4G64] = {"Q4G64", 1, 0},
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

/* The codes, then a step and a minimum of two bytes each per group; each part is padded to 16. */
static sl_status group_row_bytes(int bits, size_t cols, size_t *out) {
    size_t bits_of_row, bytes;
    SL_TRY(sl_size_mul(cols, (size_t)bits, &bits_of_row));
    const size_t n_groups = cols / SL_GROUP_ELEMS + (cols % SL_GROUP_ELEMS != 0);
    const size_t codes = sl_align_up(bits_of_row / 8 + (bits_of_row % 8 != 0), 16);
    SL_TRY(sl_size_add(codes, sl_align_up(4 * n_groups, 16), &bytes));
    *out = bytes;
    return SL_OK;
}

sl_status sl_dtype_row_bytes(sl_dtype dtype, int64_t cols, size_t *out) {
    if (!is_known(dtype)) return SL_FAIL(SL_ERR_FORMAT, "unknown number format %d", (int)dtype);
    const int block = formats[dtype].block_elems;
    const int bits = sl_dtype_group_bits(dtype);
    if (bits && cols >= 0) return group_row_bytes(bits, (size_t)cols, out);
    if (cols < 0 || cols % block != 0)
        return SL_FAIL(SL_ERR_FORMAT, "a row of %lld elements is no multiple of %s's block of %d",
                       (long long)cols, formats[dtype].name, block);
    return sl_size_mul((size_t)(cols / block), formats[dtype].block_bytes, out);
}

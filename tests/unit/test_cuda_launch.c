/* What of the CUDA kernels' launchers needs no GPU: refused arguments, by their numbers, and the
 * error of a machine without a device. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cuda/cuda_backend.h"
#include "cuda/cuda_choose.h"
#include "cuda/cuda_kv.h"
#include "cuda/cuda_linear.h"
#include "cuda/cuda_norm.h"
#include "cuda/cuda_pointwise.h"
#include "cuda/cuda_state.h"

static void refused(sl_status st, const char *words) {
    assert_int_equal(st, SL_ERR_ARG);
    if (!strstr(sl_error_message(), words))
        fail_msg("\"%s\" does not say \"%s\"", sl_error_message(), words);
}

static void norm_refuses_empty_rows_and_bad_eps(void **state) {
    (void)state;
    refused(sl_cuda_norm(NULL, NULL, NULL, NULL, SL_NORM_RMS, 1e-5f, 3, 0, NULL), "[3, 0]");
    refused(sl_cuda_norm(NULL, NULL, NULL, NULL, SL_NORM_RMS, NAN, 3, 8, NULL), "eps");
    refused(sl_cuda_norm(NULL, NULL, NULL, NULL, (sl_norm_kind)9, 1e-5f, 3, 8, NULL), "kind 9");
}

static void pointwise_operators_refuse_shapes(void **state) {
    (void)state;
    const float freq[4] = {1.0f};
    const int32_t index[2] = {4, -2};
    const sl_cuda_table table = {NULL, SL_DTYPE_Q4_K, 144, 0, 1, 256};
    refused(sl_cuda_rope(NULL, 8, 1, 7, freq, NULL, 1, NULL), "heads of 7");
    refused(sl_cuda_rope(NULL, 15, 2, 8, freq, NULL, 1, NULL), "rows of 15");
    refused(sl_cuda_activate(NULL, NULL, NULL, 7, SL_ACT_RELU, 1, 8, NULL), "rows of 7");
    refused(sl_cuda_activate(NULL, NULL, NULL, 8, (sl_activation)9, 1, 8, NULL), "activation 9");
    refused(sl_cuda_gather(NULL, NULL, index, 2, 8, NULL), "row -2");
    refused(sl_cuda_embed(NULL, &table, NULL, 0, 1, 0, NULL), "Q4_K");
    refused(sl_cuda_to_f16(NULL, NULL, SL_DTYPE_Q8_0, 1, NULL), "Q8_0");
    refused(sl_cuda_add_bias(NULL, 3, 0, NULL, 1, 4, NULL), "rows of 3");
}

static void products_refuse_weights_that_do_not_fit(void **state) {
    (void)state;
    const sl_cuda_product out = {NULL, 64, 0, 0, NULL};
    const sl_cuda_matrix ggml = {NULL, SL_DTYPE_Q4_0, 36, 64, 64};
    const sl_cuda_matrix narrow = {NULL, SL_DTYPE_Q4G64, 32, 64, 64};
    const sl_cuda_matrix odd = {NULL, SL_DTYPE_Q4G64, 48, 64, 33};
    const sl_cuda_matrix plain = {NULL, SL_DTYPE_F16, 128, 64, 64};
    refused(sl_cuda_linear_any(&out, NULL, &ggml, 1, NULL), "Q4_0");
    refused(sl_cuda_linear_any(&out, NULL, &narrow, 1, NULL), "rows of 32 bytes");
    refused(sl_cuda_linear_few(&out, NULL, &odd, 1, NULL, 0, NULL), "33 columns");
    refused(sl_cuda_linear_mid(&out, NULL, &odd, 65, NULL, 0, NULL), "33");
    refused(sl_cuda_linear_mid(&out, NULL, &plain, 65, NULL, 0, NULL), "F16");
    refused(sl_cuda_linear_wgmma(&out, NULL, &odd, 65, NULL, 0, NULL), "linear_wgmma: 65 rows");
    refused(sl_cuda_linear_wgmma(&out, NULL, &plain, 65, NULL, 0, NULL), "linear_wgmma: 65 rows");
    refused(sl_cuda_unpack(NULL, &plain, NULL), "F16");
    refused(sl_cuda_pack(NULL, NULL, SL_DTYPE_F16, 128, 1, 64, NULL), "F16");
    assert_false(sl_cuda_linear_few_takes(&odd, NULL, 1));
    assert_false(sl_cuda_linear_few_takes(&plain, NULL, 1));
}

static void attention_refuses_caches_and_heads(void **state) {
    (void)state;
    char page[16];
    sl_kv_view cache = {sl_kv_format_make(SL_DTYPE_F32, 2, 64), page};
    const sl_cuda_rows rows = {.n_rows = 1};
    refused(sl_cuda_attend(NULL, NULL, 256, 4, &cache, 1.0f, 0, 0.0f, &rows, NULL, 0, NULL), "F32");
    cache.format = sl_kv_format_make(SL_DTYPE_Q4G64, 2, 64);
    refused(sl_cuda_attend(NULL, NULL, 256, 3, &cache, 1.0f, 0, 0.0f, &rows, NULL, 0, NULL),
            "3 query");
    refused(sl_cuda_attend(NULL, NULL, 255, 4, &cache, 1.0f, 0, 0.0f, &rows, NULL, 0, NULL), "255");
    refused(sl_cuda_attend(NULL, NULL, 256, 4, &cache, 0.0f, 0, 0.0f, &rows, NULL, 0, NULL),
            "scale");
    refused(sl_cuda_attend(NULL, NULL, 256, 4, &cache, 1.0f, -1, 0.0f, &rows, NULL, 0, NULL), "-1");
    const sl_cuda_pages pages = sl_cuda_pages_of(&cache);
    refused(sl_cuda_attend_sparse(NULL, NULL, 256, 4, &pages, 1.0f, 0, 1.5f, &rows, NULL, 0, NULL),
            "1.5 of the values");
    refused(sl_cuda_kv_append(&cache, NULL, NULL, 127, &rows, NULL), "127");
    cache.format.page_bytes--;
    refused(sl_cuda_kv_append(&cache, NULL, NULL, 128, &rows, NULL), "pages of");
    cache.base = NULL;
    refused(sl_cuda_kv_append(&cache, NULL, NULL, 128, &rows, NULL), "without a cache");
    assert_int_equal(sl_cuda_attend_scratch(512, 8, 128), 0);
    assert_int_equal(sl_cuda_attend_scratch(513, 8, 128), 2 * 8 * 130 * 4);
}

static void sampler_refuses_vocabularies_that_overflow(void **state) {
    (void)state;
    refused(sl_cuda_choose(NULL, 1, 0, NULL, NULL, NULL), "[1, 0]");
    refused(sl_cuda_choose(NULL, 1, (1 << 18) + 1, NULL, NULL, NULL), "262145");
}

static void backend_refuses_options(void **state) {
    (void)state;
    sl_backend *be = NULL;
    const sl_cuda_options none = {0}, negative = {.memory_bytes = 1 << 20, .max_rows = -1};
    refused(sl_cuda_backend_open(NULL, &be), "no options");
    refused(sl_cuda_backend_open(&none, &be), "zero bytes");
    refused(sl_cuda_backend_open(&negative, &be), "-1 rows");
    assert_null(be);
}

static void launch_without_a_gpu_is_a_device_error(void **state) {
    (void)state;
    if (sl_cuda_device_count() > 0) skip();
    sl_backend *be = NULL;
    const sl_cuda_options options = {.memory_bytes = 1 << 20};
    assert_int_equal(sl_cuda_norm(NULL, NULL, NULL, NULL, SL_NORM_RMS, 1e-5f, 1, 8, NULL),
                     SL_ERR_DEVICE);
    assert_non_null(strstr(sl_error_message(), "launch norm"));
    assert_int_equal(sl_cuda_backend_open(&options, &be), SL_ERR_DEVICE);
    assert_null(be);
}

/* 132 processors take 264 tiles of 128 by 128, 2 each, at once: 16 by 36 tiles of 4608 outputs need
 * three times, as 16 by 33 of 4224 need two. */
static void chunks_of_a_product_fill_the_processors(void **state) {
    (void)state;
    assert_int_equal(sl_cuda_chunk_rows(2048, 28672, 4681, 132), 4224);
    assert_int_equal(sl_cuda_chunk_rows(2048, 4000, 4681, 132), 4000); /* at once */
    assert_int_equal(sl_cuda_chunk_rows(2048, 28672, 100, 132), 100);
    for (int i = 0; i < 2000; i++) {
        const int n = 1 + i * 7 % 5000, m = 1 + i * 131 % 40000, fit = 1 + i * 17 % 9000;
        const int rows = sl_cuda_chunk_rows(n, m, fit, 1 + i % 150);
        assert_in_range(rows, 1, m < fit ? m : fit);
        assert_true(rows == m || rows == fit || rows % 128 == 0);
        assert_true(rows == m || 2 * rows >= fit - 256);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norm_refuses_empty_rows_and_bad_eps),
        cmocka_unit_test(pointwise_operators_refuse_shapes),
        cmocka_unit_test(products_refuse_weights_that_do_not_fit),
        cmocka_unit_test(attention_refuses_caches_and_heads),
        cmocka_unit_test(sampler_refuses_vocabularies_that_overflow),
        cmocka_unit_test(backend_refuses_options),
        cmocka_unit_test(launch_without_a_gpu_is_a_device_error),
        cmocka_unit_test(chunks_of_a_product_fill_the_processors),
    };
    return cmocka_run_group_tests_name("cuda_launch", tests, NULL, NULL);
}

/* The books of the device's memory: parts never overlap, the budget holds, gaps close. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "cuda/cuda_pool.h"

static void parts_are_aligned_and_counted(void **state) {
    (void)state;
    sl_cuda_pool pool;
    size_t a, b, c = 77;
    sl_cuda_pool_init(&pool, 1024 + 100); /* the odd end is of no use */
    assert_int_equal(sl_cuda_pool_take(&pool, 1, "a", &a), SL_OK);
    assert_int_equal(sl_cuda_pool_take(&pool, 257, "b", &b), SL_OK);
    assert_int_equal(a, 0);
    assert_int_equal(b, 256);
    assert_int_equal(pool.used_bytes, 768);
    assert_int_equal(sl_cuda_pool_take(&pool, 512, "the last straw", &c), SL_ERR_NOMEM);
    assert_non_null(strstr(sl_error_message(), "the last straw"));
    assert_int_equal(c, 77);
    assert_int_equal(sl_cuda_pool_take(&pool, 0, "nothing", &c), SL_ERR_ARG);
    assert_int_equal(sl_cuda_pool_take(&pool, SIZE_MAX, "all", &c), SL_ERR_NOMEM);
    sl_cuda_pool_put(&pool, a);
    sl_cuda_pool_put(&pool, 999); /* never handed out */
    assert_int_equal(pool.used_bytes, 512);
    assert_int_equal(pool.peak_bytes, 768);
    assert_int_equal(sl_cuda_pool_take(&pool, 256, "c", &c), SL_OK);
    assert_int_equal(c, 0);
    assert_int_equal(pool.n_taken, 3);
    sl_cuda_pool_free(&pool);
}

static void random_use_keeps_parts_apart(void **state) {
    (void)state;
    enum { UNITS = 400, PARTS = 60 };
    static unsigned char owner[UNITS];
    struct {
        size_t offset, units;
    } held[PARTS] = {0};
    sl_cuda_pool pool;
    sl_rng rng = {.key = 71};
    size_t used = 0;
    memset(owner, 0, sizeof owner);
    sl_cuda_pool_init(&pool, UNITS * SL_CUDA_POOL_ALIGN);
    for (int i = 0; i < 20000; i++) {
        const size_t p = sl_rng_below(&rng, PARTS);
        if (held[p].units) {
            sl_cuda_pool_put(&pool, held[p].offset);
            memset(owner + held[p].offset / SL_CUDA_POOL_ALIGN, 0, held[p].units);
            used -= held[p].units;
            held[p].units = 0;
        } else {
            const size_t units = 1 + sl_rng_below(&rng, 20);
            size_t offset;
            if (sl_cuda_pool_take(&pool, units * SL_CUDA_POOL_ALIGN - 5, "p", &offset) != SL_OK)
                continue;
            for (size_t u = 0; u < units; u++) {
                assert_int_equal(owner[offset / SL_CUDA_POOL_ALIGN + u], 0);
                owner[offset / SL_CUDA_POOL_ALIGN + u] = 1;
            }
            held[p].offset = offset, held[p].units = units;
            used += units;
        }
        assert_int_equal(pool.used_bytes, used * SL_CUDA_POOL_ALIGN);
    }
    for (size_t p = 0; p < PARTS; p++)
        if (held[p].units) sl_cuda_pool_put(&pool, held[p].offset);
    size_t whole; /* the gaps have grown together */
    assert_int_equal(sl_cuda_pool_take(&pool, UNITS * SL_CUDA_POOL_ALIGN, "all", &whole), SL_OK);
    sl_cuda_pool_free(&pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_are_aligned_and_counted),
        cmocka_unit_test(random_use_keeps_parts_apart),
    };
    return cmocka_run_group_tests_name("cuda_pool", tests, NULL, NULL);
}

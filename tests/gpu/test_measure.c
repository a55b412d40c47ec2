/* policy/measure on a GPU: a whole profile in little time, and the device's memory given back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "cpu/cpu_host_attention.h"
#include "gpu_fixture.h"
#include "measure_machine.h"

enum { N_THREADS = 4 };

static void measure_on_a_gpu_fills_a_whole_profile(void **state) {
    (void)state;
    const size_t gib = (size_t)1 << 30;
    const sl_cuda_options cuda = {.memory_bytes = 2 * gib,
                                  .n_bound = SL_BOUND_PER_BATCH * SL_MEASURE_MICRO_BATCHES};
    const sl_cpu_host_options host = {.n_threads = N_THREADS};
    sl_measure_options options = {.n_threads = N_THREADS,
                                  .host_bytes = gib,
                                  .disk_dir = "/tmp",
                                  .disk_bytes = gib / 16,
                                  .sample_s = 0.01,
                                  .limit_s = 30.0};
    sl_profile p;
    check_ok(sl_cuda_backend_open(&cuda, &options.backend));
    check_ok(sl_cpu_host_attention_open(&host, &options.host_attention));
    check_ok(sl_transport_open_loopback(&options.transport));
    const size_t used = options.backend->ops->device->used_bytes(options.backend);

    const double start_s = sl_clock_s();
    check_ok(sl_measure_machine(&options, &p, NULL));
    assert_true(sl_clock_s() - start_s < 60.0);
    assert_int_equal(options.backend->ops->device->used_bytes(options.backend), used);
    sl_transport_close(options.transport);
    sl_host_attention_close(options.host_attention);
    sl_backend_close(options.backend);

    snprintf(p.device, sizeof p.device, "a GPU");
    p.gpu_bytes = p.cpu_bytes = p.disk_bytes = 1e9;
    check_ok(sl_profile_check(&p));
    /* Any GPU that counts on any bus: PCIe 3 gives 12 GB/s, a T4 has 320 GB/s and 65 TFLOP/s. */
    const double h2d = sl_curve_at(&p.h2d_bps, 64 << 20);
    assert_true(h2d > 1e9 && h2d < 1e12);
    assert_true(p.duplex_bps > h2d / 2);
    assert_true(p.memory_bps > 50e9 && p.memory_bps < 1e14);
    assert_true(p.compute_beside_h2d_frac > 0.2 && p.compute_beside_h2d_frac <= 1.0);
    for (int f = 0; f < SL_PROFILE_FORMATS; f++) {
        const double many = sl_curve_at(&p.gemm_flops[f], 4096);
        assert_true(many > 1e12 && many < 1e16);
        assert_true(many > sl_curve_at(&p.gemm_flops[f], 1));
        const sl_curve *const sizes[] = {&p.gemm_small_flops[f], &p.gemm_large_flops[f]};
        for (int i = 0; i < 2; i++) {
            const double most = sl_curve_at(sizes[i], 2048);
            assert_true(sizes[i]->n > 1 && most > many / 10 && most < many * 10);
        }
        assert_true(sl_curve_at(&p.attend_bps[f], 256) > 1e9);
        assert_true(sl_curve_at(&p.prefill_attend_flops[f], 2048) > 1e11);
    }
    assert_true(p.layer_s > 1e-6 && p.layer_s < 1e-2 && p.host_job_s > 0.0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(measure_on_a_gpu_fills_a_whole_profile),
    };
    SKIP_WITHOUT_GPU();
    return cmocka_run_group_tests_name("gpu_measure", tests, NULL, NULL);
}

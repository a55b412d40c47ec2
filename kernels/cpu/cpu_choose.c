#include "cpu/cpu_choose.h"

#include <sched.h>

/* Processors that this process may run on: what taskset, mpirun's binding or a container left. */
static int allowed_processors(void) {
    /* The mask has to be as large as the kernel's; 8192 processors are the most that Linux has. */
    enum { MAX_PROCESSORS = 8192 };
    const size_t bytes = CPU_ALLOC_SIZE(MAX_PROCESSORS);
    cpu_set_t *set = CPU_ALLOC(MAX_PROCESSORS);
    int n = 1;
    if (set && sched_getaffinity(0, bytes, set) == 0) n = CPU_COUNT_S(bytes, set);
    CPU_FREE(set);
    return n > 0 ? n : 1;
}

int sl_cpu_choose_threads(int wanted) {
    const int allowed = allowed_processors();
    return wanted == 0 || wanted > allowed ? allowed : wanted;
}

sl_status sl_cpu_choose_kernels(sl_cpu_simd simd, const sl_cpu_kernels **out) {
    const sl_cpu_kernels *plain = sl_cpu_kernels_plain();
    const sl_cpu_kernels *avx2 = sl_cpu_kernels_avx2();
    const sl_cpu_kernels *avx512 = sl_cpu_kernels_avx512();
    switch (simd) {
    case SL_CPU_AUTO:
        *out = avx512 ? avx512 : avx2 ? avx2 : plain;
        return SL_OK;
    case SL_CPU_PLAIN_C:
        *out = plain;
        return SL_OK;
    case SL_CPU_AVX2:
        if (!avx2) return SL_FAIL(SL_ERR_ARG, "cpu backend: this processor has no avx2");
        *out = avx2;
        return SL_OK;
    case SL_CPU_AVX512:
        if (!avx512) return SL_FAIL(SL_ERR_ARG, "cpu backend: this processor has no avx512");
        *out = avx512;
        return SL_OK;
    }
    return SL_FAIL(SL_ERR_ARG, "cpu backend: unknown instruction set %d", (int)simd);
}

const sl_cpu_host_kernels *sl_cpu_choose_host_kernels(const sl_cpu_kernels *kernels) {
    return kernels == sl_cpu_kernels_avx512() ? sl_cpu_host_kernels_avx512()
           : kernels == sl_cpu_kernels_avx2() ? sl_cpu_host_kernels_avx2()
                                              : sl_cpu_host_kernels_plain();
}

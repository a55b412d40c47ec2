#include "cpu/cpu_kernels.h"

const sl_cpu_kernels *sl_cpu_kernels_avx2(void) {
    return NULL;
}

/* Fuzz entry of machine profiles: any text.  What is accepted passes the check, answers at any
 * size, and comes back the same when it is written and read again. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "profile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use_curve(const sl_curve *curve) {
    for (double x = 1e-3; x < 1e12; x *= 7.3) {
        const double y = sl_curve_at(curve, x);
        if (!isfinite(y) || y < 0.0 || (curve->n > 0) != (y > 0.0)) abort();
    }
}

static void use_products(const sl_profile *profile, int format) {
    if (profile->gemm_flops[format].n == 0) return;
    for (double elems = 1.0; elems < 1e12; elems *= 31.0)
        for (double rows = 1e-3; rows < 1e6; rows *= 31.0)
            if (!(sl_profile_product_s(profile, format, rows, elems, 64.0) >= 0.0)) abort();
}

static void use_profile(const sl_profile *profile) {
    sl_json_text text = {0}, again = {0};
    sl_profile same;
    if (sl_profile_check(profile) != SL_OK) abort();
    use_curve(&profile->h2d_bps);
    use_curve(&profile->dram_threads_bps);
    for (int f = 0; f < SL_PROFILE_FORMATS; f++) {
        use_curve(&profile->gemm_flops[f]);
        use_products(profile, f);
    }
    sl_profile_print(profile, &text);
    if (sl_json_status(&text) != SL_OK) abort();
    if (sl_profile_parse(text.data, text.n_bytes, "again", &same) != SL_OK) abort();
    sl_profile_print(&same, &again);
    if (text.n_bytes != again.n_bytes || memcmp(text.data, again.data, text.n_bytes) != 0) abort();
    sl_json_free(&text);
    sl_json_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    sl_profile profile;
    if (sl_profile_parse((const char *)data, size, "profile.json", &profile) == SL_OK)
        use_profile(&profile);
    return 0;
}

#include <math.h>

#include "model/config.h"

static float plain_frequency(float theta, int pair, int head_dim) {
    /* float32 where HF has float32: the exponent, the power and its inverse are each rounded, so
     * that the angles of far positions agree with HF's. */
    const float exponent = (float)(2 * pair) / (float)head_dim;
    const float power = (float)pow((double)theta, (double)exponent);
    return 1.0f / power;
}

/* Long wavelengths are stretched by `factor`, short ones kept, those between blended by where they
 * lie. */
static float llama3_frequency(const sl_rope *r, float frequency) {
    const float original = (float)r->original_positions;
    const float low_wavelength = original / r->low_freq_factor;
    const float high_wavelength = original / r->high_freq_factor;
    const float wavelength = (float)(2 * M_PI) / frequency;
    if (wavelength < high_wavelength) return frequency;
    if (wavelength > low_wavelength) return frequency / r->factor;
    const float smooth =
        (original / wavelength - r->low_freq_factor) / (r->high_freq_factor - r->low_freq_factor);
    return (1.0f - smooth) * frequency / r->factor + smooth * frequency;
}

void sl_rope_frequencies(const sl_model_config *config, float *inv_freq) {
    const sl_rope *r = &config->rope;
    for (int i = 0; i < config->head_dim / 2; i++) {
        float f = plain_frequency(r->theta, i, config->head_dim);
        if (r->scaling == SL_ROPE_LINEAR) f /= r->factor;
        if (r->scaling == SL_ROPE_LLAMA3) f = llama3_frequency(r, f);
        if (i < r->n_divisors) f /= r->divisor[i];
        inv_freq[i] = f;
    }
}

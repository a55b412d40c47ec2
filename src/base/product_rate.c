#include "base/product_rate.h"

#include <math.h>

double sl_product_size(int is_packed, double outputs, double cols) {
    const double known_cols = 4096;
    return outputs * (is_packed ? cols : known_cols);
}

double sl_product_rate(double small, double medium, double large, double elems) {
    const int is_small = elems < SL_PRODUCT_MEDIUM_ELEMS;
    const double beyond = is_small ? small : large;
    const double beyond_elems = is_small ? SL_PRODUCT_SMALL_ELEMS : SL_PRODUCT_LARGE_ELEMS;
    if (!(medium > 0.0) || !(beyond > 0.0)) return medium;
    const double t =
        log2(elems / SL_PRODUCT_MEDIUM_ELEMS) / log2(beyond_elems / SL_PRODUCT_MEDIUM_ELEMS);
    /* Weights that sum to 1: the result stays between the rates, whatever they are. */
    const double part = fmin(t, 1.0);
    return medium * (1.0 - part) + beyond * part;
}

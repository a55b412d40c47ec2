#include "base/bytes.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

sl_status sl_size_mul(size_t a, size_t b, size_t *out) {
    size_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return SL_FAIL(SL_ERR_NOMEM, "size %zu * %zu overflows", a, b);
    *out = product;
    return SL_OK;
}

sl_status sl_size_add(size_t a, size_t b, size_t *out) {
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return SL_FAIL(SL_ERR_NOMEM, "size %zu + %zu overflows", a, b);
    *out = sum;
    return SL_OK;
}

sl_status sl_bytes_parse(const char *text, size_t *out) {
    static const struct {
        const char *unit;
        int shift;
    } units[] = {{"", 0},     {"B", 0},  {"KiB", 10}, {"K", 10},   {"KB", 10},
                 {"MiB", 20}, {"M", 20}, {"MB", 20},  {"GiB", 30}, {"G", 30},
                 {"GB", 30},  {"T", 40}, {"TB", 40},  {"TiB", 40}};
    char *end = NULL;
    errno = 0;
    const double value = strtod(text, &end);
    if (end == text || errno != 0 || !isfinite(value) || value < 0)
        return SL_FAIL(SL_ERR_ARG, "size \"%s\": expected a number with a unit such as 16GiB",
                       text);
    while (isspace((unsigned char)*end)) end++;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcasecmp(end, units[i].unit) != 0) continue;
        const double bytes = ldexp(value, units[i].shift);
        if (bytes >= 9.2e18) return SL_FAIL(SL_ERR_ARG, "size \"%s\" is too large", text);
        *out = (size_t)bytes;
        return SL_OK;
    }
    return SL_FAIL(SL_ERR_ARG, "size \"%s\": unknown unit \"%s\", expected KiB, MiB, GiB or TiB",
                   text, end);
}

const char *sl_bytes_format(size_t bytes, char *buf, size_t buf_bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    int u = 0;
    while (value >= 1024.0 && u < 4) {
        value /= 1024.0;
        u++;
    }
    snprintf(buf, buf_bytes, u == 0 ? "%.0f %s" : "%.2f %s", value, units[u]);
    return buf;
}

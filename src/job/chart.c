#include "job/chart.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MOST_POINTS = 1024 };

double sl_chart_step(double span, int n) {
    static const double rounds[] = {1, 2, 5, 10};
    if (!(span > 0) || n < 1) return 1;
    const double rough = span / n, unit = pow(10, floor(log10(rough)));
    for (int i = 0; i < 4; i++)
        if (rough <= rounds[i] * unit * (1 + 1e-9)) return rounds[i] * unit;
    return 10 * unit;
}

const char *sl_chart_number(double value, char *buf, size_t buf_bytes) {
    static const char *const units[] = {"", " k", " M", " G", " T", " P"};
    int u = 0;
    while (fabs(value) >= 999.5 && u < 5) {
        value /= 1000;
        u++;
    }
    snprintf(buf, buf_bytes, "%.3g%s", value, units[u]);
    for (char *c = buf; *c; c++)
        if (*c == ',') *c = '.';
    return buf;
}

double sl_chart_x(const sl_chart *c, double x) {
    const double span = c->x_max - c->x_min;
    return c->left + c->width * (span > 0 ? (x - c->x_min) / span : 0);
}

double sl_chart_y(const sl_chart *c, double y) {
    return c->top + c->height * (1 - (c->y_max > 0 ? y / c->y_max : 0));
}

void sl_chart_scale_x(const sl_chart *c, const char *x_name) {
    char text[48];
    const double span = c->x_max - c->x_min, step = sl_chart_step(span, 8);
    const double bottom = c->top + c->height;
    if (!(span > 0)) return;
    for (double x = ceil(c->x_min / step - 1e-9) * step; x <= c->x_max + 1e-9 * span; x += step) {
        const double at = sl_chart_x(c, x);
        sl_svg_line(c->html, "grid", at, c->top, at, bottom);
        if (x_name)
            sl_svg_text(c->html, "tick mid", at, bottom + 14,
                        sl_chart_number(fabs(x) < 1e-9 * span ? 0 : x, text, sizeof text));
    }
    if (x_name) sl_svg_text(c->html, "tick", c->left + c->width + 8, bottom + 14, x_name);
}

void sl_chart_scale(const sl_chart *c, const char *x_name, const char *y_name) {
    char text[48];
    const double step = sl_chart_step(c->y_max, 4);
    sl_chart_scale_x(c, x_name);
    for (double y = 0; c->y_max > 0 && y <= c->y_max * (1 + 1e-9); y += step) {
        const double at = sl_chart_y(c, y);
        sl_svg_line(c->html, y > 0 ? "grid" : "axis", c->left, at, c->left + c->width, at);
        sl_svg_text(c->html, "tick end", c->left - 6, at + 4,
                    sl_chart_number(y, text, sizeof text));
    }
    sl_svg_text(c->html, "tick", 0, c->top + c->height / 2, y_name);
}

void sl_chart_steps(const sl_chart *c, const char *class_name, const double *x, const double *y,
                    int n) {
    double px[2 * MOST_POINTS + 2], py[2 * MOST_POINTS + 2];
    char area[64];
    if (n < 1 || n > MOST_POINTS) return;
    for (int i = 0; i < n; i++) {
        px[2 * i + 1] = sl_chart_x(c, x[i]);
        px[2 * i + 2] = sl_chart_x(c, x[i + 1]);
        py[2 * i + 1] = py[2 * i + 2] = sl_chart_y(c, y[i]);
    }
    px[0] = px[1];
    px[2 * n + 1] = px[2 * n];
    py[0] = py[2 * n + 1] = sl_chart_y(c, 0);
    snprintf(area, sizeof area, "area %s", class_name);
    sl_svg_path(c->html, area, px, py, 2 * n + 2, 1);
    snprintf(area, sizeof area, "curve %s", class_name);
    sl_svg_path(c->html, area, px + 1, py + 1, 2 * n, 0);
}

void sl_chart_bar(const sl_chart *c, const char *class_name, double from, double to, double top,
                  double height, const char *title) {
    const double x = sl_chart_x(c, from), width = sl_chart_x(c, to) - x;
    if (!(to > from)) return;
    sl_svg_rect(c->html, class_name, x, top, width > 1 ? width : 1, height, title);
}

void sl_chart_row_text(const sl_chart *c, double middle, const char *name, const char *value) {
    if (name) sl_svg_text(c->html, "row end", c->left - 8, middle + 4, name);
    if (value) sl_svg_text(c->html, "row", c->left + c->width + 8, middle + 4, value);
}

void sl_chart_keys(const sl_chart *c, double y, const sl_chart_key *keys, int n) {
    double x = c->left;
    for (int i = 0; i < n; i++) {
        sl_svg_rect(c->html, keys[i].class_name, x, y, 12, 10, NULL);
        sl_svg_text(c->html, "tick", x + 17, y + 9, keys[i].text);
        x += 40 + 7 * (double)strlen(keys[i].text);
    }
}

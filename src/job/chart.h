/* chart.h - axes, curves and bars of a page's drawings.
 *
 * Layer: job.  May include: base.  Thread safety: pure functions, but for the page.
 */
#ifndef SL_JOB_CHART_H
#define SL_JOB_CHART_H

#include <stddef.h>

#include "job/html.h"

/* Width of every drawing, and of what stands left of its scale. */
enum { SL_CHART_WIDTH = 960, SL_CHART_LEFT = 150, SL_CHART_RIGHT = 210 };

/* Where values are drawn: x from x_min to x_max, y from 0 to y_max. */
typedef struct {
    sl_html *html;
    double left, top, width, height; /* pixels */
    double x_min, x_max, y_max;
} sl_chart;

/* A round step that divides `span` into about n parts; span > 0. */
double sl_chart_step(double span, int n);

/* "1.2 k", "3.4 M": three digits; "0.012".  Returns buf. */
const char *sl_chart_number(double value, char *buf, size_t buf_bytes);

double sl_chart_x(const sl_chart *chart, double x);
double sl_chart_y(const sl_chart *chart, double y);

/* Lines of the scale with their numbers; y_name stands beside the axis.  x_name NULL: no numbers
 * along x. */
void sl_chart_scale(const sl_chart *chart, const char *x_name, const char *y_name);
void sl_chart_scale_x(const sl_chart *chart, const char *x_name);

/* n values that hold from x[i] to x[i+1], [n + 1], as an area with its outline. */
void sl_chart_steps(const sl_chart *chart, const char *class_name, const double *x, const double *y,
                    int n);

/* A bar from `from` to `to` along x in a row at `top` pixels, which shows if it is short. */
void sl_chart_bar(const sl_chart *chart, const char *class_name, double from, double to, double top,
                  double height, const char *title);
/* What the row is, left of it, and its value, right of it. */
void sl_chart_row_text(const sl_chart *chart, double middle, const char *name, const char *value);

/* Colours and what they mean, in a row at y pixels; pairs of class and text, [n]. */
typedef struct {
    const char *class_name, *text;
} sl_chart_key;
void sl_chart_keys(const sl_chart *chart, double y, const sl_chart_key *keys, int n);

#endif

/* html.h - a page with drawings (SVG), written in a stream to a file.
 *
 * The file appears under its name when all of it is there, so that nobody sees half a page and a
 * page of before stays until then.  Text from outside goes through sl_html_text(), which escapes
 * it; a failed write is remembered and told at the end.
 * Layer: job.  May include: base.  Thread safety: one owner.
 * Source: HTML Living Standard, section 13 (syntax); SVG 2.
 */
#ifndef SL_JOB_HTML_H
#define SL_JOB_HTML_H

#include "base/status.h"

typedef struct sl_html sl_html;

/* Begins a page beside `path`, which may be there as an ordinary file only.
 * Errors: SL_ERR_IO naming the path, SL_ERR_NOMEM. */
sl_status sl_html_open(const char *path, sl_html **out);

/* Ends the page: with `keep` it gets its name, otherwise it is gone.  NULL is allowed.
 * Errors: SL_ERR_IO naming the path (nothing is left behind then). */
sl_status sl_html_close(sl_html *html, int keep);

void sl_html_raw(sl_html *html, const char *markup); /* as it is: our own constants only */
/* Escaped for content and for attributes in double quotes; bytes that are no UTF-8, and control
 * characters, become U+FFFD.  NULL is nothing. */
void sl_html_text(sl_html *html, const char *text);
/* With so many digits behind the point, which is a point in every locale; what is no finite number
 * becomes 0, which drawings accept. */
void sl_html_number(sl_html *html, double value, int digits);

/* <name class="class_name">text</name> */
void sl_html_element(sl_html *html, const char *name, const char *class_name, const char *text);

/* ---- drawings; lengths in pixels, classes from the page's style ---- */

void sl_svg_begin(sl_html *html, double width, double height, const char *label);
void sl_svg_end(sl_html *html);
/* title: what a pointer that rests on it is told; NULL: nothing. */
void sl_svg_rect(sl_html *html, const char *class_name, double x, double y, double width,
                 double height, const char *title);
void sl_svg_line(sl_html *html, const char *class_name, double x1, double y1, double x2, double y2);
void sl_svg_text(sl_html *html, const char *class_name, double x, double y, const char *text);
/* Through n points; `closed`: the area that they enclose. */
void sl_svg_path(sl_html *html, const char *class_name, const double *x, const double *y, int n,
                 int closed);

#endif

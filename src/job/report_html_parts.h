/* report_html_parts.h - the drawings of a report's page; for job/report_html*.c alone.
 *
 * Layer: job.  May include: base, engine.  Thread safety: one thread per page.
 */
#ifndef SL_JOB_REPORT_HTML_PARTS_H
#define SL_JOB_REPORT_HTML_PARTS_H

#include "job/chart.h"
#include "job/report.h"

/* <figure id="chart-NAME"> with its title and what it shows, in words. */
void sl_report_html_begin(sl_html *html, const char *name, const char *title, const char *words);
void sl_report_html_end(sl_html *html);
/* Instead of a drawing: why there is none. */
void sl_report_html_none(sl_html *html, const char *why);

/* A chart of the usual width; the caller sets its scale. */
sl_chart sl_report_html_chart(sl_html *html, double top, double height);

/* report_html_time.c: what happened when. */
void sl_report_html_speed(sl_html *html, const sl_report *report);
void sl_report_html_queues(sl_html *html, const sl_report *report);
void sl_report_html_moment(sl_html *html, const sl_report *report);

/* report_html_totals.c: what it came to. */
void sl_report_html_links(sl_html *html, const sl_report *report);
void sl_report_html_memory(sl_html *html, const sl_report *report);
void sl_report_html_plan(sl_html *html, const sl_report *report);
void sl_report_html_ranks(sl_html *html, const sl_report *report);

/* report_html_prefix.c */
void sl_report_html_prefix(sl_html *html, const sl_report *report);

#endif

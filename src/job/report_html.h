/* report_html.h - the report as a page for people: one file with all its drawings, no network.
 *
 * It shows what the report's JSON holds (job/report.h): speed over time, the queues of each rank,
 * links, memory, the plan beside the outcome, common beginnings of prompts.  A drawing for which
 * there is nothing says why in its place.
 * Layer: job.  May include: base, engine.  Thread safety: one thread per page.
 */
#ifndef SL_JOB_REPORT_HTML_H
#define SL_JOB_REPORT_HTML_H

#include "base/status.h"
#include "job/report.h"

/* Writes the page; a file of this name is replaced once all is written.
 * Errors: SL_ERR_IO naming the path, SL_ERR_NOMEM. */
sl_status sl_report_html_write(const sl_report *report, const char *path);

#endif

/* profile_report.h - a machine's profile for people, and a bar that grows while it is measured.
 *
 * Layer: launch.  May include: all.  Thread safety: one owner per bar.
 */
#ifndef SL_LAUNCH_PROFILE_REPORT_H
#define SL_LAUNCH_PROFILE_REPORT_H

#include <stdio.h>

#include "profile.h"
#include "profile_cache.h"

/* A line on a terminal that is rewritten in place; elsewhere a line for each part. */
typedef struct {
    FILE *stream; /* NULL: silent; borrowed */
    int is_terminal;
    double last_s;         /* when it was drawn last */
    const char *last_what; /* the part that it showed */
} sl_profile_bar;

void sl_profile_bar_init(sl_profile_bar *bar, FILE *stream);

/* An sl_measure_progress; user is the bar. */
void sl_profile_bar_update(void *user, const char *what, double done_frac);

/* Wipes the terminal's line. */
void sl_profile_bar_clear(sl_profile_bar *bar);

/* Tables of one rank's machine.  rank -1: the only one. */
void sl_profile_report(const sl_profile *profile, int rank, FILE *stream);

#endif

/* undertaker.h - a small process beside each rank of mpirun that outlives it by some seconds.
 *
 * Open MPI's mpirun and its daemons may hang when a rank was killed while it was starting, or when
 * one of their hosts cannot be reached; and ranks may go on for a while when mpirun is killed.  The
 * undertaker waits for the end of its rank and of the launcher: when one of them ends before its
 * time, and the other has not followed after a moment, it is ended.  Then it removes the files in
 * /dev/shm that MPI made for the rank, which nobody else would, and goes.
 * Layer: launch.  May include: all.
 */
#ifndef SL_LAUNCH_UNDERTAKER_H
#define SL_LAUNCH_UNDERTAKER_H

#include <sys/types.h>

typedef struct {
    pid_t pid;
    int rank; /* descriptor that means this process; -1: there is no undertaker */
} sl_undertaker;

/* Call it first of all, before threads and MPI.  The undertaker's name among processes takes the
 * place of the rank's arguments there.  There is none where the
 * parent is no mpirun or Open MPI daemon, or the system lacks what it takes. */
sl_undertaker sl_undertaker_start(int argc, char **argv);

/* This process ends as it should: the undertaker goes at once. */
void sl_undertaker_dismiss(const sl_undertaker *undertaker);

#endif

/* hosts.h - which ranks share a host, judged by the hosts' names.
 *
 * Layer: mpi.  May include: src.  Thread safety: pure functions.
 */
#ifndef SL_MPI_HOSTS_H
#define SL_MPI_HOSTS_H

enum { SL_HOST_KEY_BYTES = 320 };

/* Writes this host's name and the boot id of its kernel: containers of different hosts may bear
 * the same name ("localhost"), but not the same boot. */
void sl_hosts_key(char key[SL_HOST_KEY_BYTES]);

/* Position of `rank` among the ranks with its key, and how many these are.
 *   keys  [n_ranks], in rank order */
void sl_hosts_local_rank(const char (*keys)[SL_HOST_KEY_BYTES], int n_ranks, int rank,
                         int *local_rank_out, int *n_local_ranks_out);

#endif

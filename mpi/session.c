#include "session.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hosts.h"
#include "mpi_check.h"

/* Tasks of the job step that srun started, 0 outside of one. */
static int n_srun_tasks(void) {
    const char *tasks = getenv("SLURM_STEP_NUM_TASKS");
    return tasks && getenv("SLURM_PROCID") ? atoi(tasks) : 0;
}

static sl_status refuse_srun(void) {
    return SL_FAIL(SL_ERR_COMM,
                   "srun started %d tasks that know nothing of each other: start with srun "
                   "--mpi=pmix",
                   n_srun_tasks());
}

/* Open MPI would end this process in MPI_Init, with advice about building it anew. */
static sl_status check_srun(void) {
    return n_srun_tasks() > 1 && !getenv("PMIX_RANK") && !getenv("PMI_RANK") ? refuse_srun()
                                                                             : SL_OK;
}

int sl_mpi_is_launched(void) {
    static const char *const names[] = {
        "OMPI_COMM_WORLD_SIZE", /* Open MPI's mpirun */
        "PMIX_RANK",            /* srun --mpi=pmix, prun */
        "PMI_RANK",             /* srun --mpi=pmi2, hydra */
        "PMI_SIZE",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (getenv(names[i])) return 1;
    /* srun without --mpi starts as many programs that know nothing of each other.  It counts as
     * launched, so that sl_mpi_open() can say so. */
    return n_srun_tasks() > 1;
}

/* Ranks that share memory with this one; host_out: the lowest of them. */
static sl_status split_by_memory(int rank, int *local_rank_out, int *n_local_out, int *host_out) {
    MPI_Comm local = MPI_COMM_NULL;
    int local_rank = 0, n_local = 0, host = rank;
    SL_TRY(SL_MPI(
        MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &local),
        "find the ranks of this host"));
    sl_status st = SL_OK;
    SL_GO(SL_MPI(MPI_Comm_rank(local, &local_rank), "find the local rank"));
    SL_GO(SL_MPI(MPI_Comm_size(local, &n_local), "count the local ranks"));
    SL_GO(SL_MPI(MPI_Bcast(&host, 1, MPI_INT, 0, local), "find the host's first rank"));
    SL_GO(SL_MPI(MPI_Comm_free(&local), "free the host's communicator"));
    *local_rank_out = local_rank;
    *n_local_out = n_local;
    *host_out = host;
    return SL_OK;
fail:
    if (local != MPI_COMM_NULL) MPI_Comm_free(&local);
    return st;
}

static sl_status split_by_name(int rank, int n_ranks, int *local_rank_out, int *n_local_out,
                               int *host_out) {
    char mine[SL_HOST_KEY_BYTES];
    char(*keys)[SL_HOST_KEY_BYTES] = calloc((size_t)n_ranks, sizeof *keys);
    if (!keys)
        return SL_FAIL(SL_ERR_NOMEM, "names of %d ranks' hosts: out of host memory", n_ranks);
    sl_hosts_key(mine);
    const sl_status st = SL_MPI(MPI_Allgather(mine, SL_HOST_KEY_BYTES, MPI_CHAR, keys,
                                              SL_HOST_KEY_BYTES, MPI_CHAR, MPI_COMM_WORLD),
                                "gather the hosts' names");
    if (st == SL_OK) {
        sl_hosts_local_rank((const char(*)[SL_HOST_KEY_BYTES])keys, n_ranks, rank, local_rank_out,
                            n_local_out);
        *host_out = 0;
        while (strncmp(keys[*host_out], keys[rank], SL_HOST_KEY_BYTES) != 0) ++*host_out;
    }
    free(keys);
    return st;
}

static sl_status find_places(sl_mpi_info *info, int host) {
    sl_mpi_place mine = {.host = host};
    snprintf(mine.name, sizeof mine.name, "%.63s", info->host);
    info->place = calloc((size_t)info->n_ranks, sizeof *info->place);
    if (!info->place)
        return SL_FAIL(SL_ERR_NOMEM, "places of %d ranks: out of host memory", info->n_ranks);
    return SL_MPI(MPI_Allgather(&mine, (int)sizeof mine, MPI_BYTE, info->place, (int)sizeof mine,
                                MPI_BYTE, MPI_COMM_WORLD),
                  "gather the ranks' places");
}

static sl_status find_ranks(sl_mpi_info *info) {
    SL_TRY(SL_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &info->rank), "find this rank"));
    SL_TRY(SL_MPI(MPI_Comm_size(MPI_COMM_WORLD, &info->n_ranks), "count the ranks"));
    if (info->n_ranks == 1 && n_srun_tasks() > 1) return refuse_srun();

    int by_name = 0, n_by_name = 0, host_by_name = 0, host = 0;
    SL_TRY(split_by_memory(info->rank, &info->local_rank, &info->n_local_ranks, &host));
    SL_TRY(split_by_name(info->rank, info->n_ranks, &by_name, &n_by_name, &host_by_name));
    if (info->n_local_ranks == 1 && n_by_name > 1) { /* some srun --mpi=pmix set-ups */
        info->local_rank = by_name;
        info->n_local_ranks = n_by_name;
        host = host_by_name;
    }
    if (gethostname(info->host, sizeof info->host - 1) != 0)
        snprintf(info->host, sizeof info->host, "unknown");
    return find_places(info, host);
}

sl_status sl_mpi_open(int *argc, char ***argv, sl_mpi_info *out) {
    int is_up = 0, level = MPI_THREAD_SINGLE;
    SL_TRY(SL_MPI(MPI_Initialized(&is_up), "start MPI"));
    if (is_up) return SL_FAIL(SL_ERR_ARG, "MPI is started already");
    SL_TRY(check_srun());
    SL_TRY(SL_MPI(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &level), "start MPI"));
    /* The default handler ends the process: without this no check below is ever reached. */
    SL_TRY(SL_MPI(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN),
                  "have MPI return its errors"));
    SL_TRY(SL_MPI(MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN),
                  "have MPI return its errors"));
    if (level < MPI_THREAD_FUNNELED)
        return SL_FAIL(SL_ERR_COMM, "this MPI offers thread level %d, MPI_THREAD_FUNNELED is %d",
                       level, MPI_THREAD_FUNNELED);
    sl_mpi_info info = {0};
    const sl_status st = find_ranks(&info);
    if (st != SL_OK) {
        sl_mpi_info_free(&info);
        return st;
    }
    *out = info;
    return SL_OK;
}

void sl_mpi_info_free(sl_mpi_info *info) {
    free(info->place);
    info->place = NULL;
}

static int is_running(void) {
    int is_up = 0, is_down = 0;
    return MPI_Initialized(&is_up) == MPI_SUCCESS && is_up &&
           MPI_Finalized(&is_down) == MPI_SUCCESS && !is_down;
}

void sl_mpi_close(void) {
    if (is_running()) MPI_Finalize();
}

void sl_mpi_abort(int exit_status) {
    fflush(NULL); /* the message that explains the abort may still be in a buffer */
    if (is_running()) MPI_Abort(MPI_COMM_WORLD, exit_status);
    _exit(exit_status);
}

/* mpi_test.h - checks for test programs that run under mpirun.
 *
 * A failed check prints what, where and on which rank, and ends all ranks with exit status 1: a
 * rank that stopped alone would leave its peers waiting.
 */
#ifndef SL_MPI_TEST_H
#define SL_MPI_TEST_H

#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "session.h"

static int mpi_test_rank; /* set by the program after sl_mpi_open() */

#define CHECK_THAT(ok, ...)                                                                        \
    do {                                                                                           \
        if (!(ok)) {                                                                               \
            fprintf(stderr, "%s:%d: rank %d: ", __FILE__, __LINE__, mpi_test_rank);                \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fputc('\n', stderr);                                                                   \
            sl_mpi_abort(1);                                                                       \
        }                                                                                          \
    } while (0)

#define CHECK(condition) CHECK_THAT((condition), "%s", #condition)

/* The call must succeed. */
#define CHECK_OK(expr)                                                                             \
    do {                                                                                           \
        const sl_status check_st_ = (expr);                                                        \
        CHECK_THAT(check_st_ == SL_OK, "%s: %s: %s", #expr, sl_status_name(check_st_),             \
                   sl_error_message());                                                            \
    } while (0)

/* The call must fail with this status and a message that contains `word`. */
#define CHECK_FAILS(expr, status, word)                                                            \
    do {                                                                                           \
        const sl_status check_st_ = (expr);                                                        \
        CHECK_THAT(check_st_ == (status), "%s: %s, expected %s", #expr, sl_status_name(check_st_), \
                   sl_status_name(status));                                                        \
        CHECK_THAT(strstr(sl_error_message(), (word)) != NULL, "%s: the message is \"%s\"", #expr, \
                   sl_error_message());                                                            \
    } while (0)

#endif

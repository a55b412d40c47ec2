/* status.h - result codes and the message that explains the last failure.
 *
 * Every function that can fail returns sl_status and, when it is the one
 * that discovers the problem, records one sentence about it with SL_FAIL.
 * Callers pass the code up untouched; they add context only when they know
 * something the callee did not (which layer, which rank).  Nothing in the
 * library prints an error or ends the process: launch/ decides that.
 * Layer: base.  Thread safety: the message is per thread.
 */
#ifndef SL_BASE_STATUS_H
#define SL_BASE_STATUS_H

#ifdef __cplusplus
extern "C" { /* .cu files include this header */
#endif

typedef enum {
    SL_OK = 0,
    SL_ERR_ARG,        /* the caller broke a documented precondition */
    SL_ERR_NOMEM,      /* a tier's budget or the allocator is exhausted */
    SL_ERR_IO,         /* open, read, write or map failed */
    SL_ERR_FORMAT,     /* readable, but not the file it claims to be */
    SL_ERR_DEVICE,     /* CUDA or cuBLAS reported a failure */
    SL_ERR_COMM,       /* MPI or NCCL reported a failure, or a peer failed */
    SL_ERR_INFEASIBLE, /* no policy fits the given memory */
    SL_ERR_STOPPED     /* a signal or a stop request ended the work early */
} sl_status;

/* Records "message (file:line)" for this thread and returns `code`.
 * Use through SL_FAIL so that the location is the caller's. */
sl_status sl_fail_at(sl_status code, const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5), cold));

/* Records a message that was made elsewhere (another thread, another rank),
 * unchanged, and returns `code`. */
sl_status sl_fail_text(sl_status code, const char *message);

/* Text of this thread's last failure; "" if there was none.  Valid until the
 * next failure on the same thread.  Worker threads copy it into their ticket. */
const char *sl_error_message(void);

/* "out of memory", "input/output error", ...: a constant text for a code. */
const char *sl_status_name(sl_status status);

/* The value is `code` itself, not the call's, so that a compiler that sees a constant code knows
 * that the result is not SL_OK and does not take the outputs of a failed call for uninitialised. */
#define SL_FAIL(code, ...)                                                                         \
    (__extension__({                                                                               \
        const sl_status sl_fail_code_ = (code);                                                    \
        sl_fail_at(sl_fail_code_, __FILE__, __LINE__, __VA_ARGS__);                                \
        sl_fail_code_;                                                                             \
    }))

/* Return early with the callee's status.  Only where nothing is owned yet. */
#define SL_TRY(expr)                                                                               \
    do {                                                                                           \
        sl_status sl_try_st_ = (expr);                                                             \
        if (sl_try_st_ != SL_OK) return sl_try_st_;                                                \
    } while (0)

/* Assign the callee's status to `st` and go to `fail` unless it is SL_OK. */
#define SL_GO(expr)                                                                                \
    do {                                                                                           \
        st = (expr);                                                                               \
        if (st != SL_OK) goto fail;                                                                \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif

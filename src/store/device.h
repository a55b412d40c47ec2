/* device.h - what a backend with memory of its own offers beside operators: memory, copies, events.
 *
 * The engine overlaps copies with computation by in-order streams and events between them; it never
 * waits for the whole device in steady state.  A backend that computes in host memory has no
 * such table (sl_backend_ops.device is NULL).
 * Layer: store.  May include: base.  Thread safety: one thread per backend, that of its operators.
 */
#ifndef SL_STORE_DEVICE_H
#define SL_STORE_DEVICE_H

#include <stddef.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct sl_backend;

/* In-order queues of the device.  Operators go to COMPUTE.  ANSWER and ASK are for small copies to
 * and from the device that computation waits for: they do not queue behind the large ones of H2D
 * and D2H.  WIRE_IN and WIRE_OUT take what the neighbours of a pipeline hand on: it may last until
 * a peer is there. */
typedef enum {
    SL_STREAM_COMPUTE,
    SL_STREAM_H2D,
    SL_STREAM_D2H,
    SL_STREAM_ANSWER,
    SL_STREAM_ASK,
    SL_STREAM_WIRE_IN,
    SL_STREAM_WIRE_OUT,
    SL_STREAM_COUNT
} sl_stream;

/* A point in a stream; made once, recorded many times. */
typedef struct sl_event sl_event;

typedef struct {
    /* Device memory, 256-byte aligned, from the one pool that was taken at start (its size is the
     * budget of the gpu tier).  Errors: SL_ERR_NOMEM with what, the bytes wanted, in use, allowed.
     */
    sl_status (*take)(struct sl_backend *be, size_t bytes, const char *what, void **out);
    void (*put)(struct sl_backend *be, void *memory);
    size_t (*budget_bytes)(const struct sl_backend *be);
    size_t (*used_bytes)(const struct sl_backend *be);
    size_t (*peak_bytes)(const struct sl_backend *be);

    /* Pins host memory that is mapped and touched, so that copies from and to it run at full speed
     * and asynchronously; unpin before it is unmapped.  Errors: SL_ERR_DEVICE. */
    sl_status (*pin)(struct sl_backend *be, void *host, size_t bytes);
    void (*unpin)(struct sl_backend *be, void *host);

    /* The host's NUMA node next to the device, as the system numbers them; -1: not known. */
    int (*numa_node)(const struct sl_backend *be);

    /* Queues a copy on a copy stream, or within the device on COMPUTE or H2D; returns at once. Host
     * memory must be pinned and stay until an event behind the copy is done. */
    sl_status (*copy)(struct sl_backend *be, sl_stream stream, void *dst, const void *src,
                      size_t bytes);

    /* Waits until all streams but those of the wire are empty: for loading and closing only.
     * Errors: SL_ERR_DEVICE. */
    sl_status (*drain)(struct sl_backend *be);

    /* The stream as the device's own libraries know it (a cudaStream_t), for transports that reach
     * its memory.  NULL: there are none. */
    void *(*native_stream)(struct sl_backend *be, sl_stream stream);

    sl_status (*event_open)(struct sl_backend *be, sl_event **out);
    void (*event_close)(struct sl_backend *be, sl_event *event);
    /* The event is done when all that is queued on the stream so far is. */
    sl_status (*record)(struct sl_backend *be, sl_stream stream, sl_event *event);
    /* What is queued on the stream from now on starts after the event (as recorded last). */
    sl_status (*wait)(struct sl_backend *be, sl_stream stream, sl_event *event);
    /* Whether the event is done; never waits.  Errors: SL_ERR_DEVICE of the work before it. */
    sl_status (*is_done)(struct sl_backend *be, sl_event *event, int *done_out);

    /* Seconds between two done events of one stream. */
    sl_status (*elapsed)(struct sl_backend *be, sl_event *from, sl_event *to, double *seconds_out);
} sl_device_ops;

#ifdef __cplusplus
}
#endif
#endif

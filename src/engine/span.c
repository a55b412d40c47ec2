#include "engine/span.h"

const char *sl_queue_name(sl_queue queue) {
    static const char *const names[SL_QUEUE_COUNT] = {
        [SL_QUEUE_DISK_READ] = "disk-read",   [SL_QUEUE_H2D] = "h2d",
        [SL_QUEUE_WIRE_IN] = "wire-in",       [SL_QUEUE_ANSWER] = "h2d-small",
        [SL_QUEUE_COMPUTE] = "gpu",           [SL_QUEUE_ASK] = "d2h-small",
        [SL_QUEUE_ATTEND] = "cpu-attention",  [SL_QUEUE_D2H] = "d2h",
        [SL_QUEUE_DISK_WRITE] = "disk-write", [SL_QUEUE_WIRE_OUT] = "wire-out",
    };
    return (int)queue >= 0 && queue < SL_QUEUE_COUNT && names[queue] ? names[queue] : "?";
}

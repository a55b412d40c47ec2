#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char last_message[1024];

sl_status sl_fail_at(sl_status code, const char *file, int line, const char *fmt, ...) {
    /* Formatted aside first: an argument may be last_message itself. */
    char text[sizeof last_message];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (n < 0) n = 0;
    if ((size_t)n >= sizeof text) n = (int)sizeof text - 1;
    const char *base = strrchr(file, '/');
    snprintf(text + n, sizeof text - (size_t)n, " (%s:%d)", base ? base + 1 : file, line);
    memcpy(last_message, text, sizeof text);
    return code;
}

sl_status sl_fail_text(sl_status code, const char *message) {
    char text[sizeof last_message];
    snprintf(text, sizeof text, "%s", message);
    memcpy(last_message, text, sizeof text);
    return code;
}

const char *sl_error_message(void) {
    return last_message;
}

const char *sl_status_name(sl_status status) {
    switch (status) {
    case SL_OK:
        return "ok";
    case SL_ERR_ARG:
        return "bad argument";
    case SL_ERR_NOMEM:
        return "out of memory";
    case SL_ERR_IO:
        return "input/output error";
    case SL_ERR_FORMAT:
        return "bad format";
    case SL_ERR_DEVICE:
        return "device error";
    case SL_ERR_COMM:
        return "communication error";
    case SL_ERR_INFEASIBLE:
        return "does not fit";
    case SL_ERR_STOPPED:
        return "stopped";
    }
    return "unknown status";
}

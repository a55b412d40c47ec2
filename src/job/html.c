#include "job/html.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "job/json_text.h"

struct sl_html {
    FILE *stream;
    char *path, *partial; /* the name that it gets, and the one that it has */
    int error;            /* errno of the first write that failed, 0: none */
};

static void free_html(sl_html *h) {
    free(h->path);
    free(h->partial);
    free(h);
}

/* A name that is there already may only be that of an ordinary file: the page takes its place. */
static sl_status check_path(const char *path) {
    struct stat there;
    if (stat(path, &there) == 0 && !S_ISREG(there.st_mode))
        return SL_FAIL(SL_ERR_IO, "write page %s: it is there and no ordinary file", path);
    return SL_OK;
}

sl_status sl_html_open(const char *path, sl_html **out) {
    SL_TRY(check_path(path));
    sl_status st = SL_OK;
    int fd = -1;
    sl_html *h = calloc(1, sizeof *h);
    if (!h) return SL_FAIL(SL_ERR_NOMEM, "page %s: out of host memory", path);
    h->path = strdup(path);
    if (!h->path || asprintf(&h->partial, "%s.%ld.part", path, (long)getpid()) < 0) {
        h->partial = NULL;
        st = SL_FAIL(SL_ERR_NOMEM, "page %s: out of host memory", path);
        goto fail;
    }
    fd = open(h->partial, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd >= 0) h->stream = fdopen(fd, "w");
    if (!h->stream) {
        st = SL_FAIL(SL_ERR_IO, "write page %s: %s", path, strerror(errno));
        goto fail;
    }
    *out = h;
    return SL_OK;

fail:
    if (fd >= 0) {
        close(fd);
        unlink(h->partial);
    }
    free_html(h);
    return st;
}

sl_status sl_html_close(sl_html *h, int keep) {
    sl_status st = SL_OK;
    if (!h) return SL_OK;
    if (fflush(h->stream) != 0 && !h->error) h->error = errno;
    if (fclose(h->stream) != 0 && !h->error) h->error = errno;
    if (!h->error && keep && rename(h->partial, h->path) != 0) h->error = errno;
    if (h->error && keep) st = SL_FAIL(SL_ERR_IO, "write page %s: %s", h->path, strerror(h->error));
    if (h->error || !keep) unlink(h->partial);
    free_html(h);
    return st;
}

/* ---- text ---- */

static void put(sl_html *h, const char *bytes, size_t n) {
    errno = 0;
    if (!h->error && fwrite(bytes, 1, n, h->stream) != n) h->error = errno ? errno : EIO;
}

void sl_html_raw(sl_html *h, const char *markup) {
    put(h, markup, strlen(markup));
}

static const char *escape_of(char c) {
    switch (c) {
    case '&':
        return "&amp;";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '"':
        return "&quot;";
    case '\'':
        return "&#39;";
    default:
        return NULL;
    }
}

void sl_html_text(sl_html *h, const char *text) {
    if (!text) return;
    for (size_t left = strlen(text); left > 0;) {
        const int n = sl_utf8_length(text, left);
        const unsigned char c = (unsigned char)*text;
        const int is_control = (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f;
        const char *escaped = escape_of(*text);
        if (n == 0 || is_control) {
            sl_html_raw(h, "\xef\xbf\xbd");
        } else if (escaped) {
            sl_html_raw(h, escaped);
        } else {
            put(h, text, (size_t)n);
        }
        text += n ? n : 1;
        left -= n ? (size_t)n : 1;
    }
}

void sl_html_number(sl_html *h, double value, int digits) {
    char text[400];
    snprintf(text, sizeof text, "%.*f", digits, isfinite(value) ? value : 0.0);
    for (char *c = text; *c; c++)
        if (!strchr("-0123456789", *c)) *c = '.';
    sl_html_raw(h, text);
}

void sl_html_element(sl_html *h, const char *name, const char *class_name, const char *text) {
    sl_html_raw(h, "<");
    sl_html_raw(h, name);
    if (class_name) {
        sl_html_raw(h, " class=\"");
        sl_html_raw(h, class_name);
        sl_html_raw(h, "\"");
    }
    sl_html_raw(h, ">");
    sl_html_text(h, text);
    sl_html_raw(h, "</");
    sl_html_raw(h, name);
    sl_html_raw(h, ">\n");
}

/* ---- drawings ---- */

static void put_length(sl_html *h, const char *name, double value) {
    sl_html_raw(h, " ");
    sl_html_raw(h, name);
    sl_html_raw(h, "=\"");
    sl_html_number(h, value, 1);
    sl_html_raw(h, "\"");
}

static void put_tag(sl_html *h, const char *name, const char *class_name) {
    sl_html_raw(h, "<");
    sl_html_raw(h, name);
    sl_html_raw(h, " class=\"");
    sl_html_raw(h, class_name);
    sl_html_raw(h, "\"");
}

void sl_svg_begin(sl_html *h, double width, double height, const char *label) {
    sl_html_raw(h, "<svg viewBox=\"0 0 ");
    sl_html_number(h, width, 0);
    sl_html_raw(h, " ");
    sl_html_number(h, height, 0);
    sl_html_raw(h, "\" role=\"img\" aria-label=\"");
    sl_html_text(h, label);
    sl_html_raw(h, "\">\n");
}

void sl_svg_end(sl_html *h) {
    sl_html_raw(h, "</svg>\n");
}

void sl_svg_rect(sl_html *h, const char *class_name, double x, double y, double width,
                 double height, const char *title) {
    put_tag(h, "rect", class_name);
    put_length(h, "x", x);
    put_length(h, "y", y);
    put_length(h, "width", fmax(0, width));
    put_length(h, "height", fmax(0, height));
    if (!title) {
        sl_html_raw(h, "/>\n");
        return;
    }
    sl_html_raw(h, "><title>");
    sl_html_text(h, title);
    sl_html_raw(h, "</title></rect>\n");
}

void sl_svg_line(sl_html *h, const char *class_name, double x1, double y1, double x2, double y2) {
    put_tag(h, "line", class_name);
    put_length(h, "x1", x1);
    put_length(h, "y1", y1);
    put_length(h, "x2", x2);
    put_length(h, "y2", y2);
    sl_html_raw(h, "/>\n");
}

void sl_svg_text(sl_html *h, const char *class_name, double x, double y, const char *text) {
    put_tag(h, "text", class_name);
    put_length(h, "x", x);
    put_length(h, "y", y);
    sl_html_raw(h, ">");
    sl_html_text(h, text);
    sl_html_raw(h, "</text>\n");
}

void sl_svg_path(sl_html *h, const char *class_name, const double *x, const double *y, int n,
                 int closed) {
    put_tag(h, "path", class_name);
    sl_html_raw(h, " d=\"");
    for (int i = 0; i < n; i++) {
        sl_html_raw(h, i ? "L" : "M");
        sl_html_number(h, x[i], 1);
        sl_html_raw(h, " ");
        sl_html_number(h, y[i], 1);
    }
    sl_html_raw(h, closed && n ? "Z\"/>\n" : "\"/>\n");
}

#include "store/hollow.h"

sl_status sl_hollow_open_scratch(const sl_hollow_ops *hollow, struct sl_backend *be,
                                 const char *dir, size_t bytes, sl_disk **out) {
    return hollow ? hollow->open_disk(be, "the scratch file", bytes, out)
                  : sl_disk_open_scratch(dir, bytes, out);
}

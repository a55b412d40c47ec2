#include "model/pickle_names.h"

#include <string.h>

const sl_pickle_global *sl_pickle_find_global(const char *name, size_t bytes) {
    static const sl_pickle_global globals[] = {
        {"collections.OrderedDict", SL_PICKLE_DICT, 0, SL_DTYPE_F32, 0},
        {"torch._utils._rebuild_tensor_v2", SL_PICKLE_TENSOR, 0, SL_DTYPE_F32, 0},
        {"torch._utils._rebuild_parameter", SL_PICKLE_PARAMETER, 0, SL_DTYPE_F32, 0},
        {"torch.FloatStorage", SL_PICKLE_STORAGE, 1, SL_DTYPE_F32, 4},
        {"torch.HalfStorage", SL_PICKLE_STORAGE, 1, SL_DTYPE_F16, 2},
        {"torch.BFloat16Storage", SL_PICKLE_STORAGE, 1, SL_DTYPE_BF16, 2},
        {"torch.LongStorage", SL_PICKLE_STORAGE, 0, SL_DTYPE_F32, 8},
        {"torch.IntStorage", SL_PICKLE_STORAGE, 0, SL_DTYPE_F32, 4},
        {"torch.ShortStorage", SL_PICKLE_STORAGE, 0, SL_DTYPE_F32, 2},
        {"torch.CharStorage", SL_PICKLE_STORAGE, 0, SL_DTYPE_F32, 1},
        {"torch.ByteStorage", SL_PICKLE_STORAGE, 0, SL_DTYPE_F32, 1},
        {"torch.BoolStorage", SL_PICKLE_STORAGE, 0, SL_DTYPE_F32, 1},
    };
    for (size_t i = 0; i < sizeof globals / sizeof globals[0]; i++)
        if (strlen(globals[i].name) == bytes && memcmp(globals[i].name, name, bytes) == 0)
            return &globals[i];
    return NULL;
}

const char *sl_pickle_opcode_name(unsigned op) {
    static const struct {
        unsigned char op;
        const char *name;
    } others[] = {
        {'0', "POP"},
        {'1', "POP_MARK"},
        {'2', "DUP"},
        {'B', "BINBYTES"},
        {'C', "SHORT_BINBYTES"},
        {'F', "FLOAT"},
        {'G', "BINFLOAT"},
        {'I', "INT"},
        {'L', "LONG"},
        {'P', "PERSID"},
        {'S', "STRING"},
        {'T', "BINSTRING"},
        {'U', "SHORT_BINSTRING"},
        {'V', "UNICODE"},
        {']', "EMPTY_LIST"},
        {'a', "APPEND"},
        {'d', "DICT"},
        {'e', "APPENDS"},
        {'g', "GET"},
        {'i', "INST"},
        {'l', "LIST"},
        {'o', "OBJ"},
        {'p', "PUT"},
        {0x81, "NEWOBJ"},
        {0x82, "EXT1"},
        {0x83, "EXT2"},
        {0x84, "EXT4"},
        {0x8b, "LONG4"},
        {0x8c, "SHORT_BINUNICODE"},
        {0x8d, "BINUNICODE8"},
        {0x8e, "BINBYTES8"},
        {0x8f, "EMPTY_SET"},
        {0x90, "ADDITEMS"},
        {0x91, "FROZENSET"},
        {0x92, "NEWOBJ_EX"},
        {0x93, "STACK_GLOBAL"},
        {0x94, "MEMOIZE"},
        {0x95, "FRAME"},
        {0x96, "BYTEARRAY8"},
        {0x97, "NEXT_BUFFER"},
        {0x98, "READONLY_BUFFER"},
    };
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (others[i].op == op) return others[i].name;
    return "unknown";
}

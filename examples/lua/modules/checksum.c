#include "checksum.h"

#include <lauxlib.h>
#include <stdint.h>

/* CRC-32 as in zip and gzip, bit by bit: short rather than fast. */
static uint32_t crc32_of(const unsigned char *bytes, size_t size) {
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ (0xedb88320u & (0u - (crc & 1u)));
        }
    }
    return ~crc;
}

static int crc32_call(lua_State *L) {
    size_t size;
    const char *text = luaL_checklstring(L, 1, &size);
    lua_pushinteger(L, (lua_Integer)crc32_of((const unsigned char *)text, size));
    return 1;
}

int luaopen_checksum(lua_State *L) {
    static const luaL_Reg functions[] = {{"crc32", crc32_call}, {NULL, NULL}};
    luaL_newlib(L, functions);
    return 1;
}

#ifndef CHECKSUM_H
#define CHECKSUM_H

#include <lua.h>

/* Opens the module `checksum`: crc32(text) -> integer. */
int luaopen_checksum(lua_State *L);

#endif

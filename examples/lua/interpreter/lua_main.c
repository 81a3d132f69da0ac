/* usage: lua [-e CODE]... [SCRIPT [ARGS...]]
 *
 * Runs the chunks in order. SCRIPT may be `-` for stdin; what follows it is in the table `arg`, SCRIPT itself at 0.
 * Exit codes: 0 done, 1 a chunk failed, 2 bad command line.
 */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>
#include <string.h>

#include "checksum.h"

extern const char prelude_lua[];
extern const unsigned long prelude_lua_size;

static int open_prelude(lua_State *L) {
    if (luaL_loadbuffer(L, prelude_lua, prelude_lua_size, "=prelude") != LUA_OK) {
        return lua_error(L);
    }
    lua_call(L, 0, 1);
    return 1;
}

/* Modules that are part of the program: opened by the first `require`. */
static void add_modules(lua_State *L) {
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_pushcfunction(L, luaopen_checksum);
    lua_setfield(L, -2, "checksum");
    lua_pushcfunction(L, open_prelude);
    lua_setfield(L, -2, "prelude");
    lua_pop(L, 1);
}

static void set_arguments(lua_State *L, char **argv, int script) {
    lua_newtable(L);
    for (int i = script; argv[i]; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i - script);
    }
    lua_setglobal(L, "arg");
}

static int add_traceback(lua_State *L) {
    const char *message = luaL_tolstring(L, 1, NULL);
    luaL_traceback(L, L, message, 1);
    return 1;
}

/* Runs the chunk that was just loaded, or reports why it could not be. */
static int run(lua_State *L, int load_status) {
    int status = load_status;
    if (status == LUA_OK) {
        lua_pushcfunction(L, add_traceback);
        lua_insert(L, -2);
        status = lua_pcall(L, 0, 0, -2);
    }
    if (status != LUA_OK) {
        fprintf(stderr, "lua: %s\n", lua_tostring(L, -1));
    }
    lua_settop(L, 0);
    return status == LUA_OK;
}

/* Index of the script, or of the end; 0 if the command line is wrong. */
static int find_script(int argc, char **argv) {
    int at = 1;
    while (at < argc && strcmp(argv[at], "-e") == 0) {
        at += 2;
    }
    return argc > 1 && at <= argc && !(at < argc && argv[at][0] == '-' && argv[at][1]) ? at : 0;
}

static int run_all(lua_State *L, int argc, char **argv, int script) {
    for (int at = 1; at < script; at += 2) {
        if (!run(L, luaL_loadbuffer(L, argv[at + 1], strlen(argv[at + 1]), "=-e"))) {
            return 0;
        }
    }
    if (script == argc) {
        return 1;
    }
    return run(L, luaL_loadfile(L, strcmp(argv[script], "-") == 0 ? NULL : argv[script]));
}

int main(int argc, char **argv) {
    int script = find_script(argc, argv);
    if (!script) {
        fprintf(stderr, "usage: lua [-e CODE]... [SCRIPT [ARGS...]]\n");
        return 2;
    }
    lua_State *L = luaL_newstate();
    if (!L) {
        fprintf(stderr, "lua: out of memory\n");
        return 1;
    }
    luaL_openlibs(L);
    add_modules(L);
    set_arguments(L, argv, script);
    int ok = run_all(L, argc, argv, script);
    lua_close(L);
    return ok ? 0 : 1;
}

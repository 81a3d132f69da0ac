// Preloaded into a server: leaves Nagle's algorithm on, as servers do that never set TCP_NODELAY.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

int setsockopt(int socket, int level, int name, const void *value, socklen_t length) {
    static int (*next)(int, int, int, const void *, socklen_t);
    if (level == IPPROTO_TCP && name == TCP_NODELAY)
        return 0;
    if (!next)
        next = (int (*)(int, int, int, const void *, socklen_t))dlsym(RTLD_NEXT, "setsockopt");
    return next(socket, level, name, value, length);
}

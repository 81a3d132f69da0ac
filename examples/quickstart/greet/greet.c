#include "greet.h"

#include <stdio.h>

#include "greet/version.h" /* generated: found below minibuild-out/bin */

size_t greet(char *text, size_t size, const char *name) {
    return (size_t)snprintf(text, size, "Hello, %s!", name);
}

const char *greet_version(void) {
    return GREET_VERSION;
}

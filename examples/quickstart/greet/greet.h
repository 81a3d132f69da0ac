#ifndef GREET_H
#define GREET_H

#include <stddef.h>

/* Writes a greeting for `name` into `text`; returns the length it has or would have had. */
size_t greet(char *text, size_t size, const char *name);

/* The version of this library, as in the VERSION file. */
const char *greet_version(void);

#endif

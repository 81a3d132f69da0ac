#include "greet.h"

#include <stdio.h>
#include <string.h>

static int failures;

static void check(const char *what, int ok) {
    if (!ok) {
        fprintf(stderr, "failed: %s\n", what);
        failures++;
    }
}

int main(void) {
    char text[8];
    check("a short name fits", greet(text, sizeof text, "") == strlen("Hello, !"));
    check("a long name is cut and its length told", greet(text, sizeof text, "everyone") == strlen("Hello, everyone!"));
    check("the text is always closed", strlen(text) == sizeof text - 1);
    check("the version has two dots", strchr(greet_version(), '.') != strrchr(greet_version(), '.'));
    return failures != 0;
}

#include <stdio.h>
#include <string.h>

#include "shape.h"

static int check(const char *found, const char *expected) {
    if (strcmp(found, expected) == 0) {
        return 0;
    }
    fprintf(stderr, "found    %s\nexpected %s\n", found, expected);
    return 1;
}

int main(void) {
    struct circle circle = {{1, 2.5}, 3};
    struct box box = {{0, 0}, {4, 5}, 6};
    char text[256];
    int failures = 0;
    circle_format(&circle, text, sizeof text);
    failures += check(text, "circle(centre=point(x=1 y=2.5) radius=3)");
    box_format(&box, text, sizeof text);
    failures += check(text, "box(low=point(x=0 y=0) high=point(x=4 y=5) layer=6)");
    return failures;
}

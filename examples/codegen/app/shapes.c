#include <stdio.h>
#include <stdlib.h>

#include "shape.h"

int main(int argc, char **argv) {
    struct circle circle = {{0, 0}, argc > 1 ? atof(argv[1]) : 1};
    char text[256];
    circle_format(&circle, text, sizeof text);
    puts(text);
    return 0;
}

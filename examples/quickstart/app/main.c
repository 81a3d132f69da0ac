#include <stdio.h>

#include "greet.h"
#include "schedule.h"

int main(int argc, char **argv) {
    char text[100];
    greet(text, sizeof text, argc > 1 ? argv[1] : "world");
    printf("%s (greet %s)\n", text, greet_version());
    for (const struct day *day = schedule; day->name; day++) {
        printf("  %-9s  %s\n", day->name, day->task());
    }
    return 0;
}

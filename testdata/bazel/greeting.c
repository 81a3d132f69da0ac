#include <stdio.h>

#include "greeting.h"

int main(void) {
    puts("hello " STAMP);
    return 0;
}

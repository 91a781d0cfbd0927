#include <stdio.h>

int main(void) {
    /* volatile, so that the sum is computed by the program and not by the compiler */
    volatile int a = 3, b = 5;
    printf("%d + %d = %d\n", a, b, a + b);
    return 0;
}

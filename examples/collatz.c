#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* Prints the Collatz trajectory of argv[1] and its number of steps. */
int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: collatz N\n");
        return 1;
    }
    char *end;
    uint64_t n = strtoull(argv[1], &end, 10);
    if (n == 0 || *end != 0) {
        fprintf(stderr, "collatz: N must be a positive integer\n");
        return 1;
    }
    unsigned steps = 0;
    printf("%llu", (unsigned long long)n);
    while (n != 1) {
        n = n % 2 ? 3 * n + 1 : n / 2;
        printf(" %llu", (unsigned long long)n);
        steps++;
    }
    printf("\n%u steps\n", steps);
    return 0;
}

/* Prints the Fibonacci number F(n), exactly, for n = argv[1] up to 10000. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define BASE 1000000000u /* nine decimal digits in a limb, the least significant limb first */
#define LIMBS 233        /* F(10000) has 2090 digits */

static uint32_t numbers[2][LIMBS];

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: fibonacci N\n");
        return 1;
    }
    char *end;
    unsigned long n = strtoul(argv[1], &end, 10);
    if (end == argv[1] || *end != 0 || n > 10000) {
        fprintf(stderr, "fibonacci: N must be an integer from 0 to 10000\n");
        return 1;
    }
    uint32_t *current = numbers[0], *next = numbers[1];
    int length = 1;
    next[0] = 1;
    while (n--) {
        uint32_t carry = 0;
        for (int i = 0; i < length; i++) {
            uint32_t sum = current[i] + next[i] + carry;
            carry = sum >= BASE;
            current[i] = carry ? sum - BASE : sum;
        }
        if (carry) current[length++] = 1;
        uint32_t *swap = current;
        current = next;
        next = swap;
    }
    while (length > 1 && current[length - 1] == 0) length--;
    printf("%u", (unsigned)current[length - 1]);
    while (--length > 0) printf("%09u", (unsigned)current[length - 1]);
    putchar('\n');
    return 0;
}

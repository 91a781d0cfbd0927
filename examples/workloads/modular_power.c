/* Fermat's test of argv[1] (120 if not given) odd numbers m below 2^32: 2^(m-1) is 1 modulo m for a
   prime, and seldom else. */
#include "workload.h"

#define FIRST 4294900001u

/* The modulus is below 2^32, so that products fit. */
static uint64_t power(uint64_t base, uint32_t exponent, uint64_t modulus) {
    uint64_t result = 1;
    for (; exponent; exponent >>= 1) {
        if (exponent & 1) result = result * base % modulus;
        base = base * base % modulus;
    }
    return result;
}

void _start(void) {
    uint32_t n = size_argument(120, 10000), likely = 0;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t m = FIRST + 2 * i;
        uint64_t rest = power(2, m - 1, m);
        likely += rest == 1;
        sum = 31 * sum + rest;
    }
    write_number(likely);
    write_text(" likely primes, ");
    write_hex(sum, 16);
    write_text("\n");
}

/* The factorial of argv[1] (150 if not given) in full, and the sum of its decimal digits. */
#include "workload.h"

#define MOST 1000
#define BASE 10000

static uint32_t limbs[700]; /* the lowest first; 1000! has 2568 digits */

void _start(void) {
    uint32_t n = size_argument(150, MOST), used = 1, digits = 0, sum = 0;
    limbs[0] = 1;
    for (uint32_t factor = 2; factor <= n; factor++) {
        uint32_t carry = 0;
        for (uint32_t i = 0; i < used; i++) {
            carry += limbs[i] * factor;
            limbs[i] = carry % BASE;
            carry /= BASE;
        }
        if (carry) limbs[used++] = carry; /* at most 1000, as the factors */
    }
    for (uint32_t i = 0; i < used; i++) {
        uint32_t limb = limbs[i];
        for (uint32_t k = 0; k < 4 && (limb || i + 1 < used); k++, limb /= 10) {
            digits++;
            sum += limb % 10;
        }
    }
    write_number(digits);
    write_text(" digits, sum ");
    write_number(sum);
    write_text("\n");
}

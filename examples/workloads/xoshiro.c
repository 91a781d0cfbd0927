/* The sum of argv[1] (2000 if not given) numbers of Blackman and Vigna's generator xoshiro256**,
   seeded by splitmix64. */
#include "workload.h"

static uint64_t s0, s1, s2, s3;

static uint64_t rotate(uint64_t number, uint32_t by) { return number << by | number >> (64 - by); }

static uint64_t seed(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static uint64_t next(void) {
    uint64_t result = 9 * rotate(5 * s1, 7), shifted = s1 << 17;
    s2 ^= s0;
    s3 ^= s1;
    s1 ^= s2;
    s0 ^= s3;
    s2 ^= shifted;
    s3 = rotate(s3, 45);
    return result;
}

void _start(void) {
    uint32_t n = size_argument(2000, 1000000);
    uint64_t state = 1, sum = 0;
    s0 = seed(&state), s1 = seed(&state), s2 = seed(&state), s3 = seed(&state);
    while (n--) sum = rotate(sum, 1) + next();
    write_text("sum ");
    write_hex(sum, 16);
    write_text("\n");
}

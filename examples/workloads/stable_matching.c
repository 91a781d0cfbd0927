/* Matches argv[1] (32 if not given) on either side by Gale and Shapley's deferred acceptance: the
   left propose in the order of their lists, the right keep the best proposal so far. */
#include "workload.h"

#define MOST 128

static uint8_t choice[MOST][MOST]; /* of the left, the most wanted first */
static uint8_t rank[MOST][MOST];   /* that the right give to the left */
static uint8_t asked[MOST];        /* how many of its choices one of the left has proposed to */
static uint8_t accepted[MOST];     /* 1 + one of the left, or 0 */

static uint32_t state = 1;

/* A pseudo-random number below a bound of at most 2^16. */
static uint32_t below(uint32_t bound) {
    state = state * 1664525 + 1013904223;
    return (state >> 16) * bound >> 16;
}

static void shuffle(uint8_t *list, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        uint32_t j = below(i + 1);
        list[i] = list[j];
        list[j] = (uint8_t)i;
    }
}

void _start(void) {
    uint32_t n = size_argument(32, MOST), proposals = 0, checksum = 0;
    for (uint32_t i = 0; i < n; i++) {
        shuffle(choice[i], n);
        shuffle(rank[i], n);
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t left = i;
        for (;;) {
            uint32_t right = choice[left][asked[left]++], other = accepted[right];
            proposals++;
            if (other && rank[right][other - 1] < rank[right][left]) continue;
            accepted[right] = (uint8_t)(left + 1);
            if (!other) break;
            left = other - 1;
        }
    }
    for (uint32_t i = 0; i < n; i++) checksum = 31 * checksum + accepted[i];
    write_number(proposals);
    write_text(" proposals, ");
    write_hex(checksum, 8);
    write_text("\n");
}

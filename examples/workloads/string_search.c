/* Searches a text of argv[1] (1000 if not given) pseudo-random letters for patterns from it, by
   Horspool's method: the letter under the pattern's end says how far the pattern may move. */
#include "workload.h"

#define MOST 16384
#define LETTERS 4
#define LENGTH 6 /* of the longest pattern */

static uint8_t text[MOST + LENGTH];

/* How often the pattern occurs in the first n letters. */
static uint32_t count(const uint8_t *pattern, uint32_t length, uint32_t n) {
    uint32_t found = 0, skip[LETTERS];
    for (uint32_t i = 0; i < LETTERS; i++) skip[i] = length;
    for (uint32_t i = 0; i + 1 < length; i++) skip[pattern[i]] = length - 1 - i;
    for (uint32_t end = length - 1; end < n; end += skip[text[end]]) {
        const uint8_t *start = text + end + 1 - length;
        uint32_t i = length;
        while (i > 0 && start[i - 1] == pattern[i - 1]) i--;
        found += i == 0;
    }
    return found;
}

void _start(void) {
    uint32_t n = size_argument(1000, MOST), state = 1, checksum = 0, found = 0;
    for (uint32_t i = 0; i < n + LENGTH; i++) {
        state = state * 1664525 + 1013904223;
        text[i] = (uint8_t)(state >> 30);
    }
    for (uint32_t length = 2; length <= LENGTH; length++) {
        uint32_t times = count(text + n / length, length, n);
        found += times;
        checksum = 31 * checksum + times;
    }
    write_number(found);
    write_text(" found, ");
    write_hex(checksum, 8);
    write_text("\n");
}

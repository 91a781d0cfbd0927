/* Sorts argv[1] (500 if not given) pseudo-random integers; the checksum depends on their order. */
#include "workload.h"

#define MOST 4096

static uint32_t numbers[MOST];

/* Sorts numbers[from], ..., numbers[to - 1]. The last is the pivot. */
static void quicksort(uint32_t from, uint32_t to) {
    if (to - from < 2) return;
    uint32_t pivot = numbers[to - 1], middle = from; /* what is before middle is below the pivot */
    for (uint32_t i = from; i < to - 1; i++) {
        uint32_t number = numbers[i];
        if (number >= pivot) continue;
        numbers[i] = numbers[middle];
        numbers[middle++] = number;
    }
    numbers[to - 1] = numbers[middle];
    numbers[middle] = pivot;
    quicksort(from, middle);
    quicksort(middle + 1, to);
}

void _start(void) {
    uint32_t n = size_argument(500, MOST), state = 1, checksum = 0;
    for (uint32_t i = 0; i < n; i++) {
        state = state * 1664525 + 1013904223;
        numbers[i] = state;
    }
    quicksort(0, n);
    for (uint32_t i = 0; i < n; i++) checksum = 31 * checksum + numbers[i];
    write_text("sorted ");
    write_hex(checksum, 8);
    write_text("\n");
}

/* Ackermann's function of 2 and argv[1] (50 if not given): calls within calls. */
#include "workload.h"

/* Otherwise the compiler makes a loop of the outer calls. */
__attribute__((disable_tail_calls)) static uint32_t ackermann(uint32_t m, uint32_t n) {
    if (m == 0) return n + 1;
    if (n == 0) return ackermann(m - 1, 1);
    return ackermann(m - 1, ackermann(m, n - 1));
}

void _start(void) {
    uint32_t n = size_argument(50, 200);
    write_text("ackermann ");
    write_number(ackermann(2, n));
    write_text("\n");
}

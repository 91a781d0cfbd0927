/* Fibonacci number argv[1] (18 if not given), by calling itself. */
#include "workload.h"

/* Otherwise the compiler makes a loop of the second call. */
__attribute__((disable_tail_calls)) static uint32_t fib(uint32_t n) {
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

void _start(void) {
    uint32_t n = size_argument(18, 40);
    write_text("fib ");
    write_number(fib(n));
    write_text("\n");
}

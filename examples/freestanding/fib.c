/* Fibonacci numbers modulo 2^32, without a C library. */

unsigned fib(unsigned n) {
    unsigned a = 0, b = 1;
    while (n--) {
        unsigned next = a + b;
        a = b;
        b = next;
    }
    return a;
}

unsigned fib_recursive(unsigned n) {
    return n < 2 ? n : fib_recursive(n - 1) + fib_recursive(n - 2);
}

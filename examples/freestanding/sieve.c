/* Counts the primes below n with the sieve of Eratosthenes, without a C library. */

#define LIMIT 4096

static unsigned char composite[LIMIT];

/* Returns -1 if n is above LIMIT. May be called again. */
int count_primes(unsigned n) {
    if (n > LIMIT) return -1;
    for (unsigned i = 0; i < n; i++) composite[i] = 0;
    int count = 0;
    for (unsigned i = 2; i < n; i++) {
        if (composite[i]) continue;
        count++;
        for (unsigned j = i * i; j < n; j += i) composite[j] = 1;
    }
    return count;
}

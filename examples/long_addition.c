/* Prints the sum of two decimal numbers of any length from standard input, one per line. */
#include <stdio.h>
#include <stdlib.h>

struct number {
    char *digits; /* the most significant first */
    size_t length;
};

static int fail(const char *message) {
    fputs(message, stderr);
    return 1;
}

/* Reads one line of digits; 0 if there is none, or anything else on it. */
static int read_number(struct number *n) {
    size_t room = 0;
    int c;
    n->digits = NULL;
    n->length = 0;
    while ((c = getchar()) >= '0' && c <= '9') {
        if (n->length == room) {
            room = room ? 2 * room : 64;
            n->digits = realloc(n->digits, room);
            if (!n->digits) return 0;
        }
        n->digits[n->length++] = (char)(c - '0');
    }
    return n->length > 0 && (c == '\n' || c == EOF);
}

int main(void) {
    struct number a, b;
    if (!read_number(&a) || !read_number(&b)) {
        return fail("long_addition: two lines of decimal digits, please\n");
    }
    size_t length = (a.length > b.length ? a.length : b.length) + 1;
    char *sum = malloc(length + 1);
    if (!sum) return fail("long_addition: out of memory\n");
    sum[length] = 0;
    int carry = 0;
    for (size_t i = 1; i <= length; i++) { /* the i-th digit from the right */
        int digit = carry;
        if (i <= a.length) digit += a.digits[a.length - i];
        if (i <= b.length) digit += b.digits[b.length - i];
        carry = digit > 9;
        sum[length - i] = (char)('0' + digit - 10 * carry);
    }
    while (length > 1 && *sum == '0') {
        sum++;
        length--;
    }
    puts(sum);
    return 0;
}

/* Prints the CRC-32 of standard input (the checksum of zip and gzip) in hexadecimal. */
#include <stdint.h>
#include <stdio.h>

static uint32_t table[256];

int main(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t remainder = byte;
        for (int bit = 0; bit < 8; bit++) {
            remainder = remainder & 1 ? remainder >> 1 ^ 0xedb88320 : remainder >> 1;
        }
        table[byte] = remainder;
    }
    uint32_t crc = 0xffffffff;
    int c;
    while ((c = getchar()) != EOF) crc = crc >> 8 ^ table[(crc ^ (uint32_t)c) & 255];
    for (int shift = 28; shift >= 0; shift -= 4) putchar("0123456789abcdef"[~crc >> shift & 15]);
    putchar('\n');
    return 0;
}

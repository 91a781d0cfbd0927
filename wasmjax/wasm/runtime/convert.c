// Conversions between floats and integers, and between the two kinds of floats.

#include "float.h"

TRAP(trap_overflow);
TRAP(trap_invalid_conversion);

// --- from integers ---

INLINE bits from_magnitude(u64 a, bits sign, int exact) {
  u64 zeros = CLZ(a), s = a << zeros, q = s >> (63 - FRACTION_BITS);
  if (!exact) q += ROUND_UP(q, s << (FRACTION_BITS + 1), TOP64);
  // The exponent is BIAS + 63 - zeros. q adds 1 to it, or 2 if rounded up to a power of two.
  return as_bits(q) - ((bits)zeros << FRACTION_BITS) + (BIAS + 62) * HIDDEN + sign;
}

#define EXACT(width) ((width) <= FRACTION_BITS)

INLINE bits from_unsigned(u64 a, int exact) { return a == 0 ? 0 : from_magnitude(a, 0, exact); }

EXPORT(FLOAT ".convert_i32_u") bits convert_i32_u(u32 a) { return from_unsigned(a, EXACT(32)); }
EXPORT(FLOAT ".convert_i64_u") bits convert_i64_u(u64 a) { return from_unsigned(a, 0); }
EXPORT(FLOAT ".convert_i32_s") bits convert_i32_s(s32 a) {
  if (a < 0) return from_magnitude(-(u32)a, SIGN, EXACT(32));
  APART;
  return from_unsigned(a, EXACT(32));
}
EXPORT(FLOAT ".convert_i64_s") bits convert_i64_s(s64 a) {
  if (a < 0) return from_magnitude(-(u64)a, SIGN, 0);
  APART;
  return from_unsigned(a, 0);
}

// --- to integers ---

// The significand with its highest bit in bit 63.
#define HIGH_SIGNIFICAND(a) ((u64)(a) << (63 - FRACTION_BITS) | TOP64)

// What has too large a magnitude for the target, or a sign that it has not.
INLINE u64 no_integer(bits a, u64 lowest, u64 highest, int saturate) {
  if (IS_NAN(a)) {
    if (!saturate) trap_invalid_conversion();
    return 0;
  }
  if (!saturate) trap_overflow();
  return (sbits)a < 0 ? lowest : highest;
}

INLINE u64 to_unsigned(bits a, int width, int saturate) {
  u64 places = (a >> FRACTION_BITS) - BIAS;  // negative numbers have too many
  if (places < (u64)width) return HIGH_SIGNIFICAND(a) >> (places ^ 63);
  if (EXPONENT(a) < BIAS) return 0;
  return no_integer(a, 0, ~0ull >> (64 - width), saturate);
}

INLINE u64 to_signed(bits a, int width, int saturate) {
  u64 places = EXPONENT(a) - (u64)BIAS;
  if (places < (u64)width - 1) {
    u64 magnitude = HIGH_SIGNIFICAND(a) >> (places ^ 63);
    if (width == 32) magnitude = narrow(magnitude);
    if ((sbits)a < 0) return -magnitude;
    APART;
    return magnitude;
  }
  if (EXPONENT(a) < BIAS) return 0;
  u64 lowest = 1ull << (width - 1);
  // The lowest number, with a fraction perhaps.
  if (places == (u64)width - 1 && (sbits)a < 0 && HIGH_SIGNIFICAND(a) >> (64 - width) == lowest)
    return -lowest;
  return no_integer(a, -lowest, lowest - 1, saturate);
}

EXPORT("i32.trunc_" FLOAT "_u") u32 trunc_i32_u(bits a) { return narrow(to_unsigned(a, 32, 0)); }
EXPORT("i32.trunc_" FLOAT "_s") u32 trunc_i32_s(bits a) { return to_signed(a, 32, 0); }
EXPORT("i64.trunc_" FLOAT "_u") u64 trunc_i64_u(bits a) { return to_unsigned(a, 64, 0); }
EXPORT("i64.trunc_" FLOAT "_s") u64 trunc_i64_s(bits a) { return to_signed(a, 64, 0); }
EXPORT("i32.trunc_sat_" FLOAT "_u") u32 sat_i32_u(bits a) { return narrow(to_unsigned(a, 32, 1)); }
EXPORT("i32.trunc_sat_" FLOAT "_s") u32 sat_i32_s(bits a) { return to_signed(a, 32, 1); }
EXPORT("i64.trunc_sat_" FLOAT "_u") u64 sat_i64_u(bits a) { return to_unsigned(a, 64, 1); }
EXPORT("i64.trunc_sat_" FLOAT "_s") u64 sat_i64_s(bits a) { return to_signed(a, 64, 1); }

// --- between floats ---

#if WIDTH == 64
#define FRACTION_BITS_32 23
#define BIAS_32 127

EXPORT("f64.promote_f32") u64 promote(u32 a) {
  u64 shift = FRACTION_BITS - FRACTION_BITS_32, difference = (BIAS - BIAS_32) * HIDDEN;
  // Three copies of the sign go.
  u64 moved = (u64)(s64)(s32)a << shift & ~(7ull << (FRACTION_BITS + 8));
  if ((a + (1u << FRACTION_BITS_32)) & 254u << FRACTION_BITS_32) return moved + difference;
  u64 sign = (u64)(a >> 31) << 63;
  u32 magnitude = a << 1;
  if (magnitude == 0) return sign;
  if (magnitude == 0xff000000) return sign | INFINITE;
  if (magnitude > 0xff000000) return NOT_A_NUMBER;
  u64 zeros = CLZ((u64)a & 0x7fffffff);
  return sign + ((u64)(a & 0x7fffffff) << zeros >> 11) - (zeros << FRACTION_BITS) +
         (BIAS - BIAS_32 + 63 - FRACTION_BITS_32) * HIDDEN;
}
#else
#define FRACTION_BITS_64 52
#define BIAS_64 1023

EXPORT("f32.demote_f64") u32 demote(u64 a) {
  u64 magnitude = a << 1, lowest = (BIAS_64 - BIAS + 1ull) << (FRACTION_BITS_64 + 1);
  u64 infinite = 0x7ffull << (FRACTION_BITS_64 + 1);
  u32 sign = narrow(a >> 32) & SIGN;
  u64 s = magnitude - lowest;
  if (s < (TOP_EXPONENT - 1ull) << (FRACTION_BITS_64 + 1)) {
    // In place, with the exponent, which is 1 too small: rounding may add to it.
    u64 shift = FRACTION_BITS_64 + 1 - FRACTION_BITS, q = s >> shift;
    return narrow(q + ROUND_UP(q, s << (64 - shift), TOP64)) + HIDDEN + sign;
  }
  if (magnitude == 0) return sign;
  if (magnitude > infinite) return NOT_A_NUMBER;
  if (magnitude == infinite) return sign | INFINITE;
  s64 exponent = magnitude >> (FRACTION_BITS_64 + 1);
  return pack(sign, exponent - BIAS_64 + BIAS, a << 11 | TOP64);
}
#endif

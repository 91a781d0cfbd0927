// Comparisons, minimum, maximum.
//
// As integers, floats without a sign are in order, and those with one in reverse.

#include "float.h"

#define NEGATIVE(a) ((sbits)(a) < 0)

INLINE u32 less(bits a, bits b) {
  // If a is a NaN it is not less than one that is none.
  if (!NEGATIVE(a | b)) return (a < b) & (b <= INFINITE);
  // One has a sign; that one decides, unless both are zero or one is a NaN.
  return (a > b) & (a <= (SIGN | INFINITE)) & !IS_NAN(b) & (MAGNITUDE(a | b) != 0);
}

INLINE u32 not_greater(bits a, bits b) {
  if (!NEGATIVE(a | b)) return (a <= b) & (b <= INFINITE);
  return ((a >= b) & (a <= (SIGN | INFINITE)) & !IS_NAN(b)) | (MAGNITUDE(a | b) == 0);
}

EXPORT(FLOAT ".lt") u32 lt(bits a, bits b) { return less(a, b); }
EXPORT(FLOAT ".gt") u32 gt(bits a, bits b) { return less(b, a); }
EXPORT(FLOAT ".le") u32 le(bits a, bits b) { return not_greater(a, b); }
EXPORT(FLOAT ".ge") u32 ge(bits a, bits b) { return not_greater(b, a); }

EXPORT(FLOAT ".eq") u32 eq(bits a, bits b) {
  if (a == b) return !IS_NAN(a);
  return MAGNITUDE(a | b) == 0;
}

EXPORT(FLOAT ".ne") u32 ne(bits a, bits b) {
  if (a == b) return IS_NAN(a);
  return MAGNITUDE(a | b) != 0;
}

// -0 is less than +0 here, as the order of integers has it.
EXPORT(FLOAT ".min") bits min(bits a, bits b) {
  if (IS_NAN(a) || IS_NAN(b)) {
    APART;
    return NOT_A_NUMBER;
  }
  return ((sbits)a < (sbits)b) ^ NEGATIVE(a & b) ? a : b;
}

EXPORT(FLOAT ".max") bits max(bits a, bits b) {
  if (IS_NAN(a) || IS_NAN(b)) {
    APART;
    return NOT_A_NUMBER;
  }
  return ((sbits)a < (sbits)b) ^ NEGATIVE(a & b) ? b : a;
}

// Rounding to integers that stay floats.

#include "float.h"

// With p places, 0 to FRACTION_BITS - 1, before the point: what is not cut off. An addition of what
// is cut off may run into the exponent, which is right.
#define KEPT(p) ((bits)((sbits)(SIGN | INFINITE) >> (p)))

EXPORT(FLOAT ".trunc") bits trunc(bits a) {
  bits places = EXPONENT(a) - BIAS;
  if (places < FRACTION_BITS) return a & KEPT(places);
  if ((sbits)places < 0) return a & SIGN;
  return IS_NAN(a) ? NOT_A_NUMBER : a;
}

// Away from zero if the sign is that, else towards it.
INLINE bits away(bits a, bits sign) {
  bits places = EXPONENT(a) - BIAS;
  if (places < FRACTION_BITS) {
    bits kept = KEPT(places);
    OPAQUE(kept);
    if ((a & SIGN) == sign) {
      APART;
      a += ~kept;
    }
    return a & kept;
  }
  if ((sbits)places < 0) {
    if (MAGNITUDE(a) == 0 || (a & SIGN) != sign) return a & SIGN;
    return sign | BIAS * HIDDEN;
  }
  return IS_NAN(a) ? NOT_A_NUMBER : a;
}

EXPORT(FLOAT ".ceil") bits ceil(bits a) { return away(a, 0); }
EXPORT(FLOAT ".floor") bits floor(bits a) { return away(a, SIGN); }

EXPORT(FLOAT ".nearest") bits nearest(bits a) {
  bits places = EXPONENT(a) - BIAS;
  if (places < FRACTION_BITS) {
    bits kept = KEPT(places), sum = a + (HIDDEN / 2 >> places), result = sum & kept;
    if (result != sum) return result;
    APART;
    return result & kept << 1;  // halfway: to even
  }
  if ((sbits)places < 0) {
    bits half = (BIAS - 1) * HIDDEN;
    return (a & SIGN) | (MAGNITUDE(a) > MAGNITUDE(half) ? BIAS * HIDDEN : 0);
  }
  return IS_NAN(a) ? NOT_A_NUMBER : a;
}

/* The loop of sxq_rounded_tile, for vectors of WIDTH bytes; its parts are macros of the file that includes this. */
#include <string.h>

#include "rounded.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define LANES (WIDTH / 4)

/* Bytes of four rows, side by side by column: h and g say of which quarter of each 16 bytes. */
ALWAYS_INLINE vector quarter(vector a, vector b, vector c, vector d, int h, int g) {
  const vector ab = h ? INTERLEAVE_HIGH_8(a, b) : INTERLEAVE_LOW_8(a, b);
  const vector cd = h ? INTERLEAVE_HIGH_8(c, d) : INTERLEAVE_LOW_8(c, d);
  return g ? INTERLEAVE_HIGH_16(ab, cd) : INTERLEAVE_LOW_16(ab, cd);
}

/* Quarters `first` to `first + count - 1` of a tile. All numbers but the tile's are known when this is compiled. */
ALWAYS_INLINE void quarters(int bits, int planes, int first, int count, const sxq_rounded_tile* t) {
  const int digits = 8 / bits;
  const vector mask = SET_8((char)((1 << bits) - 1));
  vector sums[16 * SXQ_ROUNDED_PLANES];
  for (int i = 0; i < count * digits * planes; ++i) sums[i] = ZERO();
  const size_t last = t->rows - 1;
  for (size_t k = 0; k < t->rows; k += 4) {
    const uint8_t* row = t->codes + k * t->pitch;
    vector r[4];
    for (size_t i = 0; i < 4; ++i) {
      const uint8_t* at = k + i <= last ? row + i * t->pitch : t->codes + last * t->pitch;
      r[i] = t->bytes == WIDTH ? LOAD(at) : LOAD_SOME(at, t->bytes);
      if (first == 0) __builtin_prefetch(at + t->ahead, 0, 2);
    }
    vector x[SXQ_ROUNDED_PLANES];
    for (int p = 0; p < planes; ++p) x[p] = SET_32(t->quads[(size_t)p * t->quad_pitch + k / 4]);
    for (int q = 0; q < count; ++q) {
      const vector bytes = quarter(r[0], r[1], r[2], r[3], (first + q) >> 1, (first + q) & 1);
      for (int d = 0; d < digits; ++d) {
        vector digit = d ? SHIFT_RIGHT_16(bytes, d * bits) : bytes;
        if (bits < 8) digit = AND(digit, mask);
        for (int p = 0; p < planes; ++p) {
          vector* sum = &sums[(q * digits + d) * planes + p];
          *sum = ADD_PRODUCTS(*sum, digit, x[p]);
        }
      }
    }
  }
  for (int q = 0; q < count; ++q) {
    for (int d = 0; d < digits; ++d) {
      for (int p = 0; p < planes; ++p) {
        const int place = p * WIDTH * digits + ((first + q) * digits + d) * LANES;
        STORE(t->sums + place, sums[(q * digits + d) * planes + p]);
      }
    }
  }
}

#define ALL_QUARTERS(bits, planes, at_once)                                                   \
  do {                                                                                        \
    for (int first_ = 0; first_ < 4; first_ += (at_once)) {                                   \
      switch (first_) {                                                                       \
        case 0: quarters(bits, planes, 0, at_once, tile); break;                              \
        case 1: quarters(bits, planes, 1 % (5 - (at_once)), at_once, tile); break;            \
        case 2: quarters(bits, planes, 2 % (5 - (at_once)), at_once, tile); break;            \
        default: quarters(bits, planes, 3 % (5 - (at_once)), at_once, tile);                  \
      }                                                                                       \
    }                                                                                         \
  } while (0)

#define BY_PLANES(bits, at_once)                    \
  switch (planes) {                                 \
    case 1: ALL_QUARTERS(bits, 1, at_once); break;  \
    case 2: ALL_QUARTERS(bits, 2, at_once); break;  \
    case 3: ALL_QUARTERS(bits, 3, at_once); break;  \
    default: ALL_QUARTERS(bits, 4, at_once);        \
  }                                                 \
  break

static void sums(int bits, int planes, const sxq_rounded_tile* tile) {
  switch (bits) {
    case 1: BY_PLANES(1, 1);
    case 2: BY_PLANES(2, QUARTERS_OF_TWO);
    case 4: BY_PLANES(4, QUARTERS_OF_FOUR);
    default:
      if (MOST_BITS == 8) {
        BY_PLANES(8, 4);
      }
  }
}

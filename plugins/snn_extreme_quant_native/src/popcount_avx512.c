/* Products over bits for x86-64 with AVX-512 F, BW and VPOPCNTDQ. */
#include "bit_planes.h"

#if defined(__x86_64__)
#include <immintrin.h>

/* Columns lie side by side in the 32-bit lanes of a register, a word of 32 inputs each. A block of columns takes four
 * registers for each word: four of the plane of -1 for binary codes; two of the plane of what is not 0 and two of the
 * plane of -1 for ternary ones. They serve four rows of inputs. */
enum { LANES = 16, REGISTERS = 4, ROWS = 4, BITS = 32 };

#define ALWAYS_INLINE static inline __attribute__((always_inline))

static size_t block_columns(const sxq_codes* codes) {
  return (codes->layout->bits == 1 ? REGISTERS : REGISTERS / 2) * LANES;
}

static size_t words_of(const sxq_codes* codes) { return (codes->rows + BITS - 1) / BITS; }

static size_t plane_bytes(const sxq_codes* codes) {
  const size_t columns = block_columns(codes);
  return (codes->columns + columns - 1) / columns * words_of(codes) * REGISTERS * LANES * sizeof(uint32_t);
}

/* The digits of sixteen columns, from `first` on, of a row. */
ALWAYS_INLINE uint32_t digits_at(const sxq_codes* codes, const uint8_t* row, size_t first) {
  const size_t bits = (size_t)codes->layout->bits;
  const size_t left = codes->columns - first, columns = left < LANES ? left : LANES;
  uint32_t digits = 0;
  __builtin_memcpy(&digits, row + first * bits / 8, (columns * bits + 7) / 8);
  return digits;
}

/* Sixteen columns over the inputs of one word. */
static void fill_lanes(
    const sxq_codes* codes, size_t word, size_t first, uint32_t* not_zero, uint32_t* minus) {
  const size_t pitch = sxq_row_bytes(codes->layout, codes->columns);
  const size_t left = codes->columns - first;
  const __mmask16 there = (__mmask16)(left < LANES ? (1u << left) - 1 : 0xffff);
  __m512i z = _mm512_setzero_si512(), s = _mm512_setzero_si512();
  for (size_t i = 0; i < BITS && word * BITS + i < codes->rows; ++i) {
    const uint32_t digits = digits_at(codes, codes->packed + (word * BITS + i) * pitch, first);
    const __m512i bit = _mm512_set1_epi32((int)(1u << i));
    if (!not_zero) {
      s = _mm512_mask_or_epi32(s, (__mmask16)(there & ~digits), s, bit);
      continue;
    }
    /* Digits are 0, 1 and 2 for -1, 0 and 1. */
    const uint32_t zero = _pext_u32(digits, 0x55555555), plus = _pext_u32(digits, 0xaaaaaaaa);
    z = _mm512_mask_or_epi32(z, (__mmask16)(there & ~zero), z, bit);
    s = _mm512_mask_or_epi32(s, (__mmask16)(there & ~(zero | plus)), s, bit);
  }
  if (not_zero) _mm512_store_si512(not_zero, z);
  _mm512_store_si512(minus, s);
}

static void fill_planes(const sxq_codes* codes, uint32_t* planes) {
  const size_t columns = block_columns(codes), words = words_of(codes);
  const bool binary = codes->layout->bits == 1;
  for (size_t first = 0; first < codes->columns; first += columns) {
    for (size_t word = 0; word < words; ++word, planes += REGISTERS * LANES) {
      for (size_t r = 0; r * LANES < columns; ++r) {
        uint32_t* minus = planes + (binary ? r : r + REGISTERS / 2) * LANES;
        if (first + r * LANES < codes->columns) {
          fill_lanes(codes, word, first + r * LANES, binary ? NULL : planes + r * LANES, minus);
        } else {
          _mm512_store_si512(planes + r * LANES, _mm512_setzero_si512());
          _mm512_store_si512(minus, _mm512_setzero_si512());
        }
      }
    }
  }
}

static int32_t pack_floats(const float* x, size_t count, float unit, uint32_t* bits, uint32_t* minus) {
  const __m512 zero = _mm512_setzero_ps(), one = _mm512_set1_ps(unit), less = _mm512_set1_ps(-unit);
  int32_t found = 0;
  unsigned odd = 0;
  for (size_t k = 0; k < count; k += BITS) {
    uint32_t word = 0, down = 0;
    for (size_t i = 0; i < BITS && k + i < count; i += LANES) {
      const size_t left = count - k - i;
      const __mmask16 here = (__mmask16)(left < LANES ? (1u << left) - 1 : 0xffff);
      const __m512 values = _mm512_maskz_loadu_ps(here, x + k + i);
      /* "Not equal" is true of NaN too, as in C. */
      const __mmask16 set = _mm512_cmp_ps_mask(values, zero, _CMP_NEQ_UQ);
      __mmask16 known = _mm512_cmp_ps_mask(values, one, _CMP_EQ_OQ);
      if (minus) {
        const __mmask16 below = _mm512_cmp_ps_mask(values, less, _CMP_EQ_OQ);
        down |= (uint32_t)below << i;
        known |= below;
      }
      odd |= (unsigned)(set & ~known);
      word |= (uint32_t)set << i;
    }
    bits[k / BITS] = word;
    if (minus) minus[k / BITS] = down;
    found += __builtin_popcount(word);
  }
  return odd ? -1 : found;
}

static int32_t pack_bytes(const uint8_t* x, size_t count, uint32_t* bits, uint32_t* minus) {
  const __m256i one = _mm256_set1_epi8(1), less = _mm256_set1_epi8(-1);
  int32_t found = 0;
  uint32_t odd = 0;
  for (size_t k = 0; k < count; k += BITS) {
    const __mmask32 here = count - k < BITS ? (1u << (count - k)) - 1 : ~0u;
    const __m256i values = _mm256_maskz_loadu_epi8(here, x + k);
    const uint32_t word = _mm256_test_epi8_mask(values, values);
    const uint32_t down = minus ? _mm256_cmpeq_epi8_mask(values, less) : 0;
    odd |= word & ~(_mm256_cmpeq_epi8_mask(values, one) | down);
    bits[k / BITS] = word;
    if (minus) minus[k / BITS] = down;
    found += __builtin_popcount(word);
  }
  return odd ? -1 : found;
}

static int32_t pack(const sxq_spikes* spikes, size_t count, uint32_t* bits, uint32_t* minus) {
  return spikes->floats ? pack_floats(spikes->x, count, spikes->unit, bits, minus)
                        : pack_bytes(spikes->x, count, bits, minus);
}

/* Sixteen sums to the target, those of columns there are. */
ALWAYS_INLINE void emit(__m512i sum, const sxq_target* to, size_t m, size_t n, __mmask16 there) {
  const size_t at = m * to->pitch + n;
  if (to->y) {
    const __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(to->grid));
    _mm512_mask_storeu_ps(to->y + at, there, _mm512_mul_ps(y, _mm512_maskz_loadu_ps(there, to->scale + n)));
  } else {
    const __m512i total = _mm512_maskz_loadu_epi32(there, to->sums + at);
    const __m512i more = _mm512_mullo_epi32(sum, _mm512_set1_epi32(to->weight));
    _mm512_mask_storeu_epi32(to->sums + at, there, _mm512_add_epi32(total, more));
  }
}

/* All of a loop, so that what it counts stays in registers. */
#define UNROLL _Pragma("GCC unroll 8")
#define COUNT(x) _mm512_popcnt_epi32(x)

/* The sums of a block of columns over ROWS rows, of which the first `count` are there. */
ALWAYS_INLINE void block_product(
    const uint32_t* planes, const sxq_bit_rows* rows, size_t first_row, size_t count, size_t columns,
    const sxq_target* to, size_t first, bool binary, bool is_signed) {
  enum { MOST = REGISTERS };
  const int across = binary ? REGISTERS : REGISTERS / 2;
  const size_t words = rows->words;
  const uint32_t* bits = rows->bits + first_row * words;
  const uint32_t* minus = is_signed ? rows->minus + first_row * words : NULL;
  __m512i all[ROWS][MOST], below[ROWS][MOST]; /* |a & z| and |a & z & (g ^ s)| */
  UNROLL for (int m = 0; m < ROWS; ++m) {
    UNROLL for (int r = 0; r < across; ++r) all[m][r] = below[m][r] = _mm512_setzero_si512();
  }
  for (size_t word = 0; word < words; ++word, planes += REGISTERS * LANES) {
    __m512i z[MOST], s[MOST];
    UNROLL for (int r = 0; r < across; ++r) {
      if (!binary) z[r] = _mm512_load_si512(planes + r * LANES);
      s[r] = _mm512_load_si512(planes + (binary ? r : r + across) * LANES);
    }
    UNROLL for (int m = 0; m < ROWS; ++m) {
      const __m512i a = _mm512_set1_epi32((int)bits[(size_t)m * words + word]);
      const __m512i g = is_signed ? _mm512_set1_epi32((int)minus[(size_t)m * words + word]) : a;
      UNROLL for (int r = 0; r < across; ++r) {
        const __m512i t = binary ? a : _mm512_and_si512(a, z[r]);
        /* 0x60: the first where the others differ. Without signs a & s is enough, as s is a part of z. */
        const __m512i u = is_signed ? _mm512_ternarylogic_epi64(t, g, s[r], 0x60) : _mm512_and_si512(a, s[r]);
        if (!binary) all[m][r] = _mm512_add_epi32(all[m][r], COUNT(t));
        below[m][r] = _mm512_add_epi32(below[m][r], COUNT(u));
      }
    }
  }
  UNROLL for (size_t m = 0; m < ROWS; ++m) {
    if (m >= count) break;
    UNROLL for (int r = 0; r < across; ++r) {
      const size_t n = (size_t)r * LANES;
      const __mmask16 there = (__mmask16)(columns >= n + LANES ? 0xffff : columns > n ? (1u << (columns - n)) - 1 : 0);
      const __m512i whole = binary ? _mm512_set1_epi32(rows->found[first_row + m]) : all[m][r];
      emit(_mm512_sub_epi32(whole, _mm512_slli_epi32(below[m][r], 1)), to, first_row + m, first + n, there);
    }
  }
}

/* Block by block of the columns, whose planes all rows share. */
ALWAYS_INLINE void products_of(
    const sxq_codes* codes, const uint32_t* planes, const sxq_bit_rows* rows, size_t count, const sxq_target* to,
    bool binary, bool is_signed) {
  const size_t block = block_columns(codes);
  for (size_t first = 0; first < codes->columns; first += block, planes += rows->words * REGISTERS * LANES) {
    const size_t columns = codes->columns - first < block ? codes->columns - first : block;
    for (size_t m = 0; m < count; m += ROWS) {
      block_product(planes, rows, m, count - m, columns, to, first, binary, is_signed);
    }
  }
}

static void products(
    const sxq_codes* codes, const uint32_t* planes, const sxq_bit_rows* rows, size_t count, const sxq_target* to) {
  if (codes->layout->bits == 1) {
    if (rows->minus) products_of(codes, planes, rows, count, to, true, true);
    else products_of(codes, planes, rows, count, to, true, false);
  } else {
    if (rows->minus) products_of(codes, planes, rows, count, to, false, true);
    else products_of(codes, planes, rows, count, to, false, false);
  }
}

const sxq_bit_kernels sxq_bit_kernels_avx512 = {
    {2.0f, 0.36f, 0.42f}, 4, ROWS, plane_bytes, fill_planes, pack, products,
};
#endif

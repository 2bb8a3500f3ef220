/* Kernels for x86-64 with AVX-512 F, BW, DQ and VL. */
#include "kernels.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>

#define WIDTH 64
typedef uint64_t word __attribute__((vector_size(WIDTH)));

/* One instruction each: exclusive or of three (0x96), majority of three (0xe8). */
#define full_add(high, low, a, b, c)                                                              \
  do {                                                                                            \
    const __m512i x_ = (__m512i)(a), y_ = (__m512i)(b), z_ = (__m512i)(c);                        \
    (high) = (word)_mm512_ternarylogic_epi64(x_, y_, z_, 0xe8);                                   \
    (low) = (word)_mm512_ternarylogic_epi64(x_, y_, z_, 0x96);                                    \
  } while (0)

#define OWN_LAY_OUT
/* The sums in one quarter of each register, sixteen neighbours of each, to memory; none of bytes behind `width`. */
#define STORE_SUMS(quarter)                                                                            \
  do {                                                                                                 \
    if (16 * (quarter) >= width) break;                                                                \
    for (int r = 0; r < fields; ++r) {                                                                 \
      __m512i sum_ = _mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32(low_part[r], quarter));            \
      if (!small) {                                                                                    \
        const __m512i more_ = _mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32(high_part[r], quarter));  \
        sum_ = _mm512_add_epi32(sum_, _mm512_slli_epi32(more_, 4));                                    \
      }                                                                                                \
      if (step == 2) sum_ = _mm512_slli_epi32(sum_, 1);                                                \
      _mm512_storeu_si512(sums + 16 * fields * (quarter) + 16 * r, _mm512_sub_epi32(sum_, biases));    \
    }                                                                                                  \
  } while (0)

/* Merge registers whose elements belong side by side: bytes, then pairs, then fours of bytes. Each quarter of the
 * r-th register then holds sixteen neighbours. */
static inline __attribute__((always_inline)) void interleave(__m512i* part, int fields) {
  __m512i next[8];
  for (int i = 0; i < fields; i += 2) {
    next[i] = _mm512_unpacklo_epi8(part[i], part[i + 1]);
    next[i + 1] = _mm512_unpackhi_epi8(part[i], part[i + 1]);
  }
  for (int i = 0; i < fields; i += 4) {
    part[i] = _mm512_unpacklo_epi16(next[i], next[i + 2]);
    part[i + 1] = _mm512_unpackhi_epi16(next[i], next[i + 2]);
    part[i + 2] = _mm512_unpacklo_epi16(next[i + 1], next[i + 3]);
    part[i + 3] = _mm512_unpackhi_epi16(next[i + 1], next[i + 3]);
  }
  if (fields == 8) {
    for (int i = 0; i < 4; ++i) {
      next[2 * i] = _mm512_unpacklo_epi32(part[i], part[i + 4]);
      next[2 * i + 1] = _mm512_unpackhi_epi32(part[i], part[i + 4]);
    }
    for (int i = 0; i < 8; ++i) part[i] = next[i];
  }
}

static inline __attribute__((always_inline)) void lay_out(
    const word* low, const word* high, int fields, size_t width, bool small, int step, int32_t bias, int32_t* sums) {
  const __m512i biases = _mm512_set1_epi32(bias);
  __m512i low_part[8], high_part[8];
  for (int i = 0; i < fields; ++i) {
    low_part[i] = (__m512i)low[i];
    high_part[i] = (__m512i)high[i];
    /* Where all sums fit a byte, so do the sixteens times sixteen. */
    if (small) low_part[i] = _mm512_add_epi8(low_part[i], _mm512_slli_epi16(high_part[i], 4));
  }
  interleave(low_part, fields);
  if (!small) interleave(high_part, fields);
  STORE_SUMS(0);
  STORE_SUMS(1);
  STORE_SUMS(2);
  STORE_SUMS(3);
}
#include "row_sums.h"
#include "float_product.h"
#include "neuron_steps.h"

static size_t active(const float* x, size_t count, size_t pitch, uint32_t* rows, bool* spikes) {
  const __m512 zero = _mm512_setzero_ps(), one = _mm512_set1_ps(1.0f);
  const __m512i sixteen_rows = _mm512_set1_epi32((int)(16 * pitch));
  __m512i start = _mm512_mullo_epi32(
      _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32((int)pitch));
  size_t found = 0;
  unsigned odd = 0;
  for (size_t k = 0; k < count; k += 16) {
    const __mmask16 here = count - k >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << (count - k)) - 1);
    const __m512 values = _mm512_maskz_loadu_ps(here, x + k);
    /* "Not equal" is true of NaN too, as in C. */
    const __mmask16 set = _mm512_cmp_ps_mask(values, zero, _CMP_NEQ_UQ);
    odd |= _mm512_mask_cmp_ps_mask(set, values, one, _CMP_NEQ_UQ);
    _mm512_storeu_si512(rows + found, _mm512_maskz_compress_epi32(set, start));
    found += (size_t)__builtin_popcount(set);
    start = _mm512_add_epi32(start, sixteen_rows);
  }
  *spikes = !odd;
  return found;
}

const sxq_kernels sxq_kernels_avx512 = {
    "avx512", active, row_sums, accumulate, scaled, panel_product, neurons,
};
#endif

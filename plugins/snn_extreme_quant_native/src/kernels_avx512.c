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

#define choose(mask, a, b) ((word)_mm512_ternarylogic_epi64((__m512i)(mask), (__m512i)(a), (__m512i)(b), 0xca))
#define load_two(a, b)                                                                               \
  ((word)_mm512_inserti64x4(                                                                         \
      _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)(const void*)(a))),                  \
      _mm256_loadu_si256((const __m256i*)(const void*)(b)), 1))
#define upper_half(a) ((word)_mm512_shuffle_i64x2((__m512i)(a), (__m512i)(a), 0x0e))
#define V(name) _mm512_##name
typedef __m512i vector;

#include "carry_save.h"
#include "ordered_x86.h"
#include "row_sums.h"
#include "float_product.h"
#include "neuron_steps.h"
#include "integer_neuron_steps.h"
#include "pixel_lists.h"
#include "sum_rows.h"
#include "transpose_x86.h"

/* The places k * pitch of sixteen inputs after the other. */
ALWAYS_INLINE __m512i first_places(size_t pitch) {
  return _mm512_mullo_epi32(
      _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32((int)pitch));
}

ALWAYS_INLINE __m512 sixteen(const float* x, size_t k, size_t count) {
  if (k + 16 <= count) return _mm512_loadu_ps(x + k);
  return _mm512_maskz_loadu_ps((__mmask16)((1u << (count - k)) - 1), x + k);
}

ALWAYS_INLINE uint32_t* append(uint32_t* end, __mmask16 set, __m512i places) {
  _mm512_storeu_si512(end, _mm512_maskz_compress_epi32(set, places));
  return end + __builtin_popcount(set);
}

static size_t active(const float* x, size_t count, float unit, size_t pitch, uint32_t* rows, bool* others) {
  const __m512 zero = _mm512_setzero_ps(), one = _mm512_set1_ps(unit);
  const __m512i sixteen_rows = _mm512_set1_epi32((int)(16 * pitch));
  __m512i places = first_places(pitch), odd = _mm512_setzero_si512();
  uint32_t* end = rows;
  for (size_t k = 0; k < count; k += 16) {
    const __m512 values = sixteen(x, k, count);
    /* "Not equal" is true of NaN too, as in C. What is not 0 is the unit, or differs from it in some bit. */
    const __mmask16 set = _mm512_cmp_ps_mask(values, zero, _CMP_NEQ_UQ);
    odd = _mm512_mask_ternarylogic_epi32(odd, set, _mm512_castps_si512(values), _mm512_castps_si512(one), 0xf6);
    end = append(end, set, places);
    places = _mm512_add_epi32(places, sixteen_rows);
  }
  *others = _mm512_test_epi32_mask(odd, odd) != 0;
  return (size_t)(end - rows);
}

static size_t active_signed(
    const float* x, size_t count, float unit, size_t pitch, uint32_t* rows, uint32_t* minus_rows, size_t* minus,
    bool* others) {
  const __m512 zero = _mm512_setzero_ps(), one = _mm512_set1_ps(unit), less = _mm512_set1_ps(-unit);
  const __m512i sixteen_rows = _mm512_set1_epi32((int)(16 * pitch));
  __m512i places = first_places(pitch);
  uint32_t *end = rows, *minus_end = minus_rows;
  unsigned odd = 0;
  for (size_t k = 0; k < count; k += 16) {
    const __m512 values = sixteen(x, k, count);
    const __mmask16 set = _mm512_cmp_ps_mask(values, zero, _CMP_NEQ_UQ);
    const __mmask16 up = _mm512_mask_cmp_ps_mask(set, values, one, _CMP_EQ_OQ);
    const __mmask16 down = _mm512_mask_cmp_ps_mask(set, values, less, _CMP_EQ_OQ);
    odd |= (unsigned)(set ^ (up | down));
    end = append(end, up, places);
    minus_end = append(minus_end, down, places);
    places = _mm512_add_epi32(places, sixteen_rows);
  }
  *others = odd != 0;
  *minus = (size_t)(minus_end - minus_rows);
  return (size_t)(end - rows);
}

static size_t active_bytes(
    const uint8_t* x, size_t count, uint8_t unit, size_t pitch, uint32_t* rows, size_t* others) {
  const __m512i one = _mm512_set1_epi8((char)unit), sixteen_rows = _mm512_set1_epi32((int)(16 * pitch));
  __m512i start = _mm512_mullo_epi32(
      _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32((int)pitch));
  size_t odd = 0;
  uint32_t* end = rows;
  for (size_t k = 0; k < count; k += 64) {
    const __mmask64 here = count - k >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << (count - k)) - 1;
    const __m512i values = _mm512_maskz_loadu_epi8(here, x + k);
    const __mmask64 set = _mm512_mask_cmpeq_epi8_mask(here, values, one);
    odd += (size_t)__builtin_popcountll(set ^ _mm512_test_epi8_mask(values, values));
    for (int i = 0; i < 4; ++i) {
      const __mmask16 part = (__mmask16)(set >> (16 * i));
      _mm512_storeu_si512(end, _mm512_maskz_compress_epi32(part, start));
      end += __builtin_popcount(part);
      start = _mm512_add_epi32(start, sixteen_rows);
    }
  }
  *others = odd;
  return (size_t)(end - rows);
}

static size_t list_floats(
    const float* x, size_t count, float unit, uint32_t row, const sxq_pixel_lists* lists) {
  const __m512 zero = _mm512_setzero_ps(), one = _mm512_set1_ps(unit);
  size_t odd = 0;
  for (size_t i = 0; i < count; i += 64) {
    uint64_t set = 0, any = 0;
    for (size_t j = 0; j < 64 && i + j < count; j += 16) {
      const __m512 values = sixteen(x, i + j, count);
      set |= (uint64_t)_mm512_cmp_ps_mask(values, one, _CMP_EQ_OQ) << j;
      any |= (uint64_t)_mm512_cmp_ps_mask(values, zero, _CMP_NEQ_UQ) << j;
    }
    odd += (size_t)__builtin_popcountll(set ^ any);
    put(lists, i, set, row);
  }
  return odd;
}

static size_t list_bytes(
    const uint8_t* x, size_t count, uint8_t unit, uint32_t row, const sxq_pixel_lists* lists) {
  const __m512i one = _mm512_set1_epi8((char)unit);
  size_t odd = 0;
  for (size_t i = 0; i < count; i += 64) {
    const __mmask64 here = count - i >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << (count - i)) - 1;
    const __m512i values = _mm512_maskz_loadu_epi8(here, x + i);
    const __mmask64 set = _mm512_mask_cmpeq_epi8_mask(here, values, one);
    odd += (size_t)__builtin_popcountll(set ^ _mm512_test_epi8_mask(values, values));
    put(lists, i, set, row);
  }
  return odd;
}

const sxq_kernels sxq_kernels_avx512 = {
    "avx512", WIDTH, active, active_signed, active_bytes, list_floats, list_bytes, join_lists, transpose, products, panel_product, neurons, integer_neurons, sum_rows,
};
#endif

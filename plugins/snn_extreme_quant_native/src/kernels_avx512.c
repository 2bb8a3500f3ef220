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
#define V(name) _mm512_##name
typedef __m512i vector;

#include "carry_save.h"
#include "ordered_x86.h"
#include "row_sums.h"
#include "float_product.h"
#include "neuron_steps.h"

/* "Not equal" is true of NaN too, as in C. */
static size_t neither(const float* x, size_t count, float unit) {
  size_t found = 0;
  for (size_t k = 0; k < count; ++k) found += (x[k] != 0.0f) & (x[k] != unit);
  return found;
}

static size_t active(const float* x, size_t count, float unit, size_t pitch, uint32_t* rows, size_t* others) {
  const __m512 zero = _mm512_setzero_ps(), one = _mm512_set1_ps(unit);
  const __m512i sixteen_rows = _mm512_set1_epi32((int)(16 * pitch));
  __m512i start = _mm512_mullo_epi32(
      _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32((int)pitch));
  uint32_t* end = rows;
  __mmask16 odd = 0;
  size_t k = 0;
  for (; k + 16 <= count; k += 16) {
    const __m512 values = _mm512_loadu_ps(x + k);
    const __mmask16 set = _mm512_cmp_ps_mask(values, one, _CMP_EQ_OQ);
    odd = _kor_mask16(odd, _kxor_mask16(set, _mm512_cmp_ps_mask(values, zero, _CMP_NEQ_UQ)));
    _mm512_storeu_si512(end, _mm512_maskz_compress_epi32(set, start));
    end += __builtin_popcount(set);
    start = _mm512_add_epi32(start, sixteen_rows);
  }
  if (k < count) {
    const __m512 values = _mm512_maskz_loadu_ps((__mmask16)((1u << (count - k)) - 1), x + k);
    const __mmask16 set = _mm512_cmp_ps_mask(values, one, _CMP_EQ_OQ);
    odd = _kor_mask16(odd, _kxor_mask16(set, _mm512_cmp_ps_mask(values, zero, _CMP_NEQ_UQ)));
    _mm512_storeu_si512(end, _mm512_maskz_compress_epi32(set, start));
    end += __builtin_popcount(set);
  }
  *others = odd ? neither(x, count, unit) : 0;
  return (size_t)(end - rows);
}

const sxq_kernels sxq_kernels_avx512 = {
    "avx512", active, products, panel_product, neurons,
};
#endif

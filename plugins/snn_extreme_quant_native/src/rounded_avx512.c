/* The tiles of <packing>LinearRounded for x86-64 with AVX-512 VNNI. */
#include "rounded.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define WIDTH 64
#define MOST_BITS 8
#define QUARTERS_OF_TWO 2
#define QUARTERS_OF_FOUR 2
typedef __m512i vector;
#define LOAD(at) _mm512_loadu_si512(at)
#define LOAD_SOME(at, count) _mm512_maskz_loadu_epi8(((__mmask64)1 << (count)) - 1, at)
#define STORE(at, a) _mm512_storeu_si512(at, a)
#define ZERO() _mm512_setzero_si512()
#define SET_8(a) _mm512_set1_epi8(a)
#define SET_32(a) _mm512_set1_epi32(a)
#define AND(a, b) _mm512_and_si512(a, b)
#define SHIFT_RIGHT_16(a, count) _mm512_srli_epi16(a, (unsigned)(count))
#define INTERLEAVE_LOW_8(a, b) _mm512_unpacklo_epi8(a, b)
#define INTERLEAVE_HIGH_8(a, b) _mm512_unpackhi_epi8(a, b)
#define INTERLEAVE_LOW_16(a, b) _mm512_unpacklo_epi16(a, b)
#define INTERLEAVE_HIGH_16(a, b) _mm512_unpackhi_epi16(a, b)
#define ADD_PRODUCTS(sum, a, b) _mm512_dpbusd_epi32(sum, a, b)

#include "rounded_tile.h"

const sxq_rounded_kernel sxq_rounded_avx512 = {WIDTH, MOST_BITS, sums};
#endif

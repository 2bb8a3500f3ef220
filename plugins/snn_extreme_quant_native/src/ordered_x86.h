/* Sums in the order of the columns, in registers of x86: V(name) is an intrinsic of the register's width, `vector` its
 * type. Sums of one byte's fields lie in as many registers; unpacking them pair by pair brings neighbours together,
 * within each lane of 16 bytes (row_sums.h, group_at). */

ALWAYS_INLINE void few_in_order(const word* part, int fields, int8_t* sums) {
  vector a[8], b[8];
  for (int i = 0; i < fields; ++i) a[i] = (vector)part[i];
  for (int i = 0; i < fields; i += 2) {
    b[i] = V(unpacklo_epi8)(a[i], a[i + 1]);
    b[i + 1] = V(unpackhi_epi8)(a[i], a[i + 1]);
  }
  for (int i = 0; i < fields; i += 4) {
    a[i] = V(unpacklo_epi16)(b[i], b[i + 2]);
    a[i + 1] = V(unpackhi_epi16)(b[i], b[i + 2]);
    a[i + 2] = V(unpacklo_epi16)(b[i + 1], b[i + 3]);
    a[i + 3] = V(unpackhi_epi16)(b[i + 1], b[i + 3]);
  }
  if (fields == 8) {
    for (int i = 0; i < 4; ++i) {
      b[2 * i] = V(unpacklo_epi32)(a[i], a[i + 4]);
      b[2 * i + 1] = V(unpackhi_epi32)(a[i], a[i + 4]);
    }
  }
  memcpy(sums, fields == 8 ? b : a, (size_t)fields * WIDTH);
}

/* step * (low + 64 * high) - bias; the step is 2 if `twice`. */
ALWAYS_INLINE void many_in_order(
    const word* low, const word* high, int fields, bool twice, int16_t bias, int16_t* sums) {
  const vector weights = V(set1_epi16)(1 + (64 << 8)), biases = V(set1_epi16)(bias); /* 1 and 64 for pairs of bytes */
  vector sum[8][2], out[16];
  for (int i = 0; i < fields; ++i) {
    sum[i][0] = V(maddubs_epi16)(V(unpacklo_epi8)((vector)low[i], (vector)high[i]), weights);
    sum[i][1] = V(maddubs_epi16)(V(unpackhi_epi8)((vector)low[i], (vector)high[i]), weights);
    for (int half = 0; half < 2; ++half) {
      if (twice) sum[i][half] = V(add_epi16)(sum[i][half], sum[i][half]);
      sum[i][half] = V(sub_epi16)(sum[i][half], biases);
    }
  }
  for (int half = 0; half < 2; ++half) {
    vector a[8], b[8];
    for (int i = 0; i < fields; i += 2) {
      a[i] = V(unpacklo_epi16)(sum[i][half], sum[i + 1][half]);
      a[i + 1] = V(unpackhi_epi16)(sum[i][half], sum[i + 1][half]);
    }
    for (int i = 0; i < fields; i += 4) {
      b[i] = V(unpacklo_epi32)(a[i], a[i + 2]);
      b[i + 1] = V(unpackhi_epi32)(a[i], a[i + 2]);
      b[i + 2] = V(unpacklo_epi32)(a[i + 1], a[i + 3]);
      b[i + 3] = V(unpackhi_epi32)(a[i + 1], a[i + 3]);
    }
    if (fields == 4) {
      memcpy(out + 4 * half, b, 4 * WIDTH);
    } else {
      for (int i = 0; i < 4; ++i) {
        out[8 * half + 2 * i] = V(unpacklo_epi64)(b[i], b[i + 4]);
        out[8 * half + 2 * i + 1] = V(unpackhi_epi64)(b[i], b[i + 4]);
      }
    }
  }
  memcpy(sums, out, (size_t)fields * 2 * WIDTH);
}

/* Neighbouring sums as 32 bits: FEW_PART of 8 bits or MANY_PART of 16 bits. */
#if WIDTH == 64
enum { FEW_PART = 16, MANY_PART = 8 };
#define widen_few(from) _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)(const void*)(from)))
#else
enum { FEW_PART = 8, MANY_PART = 8 };
#define widen_few(from) _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(const void*)(from)))
#endif
#define widen_many(from) _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i*)(const void*)(from)))

/* Transposition of 32-bit elements, 8 x 8 at a time in registers. */

ALWAYS_INLINE void transpose_eight(const uint32_t* from, size_t columns, uint32_t* to, size_t pitch) {
  __m256 a[8], b[8];
  for (size_t i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps((const float*)(const void*)(from + i * columns));
  for (int i = 0; i < 8; i += 2) {
    b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
    a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
    a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
    a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
  }
  for (size_t i = 0; i < 4; ++i) {
    _mm256_storeu_ps((float*)(void*)(to + i * pitch), _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
    _mm256_storeu_ps((float*)(void*)(to + (i + 4) * pitch), _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
  }
}

static void transpose(const uint32_t* from, size_t rows, size_t columns, uint32_t* to, size_t pitch) {
  size_t n = 0;
  for (; n + 8 <= columns; n += 8) {
    size_t m = 0;
    for (; m + 8 <= rows; m += 8) transpose_eight(from + m * columns + n, columns, to + n * pitch + m, pitch);
    for (; m < rows; ++m) {
      for (size_t i = n; i < n + 8; ++i) to[i * pitch + m] = from[m * columns + i];
    }
  }
  for (; n < columns; ++n) {
    for (size_t m = 0; m < rows; ++m) to[n * pitch + m] = from[m * columns + n];
  }
}

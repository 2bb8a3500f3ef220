/* Sums in the order of the columns, in C: field after field of each byte. */

ALWAYS_INLINE void few_in_order(const word* part, int fields, int8_t* sums) {
  uint8_t bytes[8][WIDTH];
  memcpy(bytes, part, (size_t)fields * WIDTH);
  for (size_t byte = 0; byte < WIDTH; ++byte) {
    for (int i = 0; i < fields; ++i) sums[(size_t)fields * byte + (size_t)i] = (int8_t)bytes[i][byte];
  }
}

/* step * (low + 64 * high) - bias; the step is 2 if `twice`. */
ALWAYS_INLINE void many_in_order(
    const word* low, const word* high, int fields, bool twice, int16_t bias, int16_t* sums) {
  uint8_t lows[8][WIDTH], highs[8][WIDTH];
  memcpy(lows, low, (size_t)fields * WIDTH);
  memcpy(highs, high, (size_t)fields * WIDTH);
  for (size_t byte = 0; byte < WIDTH; ++byte) {
    for (int i = 0; i < fields; ++i) {
      const int sum = lows[i][byte] + 64 * highs[i][byte];
      sums[(size_t)fields * byte + (size_t)i] = (int16_t)((twice ? 2 * sum : sum) - bias);
    }
  }
}

/* Neighbouring sums as 32 bits. */
enum { FEW_PART = 4, MANY_PART = 4 };
typedef int32_t four_ints __attribute__((vector_size(16)));
#define widen_few(from) ((four_ints){(from)[0], (from)[1], (from)[2], (from)[3]})
#define widen_many(from) widen_few(from)

/* Sums of selected rows of 16-bit numbers. */
typedef uint16_t shorts_of_word __attribute__((vector_size(WIDTH)));

static void sum_rows(const uint16_t* rows, const uint32_t* places, size_t count, size_t length, uint16_t* sums) {
  for (size_t n = 0; n < length; n += WIDTH / 2) {
    shorts_of_word sum = {0};
    for (size_t i = 0; i < count; ++i) {
      shorts_of_word row;
      memcpy(&row, rows + places[i] + n, WIDTH);
      sum += row;
    }
    memcpy(sums + n, &sum, WIDTH);
  }
}

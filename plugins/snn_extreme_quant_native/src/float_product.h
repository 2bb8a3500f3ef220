/* Products with inputs that are not whole numbers.
 *
 * panel_product keeps four rows of x times a panel of SXQ_PANEL columns in registers. With inputs on a grid whose
 * sums fit 24 bits the order of the additions does not matter; with others it may differ from another runtime's.
 */
typedef float floats __attribute__((vector_size(WIDTH)));
enum { LANES = WIDTH / 4, PANEL_WORDS = SXQ_PANEL / LANES };

static void panel_rows(const float* x, size_t rows, size_t inputs, const float* panel, float* y) {
  floats sums[4][PANEL_WORDS];
  memset(sums, 0, sizeof sums);
  for (size_t k = 0; k < inputs; ++k) {
    for (size_t m = 0; m < rows; ++m) {
      const floats input = (floats){0} + x[m * inputs + k];
      for (int w = 0; w < PANEL_WORDS; ++w) {
        floats weight;
        memcpy(&weight, panel + k * SXQ_PANEL + (size_t)(w * LANES), WIDTH);
        sums[m][w] += input * weight;
      }
    }
  }
  for (size_t m = 0; m < rows; ++m) memcpy(y + m * SXQ_PANEL, sums[m], SXQ_PANEL * sizeof(float));
}

static void panel_product(const float* x, size_t rows, size_t inputs, const float* panel, float* y) {
  size_t m = 0;
  for (; m + 4 <= rows; m += 4) panel_rows(x + m * inputs, 4, inputs, panel, y + m * SXQ_PANEL);
  for (; m < rows; ++m) panel_rows(x + m * inputs, 1, inputs, panel, y + m * SXQ_PANEL);
}

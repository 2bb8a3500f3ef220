#include "product.h"

#include <stdlib.h>
#include <string.h>

/* Rows of x that are multiplied together: as many as fit, with those that follow them and the part of the weights that
 * they share, into the second cache, and as long as there is room for the lists of their spikes. */
enum { MOST_TOGETHER = 128, TOGETHER_BYTES = 1 << 18, LIST_ROOM = 30000 };

/* Whether sums of K inputs up to `most`, and the places of the rows, fit 32 bits. */
static bool fits(const sxq_codes* codes, double most) {
  const double rows = (double)codes->rows, bytes = rows * (double)sxq_row_bytes(codes->layout, codes->columns);
  return 2.0 * rows * most * codes->layout->offset < 2147483648.0 && bytes < 4294967296.0;
}

/* x[k] / grid as whole numbers of magnitude up to 255; false if one is not. `bits` collects the bits used. */
static bool whole_numbers(const float* x, size_t count, float inverse_grid, int16_t* values, unsigned* bits) {
  unsigned used = 0;
  bool whole = true;
  for (size_t k = 0; k < count; ++k) {
    const float value = x[k] * inverse_grid;
    const bool in_range = value >= -255.0f && value <= 255.0f; /* false for NaN */
    const int number = in_range ? (int)value : 0;
    whole &= in_range && (float)number == value;
    values[k] = (int16_t)number;
    used |= (unsigned)(number < 0 ? -number : number);
  }
  *bits = used;
  return whole;
}

typedef struct {
  const sxq_kernels* kernels;
  const sxq_weights* weights;
  const sxq_byte_table* table;
  float grid, inverse_grid;
  uint32_t* list; /* where the lists of all selected rows are */
  size_t room, used, together;
  int32_t* total;
  int16_t* values;
  sxq_selection selected[MOST_TOGETHER];
  size_t count; /* selected rows that wait for their product */
} product;

/* The product of the rows that wait; `y` is the output behind the last of them, `x` the `rows` rows that follow. */
static void flush(product* p, const float* x, size_t rows, float* y) {
  const sxq_codes* codes = &p->weights->codes;
  const sxq_target to = {
      .pitch = codes->columns, .y = y - p->count * codes->columns, .scale = p->weights->scale, .grid = p->grid,
      .soon = (const char*)x, .soon_bytes = (rows < p->together ? rows : p->together) * codes->rows * sizeof *x,
  };
  if (p->count) p->kernels->products(codes, p->selected, p->count, &to);
  p->count = p->used = 0;
}

/* Let a row of 0, grid and -grid wait for its product; false if it holds anything else. */
static bool select_spikes(product* p, const float* x) {
  const sxq_codes* codes = &p->weights->codes;
  const size_t pitch = sxq_row_bytes(codes->layout, codes->columns);
  uint32_t* rows = p->list + p->used;
  size_t others = 0, minus = 0, rest = 0;
  const size_t plus = p->kernels->active(x, codes->rows, p->grid, pitch, rows, &others);
  if (others) {
    minus = p->kernels->active(x, codes->rows, -p->grid, pitch, rows + plus, &rest);
    if (minus != others) return false;
  }
  p->selected[p->count++] = (sxq_selection){rows, plus, minus};
  p->used += plus + minus;
  return true;
}

/* Bit by bit of the inputs: a count is a sum of spikes of weight 1, 2, 4, ... */
static void whole_row(product* p, unsigned bits, float* y) {
  const sxq_codes* codes = &p->weights->codes;
  const size_t pitch = sxq_row_bytes(codes->layout, codes->columns);
  memset(p->total, 0, codes->columns * sizeof *p->total);
  for (int bit = 0; bit < 8; ++bit) {
    if (!(bits >> bit & 1)) continue;
    sxq_selection selected = {p->list, 0, 0};
    size_t found = 0;
    for (int sign = 1; sign >= -1; sign -= 2) {
      for (size_t k = 0; k < codes->rows; ++k) {
        const int magnitude = p->values[k] * sign;
        p->list[found] = (uint32_t)(k * pitch);
        found += magnitude > 0 && (magnitude >> bit & 1);
      }
      if (sign > 0) selected.plus = found;
    }
    selected.minus = found - selected.plus;
    const sxq_target to = {.pitch = codes->columns, .sums = p->total, .weight = 1 << bit};
    if (found) p->kernels->products(codes, &selected, 1, &to);
  }
  for (size_t n = 0; n < codes->columns; ++n) y[n] = ((float)p->total[n] * p->grid) * p->weights->scale[n];
}

/* Returns false if memory ran out. */
static bool float_rows(const product* p, const float* x, size_t rows, float* y) {
  const sxq_codes* codes = &p->weights->codes;
  const size_t pitch = sxq_row_bytes(codes->layout, codes->columns);
  float* panel = malloc((codes->rows + rows) * SXQ_PANEL * sizeof *panel);
  if (!panel) return false;
  float* sums = panel + codes->rows * SXQ_PANEL;
  for (size_t first = 0; first < codes->columns; first += SXQ_PANEL) {
    const size_t width = codes->columns - first < SXQ_PANEL ? codes->columns - first : SXQ_PANEL;
    if (width < SXQ_PANEL) memset(panel, 0, codes->rows * SXQ_PANEL * sizeof *panel);
    for (size_t k = 0; k < codes->rows; ++k) {
      sxq_unpack_row(codes->layout, p->table, codes->packed + k * pitch, first, width, panel + k * SXQ_PANEL);
    }
    p->kernels->panel_product(x, rows, codes->rows, panel, sums);
    for (size_t m = 0; m < rows; ++m) {
      for (size_t n = 0; n < width; ++n) {
        y[m * codes->columns + first + n] = sums[m * SXQ_PANEL + n] * p->weights->scale[first + n];
      }
    }
  }
  free(panel);
  return true;
}

bool sxq_product(
    const sxq_kernels* kernels, const sxq_weights* weights, const sxq_byte_table* table, float grid,
    float inverse_grid, const float* x, size_t rows, float* y) {
  const size_t inputs = weights->codes.rows, columns = weights->codes.columns, one_list = inputs + 2 * SXQ_ACTIVE_ROOM;
  product p = {.kernels = kernels, .weights = weights, .table = table, .grid = grid, .inverse_grid = inverse_grid};
  p.together = TOGETHER_BYTES / (inputs * sizeof *x + 1) + 1;
  if (p.together > MOST_TOGETHER) p.together = MOST_TOGETHER;
  p.room = rows > 1 && one_list < LIST_ROOM ? LIST_ROOM : one_list;
  char* memory = malloc(p.room * sizeof *p.list + columns * sizeof *p.total + inputs * sizeof *p.values);
  if (!memory) return false;
  p.list = (uint32_t*)memory;
  p.total = (int32_t*)(p.list + p.room);
  p.values = (int16_t*)(p.total + columns);
  const bool spikes_fit = fits(&weights->codes, 1.0), counts_fit = fits(&weights->codes, 255.0);
  bool done = true;
  size_t m = 0;
  for (; m < rows; ++m) {
    const float* input = x + m * inputs;
    float* output = y + m * columns;
    unsigned bits;
    if (p.count == p.together || p.used + one_list > p.room) flush(&p, input, rows - m, output);
    if (spikes_fit && select_spikes(&p, input)) continue;
    flush(&p, input, rows - m, output);
    if (counts_fit && whole_numbers(input, inputs, inverse_grid, p.values, &bits)) {
      whole_row(&p, bits, output);
    } else {
      /* Real numbers are rarely alone: all that is left goes the same way. */
      done = float_rows(&p, input, rows - m, output);
      break;
    }
  }
  flush(&p, NULL, 0, y + m * columns);
  free(memory);
  return done;
}

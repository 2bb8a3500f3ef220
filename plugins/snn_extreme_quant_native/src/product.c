#include "product.h"

#include <stdlib.h>
#include <string.h>

#include "bit_planes.h"
#include "spike_lists.h"

/* Rows of x that are multiplied together: as many as fit, with those that follow them and the part of the weights that
 * they share, into the second cache, and as long as there is room for the lists of their spikes. */
enum { MOST_TOGETHER = 128, TOGETHER_BYTES = 1 << 18, LIST_ROOM = 30000 };

size_t sxq_rows_a_task(const sxq_codes* codes, size_t rows) {
  enum { FEWEST = 8, MOST = 64, TASKS = 4 };
  const double codes_a_task = 1 << 23; /* some microseconds */
  const double fitting = (double)rows * (double)codes->rows * (double)codes->columns / codes_a_task;
  size_t tasks = fitting < TASKS ? (size_t)fitting : TASKS;
  if (tasks > rows / FEWEST) tasks = rows / FEWEST;
  const size_t each = tasks > 1 ? (rows + tasks - 1) / tasks : rows;
  return each < MOST ? each : MOST;
}

static size_t row_bytes(const sxq_codes* codes) { return sxq_row_bytes(codes->layout, codes->columns); }

bool sxq_sums_fit(const sxq_codes* codes, double most) {
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
  const sxq_codes* codes;
  const float* scale;
  const sxq_byte_table* table;
  float grid, inverse_grid;
  sxq_spike_lists lists; /* of all selected rows */
  size_t one_list, room, together;
  int32_t* total;
  int16_t* values;
  sxq_selection selected[MOST_TOGETHER];
  size_t count; /* selected rows that wait for their product */
} product;

/* Memory for rows of inputs of `size` bytes each; false if there is none. */
static bool prepare(product* p, size_t rows, size_t size) {
  const size_t inputs = p->codes->rows;
  p->together = TOGETHER_BYTES / (inputs * size + 1) + 1;
  if (p->together > MOST_TOGETHER) p->together = MOST_TOGETHER;
  p->one_list = sxq_list_room(p->codes);
  p->room = rows > 1 && p->one_list < LIST_ROOM ? LIST_ROOM : p->one_list;
  uint32_t* entries = malloc(
      (p->room + p->one_list) * sizeof *entries + p->codes->columns * sizeof *p->total + inputs * sizeof *p->values);
  if (!entries) return false;
  p->lists = (sxq_spike_lists){
      .kernels = p->kernels, .codes = p->codes, .grid = p->grid, .rows = entries, .minus = entries + p->room,
  };
  p->total = (int32_t*)(p->lists.minus + p->one_list);
  p->values = (int16_t*)(p->total + p->codes->columns);
  return true;
}

static bool is_full(const product* p) {
  return p->count == p->together || p->lists.used + p->one_list > p->room;
}

/* The product of the rows that wait; the target is that of the row behind them, and `soon` that row's input, which
 * `bytes` bytes of inputs follow. */
static void flush(product* p, const void* soon, size_t bytes, sxq_target to) {
  to.soon = soon;
  to.soon_bytes = bytes < TOGETHER_BYTES ? bytes : TOGETHER_BYTES;
  if (to.y) to.y -= p->count * to.pitch;
  if (to.sums) to.sums -= p->count * to.pitch;
  if (p->count) p->kernels->products(p->codes, 0, row_bytes(p->codes), p->selected, p->count, &to);
  p->count = p->lists.used = 0;
}

/* total += values times codes, bit by bit of the values: a count is a sum of spikes of weight 1, 2, 4, ... */
static void whole_row(product* p, unsigned bits, int32_t* total) {
  const sxq_codes* codes = p->codes;
  const size_t pitch = sxq_row_bytes(codes->layout, codes->columns);
  for (int bit = 0; bit < 8; ++bit) {
    if (!(bits >> bit & 1)) continue;
    sxq_selection selected = {p->lists.rows, 0, 0};
    size_t found = 0;
    for (int sign = 1; sign >= -1; sign -= 2) {
      for (size_t k = 0; k < codes->rows; ++k) {
        const int magnitude = p->values[k] * sign;
        p->lists.rows[found] = (uint32_t)(k * pitch);
        found += magnitude > 0 && (magnitude >> bit & 1);
      }
      if (sign > 0) selected.plus = found;
    }
    selected.minus = found - selected.plus;
    const sxq_target to = {.pitch = codes->columns, .sums = total, .weight = 1 << bit};
    if (found) p->kernels->products(codes, 0, pitch, &selected, 1, &to);
  }
}

/* Returns false if memory ran out. */
static bool float_rows(const product* p, const float* x, size_t rows, float* y) {
  const sxq_codes* codes = p->codes;
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
        y[m * codes->columns + first + n] = sums[m * SXQ_PANEL + n] * p->scale[first + n];
      }
    }
  }
  free(panel);
  return true;
}

bool sxq_product(
    const sxq_kernels* kernels, const sxq_weights* weights, const sxq_byte_table* table, float grid,
    float inverse_grid, const float* x, size_t rows, float* y) {
  const sxq_codes* codes = &weights->codes;
  const size_t inputs = codes->rows, columns = codes->columns;
  product p = {
      .kernels = kernels, .codes = codes, .scale = weights->scale, .table = table, .grid = grid,
      .inverse_grid = inverse_grid,
  };
  const bool spikes_fit = sxq_sums_fit(codes, 1.0), counts_fit = sxq_sums_fit(codes, 255.0);
  sxq_target to = {.pitch = columns, .y = y, .scale = weights->scale, .grid = grid};
  const sxq_spikes spikes = {.x = x, .floats = true, .is_signed = true, .unit = grid};
  if (spikes_fit && sxq_dense_product(codes, &spikes, rows, &to)) return true;
  if (!prepare(&p, rows, sizeof *x)) return false;
  bool done = true;
  for (size_t m = 0; m < rows; ++m, to.y += columns) {
    const float* input = x + m * inputs;
    const size_t bytes = (rows - m) * inputs * sizeof *x;
    unsigned bits;
    if (is_full(&p)) flush(&p, input, bytes, to);
    if (spikes_fit && sxq_list_floats(&p.lists, input, &p.selected[p.count])) {
      ++p.count;
      continue;
    }
    flush(&p, input, bytes, to);
    if (!counts_fit || !whole_numbers(input, inputs, inverse_grid, p.values, &bits)) {
      /* Real numbers are rarely alone: all that is left goes the same way. */
      done = float_rows(&p, input, rows - m, to.y);
      break;
    }
    memset(p.total, 0, columns * sizeof *p.total);
    whole_row(&p, bits, p.total);
    for (size_t n = 0; n < columns; ++n) to.y[n] = ((float)p.total[n] * grid) * p.scale[n];
  }
  flush(&p, NULL, 0, to);
  free(p.lists.rows);
  return done;
}

/* total += values times codes, number by number. A result fits 32 bits, but a part of it need not. */
static void plain_row(const product* p, int32_t* total) {
  const sxq_codes* codes = p->codes;
  const size_t pitch = sxq_row_bytes(codes->layout, codes->columns);
  float part[256];
  for (size_t k = 0; k < codes->rows; ++k) {
    if (!p->values[k]) continue;
    for (size_t n = 0; n < codes->columns; n += 256) {
      const size_t count = codes->columns - n < 256 ? codes->columns - n : 256;
      sxq_unpack_row(codes->layout, p->table, codes->packed + k * pitch, n, count, part);
      for (size_t i = 0; i < count; ++i) {
        total[n + i] = (int32_t)((uint32_t)total[n + i] + (uint32_t)(p->values[k] * (int32_t)part[i]));
      }
    }
  }
}

bool sxq_integer_product(
    const sxq_kernels* kernels, const sxq_codes* codes, const sxq_byte_table* table, bool is_signed, const uint8_t* x,
    size_t rows, int32_t* sums) {
  const size_t inputs = codes->rows, columns = codes->columns;
  product p = {.kernels = kernels, .codes = codes, .table = table};
  const bool spikes_fit = sxq_sums_fit(codes, 1.0), counts_fit = sxq_sums_fit(codes, 255.0);
  sxq_target to = {.pitch = columns, .sums = sums, .weight = 1};
  memset(sums, 0, rows * columns * sizeof *sums);
  const sxq_spikes spikes = {.x = x, .is_signed = is_signed};
  if (spikes_fit && sxq_dense_product(codes, &spikes, rows, &to)) return true;
  if (!prepare(&p, rows, 1)) return false;
  for (size_t m = 0; m < rows; ++m, to.sums += columns) {
    const uint8_t* input = x + m * inputs;
    if (is_full(&p)) flush(&p, input, (rows - m) * inputs, to);
    if (spikes_fit && sxq_list_bytes(&p.lists, input, is_signed, &p.selected[p.count])) {
      ++p.count;
      continue;
    }
    flush(&p, input, (rows - m) * inputs, to);
    unsigned bits = 0;
    for (size_t k = 0; k < inputs; ++k) {
      p.values[k] = is_signed ? (int8_t)input[k] : input[k];
      bits |= (unsigned)(p.values[k] < 0 ? -p.values[k] : p.values[k]);
    }
    if (counts_fit) whole_row(&p, bits, to.sums);
    else plain_row(&p, to.sums);
  }
  flush(&p, NULL, 0, to);
  free(p.lists.rows);
  return true;
}

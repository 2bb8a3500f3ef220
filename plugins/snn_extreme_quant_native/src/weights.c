#include "weights.h"

#include <stdlib.h>
#include <string.h>

OrtStatus* sxq_check_weights(
    const OrtApi* api, const char* operator_name, const sxq_layout* layout, const sxq_tensor* packed,
    const sxq_tensor* scale, sxq_weights* weights) {
  if (packed->type != ORT_TYPE_UINT8 || packed->rank != 2 || scale->type != ORT_TYPE_FLOAT || scale->rank != 1) {
    return sxq_error(
        api, "%s takes packed codes uint8 (K, bytes) and scales float (N); these have %zu and %zu axes. %s",
        operator_name, packed->rank, scale->rank, "Export the model again.");
  }
  const size_t rows = (size_t)packed->shape[0], columns = (size_t)scale->shape[0];
  if ((size_t)packed->shape[1] != sxq_row_bytes(layout, columns)) {
    return sxq_error(
        api, "%s: %zu columns take %zu bytes a row; the packed codes have %lld. Export the model again.",
        operator_name, columns, sxq_row_bytes(layout, columns), (long long)packed->shape[1]);
  }
  if (!sxq_codes_valid(layout, packed->data, rows, columns)) {
    return sxq_error(
        api, "%s: a byte of the packed codes holds what is no code, so the file is damaged. Export the model again.",
        operator_name);
  }
  weights->codes = (sxq_codes){layout, packed->data, rows, columns};
  weights->scale = scale->data;
  return NULL;
}

OrtStatus* sxq_constant_weights(
    const OrtApi* api, const OrtKernelInfo* info, const char* operator_name, const sxq_layout* layout, bool* found,
    sxq_weights* weights) {
  sxq_tensor packed, scale;
  bool packed_found = false, scale_found = false;
  *found = false;
  OrtStatus* status = sxq_constant_input(api, info, 1, &packed_found, &packed);
  if (!status) status = sxq_constant_input(api, info, 2, &scale_found, &scale);
  if (status || !packed_found || !scale_found) return status;
  status = sxq_check_weights(api, operator_name, layout, &packed, &scale, weights);
  *found = !status;
  return status;
}

OrtStatus* sxq_run_weights(
    const OrtApi* api, OrtKernelContext* context, const char* operator_name, const sxq_layout* layout,
    sxq_weights* weights) {
  sxq_tensor packed, scale;
  OrtStatus* status = sxq_input(api, context, 1, &packed);
  if (!status) status = sxq_input(api, context, 2, &scale);
  return status ? status : sxq_check_weights(api, operator_name, layout, &packed, &scale, weights);
}

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
  uint32_t* active;
  int32_t *sums, *total;
  int16_t* values;
} scratch;

/* Bit by bit of the inputs: a count is a sum of spikes of weight 1, 2, 4, ... */
static void whole_row(const sxq_kernels* kernels, const sxq_codes* codes, unsigned bits, const scratch* s) {
  const size_t pitch = sxq_row_bytes(codes->layout, codes->columns);
  memset(s->total, 0, codes->columns * sizeof *s->total);
  for (int bit = 0; bit < 8; ++bit) {
    if (!(bits >> bit & 1)) continue;
    for (int sign = 1; sign >= -1; sign -= 2) {
      size_t found = 0;
      for (size_t k = 0; k < codes->rows; ++k) {
        const int magnitude = s->values[k] * sign;
        s->active[found] = (uint32_t)(k * pitch);
        found += magnitude > 0 && (magnitude >> bit & 1);
      }
      if (!found) continue;
      kernels->row_sums(codes, s->active, found, s->sums);
      kernels->accumulate(s->total, s->sums, sign * (1 << bit), codes->columns);
    }
  }
}

/* Returns false if memory ran out. */
static bool float_rows(
    const sxq_kernels* kernels, const sxq_weights* weights, const sxq_byte_table* table, const float* x, size_t rows,
    float* y) {
  const sxq_codes* codes = &weights->codes;
  const size_t pitch = sxq_row_bytes(codes->layout, codes->columns);
  float* panel = malloc((codes->rows + rows) * SXQ_PANEL * sizeof *panel);
  if (!panel) return false;
  float* sums = panel + codes->rows * SXQ_PANEL;
  for (size_t first = 0; first < codes->columns; first += SXQ_PANEL) {
    const size_t width = codes->columns - first < SXQ_PANEL ? codes->columns - first : SXQ_PANEL;
    if (width < SXQ_PANEL) memset(panel, 0, codes->rows * SXQ_PANEL * sizeof *panel);
    for (size_t k = 0; k < codes->rows; ++k) {
      sxq_unpack_row(codes->layout, table, codes->packed + k * pitch, first, width, panel + k * SXQ_PANEL);
    }
    kernels->panel_product(x, rows, codes->rows, panel, sums);
    for (size_t m = 0; m < rows; ++m) {
      for (size_t n = 0; n < width; ++n) {
        y[m * codes->columns + first + n] = sums[m * SXQ_PANEL + n] * weights->scale[first + n];
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
  const size_t inputs = codes->rows, columns = codes->columns, room = columns + SXQ_SUMS_ROOM;
  const size_t pitch = sxq_row_bytes(codes->layout, columns);
  const bool spikes_fit = fits(codes, 1.0), counts_fit = fits(codes, 255.0);
  char* memory = malloc((inputs + SXQ_ACTIVE_ROOM) * sizeof(uint32_t) + 2 * room * sizeof(int32_t) + inputs * sizeof(int16_t));
  if (!memory) return false;
  scratch s;
  s.active = (uint32_t*)memory;
  s.sums = (int32_t*)(s.active + inputs + SXQ_ACTIVE_ROOM);
  s.total = s.sums + room;
  s.values = (int16_t*)(s.total + room);
  bool done = true;
  for (size_t m = 0; m < rows && done; ++m) {
    const float* input = x + m * inputs;
    bool spikes;
    unsigned bits;
    const size_t count = kernels->active(input, inputs, pitch, s.active, &spikes);
    if (spikes && grid == 1.0f && spikes_fit) {
      kernels->row_sums(codes, s.active, count, s.sums);
      kernels->scaled(y + m * columns, s.sums, grid, weights->scale, columns);
    } else if (counts_fit && whole_numbers(input, inputs, inverse_grid, s.values, &bits)) {
      whole_row(kernels, codes, bits, &s);
      kernels->scaled(y + m * columns, s.total, grid, weights->scale, columns);
    } else {
      /* Real numbers are rarely alone: all that is left goes the same way. */
      done = float_rows(kernels, weights, table, input, rows - m, y + m * columns);
      break;
    }
  }
  free(memory);
  return done;
}

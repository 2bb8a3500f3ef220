/* Kernels in C alone, for any processor; on ARM the compiler uses NEON for them. */
#include "kernels.h"

#define WIDTH 16
typedef uint64_t word __attribute__((vector_size(WIDTH)));

#define full_add(high, low, a, b, c)              \
  do {                                            \
    const word x_ = (a), y_ = (b), z_ = (c);      \
    const word half_ = x_ ^ y_;                   \
    (high) = (x_ & y_) | (half_ & z_);            \
    (low) = half_ ^ z_;                           \
  } while (0)

#define choose(mask, a, b) (((mask) & (a)) | (~(mask) & (b)))

static inline uint64_t half(const uint8_t* from) {
  uint64_t value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}
#define load_two(a, b) ((word){half(a), half(b)})
#define upper_half(a) ((word){(a)[1], 0})

#include "carry_save.h"
#include "ordered.h"
#include "row_sums.h"
#include "float_product.h"
#include "neuron_steps.h"
#include "integer_neuron_steps.h"
#include "pixel_lists.h"
#include "sum_rows.h"
#include "active_signed.h"

static size_t active(const float* x, size_t count, float unit, size_t pitch, uint32_t* rows, bool* others) {
  size_t found = 0;
  unsigned odd = 0;
  for (size_t k = 0; k < count; ++k) {
    rows[found] = (uint32_t)(k * pitch);
    found += x[k] == unit;
    odd |= (x[k] != 0.0f) & (x[k] != unit);
  }
  *others = odd != 0;
  return found;
}

static size_t active_bytes(
    const uint8_t* x, size_t count, uint8_t unit, size_t pitch, uint32_t* rows, size_t* others) {
  size_t found = 0, odd = 0;
  for (size_t k = 0; k < count; ++k) {
    rows[found] = (uint32_t)(k * pitch);
    found += x[k] == unit;
    odd += (x[k] != 0) & (x[k] != unit);
  }
  *others = odd;
  return found;
}

static size_t list_floats(
    const float* x, size_t count, float unit, uint32_t row, const sxq_pixel_lists* lists) {
  size_t odd = 0;
  for (size_t i = 0; i < count; i += 64) {
    uint64_t set = 0;
    for (size_t j = i; j < count && j < i + 64; ++j) {
      set |= (uint64_t)(x[j] == unit) << (j - i);
      odd += (x[j] != 0.0f) & (x[j] != unit);
    }
    put(lists, i, set, row);
  }
  return odd;
}

static size_t list_bytes(
    const uint8_t* x, size_t count, uint8_t unit, uint32_t row, const sxq_pixel_lists* lists) {
  size_t odd = 0;
  for (size_t i = 0; i < count; i += 64) {
    uint64_t set = 0;
    for (size_t j = i; j < count && j < i + 64; ++j) {
      set |= (uint64_t)(x[j] == unit) << (j - i);
      odd += (x[j] != 0) & (x[j] != unit);
    }
    put(lists, i, set, row);
  }
  return odd;
}

static void transpose(const uint32_t* from, size_t rows, size_t columns, uint32_t* to, size_t pitch) {
  for (size_t n = 0; n < columns; ++n) {
    for (size_t m = 0; m < rows; ++m) to[n * pitch + m] = from[m * columns + n];
  }
}

const sxq_kernels sxq_kernels_portable = {
    "portable", WIDTH, active, active_signed, active_bytes, list_floats, list_bytes, join_lists, transpose, products, panel_product, neurons, integer_neurons, sum_rows,
};

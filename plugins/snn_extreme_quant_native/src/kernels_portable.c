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

#include "row_sums.h"
#include "float_product.h"
#include "neuron_steps.h"

static size_t active(const float* x, size_t count, size_t pitch, uint32_t* rows, bool* spikes) {
  size_t found = 0;
  bool plain = true;
  for (size_t k = 0; k < count; ++k) {
    rows[found] = (uint32_t)(k * pitch);
    found += x[k] != 0.0f;
    plain &= (x[k] == 0.0f) | (x[k] == 1.0f);
  }
  *spikes = plain;
  return found;
}

const sxq_kernels sxq_kernels_portable = {
    "portable", active, row_sums, accumulate, scaled, panel_product, neurons,
};

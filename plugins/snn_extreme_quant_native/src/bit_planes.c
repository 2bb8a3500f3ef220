#include "bit_planes.h"

#include <stdlib.h>
#include <string.h>

const sxq_bit_kernels* sxq_bit_kernels_for(const sxq_kernels* kernels) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (kernels == &sxq_kernels_avx512 && __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("bmi2")) {
    return &sxq_bit_kernels_avx512;
  }
#endif
  (void)kernels;
  return NULL;
}

void sxq_allow_planes(const sxq_kernels* kernels, sxq_codes* codes) {
  const sxq_bit_kernels* found = codes->layout->bits > 2 ? NULL : sxq_bit_kernels_for(kernels);
  if (!found) return;
  codes->store = calloc(1, sizeof *codes->store); /* without memory the rows are summed, as without kernels */
  if (codes->store) codes->store->kernels = found;
}

static atomic_size_t copied;

size_t sxq_copied_plane_bytes(void) { return atomic_load(&copied); }

void sxq_release_planes(sxq_codes* codes) {
  if (!codes->store) return;
  uint32_t* planes = atomic_load(&codes->store->planes);
  if (planes) atomic_fetch_sub(&copied, codes->store->kernels->plane_bytes(codes));
  free(planes);
  free(codes->store);
  codes->store = NULL;
}

/* The planes; NULL if they cannot be had now, as another thread is making them or there is no memory. */
static const uint32_t* planes_of(const sxq_codes* codes) {
  struct sxq_plane_store* store = codes->store;
  uint32_t* planes = atomic_load_explicit(&store->planes, memory_order_acquire);
  if (planes || atomic_exchange(&store->begun, true)) return planes;
  const size_t bytes = store->kernels->plane_bytes(codes); /* whole registers */
  planes = aligned_alloc(64, bytes);
  if (!planes) return NULL;
  store->kernels->fill_planes(codes, planes);
  atomic_fetch_add(&copied, bytes);
  atomic_store_explicit(&store->planes, planes, memory_order_release);
  return planes;
}

static size_t row_bytes(const sxq_codes* codes, const sxq_spikes* spikes) {
  return codes->rows * (spikes->floats ? sizeof(float) : 1);
}

/* Rows of a task, and where their signs go once one has any. */
typedef struct {
  sxq_bit_rows rows;
  uint32_t* minus;
  size_t room;
} packed_rows;

/* Pack row m of the inputs; false if it holds anything but spikes. */
static bool pack_row(const sxq_codes* codes, const sxq_spikes* spikes, packed_rows* packed, size_t m) {
  sxq_bit_rows* to = &packed->rows;
  const sxq_bit_kernels* kernels = codes->store->kernels;
  const sxq_spikes row = {
      (const char*)spikes->x + m * row_bytes(codes, spikes), spikes->floats, spikes->is_signed, spikes->unit};
  uint32_t* bits = to->bits + m * to->words;
  /* Where one row has spikes of either sign, the next will. */
  to->found[m] = to->minus ? -1 : kernels->pack(&row, codes->rows, bits, NULL);
  if (to->found[m] < 0 && spikes->is_signed) {
    if (!to->minus) memset(packed->minus, 0, packed->room * to->words * sizeof *packed->minus);
    to->minus = packed->minus;
    to->found[m] = kernels->pack(&row, codes->rows, bits, to->minus + m * to->words);
  }
  return to->found[m] >= 0;
}

/* Whether the first row and that in the middle hold enough spikes. */
static bool are_dense(const sxq_codes* codes, const sxq_spikes* spikes, packed_rows* packed, size_t rows) {
  const int32_t* found = packed->rows.found;
  const float density = codes->store->kernels->density[codes->layout->bits];
  if (!pack_row(codes, spikes, packed, 0) || !pack_row(codes, spikes, packed, rows / 2)) return false;
  return 0.5f * (float)(found[0] + found[rows / 2]) >= density * (float)codes->rows;
}

bool sxq_dense_product(const sxq_codes* codes, const sxq_spikes* spikes, size_t rows, const sxq_target* to) {
  if (!codes->store || rows < codes->store->kernels->rows || !codes->rows) return false;
  const sxq_bit_kernels* kernels = codes->store->kernels;
  const size_t groups = (rows + kernels->rows_together - 1) / kernels->rows_together;
  packed_rows packed = {.rows.words = (codes->rows + 31) / 32, .room = groups * kernels->rows_together};
  const size_t words = packed.room * packed.rows.words;
  packed.rows.bits = malloc((2 * words + packed.room) * sizeof *packed.rows.bits);
  if (!packed.rows.bits) return false;
  packed.minus = packed.rows.bits + words;
  packed.rows.found = (int32_t*)(packed.minus + words);
  const uint32_t* planes = are_dense(codes, spikes, &packed, rows) ? planes_of(codes) : NULL;
  bool dense = planes != NULL;
  for (size_t m = 0; dense && m < rows; ++m) dense = pack_row(codes, spikes, &packed, m);
  if (dense) kernels->products(codes, planes, &packed.rows, rows, to);
  free(packed.rows.bits);
  return dense;
}

/* <packing>LinearRounded: y = (round(x) @ codes) * grid * scale, the sums exact. */
#include "rounded.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "operators.h"
#include "weights.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

#if defined(__x86_64__)
extern const sxq_rounded_kernel sxq_rounded_avx2, sxq_rounded_avx512;
#endif

/* Digit by digit, for any processor. */
static void plain_sums(int bits, int planes, const sxq_rounded_tile* t) {
  const size_t digits = (size_t)(8 / bits), width = SXQ_ROUNDED_WIDTH;
  memset(t->sums, 0, (size_t)planes * width * digits * sizeof *t->sums);
  for (size_t k = 0; k < t->rows; ++k) {
    const uint8_t* row = t->codes + k * t->pitch;
    for (int p = 0; p < planes; ++p) {
      const uint32_t quad = (uint32_t)t->quads[(size_t)p * t->quad_pitch + k / 4];
      const int32_t x = (int8_t)(quad >> 8 * (k % 4));
      int32_t* sums = t->sums + (size_t)p * width * digits;
      for (size_t b = 0; x && b < t->bytes; ++b) {
        const size_t lane = b / 16 * 4 + b % 4, part = b / 4 % 4;
        for (size_t d = 0; d < digits; ++d) {
          const int32_t digit = row[b] >> (d * (size_t)bits) & ((1 << bits) - 1);
          sums[(part * digits + d) * (width / 4) + lane] += x * digit;
        }
      }
    }
  }
}

static const sxq_rounded_kernel plain = {SXQ_ROUNDED_WIDTH, 8, plain_sums};

const sxq_rounded_kernel* sxq_rounded_here(const char* name) {
#if defined(__x86_64__)
  if (!strcmp(name, "avx512") && __builtin_cpu_supports("avx512vnni")) return &sxq_rounded_avx512;
  if (strcmp(name, "portable")) return &sxq_rounded_avx2;
#endif
  (void)name;
  return &plain;
}

typedef struct {
  sxq_kernel head;
  const sxq_rounded_kernel* tiles;
  bool constant; /* whether the weights below are set */
  sxq_weights weights;
  float grid, inverse_grid, most;
  int planes;
} rounded_kernel;

void sxq_rounded_destroy(void* kernel) {
  sxq_release_codes(&((rounded_kernel*)kernel)->weights.codes);
  free(kernel);
}

OrtStatus* sxq_rounded_create(const sxq_operator* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  rounded_kernel* made = calloc(1, sizeof *made);
  if (!made) return sxq_out_of_memory(api, op->name);
  made->head = (sxq_kernel){api, op, sxq_kernels_here()};
  made->tiles = sxq_rounded_here(made->head.kernels->name);
  OrtStatus* status = sxq_constant_weights(api, info, op->name, op->layout, &made->constant, &made->weights);
  if (!status) status = sxq_attribute_float(api, info, "grid", &made->grid);
  if (!status) status = sxq_attribute_float(api, info, "inverse_grid", &made->inverse_grid);
  if (!status) status = sxq_attribute_float(api, info, "most", &made->most);
  if (!status && !(made->most >= 1.0f && made->most <= 1073741824.0f)) {
    status = sxq_error(api, "%s takes whole numbers up to 2^30; most=%g.", op->name, (double)made->most);
  }
  if (status) {
    sxq_rounded_destroy(made);
    return status;
  }
  /* Signed bytes reach from -128 to 127. */
  double reached = 127.0;
  for (made->planes = 1; reached < (double)made->most; ++made->planes) reached = reached * 256.0 + 127.0;
  *kernel = made;
  return NULL;
}

/* One product. */
typedef struct {
  const rounded_kernel* kernel;
  const sxq_codes* codes;
  const float *x, *scale;
  float* y;
  size_t rows, columns, pitch, tiles_a_task;
  int32_t* quads; /* of each row of inputs, its planes */
  size_t quads_a_plane;
  int64_t* totals; /* of each row of inputs */
  int bits; /* of the digits that are summed */
  bool halves; /* two of which make one of the codes */
} rounded_product;

/* Round to the nearest, ties to even; NaN, which no body defines, becomes the least. */
ALWAYS_INLINE int32_t units_of(float x, float inverse, float most) {
  float units = x * inverse;
  const float magic = units < 0.0f ? -8388608.0f : 8388608.0f;
  const float nearest = (units + magic) - magic;
  units = units > -8388608.0f && units < 8388608.0f ? nearest : units;
  units = units > -most ? units : -most;
  return (int32_t)(units < most ? units : most);
}

static void split(const rounded_product* p, size_t row) {
  const rounded_kernel* kernel = p->kernel;
  const size_t inputs = p->codes->rows, planes = (size_t)kernel->planes;
  const float *x = p->x + row * inputs;
  uint8_t* bytes = (uint8_t*)(p->quads + row * planes * p->quads_a_plane);
  int64_t total = 0;
  memset(bytes, 0, planes * p->quads_a_plane * sizeof *p->quads);
  for (size_t k = 0; k < inputs; ++k) {
    const int32_t units = units_of(x[k], kernel->inverse_grid, kernel->most);
    total += units;
    const uint32_t shifted = (uint32_t)units + 0x80808080u;
    for (size_t plane = 0; plane < planes; ++plane) {
      /* The quads are read as numbers whose lowest byte is that of the first input. */
      bytes[plane * p->quads_a_plane * 4 + k] = (uint8_t)((shifted >> 8 * plane) ^ 0x80u);
    }
  }
  p->totals[row] = total;
}

/* From the sums of a tile to its columns of y. */
ALWAYS_INLINE void finish(const rounded_product* p, const int32_t* sums, size_t row, size_t byte, size_t bytes) {
  const sxq_layout* layout = p->codes->layout;
  const size_t width = p->kernel->tiles->width, digits = (size_t)(8 / p->bits), places = width * digits;
  const int planes = p->kernel->planes;
  const int64_t less = (int64_t)layout->offset * p->totals[row];
  const size_t first = byte * 8 / (size_t)layout->bits, each = p->halves ? 1 : digits;
  float* y = p->y + row * p->columns;
  float found[SXQ_ROUNDED_MOST];
  if (layout->bits <= 2 && planes <= 2) { /* sums below 2^26 */
    const int32_t little = (int32_t)less;
    for (size_t i = 0; i < places; ++i) {
      const int32_t sum = sums[i] + (planes > 1 ? sums[places + i] * 256 : 0);
      found[i] = (float)(sum * layout->step - little) * p->kernel->grid;
    }
  } else {
    for (size_t i = 0; i < places; ++i) {
      int64_t sum = 0;
      for (int plane = planes - 1; plane >= 0; --plane) {
        int64_t part = sums[(size_t)plane * places + i];
        if (p->halves) { /* the upper half of a digit stands behind the lower one */
          const size_t upper = i + width / 4;
          part += i / (width / 4) % 2 ? 0 : (int64_t)sums[(size_t)plane * places + upper] * 16;
        }
        sum = sum * 256 + part;
      }
      found[i] = (float)(sum * layout->step - less) * p->kernel->grid;
    }
  }
  for (size_t b = 0; b < bytes; ++b) {
    const size_t lane = b / 16 * 4 + b % 4, part = b / 4 % 4;
    for (size_t d = 0; d < each; ++d) {
      const size_t column = first + b * each + d;
      if (column < p->columns) y[column] = found[(part * digits + d) * (width / 4) + lane] * p->scale[column];
    }
  }
}

static void task(void* data, size_t index) {
  const rounded_product* p = data;
  const rounded_kernel* kernel = p->kernel;
  const size_t width = kernel->tiles->width;
  int32_t sums[SXQ_ROUNDED_PLANES * SXQ_ROUNDED_MOST];
  size_t byte = index * p->tiles_a_task * width;
  for (size_t i = 0; i < p->tiles_a_task && byte < p->pitch; ++i, byte += width) {
    const size_t left = p->pitch - byte, bytes = left < width ? left : width;
    for (size_t row = 0; row < p->rows; ++row) {
      const sxq_rounded_tile tile = {
          p->codes->packed + byte, p->pitch, p->codes->rows, bytes, left > width ? width : 0,
          p->quads + row * (size_t)kernel->planes * p->quads_a_plane, p->quads_a_plane, sums};
      kernel->tiles->sums(p->bits, kernel->planes, &tile);
      finish(p, sums, row, byte, bytes);
    }
  }
}

static OrtStatus* multiply(const rounded_kernel* kernel, OrtKernelContext* context, const sxq_weights* weights) {
  const OrtApi* api = kernel->head.api;
  const char* name = kernel->head.op->name;
  const sxq_codes* codes = &weights->codes;
  sxq_tensor x;
  rounded_product p = {.kernel = kernel, .codes = codes, .scale = weights->scale, .columns = codes->columns, .rows = 1};
  OrtStatus* status = sxq_input(api, context, 0, &x);
  if (status) return status;
  if (x.rank == 0 || (size_t)x.shape[x.rank - 1] != codes->rows) {
    return sxq_error(
        api, "%s takes an input whose last axis is %zu; got %lld.", name, codes->rows,
        x.rank ? (long long)x.shape[x.rank - 1] : 0LL);
  }
  /* The sums of bytes times digits are 32 bits wide. */
  const size_t largest = 128 * 2 * (size_t)codes->layout->offset / (size_t)codes->layout->step;
  if (codes->rows > (size_t)INT32_MAX / largest) {
    return sxq_error(
        api, "%s sums %zu inputs; with codes so wide it takes up to %zu.", name, codes->rows,
        (size_t)INT32_MAX / largest);
  }
  for (size_t axis = 0; axis + 1 < x.rank; ++axis) p.rows *= (size_t)x.shape[axis];
  x.shape[x.rank - 1] = (int64_t)codes->columns;
  void* y = NULL;
  status = sxq_output(api, context, 0, x.shape, x.rank, &y);
  if (status || !y || p.rows == 0 || p.columns == 0) return status;
  p.x = x.data;
  p.y = y;
  p.pitch = sxq_row_bytes(codes->layout, codes->columns);
  p.halves = codes->layout->bits > kernel->tiles->most_bits;
  p.bits = p.halves ? codes->layout->bits / 2 : codes->layout->bits;
  p.quads_a_plane = (codes->rows + 3) / 4;
  const size_t quads = p.rows * (size_t)kernel->planes * p.quads_a_plane * sizeof *p.quads;
  /* Both in one; the totals first, for their alignment. */
  p.totals = malloc(p.rows * sizeof *p.totals + quads);
  if (!p.totals) return sxq_out_of_memory(api, name);
  p.quads = (int32_t*)(void*)(p.totals + p.rows);
  for (size_t row = 0; row < p.rows; ++row) split(&p, row);
  const size_t tiles = (p.pitch + kernel->tiles->width - 1) / kernel->tiles->width;
  /* A task of 64 kB of codes or more, times rows. */
  const size_t tile_bytes = kernel->tiles->width * codes->rows * p.rows;
  p.tiles_a_task = tile_bytes && tile_bytes < 65536 ? 65536 / tile_bytes : 1; /* no bytes: no inputs */
  status = sxq_parallel(api, context, task, (tiles + p.tiles_a_task - 1) / p.tiles_a_task, &p);
  free(p.totals);
  return status;
}

OrtStatus* sxq_rounded_compute(void* self, OrtKernelContext* context) {
  const rounded_kernel* kernel = self;
  const sxq_kernel* head = &kernel->head;
  if (kernel->constant) return multiply(kernel, context, &kernel->weights);
  sxq_weights weights;
  OrtStatus* status = sxq_run_weights(head->api, context, head->op->name, head->op->layout, &weights);
  if (status) return status;
  status = multiply(kernel, context, &weights);
  sxq_release_codes(&weights.codes);
  return status;
}

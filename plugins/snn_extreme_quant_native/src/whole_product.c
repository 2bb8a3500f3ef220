/* FusedWholeProduct: products of whole numbers of 16 bits with packed codes, brought to other units: IntHalves,
 * the two products of bytes, what adds them, at most limits of the sums, and IntScale, as one node. */
#include <stdlib.h>
#include <string.h>

#include "rounded.h"
#include "weights.h"
#include "whole.h"

#define RAISE ((uint64_t)1 << 61) /* as in integer_scale.c */

/* The bytes of a number: the high one as it is, the low one less 128, so that both have a sign. */
enum { PLANES = 2, LOW_MIDDLE = 128 };
/* Inputs behind x and the codes; the limits of sums may be missing. */
enum { GAIN, OFFSET, LOW, HIGH, LEAST, MOST, CONSTANTS };

typedef struct {
  sxq_kernel head;
  const sxq_rounded_kernel* tiles;
  sxq_codes codes;
  int64_t columns;
  uint32_t* digits; /* the sum of each column's digits, in the order of a tile's sums, tile by tile */
  int shift, bits;  /* bits: of the digits that are summed */
  bool has_limits, halves; /* halves: two digits make one of the codes */
} product_kernel;

void sxq_whole_product_destroy(void* kernel) {
  product_kernel* made = kernel;
  sxq_release_codes(&made->codes);
  free(made->digits);
  free(made);
}

static size_t pitch_of(const product_kernel* k) { return sxq_row_bytes(k->codes.layout, k->codes.columns); }

static size_t places_of(const product_kernel* k) { return k->tiles->width * (size_t)(8 / k->bits); }

/* The sums of one tile of a row of inputs, plane by plane. */
static void tile_sums(const product_kernel* k, size_t byte, int planes, const int32_t* quads, int32_t* sums) {
  const size_t pitch = pitch_of(k), width = k->tiles->width, left = pitch - byte, quad_pitch = (k->codes.rows + 3) / 4;
  const sxq_rounded_tile tile = {
      k->codes.packed + byte, pitch, k->codes.rows, left < width ? left : width, left > width ? width : 0, quads,
      quad_pitch, sums};
  k->tiles->sums(k->bits, planes, &tile);
}

/* Sum all digits of each column: what a product with ones gives. */
static bool sum_digits(product_kernel* k) {
  const size_t width = k->tiles->width, places = places_of(k), tiles = (pitch_of(k) + width - 1) / width;
  const size_t quads = (k->codes.rows + 3) / 4;
  int32_t sums[SXQ_ROUNDED_PLANES * SXQ_ROUNDED_MOST];
  uint8_t* ones = calloc(quads + 1, sizeof(int32_t));
  k->digits = malloc(tiles * places * sizeof *k->digits + 1);
  if (ones && k->digits) {
    memset(ones, 1, k->codes.rows);
    for (size_t t = 0; k->codes.rows && t < tiles; ++t) {
      tile_sums(k, t * width, 1, (const int32_t*)(void*)ones, sums);
      for (size_t i = 0; i < places; ++i) k->digits[t * places + i] = (uint32_t)sums[i];
    }
  }
  free(ones);
  return ones && k->digits;
}

static OrtStatus* read_codes(product_kernel* made, const OrtApi* api, const OrtKernelInfo* info) {
  const char* name = made->head.op->name;
  char layer[SXQ_NAME_LENGTH];
  bool constant = false;
  int64_t columns[4] = {0};
  size_t length = 4;
  sxq_tensor packed;
  OrtStatus* status = sxq_attribute_string(api, info, "layer", layer, sizeof layer);
  if (!status) status = sxq_attribute_ints(api, info, "columns", columns, &length);
  if (!status) status = sxq_constant_input(api, info, 1, &constant, &packed);
  if (status) return status;
  const sxq_operator* op = sxq_find_operator(layer);
  if (!op || (op->kind != SXQ_MATMUL_INTEGER && op->kind != SXQ_MATMUL_INTEGER_SIGNED)) {
    return sxq_error(api, "%s does not take %s.", name, layer);
  }
  if (length != 1 || columns[0] < 0 || !constant || sxq_code_bits(op->layout) > 8) {
    return sxq_error(api, "%s takes constant codes of up to 8 bit with one number of columns.", name);
  }
  made->columns = columns[0];
  status = sxq_check_codes(api, name, op->layout, &packed, (size_t)columns[0], &made->codes);
  if (status) return status;
  const sxq_layout* layout = made->codes.layout;
  /* The sums of bytes times digits are 32 bits wide. */
  const size_t largest = 128 * 2 * (size_t)layout->offset / (size_t)layout->step;
  if (made->codes.rows > (size_t)INT32_MAX / largest) {
    return sxq_error(api, "%s sums up to %zu inputs; got %zu.", name, (size_t)INT32_MAX / largest, made->codes.rows);
  }
  made->halves = layout->bits > made->tiles->most_bits;
  made->bits = made->halves ? layout->bits / 2 : layout->bits;
  return sum_digits(made) ? NULL : sxq_out_of_memory(api, name);
}

OrtStatus* sxq_whole_product_create(
    const sxq_operator* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  product_kernel* made = calloc(1, sizeof *made);
  if (!made) return sxq_out_of_memory(api, op->name);
  made->head = (sxq_kernel){api, op, sxq_kernels_here()};
  made->tiles = sxq_rounded_here(made->head.kernels->name);
  OrtStatus* status = sxq_whole_shift(api, info, op->name, &made->shift);
  if (!status) status = sxq_attribute_flag(api, info, "has_limits", &made->has_limits);
  if (!status) status = read_codes(made, api, info);
  if (status) {
    sxq_whole_product_destroy(made);
    return status;
  }
  *kernel = made;
  return NULL;
}

typedef struct {
  const product_kernel* kernel;
  const int32_t* x;
  int32_t* y;
  size_t rows, quads_a_plane, tiles_a_task;
  int32_t* quads;   /* of each row of inputs, its planes */
  uint32_t* totals; /* of each row of inputs */
  const void* constant[CONSTANTS];
  bool one[CONSTANTS]; /* one number for all columns */
} job;

/* A row's inputs in bytes, and their sum; numbers beyond 16 bits are cut, as IntHalves does. */
static void split(const job* j, size_t row) {
  const size_t inputs = j->kernel->codes.rows;
  const int32_t* x = j->x + row * inputs;
  uint8_t* low = (uint8_t*)(j->quads + row * PLANES * j->quads_a_plane);
  uint8_t* high = low + j->quads_a_plane * sizeof *j->quads;
  uint32_t total = 0;
  memset(low, 0, PLANES * j->quads_a_plane * sizeof *j->quads);
  for (size_t k = 0; k < inputs; ++k) {
    total += (uint32_t)(int32_t)(int16_t)(uint16_t)x[k];
    low[k] = (uint8_t)((uint32_t)x[k] ^ LOW_MIDDLE);
    high[k] = (uint8_t)((uint32_t)x[k] >> 8);
  }
  j->totals[row] = total;
}

#define AT(type, which, i) ((const type*)j->constant[which])[j->one[which] ? 0 : first + (i)]
#define SCALED(sum, gain, offset, low, high)                                             \
  for (size_t i = 0; i < count; ++i) {                                                   \
    const uint64_t product = (uint64_t)(int64_t)(sum) * (uint64_t)(gain) + (offset);     \
    y[first + i] = sxq_within(sxq_shifted(product, RAISE, shift), (low), (high));        \
  }

/* Bring the sums of columns from `first` on to their units. */
SXQ_WHOLE_INLINE void scale(const job* j, int32_t* restrict sums, size_t first, size_t count, int32_t* restrict y) {
  const int shift = j->kernel->shift;
  for (size_t i = 0; j->kernel->has_limits && i < count; ++i) {
    sums[i] = sxq_within(sums[i], AT(int32_t, LEAST, i), AT(int32_t, MOST, i));
  }
  if (j->one[OFFSET] && j->one[LOW] && j->one[HIGH]) { /* as files have them: without branches in the loop */
    const int64_t* restrict gain = (const int64_t*)j->constant[GAIN] + (j->one[GAIN] ? 0 : first);
    const uint64_t one_gain = (uint64_t)*gain, offset = (uint64_t)AT(int64_t, OFFSET, 0);
    const int32_t low = AT(int32_t, LOW, 0), high = AT(int32_t, HIGH, 0);
    if (j->one[GAIN]) SCALED(sums[i], one_gain, offset, low, high)
    else SCALED(sums[i], gain[i], offset, low, high)
  } else {
    SCALED(sums[i], AT(int64_t, GAIN, i), (uint64_t)AT(int64_t, OFFSET, i), AT(int32_t, LOW, i), AT(int32_t, HIGH, i))
  }
}

/* From the sums of a tile to its columns of y. */
SXQ_WHOLE_INLINE void finish(const job* j, const int32_t* sums, size_t row, size_t tile) {
  const product_kernel* k = j->kernel;
  const sxq_layout* layout = k->codes.layout;
  const size_t width = k->tiles->width, digits = (size_t)(8 / k->bits), places = places_of(k), byte = tile * width;
  const size_t left = pitch_of(k) - byte, bytes = left < width ? left : width, quarter = width / 4;
  const size_t first = byte * 8 / (size_t)layout->bits, each = k->halves ? 1 : digits;
  const uint32_t less = (uint32_t)layout->offset * j->totals[row];
  uint32_t found[SXQ_ROUNDED_MOST];
  int32_t ordered[SXQ_ROUNDED_MOST];
  for (size_t i = 0; i < places; ++i) {
    found[i] = (uint32_t)sums[i] + (uint32_t)sums[places + i] * 256 + k->digits[tile * places + i] * LOW_MIDDLE;
  }
  /* The upper half of a digit stands behind the lower one. */
  for (size_t i = 0; k->halves && i + quarter < places; ++i) found[i] += i / quarter % 2 ? 0 : found[i + quarter] * 16;
  for (size_t b = 0; b < bytes; ++b) {
    const size_t lane = b / 16 * 4 + b % 4, part = b / 4 % 4;
    for (size_t d = 0; d < each; ++d) {
      ordered[b * each + d] = (int32_t)(found[(part * digits + d) * quarter + lane] * (uint32_t)layout->step - less);
    }
  }
  const size_t columns = k->codes.columns, count = bytes * each;
  scale(j, ordered, first, columns - first < count ? columns - first : count, j->y + row * columns);
}

SXQ_WHOLE_INLINE void run(const job* j, size_t index) {
  const product_kernel* k = j->kernel;
  const size_t width = k->tiles->width, tiles = (pitch_of(k) + width - 1) / width, from = index * j->tiles_a_task;
  const size_t to = tiles - from < j->tiles_a_task ? tiles : from + j->tiles_a_task;
  int32_t sums[SXQ_ROUNDED_PLANES * SXQ_ROUNDED_MOST];
  for (size_t tile = from; tile < to; ++tile) {
    for (size_t row = 0; row < j->rows; ++row) {
      tile_sums(k, tile * width, PLANES, j->quads + row * PLANES * j->quads_a_plane, sums);
      finish(j, sums, row, tile);
    }
  }
}

#include "tasks.h"

static OrtStatus* read_constants(const product_kernel* k, OrtKernelContext* context, job* j) {
  static const int types[CONSTANTS] = {
      ORT_TYPE_INT64, ORT_TYPE_INT64, ORT_TYPE_INT32, ORT_TYPE_INT32, ORT_TYPE_INT32, ORT_TYPE_INT32};
  const OrtApi* api = k->head.api;
  const size_t count = k->has_limits ? CONSTANTS : LEAST;
  for (size_t i = 0; i < count; ++i) {
    sxq_tensor found;
    OrtStatus* status = sxq_whole_constants(api, context, k->head.op->name, 2 + i, k->codes.columns, &found);
    if (!status && found.type != types[i]) status = sxq_error(api, "%s: input %zu has a wrong type.", k->head.op->name, 2 + i);
    if (status) return status;
    j->constant[i] = found.data;
    j->one[i] = found.count == 1;
  }
  return NULL;
}

OrtStatus* sxq_whole_product_compute(void* self, OrtKernelContext* context) {
  const product_kernel* k = self;
  const OrtApi* api = k->head.api;
  const char* name = k->head.op->name;
  sxq_tensor x;
  job j = {.kernel = k, .rows = 1};
  OrtStatus* status = sxq_input(api, context, 0, &x);
  if (status) return status;
  if (x.type != ORT_TYPE_INT32 || x.rank == 0 || (size_t)x.shape[x.rank - 1] != k->codes.rows) {
    return sxq_error(api, "%s takes whole numbers of 32 bits whose last axis is %zu.", name, k->codes.rows);
  }
  status = read_constants(k, context, &j);
  if (status) return status;
  for (size_t axis = 0; axis + 1 < x.rank; ++axis) j.rows *= (size_t)x.shape[axis];
  x.shape[x.rank - 1] = k->columns;
  void* y = NULL;
  status = sxq_output(api, context, 0, x.shape, x.rank, &y);
  if (status || !y || !j.rows || !k->columns) return status;
  j.x = x.data;
  j.y = y;
  j.quads_a_plane = (k->codes.rows + 3) / 4;
  /* Both in one. */
  j.totals = malloc(j.rows * (sizeof *j.totals + PLANES * j.quads_a_plane * sizeof *j.quads));
  if (!j.totals) return sxq_out_of_memory(api, name);
  j.quads = (int32_t*)(void*)(j.totals + j.rows);
  for (size_t row = 0; row < j.rows; ++row) split(&j, row);
  const size_t width = k->tiles->width, tiles = (pitch_of(k) + width - 1) / width;
  /* A task of 64 kB of codes or more, times rows. */
  const size_t tile_bytes = width * k->codes.rows * j.rows;
  j.tiles_a_task = tile_bytes && tile_bytes < 65536 ? 65536 / tile_bytes : 1; /* no bytes: no inputs */
  status = sxq_parallel(api, context, task_for(k->head.kernels), (tiles + j.tiles_a_task - 1) / j.tiles_a_task, &j);
  free(j.totals);
  return status;
}

/* IntTokenNorm, IntHalves, IntGated and IntSquared: what integer files of language models compute number by number, and
 * their norm. Beyond the limits of docs/operators.md they give what their bodies give: numbers wrap around. */
#include <stdlib.h>

#include "powers.h"
#include "whole.h"

/* The numbers of exported/shift_tables.py and token_tables.py: factors are m 2^-k with m in 16/16, 17/16, ..., 31/16. */
enum { RESIDUAL_LIMIT = (1 << 19) - 1, MANTISSAS = 16, LEAST_SHIFT = -6, MOST_SHIFT = 20, NORM_PLACES = 10 };
enum { FACTORS = MANTISSAS * (MOST_SHIFT - LEAST_SHIFT + 1), MOST_CHANNELS = 4096 };

#define RAISE ((uint64_t)1 << 62)

typedef struct {
  sxq_kernel head;
  int shift;
  int32_t most;
} token_kernel;

OrtStatus* sxq_integer_tokens_create(
    const sxq_operator* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  token_kernel* made = calloc(1, sizeof *made);
  if (!made) return sxq_out_of_memory(api, op->name);
  made->head = (sxq_kernel){api, op, sxq_kernels_here()};
  OrtStatus* status = NULL;
  if (op->kind != SXQ_INT_HALVES) {
    status = sxq_whole_shift(api, info, op->name, &made->shift);
    if (!status) status = sxq_whole_limit(api, info, op->name, &made->most);
  }
  if (status) {
    free(made);
    return status;
  }
  *kernel = made;
  return NULL;
}

/* What a task works on: `rows` of `length`, `a_task` of them; single numbers are rows of 1. */
typedef struct {
  sxq_kind kind;
  const int32_t *x, *value;
  void *y, *low;
  size_t rows, length, a_task;
  int shift;
  int32_t most;
  const int64_t *gain, *offset;
  bool one_gain, one_offset;
} job;

/* 2^24 m 2^-k for the m 2^-k that is nearest to sqrt(H / squares), half way the larger one.
 *
 * Borders lie at (2 m + 1) / 32 2^-k. Sums of squares are below 2^50 + 2^11, as no variance is larger than the square of the
 * limit and half a unit more, so both products stay below 2^64. */
SXQ_WHOLE_INLINE int32_t norm_factor(uint64_t squares, uint64_t channels) {
  size_t reached = 0, end = FACTORS - 1;
  while (reached < end) {
    const size_t middle = (reached + end) / 2;
    const int k = MOST_SHIFT - (int)(middle / MANTISSAS);
    const uint64_t odd = 2 * (MANTISSAS + middle % MANTISSAS) + 1;
    const uint64_t above = channels << (k > -5 ? 2 * (k + 5) : 0);
    const uint64_t below = squares * (odd * odd) << (k < -5 ? 2 * (-k - 5) : 0);
    if (below <= above) reached = middle + 1;
    else end = middle;
  }
  return (int32_t)(MANTISSAS + reached % MANTISSAS) << reached / MANTISSAS;
}

SXQ_WHOLE_INLINE void norm_row(const job* j, const int32_t* restrict x, int32_t* restrict y) {
  const size_t length = j->length;
  const int64_t channels = (int64_t)length;
  int32_t total = 0; /* below 2^31 */
  for (size_t i = 0; i < length; ++i) total += y[i] = sxq_within(x[i], -RESIDUAL_LIMIT, RESIDUAL_LIMIT);
  /* What is divided is made positive first, so that the quotient is rounded down. */
  const int64_t raise = 1 << 20;
  const int32_t mean = (int32_t)((2 * (int64_t)total + channels + 2 * channels * raise) / (2 * channels) - raise);
  int64_t squares = 0;
  for (size_t i = 0; i < length; ++i) {
    const int32_t centred = y[i] - mean;
    y[i] = centred;
    squares += (int64_t)centred * centred;
  }
  const int32_t factor = norm_factor((uint64_t)squares, (uint64_t)length);
  const int shift = j->shift;
  const int32_t most = j->most;
  const int64_t *restrict gain = j->gain, *restrict offset = j->offset;
  const uint64_t one_gain = (uint64_t)*gain, one_offset = (uint64_t)*offset;
  /* A number times the factor is at most 2^24 sqrt(H) 32/31, below 2^31. */
#define NORMED(g, o)                                                                             \
  for (size_t i = 0; i < length; ++i) {                                                          \
    const int64_t normed = (y[i] * factor + (1 << NORM_PLACES >> 1)) >> NORM_PLACES;             \
    y[i] = sxq_within(sxq_shifted((uint64_t)normed * (g) + (o), RAISE, shift), -most, most);      \
  }
  if (j->one_gain && j->one_offset) NORMED(one_gain, one_offset)
  else if (j->one_gain) NORMED(one_gain, (uint64_t)offset[i])
  else if (j->one_offset) NORMED((uint64_t)gain[i], one_offset)
  else NORMED((uint64_t)gain[i], (uint64_t)offset[i])
#undef NORMED
}

SXQ_WHOLE_INLINE void halves(const job* j, size_t first, size_t last) {
  const int32_t* restrict x = j->x;
  uint8_t *restrict high = j->y, *restrict low = j->low; /* NULL: nothing reads it */
  for (size_t i = first; high && i < last; ++i) high[i] = (uint8_t)((uint32_t)x[i] >> 8);
  for (size_t i = first; low && i < last; ++i) low[i] = (uint8_t)x[i];
}

SXQ_WHOLE_INLINE void gated(const job* j, size_t first, size_t last) {
  const int32_t *restrict x = j->x, *restrict value = j->value;
  int32_t* restrict y = j->y;
  const int32_t octaves = SXQ_GATES / 2, most = j->most;
  const int shift = j->shift;
  const int64_t half = (int64_t)((uint64_t)1 << shift >> 1);
  for (size_t i = first; i < last; ++i) {
    const int64_t gate = sxq_gates[sxq_within(x[i], -octaves, octaves - 1) + octaves];
    y[i] = sxq_within(sxq_shifted((uint64_t)(gate * value[i] + half), RAISE, shift), -most, most);
  }
}

SXQ_WHOLE_INLINE void squared(const job* j, size_t first, size_t last) {
  const int32_t* restrict x = j->x;
  int32_t* restrict y = j->y;
  const int32_t most = j->most;
  const int shift = j->shift;
  const uint64_t half = (uint64_t)1 << shift >> 1;
  for (size_t i = first; i < last; ++i) {
    const uint64_t positive = x[i] > 0 ? (uint64_t)x[i] : 0;
    const int32_t whole = (int32_t)(uint32_t)((positive * positive + half) >> shift);
    y[i] = whole < most ? whole : most;
  }
}

SXQ_WHOLE_INLINE void run(const job* j, size_t index) {
  const size_t first = index * j->a_task, last = j->rows - first < j->a_task ? j->rows : first + j->a_task;
  switch (j->kind) {
    case SXQ_INT_HALVES: halves(j, first, last); break;
    case SXQ_INT_GATED: gated(j, first, last); break;
    case SXQ_INT_SQUARED: squared(j, first, last); break;
    default:
      for (size_t row = first; row < last; ++row) {
        norm_row(j, j->x + row * j->length, (int32_t*)j->y + row * j->length);
      }
  }
}

#include "tasks.h"

enum { NUMBERS_A_TASK = 8192 };

/* What the kinds read beside x. */
static OrtStatus* read_others(const token_kernel* kernel, OrtKernelContext* context, const sxq_tensor* x, job* j) {
  const OrtApi* api = kernel->head.api;
  const char* name = kernel->head.op->name;
  OrtStatus* status = NULL;
  if (j->kind == SXQ_INT_GATED) {
    sxq_tensor value;
    status = sxq_input(api, context, 1, &value);
    if (!status && !sxq_same_shape(x, &value)) status = sxq_error(api, "%s takes gates and values of one shape.", name);
    j->value = value.data;
  } else if (j->kind == SXQ_INT_TOKEN_NORM) {
    sxq_tensor gain, offset;
    if (!x->rank) return sxq_error(api, "%s works along the last axis; its input is one number.", name);
    j->length = (size_t)x->shape[x->rank - 1];
    if (j->length > MOST_CHANNELS) {
      return sxq_error(api, "%s takes up to %d channels; got %zu.", name, MOST_CHANNELS, j->length);
    }
    status = sxq_whole_constants(api, context, name, 1, j->length, &gain);
    if (!status) status = sxq_whole_constants(api, context, name, 2, j->length, &offset);
    if (status) return status;
    j->gain = gain.data;
    j->offset = offset.data;
    j->one_gain = gain.count == 1;
    j->one_offset = offset.count == 1;
  }
  return status;
}

OrtStatus* sxq_integer_tokens_compute(void* self, OrtKernelContext* context) {
  const token_kernel* kernel = self;
  const OrtApi* api = kernel->head.api;
  sxq_tensor x;
  job j = {.kind = kernel->head.op->kind, .length = 1, .shift = kernel->shift, .most = kernel->most};
  OrtStatus* status = sxq_input(api, context, 0, &x);
  if (!status) status = read_others(kernel, context, &x, &j);
  if (!status) status = sxq_output(api, context, 0, x.shape, x.rank, &j.y);
  if (!status && j.kind == SXQ_INT_HALVES) status = sxq_output(api, context, 1, x.shape, x.rank, &j.low);
  if (status || !x.count) return status;
  if (!j.y && !j.low) return NULL;
  j.x = x.data;
  j.rows = x.count / j.length;
  j.a_task = j.length < NUMBERS_A_TASK ? NUMBERS_A_TASK / j.length : 1;
  return sxq_parallel(api, context, task_for(kernel->head.kernels), (j.rows + j.a_task - 1) / j.a_task, &j);
}

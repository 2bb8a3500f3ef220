/* ShiftNorm and ShiftSoftmax: norm and softmax by shifts along the last axis, in whole numbers. */
#include <math.h>
#include <stdlib.h>

#include "operators.h"
#include "shift_norm.h"

enum { BITS = 15, LANES = 16 };

#define ALWAYS_INLINE static inline __attribute__((always_inline))

OrtStatus* sxq_shift_create(const sxq_operator* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  (void)info;
  sxq_kernel* made = malloc(sizeof *made);
  if (!made) return sxq_out_of_memory(api, op->name);
  *made = (sxq_kernel){api, op, sxq_kernels_here()};
  *kernel = made;
  return NULL;
}

/* What a task works on: rows of `length`, `a_task` of them. */
typedef struct {
  const float* x;
  void* y;
  size_t rows, length, a_task;
  int softmax;
  sxq_shift_norm norm;
} job;

ALWAYS_INLINE void softmax_row(const job* j, const float* restrict x, float* restrict y) {
  const size_t length = j->length;
  /* Largest numbers lane by lane, as compilers keep the order of comparisons. */
  float largest = -INFINITY, lane[LANES];
  for (size_t l = 0; l < LANES; ++l) lane[l] = -INFINITY;
  size_t whole = 0;
  for (; whole + LANES <= length; whole += LANES) {
    for (size_t l = 0; l < LANES; ++l) {
      const float r = floorf(x[whole + l] + 0.5f);
      y[whole + l] = r;
      lane[l] = lane[l] > r ? lane[l] : r;
    }
  }
  for (; whole < length; ++whole) {
    y[whole] = floorf(x[whole] + 0.5f);
    largest = largest > y[whole] ? largest : y[whole];
  }
  for (size_t l = 0; l < LANES; ++l) largest = largest > lane[l] ? largest : lane[l];
  uint64_t total = 0;
  for (size_t i = 0; i < length; ++i) {
    const float exponent = y[i] - largest;
    float places = exponent + (float)BITS;
    places = places > 0.0f ? places : 0.0f;
    /* Not above BITS, but where something is no number. */
    const int32_t power = 1 << (int32_t)(places < (float)BITS ? places : (float)BITS);
    const int32_t kept = exponent > -5000.0f ? power : 0;
    total += (uint64_t)kept;
    y[i] = (float)kept;
  }
  int halvings = 0;
  /* The sum is nearer to the next power of two, by its logarithm, if it is above sqrt(2) times this one. */
  if (total > UINT32_MAX) total = UINT32_MAX;
  for (int i = 0; i <= BITS; ++i) halvings += total * total > (uint64_t)2 << 2 * (BITS + i);
  const float factor = ldexpf(1.0f, -halvings), unit = ldexpf(1.0f, -BITS);
  for (size_t i = 0; i < length; ++i) y[i] = floorf(y[i] * factor) * unit;
}

ALWAYS_INLINE void run(const job* j, size_t index) {
  const size_t first = index * j->a_task;
  const size_t last = j->rows - first < j->a_task ? j->rows : first + j->a_task;
  for (size_t row = first; row < last; ++row) {
    const float* x = j->x + row * j->length;
    if (j->softmax) softmax_row(j, x, (float*)j->y + row * j->length);
    else sxq_shift_norm_row(&j->norm, x, (int32_t*)j->y + row * j->length);
  }
}

#include "tasks.h"

OrtStatus* sxq_shift_compute(void* self, OrtKernelContext* context) {
  const sxq_kernel* kernel = self;
  const OrtApi* api = kernel->api;
  const char* name = kernel->op->name;
  sxq_tensor x;
  job j = {.softmax = kernel->op->kind == SXQ_SHIFT_SOFTMAX};
  OrtStatus* status = sxq_input(api, context, 0, &x);
  if (!status && !x.rank) status = sxq_error(api, "%s works along the last axis; its input is one number.", name);
  if (status) return status;
  j.length = (size_t)x.shape[x.rank - 1];
  if (!j.softmax && j.length > SXQ_MOST_CHANNELS) {
    return sxq_error(api, "%s takes up to %d channels; got %zu.", name, SXQ_MOST_CHANNELS, j.length);
  }
  status = sxq_output(api, context, 0, x.shape, x.rank, &j.y);
  if (status || !j.y || x.count == 0) return status;
  j.x = x.data;
  j.rows = x.count / j.length;
  if (!j.softmax) sxq_fill_shift_norm(j.length, &j.norm);
  j.a_task = j.length < 8192 ? 8192 / j.length : 1;
  return sxq_parallel(api, context, task_for(kernel->kernels), (j.rows + j.a_task - 1) / j.a_task, &j);
}

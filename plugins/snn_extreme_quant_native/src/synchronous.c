/* Synchronous...: layers of neurons that take in all steps before they fire, from currents or from integer sums, and
 * give counts, rates or the spikes of all steps. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "count_bytes.h"
#include "operators.h"

typedef struct {
  sxq_kernel head;
  float steps, lowest, inverse_steps, top;
} synchronous_kernel;

/* The bodies' sums of steps are exact far beyond. */
enum { MOST_STEPS = 65536 };

static bool gives_floats(sxq_kind kind) {
  return kind == SXQ_SYNCHRONOUS_RATES || kind == SXQ_SYNCHRONOUS_SPIKES;
}

OrtStatus* sxq_synchronous_create(const sxq_operator* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  synchronous_kernel* made = calloc(1, sizeof *made);
  if (!made) return sxq_out_of_memory(api, op->name);
  made->head = (sxq_kernel){api, op, sxq_kernels_here()};
  OrtStatus* status = NULL;
  if (op->kind == SXQ_SYNCHRONOUS_FOLDED) {
    status = sxq_attribute_float(api, info, "top", &made->top);
  } else {
    status = sxq_attribute_float(api, info, "steps", &made->steps);
    if (!status && op->signed_counts) status = sxq_attribute_float(api, info, "lowest", &made->lowest);
    if (!status && gives_floats(op->kind)) status = sxq_attribute_float(api, info, "lowest", &made->lowest);
    if (!status && op->kind == SXQ_SYNCHRONOUS_RATES) {
      status = sxq_attribute_float(api, info, "inverse_steps", &made->inverse_steps);
    }
    made->top = made->steps + (op->signed_counts ? made->steps : 0.0f);
  }
  if (!status && op->kind == SXQ_SYNCHRONOUS_SPIKES && !(made->steps >= 1.0f && made->steps <= MOST_STEPS)) {
    status = sxq_error(api, "%s has from 1 to %d steps, not %g.", op->name, MOST_STEPS, (double)made->steps);
  }
  if (!status && !gives_floats(op->kind) && !(made->top >= 0.0f && made->top <= 255.0f)) {
    status = sxq_error(api, "%s gives counts of up to %g, which is no byte.", op->name, (double)made->top);
  }
  if (status) {
    free(made);
    return status;
  }
  *kernel = made;
  return NULL;
}

/* What a task works on; `columns` is 1 where gain and offset, or the threshold, are those of all neurons. */
typedef struct {
  const synchronous_kernel* kernel;
  const void* x;
  void* y;
  const float *gain, *offset, *threshold;
  size_t count, columns, a_task;
} job;

enum { BLOCK = 512 };

#define ALWAYS_INLINE static inline __attribute__((always_inline))

ALWAYS_INLINE void folded(const job* j, size_t first, size_t last) {
  const float top = j->kernel->top;
  const size_t columns = j->columns;
  if (columns == 1) {
    const int32_t* restrict sums = j->x;
    uint8_t* restrict counts = j->y;
    const float gain = *j->gain, offset = *j->offset;
    for (size_t i = first; i < last; ++i) counts[i] = sxq_byte_of((float)sums[i] * gain + offset, top);
    return;
  }
  for (size_t row = first; row < last; row += columns) {
    const int32_t* restrict sums = (const int32_t*)j->x + row;
    uint8_t* restrict counts = (uint8_t*)j->y + row;
    const float *restrict gain = j->gain, *restrict offset = j->offset;
    for (size_t n = 0; n < columns; ++n) counts[n] = sxq_byte_of((float)sums[n] * gain[n] + offset[n], top);
  }
}

ALWAYS_INLINE float limited(float x, float threshold, float steps, float lowest) {
  float n = sxq_whole_count(x, threshold, steps);
  n = n < lowest ? lowest : n;
  return n > steps ? steps : n;
}

ALWAYS_INLINE float rate_of(float x, float threshold, float steps, float lowest, float inverse) {
  return limited(x, threshold, steps, lowest) * inverse;
}

ALWAYS_INLINE void counted(const job* j, size_t first, size_t last) {
  const float steps = j->kernel->steps, top = j->kernel->top;
  const size_t columns = j->columns;
  /* Signed counts are shifted by the steps, to begin at 0. */
  const float shift = j->kernel->head.op->signed_counts ? steps : 0.0f;
  if (columns == 1) {
    const float* restrict x = j->x;
    uint8_t* restrict counts = j->y;
    const float threshold = *j->threshold;
    for (size_t i = first; i < last; ++i) counts[i] = sxq_byte_of(sxq_whole_count(x[i], threshold, steps) + shift, top);
    return;
  }
  for (size_t row = first; row < last; row += columns) {
    const float* restrict x = (const float*)j->x + row;
    uint8_t* restrict counts = (uint8_t*)j->y + row;
    const float* restrict threshold = j->threshold;
    for (size_t n = 0; n < columns; ++n) counts[n] = sxq_byte_of(sxq_whole_count(x[n], threshold[n], steps) + shift, top);
  }
}

ALWAYS_INLINE void rated(const job* j, size_t first, size_t last) {
  const float steps = j->kernel->steps, lowest = j->kernel->lowest, inverse = j->kernel->inverse_steps;
  const size_t columns = j->columns;
  if (columns == 1) {
    const float* restrict x = j->x;
    float* restrict rates = j->y;
    const float threshold = *j->threshold;
    for (size_t i = first; i < last; ++i) rates[i] = rate_of(x[i], threshold, steps, lowest, inverse);
    return;
  }
  for (size_t row = first; row < last; row += columns) {
    const float* restrict x = (const float*)j->x + row;
    float* restrict rates = (float*)j->y + row;
    const float* restrict threshold = j->threshold;
    for (size_t n = 0; n < columns; ++n) rates[n] = rate_of(x[n], threshold[n], steps, lowest, inverse);
  }
}

/* The spikes of all steps, n first: s_t = [n > t] - [-n > t]. Neurons go in blocks, whose numbers are computed once. */
ALWAYS_INLINE void emitted(const job* j, size_t first, size_t last) {
  const float steps = j->kernel->steps, lowest = j->kernel->lowest;
  const size_t columns = j->columns, many = (size_t)steps;
  const float* restrict x = j->x;
  float whole[BLOCK];
  for (size_t start = first, size; start < last; start += size) {
    size = last - start < BLOCK ? last - start : BLOCK;
    if (columns != 1) {
      const size_t column = start % columns;
      if (size > columns - column) size = columns - column;
      const float* restrict threshold = j->threshold + column;
      for (size_t i = 0; i < size; ++i) whole[i] = limited(x[start + i], threshold[i], steps, lowest);
    } else {
      const float threshold = *j->threshold;
      for (size_t i = 0; i < size; ++i) whole[i] = limited(x[start + i], threshold, steps, lowest);
    }
    for (size_t t = 0; t < many; ++t) {
      float* restrict spikes = (float*)j->y + t * j->count + start;
      const float step = (float)t;
      for (size_t i = 0; i < size; ++i) spikes[i] = (float)((whole[i] > step) - (-whole[i] > step));
    }
  }
}

ALWAYS_INLINE void run(const job* j, size_t index) {
  const size_t first = index * j->a_task;
  const size_t last = j->count - first < j->a_task ? j->count : first + j->a_task;
  switch (j->kernel->head.op->kind) {
    case SXQ_SYNCHRONOUS_FOLDED: folded(j, first, last); return;
    case SXQ_SYNCHRONOUS_COUNTS: counted(j, first, last); return;
    case SXQ_SYNCHRONOUS_SPIKES: emitted(j, first, last); return;
    default: rated(j, first, last);
  }
}

#include "tasks.h"

/* Gain and offset: of all neurons, or one for each on the last axis. */
static OrtStatus* channels(const OrtApi* api, OrtKernelContext* context, const sxq_tensor* x, job* j) {
  const char* name = j->kernel->head.op->name;
  sxq_tensor gain, offset;
  OrtStatus* status = sxq_input(api, context, 1, &gain);
  if (!status) status = sxq_input(api, context, 2, &offset);
  if (status) return status;
  j->columns = x->rank ? (size_t)x->shape[x->rank - 1] : 1;
  if (gain.count != offset.count || gain.rank > 1 || offset.rank > 1 || (gain.count != 1 && gain.count != j->columns)) {
    return sxq_error(
        api, "%s takes a gain and an offset for each of %zu neurons, or one for all; got %zu and %zu.", name,
        j->columns, gain.count, offset.count);
  }
  if (gain.count == 1) j->columns = 1;
  j->gain = gain.data;
  j->offset = offset.data;
  return NULL;
}

/* The threshold: of all neurons, or one for each on the last axis. */
static OrtStatus* thresholds(const OrtApi* api, OrtKernelContext* context, const sxq_tensor* x, job* j) {
  sxq_tensor threshold;
  OrtStatus* status = sxq_input(api, context, 1, &threshold);
  if (status) return status;
  j->columns = x->rank ? (size_t)x->shape[x->rank - 1] : 1;
  if (threshold.rank > 1 || (threshold.count != 1 && threshold.count != j->columns)) {
    return sxq_error(
        api, "%s takes a threshold for each of %zu neurons, or one for all; got %zu.", j->kernel->head.op->name,
        j->columns, threshold.count);
  }
  if (threshold.count == 1) j->columns = 1;
  j->threshold = threshold.data;
  return NULL;
}

OrtStatus* sxq_synchronous_compute(void* self, OrtKernelContext* context) {
  const synchronous_kernel* kernel = self;
  const OrtApi* api = kernel->head.api;
  sxq_tensor x;
  job j = {.kernel = kernel, .columns = 1};
  OrtStatus* status = sxq_input(api, context, 0, &x);
  if (status) return status;
  status = kernel->head.op->kind == SXQ_SYNCHRONOUS_FOLDED ? channels(api, context, &x, &j)
                                                           : thresholds(api, context, &x, &j);
  if (status) return status;
  if (kernel->head.op->kind == SXQ_SYNCHRONOUS_SPIKES) {
    int64_t shape[SXQ_MAX_RANK] = {(int64_t)kernel->steps};
    if (x.rank + 1 > SXQ_MAX_RANK) return sxq_error(api, "%s takes up to %d axes.", kernel->head.op->name, SXQ_MAX_RANK - 1);
    memcpy(shape + 1, x.shape, x.rank * sizeof *shape);
    status = sxq_output(api, context, 0, shape, x.rank + 1, &j.y);
  } else {
    status = sxq_output(api, context, 0, x.shape, x.rank, &j.y);
  }
  if (status || !j.y || x.count == 0) return status;
  j.x = x.data;
  j.count = x.count;
  /* Whole rows, of about 16 thousand neurons. */
  j.a_task = j.columns * (j.columns < 16384 ? 16384 / j.columns : 1);
  return sxq_parallel(api, context, task_for(kernel->head.kernels), (j.count + j.a_task - 1) / j.a_task, &j);
}

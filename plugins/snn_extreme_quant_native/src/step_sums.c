/* StepSums, StepCounts: spikes of all steps, the first axis, added up; whole numbers, exact in any order. */
#include <stdlib.h>
#include <string.h>

#include "count_bytes.h"
#include "operators.h"

typedef struct {
  sxq_kernel head;
  float zero_point; /* of counts: the byte that stands for 0 */
} step_kernel;

OrtStatus* sxq_step_sums_create(const sxq_operator* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  step_kernel* made = calloc(1, sizeof *made);
  if (!made) return sxq_out_of_memory(api, op->name);
  made->head = (sxq_kernel){api, op, sxq_kernels_here()};
  if (op->kind == SXQ_STEP_COUNTS) {
    int64_t zero_point = 0;
    OrtStatus* status = sxq_attribute_int(api, info, "zero_point", &zero_point);
    if (!status && (zero_point < 0 || zero_point > 255)) status = sxq_error(api, "%s: zero_point is no byte.", op->name);
    if (status) {
      free(made);
      return status;
    }
    made->zero_point = (float)zero_point;
  }
  *kernel = made;
  return NULL;
}

typedef struct {
  const step_kernel* kernel;
  const float* x;
  void* y;
  size_t steps, count;
} job;

/* A task's part of the sums stays in the first cache while the steps are added to it. */
enum { A_TASK = 4096 };

static inline __attribute__((always_inline)) void run(const job* j, size_t index) {
  const size_t first = index * A_TASK;
  const size_t size = j->count - first < A_TASK ? j->count - first : A_TASK;
  const bool bytes = j->kernel->head.op->kind == SXQ_STEP_COUNTS;
  float buffer[A_TASK];
  float* restrict sums = bytes ? buffer : (float*)j->y + first;
  const float* restrict x = j->x + first;
  memset(sums, 0, size * sizeof *sums);
  for (size_t t = 0; t < j->steps; ++t, x += j->count) {
    for (size_t i = 0; i < size; ++i) sums[i] += x[i];
  }
  if (bytes) {
    uint8_t* restrict counts = (uint8_t*)j->y + first;
    const float zero_point = j->kernel->zero_point;
    for (size_t i = 0; i < size; ++i) counts[i] = sxq_byte_of(sums[i] + zero_point, 255.0f);
  }
}

#include "tasks.h"

OrtStatus* sxq_step_sums_compute(void* self, OrtKernelContext* context) {
  const step_kernel* kernel = self;
  const OrtApi* api = kernel->head.api;
  sxq_tensor x;
  job j = {.kernel = kernel, .count = 1};
  OrtStatus* status = sxq_input(api, context, 0, &x);
  if (status) return status;
  if (!x.rank) return sxq_error(api, "%s takes spikes with an axis of steps first.", kernel->head.op->name);
  status = sxq_output(api, context, 0, x.shape + 1, x.rank - 1, &j.y);
  for (size_t axis = 1; axis < x.rank; ++axis) j.count *= (size_t)x.shape[axis];
  if (status || !j.y || !j.count) return status;
  j.x = x.data;
  j.steps = (size_t)x.shape[0];
  return sxq_parallel(api, context, task_for(kernel->head.kernels), (j.count + A_TASK - 1) / A_TASK, &j);
}

/* IntScale and IntResidual: sums in other units, (x gain + offset) >> shift; 64 bits that wrap around, as the bodies' do. */
#include <stdlib.h>

#include "whole.h"

#define RAISE ((uint64_t)1 << 61)

typedef struct {
  sxq_kernel head;
  int shift;
} scale_kernel;

OrtStatus* sxq_integer_scale_create(
    const sxq_operator* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  scale_kernel* made = calloc(1, sizeof *made);
  if (!made) return sxq_out_of_memory(api, op->name);
  made->head = (sxq_kernel){api, op, sxq_kernels_here()};
  OrtStatus* status = sxq_whole_shift(api, info, op->name, &made->shift);
  if (status) {
    free(made);
    return status;
  }
  *kernel = made;
  return NULL;
}

/* Constants of 64 bits: gain and offset, and what a residual carries; of 32: the limits of a scale. */
enum { GAIN, OFFSET, CARRIED, WIDE };
enum { LOW, HIGH, NARROW };

typedef struct {
  const int32_t *x, *counts; /* counts: of a residual */
  int32_t* y;
  const int64_t* wide[WIDE];
  const int32_t* narrow[NARROW];
  bool one_wide[WIDE], one_narrow[NARROW]; /* one number for all channels */
  size_t count, columns, a_task; /* numbers in all, of a row, and of a task: whole rows */
  int shift;
} job;

/* Constants of a block of channels lie side by side, also where there is one for all. */
enum { BLOCK = 256 };

typedef struct {
  int64_t wide[WIDE][BLOCK];
  int32_t narrow[NARROW][BLOCK];
} room;

SXQ_WHOLE_INLINE void spread(const job* j, room* r) {
  for (size_t k = 0; k < WIDE; ++k) {
    for (size_t i = 0; j->one_wide[k] && i < BLOCK; ++i) r->wide[k][i] = *j->wide[k];
  }
  for (size_t k = 0; k < NARROW; ++k) {
    for (size_t i = 0; j->one_narrow[k] && i < BLOCK; ++i) r->narrow[k][i] = *j->narrow[k];
  }
}

SXQ_WHOLE_INLINE const int64_t* wide(const job* j, const room* r, size_t k, size_t column) {
  return j->one_wide[k] ? r->wide[k] : j->wide[k] + column;
}

SXQ_WHOLE_INLINE const int32_t* narrow(const job* j, const room* r, size_t k, size_t column) {
  return j->one_narrow[k] ? r->narrow[k] : j->narrow[k] + column;
}

SXQ_WHOLE_INLINE void run(const job* j, size_t index) {
  const size_t first = index * j->a_task, last = j->count - first < j->a_task ? j->count : first + j->a_task;
  const int shift = j->shift;
  room r;
  spread(j, &r);
  for (size_t start = first, size; start < last; start += size) {
    const size_t column = start % j->columns, left = j->columns - column;
    size = left < BLOCK ? left : BLOCK;
    const int32_t* restrict x = j->x + start;
    int32_t* restrict y = j->y + start;
    const int64_t *restrict gain = wide(j, &r, GAIN, column), *restrict offset = wide(j, &r, OFFSET, column);
    if (j->counts) {
      const int32_t* restrict counts = j->counts + start;
      const int64_t* restrict carried = wide(j, &r, CARRIED, column);
      for (size_t i = 0; i < size; ++i) {
        const uint64_t product = (uint64_t)(int64_t)x[i] * (uint64_t)gain[i];
        const uint64_t brought = (uint64_t)(int64_t)counts[i] * (uint64_t)carried[i];
        y[i] = sxq_shifted(product + brought + (uint64_t)offset[i], RAISE, shift);
      }
    } else {
      const int32_t *restrict low = narrow(j, &r, LOW, column), *restrict high = narrow(j, &r, HIGH, column);
      for (size_t i = 0; i < size; ++i) {
        const uint64_t product = (uint64_t)(int64_t)x[i] * (uint64_t)gain[i];
        y[i] = sxq_within(sxq_shifted(product + (uint64_t)offset[i], RAISE, shift), low[i], high[i]);
      }
    }
  }
}

#include "tasks.h"

enum { NUMBERS_A_TASK = 8192 };

/* What is read beside x, in the order of the inputs. */
static OrtStatus* read_constants(const scale_kernel* kernel, OrtKernelContext* context, const sxq_tensor* x, job* j) {
  const OrtApi* api = kernel->head.api;
  const char* name = kernel->head.op->name;
  const bool residual = kernel->head.op->kind == SXQ_INT_RESIDUAL;
  const size_t order[] = {GAIN, residual ? CARRIED : OFFSET, OFFSET}, numbers = residual ? 3 : 2;
  size_t next = 1;
  sxq_tensor found;
  if (residual) {
    OrtStatus* status = sxq_input(api, context, next++, &found);
    if (!status && !sxq_same_shape(x, &found)) status = sxq_error(api, "%s takes x and counts of one shape.", name);
    if (status) return status;
    j->counts = found.data;
  }
  for (size_t k = 0; k < numbers; ++k) {
    OrtStatus* status = sxq_whole_constants(api, context, name, next++, j->columns, &found);
    if (status) return status;
    j->wide[order[k]] = found.data;
    j->one_wide[order[k]] = found.count == 1;
  }
  for (size_t k = 0; !residual && k < NARROW; ++k) {
    OrtStatus* status = sxq_whole_constants(api, context, name, next++, j->columns, &found);
    if (status) return status;
    j->narrow[k] = found.data;
    j->one_narrow[k] = found.count == 1;
  }
  return NULL;
}

OrtStatus* sxq_integer_scale_compute(void* self, OrtKernelContext* context) {
  const scale_kernel* kernel = self;
  const OrtApi* api = kernel->head.api;
  sxq_tensor x;
  void* y = NULL;
  job j = {.shift = kernel->shift};
  OrtStatus* status = sxq_input(api, context, 0, &x);
  if (status) return status;
  j.columns = x.rank ? (size_t)x.shape[x.rank - 1] : 1;
  status = read_constants(kernel, context, &x, &j);
  if (!status) status = sxq_output(api, context, 0, x.shape, x.rank, &y);
  if (status || !y || !x.count) return status;
  j.x = x.data;
  j.y = y;
  j.count = x.count;
  j.a_task = j.columns * (j.columns < NUMBERS_A_TASK ? NUMBERS_A_TASK / j.columns : 1);
  return sxq_parallel(api, context, task_for(kernel->head.kernels), (j.count + j.a_task - 1) / j.a_task, &j);
}

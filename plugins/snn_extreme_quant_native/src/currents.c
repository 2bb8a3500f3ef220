/* FusedCurrents: neurons and what is computed before them, value by value, as one node (docs/native.md). */
#include "currents.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "neuron_layer.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define EACH for (size_t i = 0; i < n; ++i)

static size_t constants_of(int operation) { return operation <= SXQ_DIV ? 1 : operation == SXQ_CLIP ? 2 : 0; }

OrtStatus* sxq_program_read(
    const OrtApi* api, const OrtKernelInfo* info, const sxq_operator* op, sxq_program* program) {
  int64_t given[SXQ_MOST_OPERATIONS];
  size_t length = SXQ_MOST_OPERATIONS;
  OrtStatus* status = sxq_attribute_ints(api, info, "program", given, &length);
  for (size_t i = 0; !status && i < length; ++i) {
    if (given[i] < 0 || given[i] >= SXQ_OPERATIONS) {
      status = sxq_error(api, "%s has no operation %lld.", op->name, (long long)given[i]);
    } else {
      program->operation[i] = (int)given[i];
    }
  }
  program->length = length;
  return status;
}

/* Whether step k computes `operation` with one number; a quotient by a power of two is a product, bit for bit. */
static bool with_one(const sxq_currents* currents, size_t k, int operation, float* number) {
  if (k >= currents->length || currents->step[k].of_columns) return false;
  const int found = currents->step[k].operation;
  if (operation == SXQ_MUL && found == SXQ_DIV) {
    int exponent;
    const float by = *currents->step[k].a;
    if (fabsf(frexpf(by, &exponent)) != 0.5f || exponent < -60 || exponent > 60) return false;
    *number = 1.0f / by;
    return true;
  }
  if (found != operation) return false;
  if (operation == SXQ_MUL) *number = *currents->step[k].a;
  return true;
}

/* Put one step in place of a quotient, a clip, a product, a rounding and a product: they are computed in one pass. */
static void join_grids(sxq_currents* currents) {
  for (size_t k = 0; k + 4 < currents->length; ++k) {
    float up, down, none;
    if (currents->step[k].operation != SXQ_DIV || !with_one(currents, k + 1, SXQ_CLIP, &none) ||
        !with_one(currents, k + 2, SXQ_MUL, &up) || !with_one(currents, k + 3, SXQ_ROUND, &none) ||
        !with_one(currents, k + 4, SXQ_MUL, &down)) {
      continue;
    }
    currents->step[k].operation = SXQ_ON_GRID;
    currents->step[k].least = currents->step[k + 1].least;
    currents->step[k].most = currents->step[k + 1].most;
    currents->step[k].up = up;
    currents->step[k].down = down;
    currents->length -= 4;
    memmove(&currents->step[k + 1], &currents->step[k + 5], (currents->length - k - 1) * sizeof *currents->step);
  }
}

OrtStatus* sxq_currents_open(
    const OrtApi* api, OrtKernelContext* context, const sxq_operator* op, const sxq_kernels* kernels,
    const sxq_program* program, size_t columns, size_t* next, sxq_currents* currents) {
  *currents = (sxq_currents){.length = program->length, .columns = 1, .kernels = kernels};
  for (size_t i = 0; i < program->length; ++i) {
    const size_t constants = constants_of(program->operation[i]);
    currents->step[i].operation = program->operation[i];
    for (size_t k = 0; k < constants; ++k) {
      sxq_tensor constant;
      OrtStatus* status = sxq_input(api, context, (*next)++, &constant);
      if (status) return status;
      if (constant.type != ORT_TYPE_FLOAT || constant.rank > 1 ||
          (constant.count != 1 && (constants == 2 || constant.count != columns))) {
        return sxq_error(
            api, "%s computes with one number, or one for each of %zu channels; got %zu. Run with native=False.",
            op->name, columns, constant.count);
      }
      if (k) currents->step[i].most = *(const float*)constant.data;
      else currents->step[i].a = constant.data;
      if (constant.count != 1) {
        currents->step[i].of_columns = true;
        currents->columns = columns;
      }
    }
    if (constants == 2) currents->step[i].least = *currents->step[i].a;
  }
  join_grids(currents);
  return NULL;
}

ALWAYS_INLINE float clipped(float x, float least, float most) {
  const float low = x < least ? least : x;
  return low > most ? most : low;
}

/* One step over n values, each operation rounded on its own. */
ALWAYS_INLINE void with_columns(int operation, size_t n, const float* restrict a, float* restrict x) {
  switch (operation) {
    case SXQ_ADD: EACH x[i] += a[i]; break;
    case SXQ_SUB: EACH x[i] -= a[i]; break;
    case SXQ_MUL: EACH x[i] *= a[i]; break;
    default: EACH x[i] /= a[i];
  }
}

ALWAYS_INLINE void with_number(int operation, size_t n, float a, float* restrict x) {
  switch (operation) {
    case SXQ_ADD: EACH x[i] += a; break;
    case SXQ_SUB: EACH x[i] -= a; break;
    case SXQ_MUL: EACH x[i] *= a; break;
    case SXQ_DIV: EACH x[i] /= a; break;
    case SXQ_ROUND: EACH x[i] = rintf(x[i]); break;
    case SXQ_FLOOR: EACH x[i] = floorf(x[i]); break;
    default: EACH x[i] = x[i] > 0.0f ? x[i] : 0.0f;
  }
}

ALWAYS_INLINE void run(const sxq_currents* currents, size_t column, size_t n, float* restrict x) {
  for (size_t k = 0; k < currents->length; ++k) {
    const float* restrict a = currents->step[k].a;
    const int operation = currents->step[k].operation;
    const float least = currents->step[k].least, most = currents->step[k].most;
    const float up = currents->step[k].up, down = currents->step[k].down;
    if (operation == SXQ_CLIP) {
      EACH x[i] = clipped(x[i], least, most);
    } else if (operation == SXQ_ON_GRID && currents->step[k].of_columns) {
      a += column;
      EACH x[i] = rintf(clipped(x[i] / a[i], least, most) * up) * down;
    } else if (operation == SXQ_ON_GRID) {
      const float one = *a;
      EACH x[i] = rintf(clipped(x[i] / one, least, most) * up) * down;
    } else if (currents->step[k].of_columns) {
      with_columns(operation, n, a + column, x);
    } else {
      with_number(operation, n, a ? *a : 0.0f, x);
    }
  }
}

/* The same loops, compiled for what the processor has. */
static void run_portable(const sxq_currents* c, size_t column, size_t count, float* x) { run(c, column, count, x); }
#if defined(__x86_64__)
__attribute__((target("avx2"))) static void run_avx2(const sxq_currents* c, size_t column, size_t count, float* x) {
  run(c, column, count, x);
}
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))) static void run_avx512(
    const sxq_currents* c, size_t column, size_t count, float* x) {
  run(c, column, count, x);
}
#endif

void sxq_currents_run(const sxq_currents* currents, size_t column, size_t count, float* values) {
#if defined(__x86_64__)
  if (currents->kernels == &sxq_kernels_avx512) {
    run_avx512(currents, column, count, values);
    return;
  }
  if (currents->kernels == &sxq_kernels_avx2) {
    run_avx2(currents, column, count, values);
    return;
  }
#endif
  run_portable(currents, column, count, values);
}

/* The node ---------------------------------------------------------------------------------------------------------- */

typedef struct {
  sxq_kernel head;
  const sxq_operator* neuron;
  sxq_program program;
} currents_kernel;

OrtStatus* sxq_currents_create(const sxq_operator* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  char name[SXQ_NAME_LENGTH];
  currents_kernel* made = calloc(1, sizeof *made);
  if (!made) return sxq_out_of_memory(api, op->name);
  made->head = (sxq_kernel){api, op, sxq_kernels_here()};
  OrtStatus* status = sxq_attribute_string(api, info, "neuron", name, sizeof name);
  if (!status) {
    made->neuron = sxq_find_operator(name);
    if (!made->neuron || made->neuron->kind != SXQ_NEURON || made->neuron->spec.integer || made->neuron->outputs != 1) {
      status = sxq_error(api, "%s does not take %s.", op->name, name);
    }
  }
  if (!status) status = sxq_program_read(api, info, op, &made->program);
  if (status) {
    free(made);
    return status;
  }
  *kernel = made;
  return NULL;
}

enum { STEPS_TOGETHER = 16, BLOCKS_A_TASK = 32 };

typedef struct {
  sxq_neuron_layer layer;
  sxq_currents currents;
  const float* x;
  size_t row, blocks; /* neurons of a row, blocks of a row */
} job;

/* Some blocks of neurons of one row of channels each, over all steps. */
static void task(void* data, size_t index) {
  const job* j = data;
  const size_t rows = j->layer.size / j->row, all = rows * j->blocks;
  const size_t last = all - index * BLOCKS_A_TASK < BLOCKS_A_TASK ? all : (index + 1) * BLOCKS_A_TASK;
  sxq_neuron_values values;
  float x[STEPS_TOGETHER][SXQ_BLOCK];
  values.filled = false;
  for (size_t block = index * BLOCKS_A_TASK; block < last; ++block) {
    const size_t column = block % j->blocks * SXQ_BLOCK, first = block / j->blocks * j->row + column;
    const size_t count = j->row - column < SXQ_BLOCK ? j->row - column : SXQ_BLOCK;
    sxq_neuron_values_read(&j->layer, first, count, &values);
    for (size_t t = 0; t < j->layer.steps; t += STEPS_TOGETHER) {
      const size_t steps = j->layer.steps - t < STEPS_TOGETHER ? j->layer.steps - t : STEPS_TOGETHER;
      for (size_t i = 0; i < steps; ++i) {
        memcpy(x[i], j->x + (t + i) * j->layer.size + first, count * sizeof **x);
        sxq_currents_run(&j->currents, j->currents.columns == 1 ? 0 : column, count, x[i]);
      }
      sxq_neuron_values_run(&j->layer, first, count, t, steps, x, SXQ_BLOCK, &values);
    }
  }
}

OrtStatus* sxq_currents_compute(void* self, OrtKernelContext* context) {
  const currents_kernel* kernel = self;
  const sxq_operator* op = kernel->head.op;
  const OrtApi* api = kernel->head.api;
  sxq_tensor x;
  job j = {.layer = {.kernels = kernel->head.kernels, .shift = 1, .bytes = op->spikes != ORT_TYPE_FLOAT}};
  size_t next = 1;
  OrtStatus* status = sxq_input(api, context, 0, &x);
  if (!status && x.type != ORT_TYPE_FLOAT) status = sxq_error(api, "%s: its input has a wrong type.", op->name);
  if (status) return status;
  const size_t columns = x.rank ? (size_t)x.shape[x.rank - 1] : 1;
  status = sxq_currents_open(api, context, op, kernel->head.kernels, &kernel->program, columns, &next, &j.currents);
  if (!status) status = sxq_neuron_layer_open(api, context, kernel->neuron, x.shape, x.rank, next, &j.layer);
  if (status || x.count == 0) return status;
  /* Steps of single neurons have no axis of channels. */
  if (j.currents.columns != 1 && j.layer.size % columns) {
    return sxq_error(api, "%s: its channels are its steps. Run with native=False.", op->name);
  }
  j.row = j.currents.columns == 1 ? j.layer.size : columns;
  j.blocks = (j.row + SXQ_BLOCK - 1) / SXQ_BLOCK;
  j.x = x.data;
  const size_t all = j.layer.size / j.row * j.blocks;
  return sxq_parallel(api, context, task, (all + BLOCKS_A_TASK - 1) / BLOCKS_A_TASK, &j);
}

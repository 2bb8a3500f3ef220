/* FusedValues and FusedCurrents: what is computed value by value, without and with the neurons that read it, as one node
 * (docs/native.md). */
#include "currents.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "neuron_layer.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))
enum { GELU_LANES = 64 };

#define EACH for (size_t i = 0; i < n; ++i)

static size_t constants_of(int operation) {
  return operation <= SXQ_DIV ? 1 : operation == SXQ_CLIP ? 2 : operation == SXQ_GELU ? 3 : 0;
}

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
          (constant.count != 1 && (constants > 1 || constant.count != columns))) {
        return sxq_error(
            api, "%s computes with one number, or one for each of %zu channels; got %zu. Run with native=False.",
            op->name, columns, constant.count);
      }
      const float* number = constant.data;
      if (k == 0) currents->step[i].a = number;
      else if (constants == 2) currents->step[i].most = *number;
      else if (k == 1) currents->step[i].up = *number;
      else currents->step[i].down = *number;
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

/* The error function: below 1 a polynomial of x^2 times x; up to 4 one of x times e^(-x^2), taken off 1; then 1. Both are
 * Chebyshev expansions, fitted to 2^-25. */
ALWAYS_INLINE void error_function(float* restrict x) {
  enum { N = GELU_LANES };
  float power[N], near_one[N];
  int32_t bits[N];
  for (size_t i = 0; i < N; ++i) {
    const float size = fabsf(x[i]), a = size < 4.0f ? size : 4.0f;
    const float square = a * a, n = rintf(square * -1.44269504f);
    const float r = (-square - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    power[i] = p * (r * r) + r + 1.0f;
    bits[i] = ((int32_t)n + 127) * (1 << 23);
    const float t = (a - 2.5f) * (1.0f / 1.5f);
    float g = 9.640452e-05f;
    g = g * t - 0.0002455026f;
    g = g * t + 0.00036786866f;
    g = g * t - 0.0009155638f;
    g = g * t + 0.002425885f;
    g = g * t - 0.005611763f;
    g = g * t + 0.012484035f;
    g = g * t - 0.026997792f;
    g = g * t + 0.05611096f;
    g = g * t - 0.1115214f;
    near_one[i] = g * t + 0.21080635f;
  }
  float two[N];
  memcpy(two, bits, sizeof two);
  for (size_t i = 0; i < N; ++i) {
    const float square = x[i] * x[i], large = 1.0f - power[i] * two[i] * near_one[i];
    float s = 7.8824974e-05f;
    s = s * square - 0.0008018855f;
    s = s * square + 0.005189312f;
    s = s * square - 0.026854329f;
    s = s * square + 0.11283597f;
    s = s * square - 0.37612626f;
    s = s * square + 1.1283791f;
    x[i] = fabsf(x[i]) < 1.0f ? x[i] * s : x[i] < 0.0f ? -large : large;
  }
}

ALWAYS_INLINE void gelu(size_t n, float by, float one, float half, float* restrict x) {
  for (size_t first = 0; first < n; first += GELU_LANES) {
    const size_t here = n - first < GELU_LANES ? n - first : GELU_LANES;
    float e[GELU_LANES] = {0};
    for (size_t i = 0; i < here; ++i) e[i] = x[first + i] / by;
    error_function(e);
    for (size_t i = 0; i < here; ++i) x[first + i] *= half * (e[i] + one);
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
    } else if (operation == SXQ_GELU) {
      gelu(n, *a, up, down, x);
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
  OrtStatus* status = sxq_program_read(api, info, op, &made->program);
  if (!status && op->kind == SXQ_CURRENTS) status = sxq_attribute_string(api, info, "neuron", name, sizeof name);
  if (!status && op->kind == SXQ_CURRENTS) {
    made->neuron = sxq_find_operator(name);
    if (!made->neuron || made->neuron->kind != SXQ_NEURON || made->neuron->spec.integer || made->neuron->outputs != 1) {
      status = sxq_error(api, "%s does not take %s.", op->name, name);
    }
  }
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
  float* y;                  /* of values without neurons */
  size_t count, row, blocks; /* values in all; values, or neurons, of a row, and its blocks */
} job;

/* Some blocks of values of one row of channels each. */
static void values_task(void* data, size_t index) {
  const job* j = data;
  const size_t all = j->count / j->row * j->blocks;
  const size_t last = all - index * BLOCKS_A_TASK < BLOCKS_A_TASK ? all : (index + 1) * BLOCKS_A_TASK;
  for (size_t block = index * BLOCKS_A_TASK; block < last; ++block) {
    const size_t column = block % j->blocks * SXQ_BLOCK, first = block / j->blocks * j->row + column;
    const size_t count = j->row - column < SXQ_BLOCK ? j->row - column : SXQ_BLOCK;
    memcpy(j->y + first, j->x + first, count * sizeof *j->y);
    sxq_currents_run(&j->currents, j->currents.columns == 1 ? 0 : column, count, j->y + first);
  }
}

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
  if (!status && !kernel->neuron) {
    void* y = NULL;
    status = sxq_output(api, context, 0, x.shape, x.rank, &y);
    if (status || !y || x.count == 0) return status;
    j.x = x.data;
    j.y = y;
    j.count = x.count;
    j.row = j.currents.columns == 1 ? x.count : columns;
    j.blocks = (j.row + SXQ_BLOCK - 1) / SXQ_BLOCK;
    const size_t all = j.count / j.row * j.blocks;
    return sxq_parallel(api, context, values_task, (all + BLOCKS_A_TASK - 1) / BLOCKS_A_TASK, &j);
  }
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

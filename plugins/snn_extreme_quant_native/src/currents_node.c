/* FusedValues, FusedCurrents and FusedCounts: what is computed of currents, alone, with the neurons that read it, and
 * with synchronous neurons that count, as one node (docs/native.md). */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "count_bytes.h"
#include "currents.h"
#include "neuron_layer.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* How currents become counts: by which Synchronous... */
typedef enum { ROUNDED, FOLDED, COUNTED } counting;

typedef struct {
  sxq_kernel head;
  const sxq_operator* neuron;
  sxq_program program;
  counting counting;
  float steps, shift, top; /* of counts; `shift` is what a count of 0 is given as */
} currents_kernel;

static OrtStatus* read_counting(currents_kernel* made, const OrtApi* api, const OrtKernelInfo* info, const char* name) {
  int64_t zero = 0, top = 0;
  OrtStatus* status = NULL;
  if (!strcmp(name, "SynchronousRounded")) {
    made->counting = ROUNDED;
    status = sxq_attribute_int(api, info, "zero_point", &zero);
    if (!status) status = sxq_attribute_int(api, info, "top", &top);
    made->shift = (float)zero;
    made->top = (float)top;
  } else if (!strcmp(name, "SynchronousFolded")) {
    made->counting = FOLDED;
    status = sxq_attribute_float(api, info, "top", &made->top);
  } else if (!strcmp(name, "SynchronousCounts") || !strcmp(name, "SynchronousCounts_signed")) {
    made->counting = COUNTED;
    status = sxq_attribute_float(api, info, "steps", &made->steps);
    made->shift = strcmp(name, "SynchronousCounts") ? made->steps : 0.0f; /* signed counts begin at -steps */
    made->top = made->steps + made->shift;
  } else {
    status = sxq_error(api, "%s does not take %s.", made->head.op->name, name);
  }
  if (!status && !(made->top >= 0.0f && made->top <= 255.0f && made->shift >= 0.0f && made->shift <= 255.0f)) {
    status = sxq_error(api, "%s gives counts of up to %g, which is no byte.", made->head.op->name, (double)made->top);
  }
  return status;
}

OrtStatus* sxq_currents_create(const sxq_operator* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  char name[SXQ_NAME_LENGTH];
  currents_kernel* made = calloc(1, sizeof *made);
  if (!made) return sxq_out_of_memory(api, op->name);
  made->head = (sxq_kernel){api, op, sxq_kernels_here()};
  OrtStatus* status = sxq_program_read(api, info, op, &made->program);
  if (!status && op->kind != SXQ_VALUES) status = sxq_attribute_string(api, info, "neuron", name, sizeof name);
  if (!status && op->kind == SXQ_COUNTS) status = read_counting(made, api, info, name);
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

/* Values of a task, where rows of channels go one by one. */
enum { STEPS_TOGETHER = 16, BLOCKS_A_TASK = 32, VALUES_A_TASK = 16384 };

typedef struct {
  const currents_kernel* kernel;
  sxq_neuron_layer layer;
  sxq_currents currents;
  const float* x;
  float* y;                  /* of values without neurons */
  uint8_t* counts;           /* of counts */
  const float *gain, *offset; /* of counts; the first also the threshold */
  size_t gain_step;          /* 0 where these are one number for all */
  size_t count, row, blocks; /* values in all; values, or neurons, of a row, and its blocks */
  size_t columns, rows, rows_a_task; /* where rows go one by one; of a step */
  atomic_bool failed;
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

/* Rows of values, with room for `steps` of them. */
static float* open_room(job* j, size_t steps) {
  float* made = malloc((steps * sizeof(float) + sizeof(int32_t)) * j->columns);
  if (!made) atomic_store(&j->failed, true);
  return made;
}

ALWAYS_INLINE void count_row(const job* j, const float* restrict x, uint8_t* restrict counts) {
  const size_t n = j->columns, step = j->gain_step;
  const float steps = j->kernel->steps, shift = j->kernel->shift, top = j->kernel->top;
  const float *restrict gain = j->gain, *restrict offset = j->offset;
  if (j->kernel->counting == ROUNDED) {
    for (size_t i = 0; i < n; ++i) counts[i] = sxq_byte_of(rintf(x[i]) + shift, top);
  } else if (j->kernel->counting == FOLDED && step) {
    for (size_t i = 0; i < n; ++i) counts[i] = sxq_byte_of(x[i] * gain[i] + offset[i], top);
  } else if (j->kernel->counting == FOLDED) {
    for (size_t i = 0; i < n; ++i) counts[i] = sxq_byte_of(x[i] * *gain + *offset, top);
  } else if (step) {
    for (size_t i = 0; i < n; ++i) counts[i] = sxq_byte_of(sxq_whole_count(x[i], gain[i], steps) + shift, top);
  } else {
    for (size_t i = 0; i < n; ++i) counts[i] = sxq_byte_of(sxq_whole_count(x[i], *gain, steps) + shift, top);
  }
}

static void count_portable(const job* j, const float* x, uint8_t* counts) { count_row(j, x, counts); }
#if defined(__x86_64__)
__attribute__((target("avx2"))) static void count_avx2(const job* j, const float* x, uint8_t* counts) {
  count_row(j, x, counts);
}
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))) static void count_avx512(
    const job* j, const float* x, uint8_t* counts) {
  count_row(j, x, counts);
}
#endif

/* Some rows of values or of counts. */
static void rows_task(void* data, size_t index) {
  job* j = data;
  const size_t first = index * j->rows_a_task;
  const size_t last = j->rows - first < j->rows_a_task ? j->rows : first + j->rows_a_task;
  float* room = open_room(j, 1);
  void (*count)(const job*, const float*, uint8_t*) = count_portable;
#if defined(__x86_64__)
  if (j->currents.kernels == &sxq_kernels_avx512) count = count_avx512;
  else if (j->currents.kernels == &sxq_kernels_avx2) count = count_avx2;
#endif
  for (size_t row = first; room && row < last; ++row) {
    float* values = j->counts ? room : j->y + row * j->columns;
    sxq_currents_row(&j->currents, row, values, (int32_t*)(void*)(room + j->columns));
    if (j->counts) count(j, values, j->counts + row * j->columns);
  }
  free(room);
}

/* Some rows of neurons, over all steps. */
static void neuron_rows_task(void* data, size_t index) {
  job* j = data;
  const size_t first = index * j->rows_a_task, steps = j->layer.steps, columns = j->columns;
  const size_t last = j->rows - first < j->rows_a_task ? j->rows : first + j->rows_a_task;
  const size_t together = steps < STEPS_TOGETHER ? steps : STEPS_TOGETHER;
  const size_t blocks = steps > together ? (columns + SXQ_BLOCK - 1) / SXQ_BLOCK : 1;
  float* room = open_room(j, together);
  sxq_neuron_values* values = malloc(blocks * sizeof *values);
  if (!values) atomic_store(&j->failed, true);
  for (size_t block = 0; values && block < blocks; ++block) values[block].filled = false;
  for (size_t row = first; room && values && row < last; ++row) {
    for (size_t t = 0; t < steps; t += together) {
      const size_t now = steps - t < together ? steps - t : together;
      for (size_t i = 0; i < now; ++i) {
        sxq_currents_row(
            &j->currents, (t + i) * j->rows + row, room + i * columns, (int32_t*)(void*)(room + together * columns));
      }
      for (size_t column = 0, block = 0; column < columns; column += SXQ_BLOCK, ++block) {
        const size_t count = columns - column < SXQ_BLOCK ? columns - column : SXQ_BLOCK;
        sxq_neuron_values* own = &values[blocks > 1 ? block : 0];
        if (t == 0) sxq_neuron_values_read(&j->layer, row * columns + column, count, own);
        sxq_neuron_values_run(&j->layer, row * columns + column, count, t, now, room + column, columns, own);
      }
    }
  }
  free(room);
  free(values);
}

/* Call a task for rows of about as many values as one is worth. */
static OrtStatus* run_rows(
    const OrtApi* api, OrtKernelContext* context, void (*task)(void*, size_t), size_t rows, size_t steps, job* j) {
  const size_t values = j->columns * steps;
  j->rows = rows;
  j->rows_a_task = values < VALUES_A_TASK ? VALUES_A_TASK / values : 1;
  OrtStatus* status = sxq_parallel(api, context, task, (rows + j->rows_a_task - 1) / j->rows_a_task, j);
  return !status && atomic_load(&j->failed) ? sxq_out_of_memory(api, j->kernel->head.op->name) : status;
}

/* Gain and offset of folded neurons; the threshold of others. */
static OrtStatus* read_neurons(const OrtApi* api, OrtKernelContext* context, size_t next, job* j) {
  if (j->kernel->counting == ROUNDED) return NULL;
  sxq_tensor first, second;
  OrtStatus* status = sxq_input(api, context, next, &first);
  if (!status) status = sxq_input(api, context, next + (j->kernel->counting == FOLDED), &second);
  if (status) return status;
  if (first.type != ORT_TYPE_FLOAT || second.type != ORT_TYPE_FLOAT || first.rank > 1 || second.rank > 1 ||
      first.count != second.count || (first.count != 1 && first.count != j->columns)) {
    return sxq_error(
        api, "%s takes numbers for each of %zu neurons, or one for all; got %zu. Run with native=False.",
        j->kernel->head.op->name, j->columns, first.count);
  }
  j->gain = first.data;
  j->offset = second.data;
  j->gain_step = first.count != 1;
  return NULL;
}

/* Values and counts. */
static OrtStatus* compute_values(const OrtApi* api, OrtKernelContext* context, size_t next, const sxq_tensor* x, job* j) {
  void* y = NULL;
  const bool counts = j->kernel->head.op->kind == SXQ_COUNTS;
  OrtStatus* status = counts ? read_neurons(api, context, next, j) : NULL;
  if (!status) status = sxq_output(api, context, 0, j->currents.shape, j->currents.rank, &y);
  if (status || !y || !j->count) return status;
  j->y = y;
  if (counts || j->currents.by_rows) {
    j->counts = counts ? y : NULL;
    return run_rows(api, context, rows_task, j->count / j->columns, 1, j);
  }
  j->x = x->data;
  j->row = j->currents.columns == 1 ? j->count : j->columns;
  j->blocks = (j->row + SXQ_BLOCK - 1) / SXQ_BLOCK;
  const size_t all = j->count / j->row * j->blocks;
  return sxq_parallel(api, context, values_task, (all + BLOCKS_A_TASK - 1) / BLOCKS_A_TASK, j);
}

OrtStatus* sxq_currents_compute(void* self, OrtKernelContext* context) {
  const currents_kernel* kernel = self;
  const sxq_operator* op = kernel->head.op;
  const OrtApi* api = kernel->head.api;
  sxq_tensor x;
  job j = {.kernel = kernel, .layer = {.kernels = kernel->head.kernels, .shift = 1, .bytes = op->spikes != ORT_TYPE_FLOAT}};
  size_t next = 1;
  OrtStatus* status = sxq_input(api, context, 0, &x);
  if (!status && x.type != ORT_TYPE_FLOAT) status = sxq_error(api, "%s: its input has a wrong type.", op->name);
  if (status) return status;
  j.columns = x.rank ? (size_t)x.shape[x.rank - 1] : 1;
  status = sxq_currents_open(api, context, op, kernel->head.kernels, &kernel->program, &x, j.columns, &next, &j.currents);
  if (status) return status;
  if (op->kind == SXQ_COUNTS && !j.currents.by_rows) sxq_currents_by_rows(&j.currents, &x, j.columns);
  j.count = 1;
  for (size_t axis = 0; axis < j.currents.rank; ++axis) j.count *= (size_t)j.currents.shape[axis];
  if (!kernel->neuron) return compute_values(api, context, next, &x, &j);
  status = sxq_neuron_layer_open(api, context, kernel->neuron, j.currents.shape, j.currents.rank, next, &j.layer);
  if (status || j.count == 0) return status;
  /* Steps of single neurons have no axis of channels. */
  if (j.currents.columns != 1 && j.layer.size % j.columns) {
    return sxq_error(api, "%s: its channels are its steps. Run with native=False.", op->name);
  }
  if (j.currents.by_rows) {
    return run_rows(api, context, neuron_rows_task, j.layer.size / j.columns, j.layer.steps, &j);
  }
  j.row = j.currents.columns == 1 ? j.layer.size : j.columns;
  j.blocks = (j.row + SXQ_BLOCK - 1) / SXQ_BLOCK;
  j.x = x.data;
  const size_t all = j.layer.size / j.row * j.blocks;
  return sxq_parallel(api, context, task, (all + BLOCKS_A_TASK - 1) / BLOCKS_A_TASK, &j);
}

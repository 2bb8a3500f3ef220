/* TokenNorm, ExactSigmoid, WeightedAverage and StepWeightedAverage: number by number in the order of their bodies. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "averages.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* The numbers of exported/exponentials.py. */
#define LOG2E 1.44269504088896340736f
#define LN2_UPPER 0.693359375f
#define LN2_LOWER -2.12194440e-4f
#define LEAST_EXPONENT -87.0f
#define MOST_EXPONENT 88.0f
#define MOST_KEY 60.0f

enum { LANES = 8 };

typedef struct {
  sxq_kernel head;
  float epsilon; /* of a norm */
} language_kernel;

OrtStatus* sxq_language_create(const sxq_operator* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  language_kernel* made = calloc(1, sizeof *made);
  if (!made) return sxq_out_of_memory(api, op->name);
  made->head = (sxq_kernel){api, op, sxq_kernels_here()};
  OrtStatus* status = NULL;
  if (op->kind == SXQ_TOKEN_NORM) status = sxq_attribute_float(api, info, "epsilon", &made->epsilon);
  if (status) {
    free(made);
    return status;
  }
  *kernel = made;
  return NULL;
}

/* Within -87 to 88; NaN, which no body defines, becomes a bound. */
ALWAYS_INLINE float exponential(float x) {
  const float whole = rintf(x * LOG2E);
  const float rest = (x - whole * LN2_UPPER) - whole * LN2_LOWER;
  float series = (float)(1.0 / 5040.0);
  series = series * rest + (float)(1.0 / 720.0);
  series = series * rest + (float)(1.0 / 120.0);
  series = series * rest + (float)(1.0 / 24.0);
  series = series * rest + (float)(1.0 / 6.0);
  series = series * rest + 0.5f;
  series = series * rest * rest + rest + 1.0f;
  const uint32_t bits = (uint32_t)((int32_t)whole + 127) << 23;
  float power;
  memcpy(&power, &bits, sizeof power);
  return series * power;
}

ALWAYS_INLINE float bounded(float x, float least, float most) {
  x = x > least ? x : least;
  return x < most ? x : most;
}

/* What a task works on: `rows` of `length`, `a_task` of them. */
typedef struct {
  sxq_kind kind;
  const float *x, *weight, *bias;
  float* y;
  size_t rows, length, a_task;
  double epsilon;
  sxq_averages averages;
} job;

ALWAYS_INLINE void sigmoid(const job* j, size_t first, size_t last) {
  for (size_t i = first; i < last; ++i) {
    j->y[i] = 1.0f / (exponential(bounded(-j->x[i], LEAST_EXPONENT, MOST_EXPONENT)) + 1.0f);
  }
}

/* Both sums are exact, in any order. */
ALWAYS_INLINE void norm_row(const job* j, size_t row) {
  const float* restrict x = j->x + row * j->length;
  float* restrict y = j->y + row * j->length;
  double total[LANES] = {0}, square[LANES] = {0};
  size_t i = 0;
  for (; i + LANES <= j->length; i += LANES) {
    for (size_t l = 0; l < LANES; ++l) {
      const double wide = (double)x[i + l];
      total[l] += wide;
      square[l] += wide * wide;
    }
  }
  for (; i < j->length; ++i) {
    const double wide = (double)x[i];
    total[0] += wide;
    square[0] += wide * wide;
  }
  double sum = 0.0, squares = 0.0;
  for (size_t l = 0; l < LANES; ++l) {
    sum += total[l];
    squares += square[l];
  }
  const double count = (double)j->length, mean = sum / count;
  double variance = squares / count - mean * mean;
  variance = variance > 0.0 ? variance : 0.0;
  const float centre = (float)mean, scale = (float)(1.0 / sqrt(variance + j->epsilon));
  for (i = 0; i < j->length; ++i) y[i] = (x[i] - centre) * scale * j->weight[i] + j->bias[i];
}

/* All tokens of the channels first .. last - 1, of those of all texts. */
ALWAYS_INLINE void average(const job* j, size_t first, size_t last) {
  const sxq_averages* all = &j->averages;
  for (size_t t = 0; t < all->tokens; ++t) {
    const float* restrict key = (const float*)all->key + t * all->length;
    const float* restrict value = (const float*)all->value + t * all->length;
    float* restrict y = (float*)all->average + t * all->length;
    float* restrict a = all->numerator;
    float* restrict b = all->denominator;
    size_t i = first;
    while (i < last) {
      const size_t channel = i % all->channels, left = all->channels - channel;
      const size_t end = last - i < left ? last : i + left;
      const float* restrict decay = (const float*)all->decay + channel;
      const float* restrict bonus = (const float*)all->bonus + channel;
      const size_t count = end - i;
      for (size_t c = 0; c < count; ++c) {
        const float e = exponential(bounded(key[i + c], -MOST_KEY, MOST_KEY)), v = value[i + c];
        const float now = bonus[c] * e;
        const float above = now * v + a[i + c], below = b[i + c] + now;
        y[i + c] = above / below;
        a[i + c] = e * v + a[i + c] * decay[c];
        b[i + c] = e + b[i + c] * decay[c];
      }
      i = end;
    }
  }
}

ALWAYS_INLINE void run(const job* j, size_t index) {
  const size_t first = index * j->a_task, last = j->rows - first < j->a_task ? j->rows : first + j->a_task;
  if (j->kind == SXQ_TOKEN_NORM) {
    for (size_t row = first; row < last; ++row) norm_row(j, row);
  } else if (j->kind == SXQ_EXACT_SIGMOID) {
    sigmoid(j, first, last);
  } else {
    average(j, first, last);
  }
}

#include "tasks.h"

static OrtStatus* start(const language_kernel* kernel, OrtKernelContext* context, job* j) {
  const size_t tasks = (j->rows + j->a_task - 1) / j->a_task;
  return sxq_parallel(kernel->head.api, context, task_for(kernel->head.kernels), tasks, j);
}

enum { NUMBERS_A_TASK = 8192 };

/* A norm or a sigmoid. */
static OrtStatus* by_rows(const language_kernel* kernel, OrtKernelContext* context, job* j) {
  const OrtApi* api = kernel->head.api;
  const char* name = kernel->head.op->name;
  sxq_tensor x;
  OrtStatus* status = sxq_input(api, context, 0, &x);
  if (status) return status;
  j->rows = x.count;
  j->length = 1;
  if (j->kind == SXQ_TOKEN_NORM) {
    sxq_tensor weight, bias;
    status = sxq_input(api, context, 1, &weight);
    if (!status) status = sxq_input(api, context, 2, &bias);
    if (status) return status;
    j->length = x.rank ? (size_t)x.shape[x.rank - 1] : 0;
    if (weight.count != j->length || bias.count != j->length || weight.rank != 1 || bias.rank != 1) {
      return sxq_error(api, "%s takes a weight and a bias for each of the %zu channels.", name, j->length);
    }
    j->weight = weight.data;
    j->bias = bias.data;
    j->rows = j->length ? x.count / j->length : 0;
    j->epsilon = (double)kernel->epsilon;
  }
  void* y = NULL;
  status = sxq_output(api, context, 0, x.shape, x.rank, &y);
  if (status || !y || !x.count) return status;
  j->x = x.data;
  j->y = y;
  j->a_task = j->length < NUMBERS_A_TASK ? NUMBERS_A_TASK / j->length : 1;
  return start(kernel, context, j);
}

static OrtStatus* averages(const language_kernel* kernel, OrtKernelContext* context, job* j) {
  sxq_averages* all = &j->averages;
  OrtStatus* status = sxq_averages_open(kernel->head.api, context, kernel->head.op->name, sizeof(float), all);
  if (!status) {
    j->length = j->rows = all->length;
    const size_t each = all->tokens ? NUMBERS_A_TASK / 4 / all->tokens : NUMBERS_A_TASK;
    j->a_task = each > 64 ? each : 64;
    status = start(kernel, context, j);
  }
  sxq_averages_close(all);
  return status;
}

OrtStatus* sxq_language_compute(void* self, OrtKernelContext* context) {
  const language_kernel* kernel = self;
  job j = {.kind = kernel->head.op->kind};
  return j.kind == SXQ_WEIGHTED_AVERAGE ? averages(kernel, context, &j) : by_rows(kernel, context, &j);
}

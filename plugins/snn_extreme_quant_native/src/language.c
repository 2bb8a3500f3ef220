/* TokenNorm, ExactSigmoid, WeightedAverage and StepWeightedAverage: number by number in the order of their bodies. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "operators.h"

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
  /* of an average: */
  const float *value, *decay, *bonus;
  float *numerator, *denominator; /* the sums, which are changed token by token */
  size_t tokens, channels;
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
  for (size_t t = 0; t < j->tokens; ++t) {
    const float* restrict key = j->x + t * j->length;
    const float* restrict value = j->value + t * j->length;
    float* restrict y = j->y + t * j->length;
    float* restrict a = j->numerator;
    float* restrict b = j->denominator;
    size_t i = first;
    while (i < last) {
      const size_t channel = i % j->channels, left = j->channels - channel;
      const size_t end = last - i < left ? last : i + left;
      const float* restrict decay = j->decay + channel;
      const float* restrict bonus = j->bonus + channel;
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

/* The same loops, compiled for what the processor has. */
static void task_portable(void* data, size_t index) { run(data, index); }
#if defined(__x86_64__)
__attribute__((target("avx2"))) static void task_avx2(void* data, size_t index) { run(data, index); }
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))) static void task_avx512(
    void* data, size_t index) {
  run(data, index);
}
#endif

static OrtStatus* start(const language_kernel* kernel, OrtKernelContext* context, job* j) {
  const OrtApi* api = kernel->head.api;
  const size_t tasks = (j->rows + j->a_task - 1) / j->a_task;
#if defined(__x86_64__)
  if (kernel->head.kernels == &sxq_kernels_avx512) return sxq_parallel(api, context, task_avx512, tasks, j);
  if (kernel->head.kernels == &sxq_kernels_avx2) return sxq_parallel(api, context, task_avx2, tasks, j);
#endif
  return sxq_parallel(api, context, task_portable, tasks, j);
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

static bool same_shape(const sxq_tensor* a, const sxq_tensor* b) {
  return a->rank == b->rank && !memcmp(a->shape, b->shape, a->rank * sizeof *a->shape);
}

static OrtStatus* averages(const language_kernel* kernel, OrtKernelContext* context, job* j) {
  const OrtApi* api = kernel->head.api;
  sxq_tensor in[6];
  for (size_t i = 0; i < 6; ++i) {
    OrtStatus* status = sxq_input(api, context, i, &in[i]);
    if (status) return status;
  }
  const sxq_tensor *key = &in[0], *decay = &in[2], *sums = &in[4];
  const bool fits = key->rank == 3 && same_shape(key, &in[1]) && decay->rank == 1 && same_shape(decay, &in[3]) &&
                    decay->shape[0] == key->shape[2] && same_shape(sums, &in[5]) && sums->rank == 3 &&
                    sums->shape[0] == 1 && sums->shape[1] == key->shape[1] && sums->shape[2] == key->shape[2];
  if (!fits) {
    return sxq_error(
        api, "%s takes keys and values (L, B, d), factors (d) and sums (1, B, d); these do not fit each other.",
        kernel->head.op->name);
  }
  void *y = NULL, *numerator = NULL, *denominator = NULL;
  OrtStatus* status = sxq_output(api, context, 0, key->shape, 3, &y);
  if (!status) status = sxq_output(api, context, 1, sums->shape, 3, &numerator);
  if (!status) status = sxq_output(api, context, 2, sums->shape, 3, &denominator);
  if (status) return status;
  const size_t bytes = sums->count * sizeof(float);
  /* What nothing reads has no place of its own. */
  float* spare = y && numerator && denominator ? NULL : malloc(2 * bytes + key->count * sizeof(float) + 1);
  if (!(y && numerator && denominator)) {
    if (!spare) return sxq_out_of_memory(api, kernel->head.op->name);
    if (!numerator) numerator = spare;
    if (!denominator) denominator = spare + sums->count;
    if (!y) y = spare + 2 * sums->count;
  }
  memcpy(numerator, in[4].data, bytes);
  memcpy(denominator, in[5].data, bytes);
  j->tokens = (size_t)key->shape[0];
  j->length = j->rows = sums->count;
  j->channels = (size_t)key->shape[2];
  j->x = key->data;
  j->value = in[1].data;
  j->decay = decay->data;
  j->bonus = in[3].data;
  j->numerator = numerator;
  j->denominator = denominator;
  j->y = y;
  const size_t each = j->tokens ? NUMBERS_A_TASK / 4 / j->tokens : NUMBERS_A_TASK;
  j->a_task = each > 64 ? each : 64;
  status = j->length ? start(kernel, context, j) : NULL;
  free(spare);
  return status;
}

OrtStatus* sxq_language_compute(void* self, OrtKernelContext* context) {
  const language_kernel* kernel = self;
  job j = {.kind = kernel->head.op->kind};
  return j.kind == SXQ_WEIGHTED_AVERAGE ? averages(kernel, context, &j) : by_rows(kernel, context, &j);
}

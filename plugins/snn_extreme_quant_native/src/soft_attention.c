/* FusedSoftAttention: softmax(q k' + mask) v with real queries and keys and values that are mostly zero, as one node.
 *
 * Queries lie along the lanes: the scores of a key are a sum of those channels of all queries that the key's spikes
 * select, and its value goes to the channels that its own select. Sums are taken in the order of channels, and of keys.
 */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "operators.h"

/* Queries that go together; keys whose powers of two sum up to less than 2^32; the fraction of probabilities. */
enum { LANES = 32, MOST_KEYS = 65535, BITS = 15 };

/* Whole parts of sqrt(2) 2^(BITS + k). */
static const uint32_t stairs[BITS + 1] = {
    46340, 92681, 185363, 370727, 741455, 1482910, 2965820, 5931641, 11863283, 23726566, 47453132, 94906265, 189812531,
    379625062, 759250124, 1518500249};

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define EACH for (size_t i = 0; i < LANES; ++i)

/* Compilers would else take two spikes at a time, and single lanes. */
typedef float lanes __attribute__((vector_size(64), aligned(4), may_alias));
enum { PARTS = LANES * sizeof(float) / sizeof(lanes) };

typedef struct {
  sxq_kernel head;
  bool shift; /* a softmax by shifts */
} soft_kernel;

OrtStatus* sxq_soft_attention_create(const sxq_operator* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  soft_kernel* made = calloc(1, sizeof *made);
  if (!made) return sxq_out_of_memory(api, op->name);
  made->head = (sxq_kernel){api, op, sxq_kernels_here()};
  OrtStatus* status = sxq_attribute_flag(api, info, "shift", &made->shift);
  if (status) {
    free(made);
    return status;
  }
  *kernel = made;
  return NULL;
}

typedef struct {
  bool shift;
  const float *q, *k, *v, *mask;
  float* y;
  size_t places, heads, queries, keys, channels, values; /* places: of the leading axes together */
  size_t leading;                                        /* axes before queries */
  size_t shape[SXQ_MAX_RANK], stride[SXQ_MAX_RANK];      /* of those axes; strides of the mask */
  size_t mask_head, mask_query, mask_key;                /* its other strides */
  atomic_bool failed;
} job;

/* What is not zero in the rows of one head: row r's are count[r] from entries r * width on. */
typedef struct {
  uint32_t *place, *count;
  float* factor;
} lists;

typedef struct {
  lists key, value;
  float* room; /* channels x lanes of queries, keys x lanes of scores, values x lanes of sums */
} scratch;

static void list_rows(const float* x, size_t rows, size_t pitch, size_t width, lists* into) {
  for (size_t row = 0; row < rows; ++row) {
    uint32_t* place = into->place + row * width;
    float* factor = into->factor + row * width;
    uint32_t found = 0;
    for (size_t i = 0; i < width; ++i) {
      uint32_t bits;
      memcpy(&bits, x + row * pitch + i, sizeof bits);
      place[found] = (uint32_t)i;
      memcpy(factor + found, &bits, sizeof bits);
      found += bits << 1 != 0; /* zeros have a sign */
    }
    into->count[row] = found;
  }
}

/* 2 to the powers of whole numbers from -126 to 127. */
ALWAYS_INLINE void powers_of_two(const int32_t* restrict n, float* restrict power) {
  int32_t bits[LANES];
  EACH bits[i] = (n[i] + 127) * (1 << 23);
  memcpy(power, bits, sizeof bits);
}

/* e to the powers x <= 0, in place; 0 below the smallest normal numbers, and for what is no number. Scores without end
   leave differences that are no such powers: they count as 0, so that no conversion overflows. */
ALWAYS_INLINE void powers_of_e(float* restrict x) {
  int32_t whole[LANES];
  float p[LANES], two[LANES];
  EACH {
    const float z = x[i] > -87.0f ? (x[i] < 0.0f ? x[i] : 0.0f) : -87.0f;
    const float n = rintf(z * 1.44269504f);
    const float r = (z - n * 0.693359375f) + n * 2.12194440e-4f;
    whole[i] = (int32_t)n;
    float q = 1.0f / 5040.0f;
    q = q * r + 1.0f / 720.0f;
    q = q * r + 1.0f / 120.0f;
    q = q * r + 1.0f / 24.0f;
    q = q * r + 1.0f / 6.0f;
    q = q * r + 0.5f;
    p[i] = q * (r * r) + r + 1.0f;
  }
  powers_of_two(whole, two);
  EACH x[i] = x[i] > -87.0f ? p[i] * two[i] : 0.0f;
}

/* Powers of two in the place of the exponentials (ShiftSoftmax). Their sums are whole numbers below 2^32. */
ALWAYS_INLINE void shifted(size_t keys, float (*restrict score)[LANES], const float* restrict largest) {
  int32_t total[LANES] = {0}, halvings[LANES] = {0};
  float factor[LANES];
  for (size_t key = 0; key < keys; ++key) {
    float* restrict own = score[key];
    int32_t places[LANES];
    float power[LANES], kept[LANES];
    EACH {
      const float exponent = own[i] - largest[i], raised = exponent + (float)BITS;
      const float least = raised > 0.0f ? raised : 0.0f;
      places[i] = (int32_t)(least < (float)BITS ? least : (float)BITS);
      kept[i] = exponent > -5000.0f ? 1.0f : 0.0f;
    }
    powers_of_two(places, power);
    EACH {
      own[i] = power[i] * kept[i];
      total[i] += (int32_t)own[i];
    }
  }
  /* The sum is nearer to the next power of two, by its logarithm, if it is above sqrt(2) times this one. */
  for (int k = 0; k <= BITS; ++k) {
    EACH halvings[i] -= (uint32_t)total[i] > stairs[k];
  }
  powers_of_two(halvings, factor);
  for (size_t key = 0; key < keys; ++key) {
    float* restrict own = score[key];
    EACH own[i] = floorf(own[i] * factor[i]) * (1.0f / (1 << BITS));
  }
}

/* The exponentials; what their sums are multiplied with goes to `unit`. */
ALWAYS_INLINE void exponentials(
    size_t keys, float (*restrict score)[LANES], const float* restrict largest, float* restrict unit) {
  float total[LANES] = {0};
  for (size_t key = 0; key < keys; ++key) {
    float* restrict own = score[key];
    EACH own[i] -= largest[i];
    powers_of_e(own);
    EACH total[i] += own[i];
  }
  EACH unit[i] = 1.0f / total[i];
}

/* Some queries of one head. */
ALWAYS_INLINE void some_queries(
    const job* j, const scratch* s, const float* q, const float* mask, size_t here, float* y) {
  const size_t pitch = j->heads * j->channels, wide = j->heads * j->values;
  float(*restrict channel)[LANES] = (float(*)[LANES])s->room;
  float(*restrict score)[LANES] = channel + j->channels;
  float(*restrict sum)[LANES] = score + j->keys;
  float largest[LANES], unit[LANES];
  for (size_t c = 0; c < j->channels; ++c) EACH channel[c][i] = 0.0f;
  for (size_t i = 0; i < here; ++i) {
    for (size_t c = 0; c < j->channels; ++c) channel[c][i] = q[i * pitch + c];
  }
  EACH largest[i] = -INFINITY;
  EACH unit[i] = 1.0f;
  for (size_t key = 0; key < j->keys; ++key) {
    const uint32_t* place = s->key.place + key * j->channels;
    const float* factor = s->key.factor + key * j->channels;
    float own[LANES];
    lanes sums[PARTS] = {0};
    for (uint32_t e = 0; e < s->key.count[key]; ++e) {
      const lanes* from = (const lanes*)channel[place[e]];
      for (size_t part = 0; part < PARTS; ++part) sums[part] += factor[e] * from[part];
    }
    memcpy(own, sums, sizeof own);
    if (j->mask_query) {
      for (size_t i = 0; i < here; ++i) own[i] += mask[key * j->mask_key + i * j->mask_query];
    } else {
      const float added = mask[key * j->mask_key];
      EACH own[i] += added;
    }
    if (j->shift) EACH own[i] = floorf(own[i] + 0.5f);
    EACH largest[i] = largest[i] > own[i] ? largest[i] : own[i];
    memcpy(score[key], own, sizeof own);
  }
  if (j->shift) shifted(j->keys, score, largest);
  else exponentials(j->keys, score, largest, unit);
  for (size_t c = 0; c < j->values; ++c) EACH sum[c][i] = 0.0f;
  for (size_t key = 0; key < j->keys; ++key) {
    const uint32_t* place = s->value.place + key * j->values;
    const float* factor = s->value.factor + key * j->values;
    for (uint32_t e = 0; e < s->value.count[key]; ++e) {
      lanes* to = (lanes*)sum[place[e]];
      const lanes* weight = (const lanes*)score[key];
      for (size_t part = 0; part < PARTS; ++part) to[part] += factor[e] * weight[part];
    }
  }
  for (size_t i = 0; i < here; ++i) {
    for (size_t c = 0; c < j->values; ++c) y[i * wide + c] = sum[c][i] * unit[i];
  }
}

static bool open_lists(size_t rows, size_t width, lists* made) {
  made->place = malloc((rows * width + 1) * sizeof *made->place);
  made->factor = malloc((rows * width + 1) * sizeof *made->factor);
  made->count = malloc((rows + 1) * sizeof *made->count);
  return made->place && made->factor && made->count;
}

static void close_lists(lists* made) {
  free(made->place);
  free(made->factor);
  free(made->count);
}

/* One head of one place of the leading axes. */
ALWAYS_INLINE void run(job* j, size_t index) {
  const size_t place = index / j->heads, head = index % j->heads;
  const size_t pitch = j->heads * j->channels, wide = j->heads * j->values;
  scratch s = {.room = malloc((j->channels + j->keys + j->values) * LANES * sizeof *s.room)};
  const bool opened = open_lists(j->keys, j->channels, &s.key);
  if (!s.room || !open_lists(j->keys, j->values, &s.value) || !opened) {
    atomic_store(&j->failed, true);
  } else {
    const float* mask = j->mask + head * j->mask_head;
    for (size_t axis = j->leading, rest = place; axis-- > 0; rest /= j->shape[axis]) {
      mask += rest % j->shape[axis] * j->stride[axis];
    }
    list_rows(j->k + place * j->keys * pitch + head * j->channels, j->keys, pitch, j->channels, &s.key);
    list_rows(j->v + place * j->keys * wide + head * j->values, j->keys, wide, j->values, &s.value);
    for (size_t first = 0; first < j->queries; first += LANES) {
      const size_t here = j->queries - first < LANES ? j->queries - first : LANES;
      some_queries(
          j, &s, j->q + (place * j->queries + first) * pitch + head * j->channels, mask + first * j->mask_query, here,
          j->y + (place * j->queries + first) * wide + head * j->values);
    }
  }
  free(s.room);
  close_lists(&s.key);
  close_lists(&s.value);
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

/* Shapes (..., queries, heads, channels) of q, (..., keys, heads, channels) of k and v; the mask broadcasts to
 * (..., heads, queries, keys). */
static OrtStatus* open(const soft_kernel* kernel, OrtKernelContext* context, sxq_tensor* q, job* j) {
  const OrtApi* api = kernel->head.api;
  const char* name = kernel->head.op->name;
  sxq_tensor k, v, mask;
  OrtStatus* status = sxq_input(api, context, 0, q);
  if (!status) status = sxq_input(api, context, 1, &k);
  if (!status) status = sxq_input(api, context, 2, &v);
  if (!status) status = sxq_input(api, context, 3, &mask);
  if (status) return status;
  const bool floats = q->type == ORT_TYPE_FLOAT && k.type == ORT_TYPE_FLOAT && v.type == ORT_TYPE_FLOAT &&
                      mask.type == ORT_TYPE_FLOAT;
  const size_t rank = q->rank;
  bool fits = floats && rank >= 3 && k.rank == rank && v.rank == rank && mask.rank <= rank;
  for (size_t axis = 0; fits && axis < rank; ++axis) {
    fits = axis == rank - 3 ? k.shape[axis] == v.shape[axis]
                            : q->shape[axis] == k.shape[axis] && (axis == rank - 1 || k.shape[axis] == v.shape[axis]);
  }
  if (!fits) {
    return sxq_error(api, "%s takes queries, keys and values of one shape, (..., S, heads, channels). Run with native=False.", name);
  }
  j->leading = rank - 3;
  j->places = 1;
  for (size_t axis = 0; axis < j->leading; ++axis) j->places *= j->shape[axis] = (size_t)q->shape[axis];
  j->queries = (size_t)q->shape[rank - 3];
  j->keys = (size_t)k.shape[rank - 3];
  j->heads = (size_t)q->shape[rank - 2];
  j->channels = (size_t)q->shape[rank - 1];
  j->values = (size_t)v.shape[rank - 1];
  if (j->keys > MOST_KEYS) return sxq_error(api, "%s takes up to %d keys; got %zu.", name, MOST_KEYS, j->keys);
  size_t stride = 1;
  for (size_t back = 0; back < mask.rank; ++back) {
    const size_t axis = rank - 1 - back, length = (size_t)mask.shape[mask.rank - 1 - back];
    const size_t wanted = back == 0 ? j->keys : back == 1 ? j->queries : back == 2 ? j->heads : j->shape[axis];
    if (length != wanted && length != 1) {
      return sxq_error(api, "%s: the mask does not broadcast to the scores. Run with native=False.", name);
    }
    const size_t own = length == 1 ? 0 : stride;
    if (back == 0) j->mask_key = own;
    else if (back == 1) j->mask_query = own;
    else if (back == 2) j->mask_head = own;
    else j->stride[axis] = own;
    stride *= length;
  }
  j->q = q->data;
  j->k = k.data;
  j->v = v.data;
  j->mask = mask.data;
  q->shape[rank - 1] = v.shape[rank - 1];
  return NULL;
}

OrtStatus* sxq_soft_attention_compute(void* self, OrtKernelContext* context) {
  const soft_kernel* kernel = self;
  const OrtApi* api = kernel->head.api;
  const char* name = kernel->head.op->name;
  sxq_tensor q;
  void* y = NULL;
  job j = {.shift = kernel->shift};
  OrtStatus* status = open(kernel, context, &q, &j);
  if (!status) status = sxq_output(api, context, 0, q.shape, q.rank, &y);
  const size_t tasks = j.places * j.heads;
  if (status || !y || !tasks || !j.queries || !j.values) return status;
  if (!j.keys) return sxq_error(api, "%s takes at least one key; got none.", name);
  j.y = y;
  void (*task)(void*, size_t) = task_portable;
#if defined(__x86_64__)
  if (kernel->head.kernels == &sxq_kernels_avx512) task = task_avx512;
  else if (kernel->head.kernels == &sxq_kernels_avx2) task = task_avx2;
#endif
  status = sxq_parallel(api, context, task, tasks, &j);
  return !status && atomic_load(&j.failed) ? sxq_out_of_memory(api, name) : status;
}

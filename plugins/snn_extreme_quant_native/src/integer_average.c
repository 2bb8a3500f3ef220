/* IntWeightedAverage and StepIntWeightedAverage: token by token, in 64 bits that wrap around as those of the bodies do. */
#include <stdatomic.h>
#include <stdlib.h>

#include "averages.h"
#include "powers.h"
#include "whole.h"

/* The numbers of exported/token_tables.py: exponents of keys are below 15 octaves, powers units of 2^-18. */
enum { KEY_LIMIT = 15 * SXQ_OCTAVE - 1, KEY_RAISE = 15 * SXQ_OCTAVE, TOO_LONG = 11, DECAY_BITS = 16, BLOCK = 256 };

#define RAISE ((uint64_t)1 << 62)

OrtStatus* sxq_integer_average_create(
    const sxq_operator* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  (void)info;
  sxq_kernel* made = malloc(sizeof *made);
  if (!made) return sxq_out_of_memory(api, op->name);
  *made = (sxq_kernel){api, op, sxq_kernels_here()};
  *kernel = made;
  return NULL;
}

typedef struct {
  sxq_averages averages;
  size_t a_task;
  atomic_bool failed;
} job;

SXQ_WHOLE_INLINE uint64_t key_power(int32_t key) {
  const uint32_t exponent = (uint32_t)(sxq_within(key, -KEY_LIMIT, KEY_LIMIT) + KEY_RAISE);
  return sxq_powers[exponent % SXQ_OCTAVE] << exponent / SXQ_OCTAVE >> TOO_LONG;
}

/* (sum decay) >> 16, in halves, as the product of the whole would need more than 64 bits. */
SXQ_WHOLE_INLINE uint64_t decayed(uint64_t sum, int64_t decay) {
  const uint64_t high = ((sum + RAISE) >> DECAY_BITS) - (RAISE >> DECAY_BITS);
  const int64_t low = (int64_t)((sum - (high << DECAY_BITS)) * (uint64_t)decay);
  /* Rounded to 0, as the body has it; within the limits it is not negative. */
  const int64_t less = low >> 63 & (((int64_t)1 << DECAY_BITS) - 1);
  return high * (uint64_t)decay + (uint64_t)((low + less) >> DECAY_BITS);
}

/* What the averages of some channels are divided of. */
typedef struct {
  int64_t size[BLOCK], total[BLOCK], sign[BLOCK];
} quotients;

/* One token of `count` channels: the sums before it go into the quotients, and behind it into their places. */
SXQ_WHOLE_INLINE void accumulate(
    const int32_t* restrict key, const int32_t* restrict value, const int64_t* restrict decay,
    const int32_t* restrict bonus, uint64_t* restrict a, uint64_t* restrict b, size_t count, quotients* restrict q) {
  for (size_t c = 0; c < count; ++c) {
    const uint64_t e = key_power(key[c]), v = (uint64_t)(int64_t)value[c];
    const uint64_t now = key_power((int32_t)((uint32_t)key[c] + (uint32_t)bonus[c]));
    const uint64_t total = b[c] + now, above = now * v + a[c];
    /* -1 below 0 and else 1; beyond the limits more, as in the body. */
    const uint64_t sign = ((above + RAISE) >> 62) * 2 - 1;
    q->sign[c] = (int64_t)sign;
    q->total[c] = (int64_t)total;
    q->size[c] = (int64_t)(above * sign + (uint64_t)((int64_t)total / 2));
    a[c] = decayed(a[c], decay[c]) + e * v;
    b[c] = decayed(b[c], decay[c]) + e;
  }
}

/* Returns whether all could be divided, which within the limits they can. */
SXQ_WHOLE_INLINE bool divide(const quotients* q, size_t count, int32_t* restrict y) {
  bool divided = true;
  for (size_t c = 0; c < count; ++c) {
    const bool legal = q->total[c] != 0 && (q->total[c] != -1 || q->size[c] != INT64_MIN);
    divided = divided && legal;
    const int64_t quotient = legal ? q->size[c] / q->total[c] : 0;
    y[c] = (int32_t)(uint32_t)((uint64_t)quotient * (uint64_t)q->sign[c]);
  }
  return divided;
}

/* All tokens of the channels first .. last - 1, of those of all texts. */
SXQ_WHOLE_INLINE void run(job* j, size_t index) {
  const sxq_averages* all = &j->averages;
  const size_t first = index * j->a_task, last = all->length - first < j->a_task ? all->length : first + j->a_task;
  quotients q;
  for (size_t t = 0; t < all->tokens; ++t) {
    const size_t token = t * all->length;
    for (size_t i = first, count; i < last; i += count) {
      const size_t channel = i % all->channels;
      count = last - i < BLOCK ? last - i : BLOCK;
      if (count > all->channels - channel) count = all->channels - channel;
      accumulate(
          (const int32_t*)all->key + token + i, (const int32_t*)all->value + token + i,
          (const int64_t*)all->decay + channel, (const int32_t*)all->bonus + channel, (uint64_t*)all->numerator + i,
          (uint64_t*)all->denominator + i, count, &q);
      if (!divide(&q, count, (int32_t*)all->average + token + i)) atomic_store(&j->failed, true);
    }
  }
}

#include "tasks.h"

enum { NUMBERS_A_TASK = 2048, LEAST_A_TASK = 64 };

OrtStatus* sxq_integer_average_compute(void* self, OrtKernelContext* context) {
  const sxq_kernel* kernel = self;
  const OrtApi* api = kernel->api;
  job j = {.a_task = LEAST_A_TASK};
  OrtStatus* status = sxq_averages_open(api, context, kernel->op->name, sizeof(int64_t), &j.averages);
  if (!status) {
    const size_t tokens = j.averages.tokens, each = tokens ? NUMBERS_A_TASK / tokens : NUMBERS_A_TASK;
    if (each > j.a_task) j.a_task = each;
    const size_t tasks = (j.averages.length + j.a_task - 1) / j.a_task;
    status = sxq_parallel(api, context, task_for(kernel->kernels), tasks, &j);
  }
  sxq_averages_close(&j.averages);
  if (!status && atomic_load(&j.failed)) {
    status = sxq_error(
        api, "%s: a denominator that comes in is beyond its limits, 0 to 2^47, and cannot be divided by.",
        kernel->op->name);
  }
  return status;
}

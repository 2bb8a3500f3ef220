/* One head of FusedSoftAttention.
 *
 * Queries lie along the lanes. The scores of a key are a sum of the channels of all queries, times its own; the results
 * are sums of scores, times values. Few spikes select channels and keys one by one; else everything is multiplied. Sums
 * are taken in the order of channels, and of keys. Compiled so that a product and a sum may be rounded as one: sums that
 * the exporter calls exact are exact so, too.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "soft_attention.h"

enum { LANES = SXQ_QUERIES, BITS = SXQ_PROBABILITY_BITS };

/* Whole parts of sqrt(2) 2^(BITS + k). */
static const uint32_t stairs[BITS + 1] = {
    46340, 92681, 185363, 370727, 741455, 1482910, 2965820, 5931641, 11863283, 23726566, 47453132, 94906265, 189812531,
    379625062, 759250124, 1518500249};

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define EACH for (size_t i = 0; i < LANES; ++i)

/* Compilers would else take two spikes at a time, and single lanes. */
typedef float lanes __attribute__((vector_size(64), aligned(4), may_alias));
enum { PARTS = LANES * sizeof(float) / sizeof(lanes) };

/* The keys, or values, of a head: all of them, and for channel c the rows in which it is not zero, count[c] entries from
 * c * rows on. */
typedef struct {
  size_t rows, width;
  float* all;
  uint32_t *place, *count;
  bool sparse; /* so few are not zero that the entries are to be used */
} rows_of;

/* Where more entries than this share are not zero, everything is multiplied (measured). */
#define FEW 0.2

static const void* at(const sxq_attention_input* input, size_t index) {
  return (const char*)input->data + (input->bytes ? index : 4 * index);
}

ALWAYS_INLINE void read_row(const sxq_attention_input* input, const void* from, float* restrict to) {
  if (input->bytes) {
    const uint8_t* restrict counts = from;
    for (size_t i = 0; i < input->width; ++i) to[i] = (float)(counts[i] - input->zero) * input->scale;
  } else {
    memcpy(to, from, input->width * sizeof *to);
  }
}

/* Which of up to 32 values are not zero. */
ALWAYS_INLINE uint32_t not_zero(const float* x, size_t count) {
  uint32_t found = 0, bits[32] = {0};
  memcpy(bits, x, count * sizeof *x);
  for (uint32_t i = 0; i < 32; ++i) found |= bits[i] << 1 ? (uint32_t)1 << i : 0; /* zeros have a sign */
  return found;
}

ALWAYS_INLINE void read_rows(const sxq_attention_input* input, size_t first, rows_of* to) {
  size_t total = 0;
  const size_t few = (size_t)(FEW * (double)(to->rows * to->width));
  memset(to->count, 0, to->width * sizeof *to->count);
  for (size_t row = 0; row < to->rows; ++row) {
    float* own = to->all + row * to->width;
    read_row(input, at(input, first + row * input->row), own);
    for (size_t c = 0; total <= few && c < to->width; c += 32) {
      uint32_t left = to->width - c < 32 ? not_zero(own + c, to->width - c) : not_zero(own + c, 32);
      for (; left; left &= left - 1, ++total) {
        const size_t channel = c + (size_t)__builtin_ctz(left);
        to->place[channel * to->rows + to->count[channel]++] = (uint32_t)row;
      }
    }
  }
  to->sparse = total <= few;
}

/* 2 to the power of a whole number from -126 to 127. */
ALWAYS_INLINE float power_of_two(int32_t n) {
  const int32_t bits = (n + 127) * (1 << 23);
  float power;
  memcpy(&power, &bits, sizeof power);
  return power;
}

/* e to the power x <= 0; 0 below the smallest normal numbers, and for what is no number. Scores without end leave
   differences that are no such powers: they count as 0, so that no conversion overflows. */
ALWAYS_INLINE float power_of_e(float x) {
  const float z = x > -87.0f ? (x < 0.0f ? x : 0.0f) : -87.0f;
  const float n = rintf(z * 1.44269504f);
  const float r = (z - n * 0.693359375f) + n * 2.12194440e-4f;
  float q = 1.0f / 5040.0f;
  q = q * r + 1.0f / 720.0f;
  q = q * r + 1.0f / 120.0f;
  q = q * r + 1.0f / 24.0f;
  q = q * r + 1.0f / 6.0f;
  q = q * r + 0.5f;
  const float p = q * (r * r) + r + 1.0f;
  return x > -87.0f ? p * power_of_two((int32_t)n) : 0.0f;
}

/* Lanes of the sums, or of the largest, of all keys: four keys at a time, as each waits for the one before. */
#define OVER_KEYS(WHAT)                                                             \
  size_t key = 0;                                                                   \
  for (; key + 4 <= keys; key += 4) {                                               \
    const float *a = score[key], *b = score[key + 1], *c = score[key + 2], *d = score[key + 3]; \
    EACH found[i] = WHAT(found[i], WHAT(WHAT(a[i], b[i]), WHAT(c[i], d[i])));       \
  }                                                                                 \
  for (; key < keys; ++key) EACH found[i] = WHAT(found[i], score[key][i]);
#define LARGER(a, b) ((a) > (b) ? (a) : (b))
#define SUM(a, b) ((a) + (b))

ALWAYS_INLINE void largest_of(size_t keys, float (*restrict score)[LANES], float* restrict found) {
  EACH found[i] = -INFINITY;
  OVER_KEYS(LARGER)
}

ALWAYS_INLINE void sum_of(size_t keys, float (*restrict score)[LANES], float* restrict found) {
  EACH found[i] = 0.0f;
  OVER_KEYS(SUM)
}

/* Powers of two in the place of the exponentials (ShiftSoftmax). Their sums are whole numbers below 2^32. */
ALWAYS_INLINE void shifted(size_t keys, float (*restrict score)[LANES], const float* restrict largest) {
  int32_t total[LANES] = {0}, halvings[LANES] = {0};
  float factor[LANES];
  for (size_t key = 0; key < keys; ++key) {
    float* restrict own = score[key];
    EACH {
      const float exponent = own[i] - largest[i], raised = exponent + (float)BITS;
      const float least = raised > 0.0f ? raised : 0.0f;
      const float power = power_of_two((int32_t)(least < (float)BITS ? least : (float)BITS));
      own[i] = exponent > -5000.0f ? power : 0.0f;
    }
  }
  for (size_t key = 0; key < keys; ++key) EACH total[i] += (int32_t)score[key][i];
  /* The sum is nearer to the next power of two, by its logarithm, if it is above sqrt(2) times this one. */
  for (int k = 0; k <= BITS; ++k) {
    EACH halvings[i] -= (uint32_t)total[i] > stairs[k];
  }
  EACH factor[i] = power_of_two(halvings[i]);
  for (size_t key = 0; key < keys; ++key) {
    float* restrict own = score[key];
    EACH own[i] = floorf(own[i] * factor[i]) * (1.0f / (1 << BITS));
  }
}

/* The exponentials; what their sums are multiplied with goes to `unit`. */
ALWAYS_INLINE void exponentials(
    size_t keys, float (*restrict score)[LANES], const float* restrict largest, float* restrict unit) {
  for (size_t key = 0; key < keys; ++key) {
    float* restrict own = score[key];
    EACH own[i] = power_of_e(own[i] - largest[i]);
  }
  sum_of(keys, score, unit);
  EACH unit[i] = 1.0f / unit[i];
}

/* to[c][r] = from[r][c] of rows that lie `pitch` and `to_pitch` apart. */
ALWAYS_INLINE void transpose(
    const float* from, size_t rows, size_t columns, size_t pitch, float* to, size_t to_pitch) {
  size_t r = 0;
#if defined(__x86_64__)
  for (; r + 4 <= rows; r += 4) {
    const float* own = from + r * pitch;
    size_t c = 0;
    for (; c + 4 <= columns; c += 4) {
      __m128 a = _mm_loadu_ps(own + c), b = _mm_loadu_ps(own + pitch + c);
      __m128 d = _mm_loadu_ps(own + 2 * pitch + c), e = _mm_loadu_ps(own + 3 * pitch + c);
      _MM_TRANSPOSE4_PS(a, b, d, e);
      _mm_storeu_ps(to + c * to_pitch + r, a);
      _mm_storeu_ps(to + (c + 1) * to_pitch + r, b);
      _mm_storeu_ps(to + (c + 2) * to_pitch + r, d);
      _mm_storeu_ps(to + (c + 3) * to_pitch + r, e);
    }
    for (; c < columns; ++c) {
      for (size_t i = 0; i < 4; ++i) to[c * to_pitch + r + i] = own[i * pitch + c];
    }
  }
#endif
  for (; r < rows; ++r) {
    for (size_t c = 0; c < columns; ++c) to[c * to_pitch + r] = from[r * pitch + c];
  }
}

/* to[r] = sum_i factor[r * row + i * step] * from[i], for some r. */
ALWAYS_INLINE void multiply_some(
    size_t together, size_t count, const float* factor, size_t row, size_t step, float (*from)[LANES], float (*to)[LANES]) {
  lanes sum[8][PARTS] = {0};
  for (size_t i = 0; i < count; ++i) {
    const lanes* own = (const lanes*)from[i];
    for (size_t r = 0; r < together; ++r) {
      const float by = factor[r * row + i * step];
      for (size_t part = 0; part < PARTS; ++part) sum[r][part] += by * own[part];
    }
  }
  memcpy(to, sum, together * sizeof *to);
}

/* The same for all of `rows`; as many go together as registers hold. */
ALWAYS_INLINE void multiply(
    size_t together, size_t rows, size_t count, const float* factor, size_t row, size_t step, float (*from)[LANES],
    float (*to)[LANES]) {
  size_t r = 0;
  for (; r + together <= rows; r += together) multiply_some(together, count, factor + r * row, row, step, from, to + r);
  for (; r < rows; ++r) multiply_some(1, count, factor + r * row, row, step, from, to + r);
}

/* Scores of all keys, without the mask. */
ALWAYS_INLINE void multiply_keys(size_t together, const rows_of* keys, float (*channel)[LANES], float (*score)[LANES]) {
  if (!keys->sparse) {
    multiply(together, keys->rows, keys->width, keys->all, keys->width, 1, channel, score);
    return;
  }
  memset(score, 0, keys->rows * sizeof *score);
  for (size_t c = 0; c < keys->width; ++c) {
    const uint32_t* place = keys->place + c * keys->rows;
    lanes own[PARTS];
    memcpy(own, channel[c], sizeof own);
    for (uint32_t e = 0; e < keys->count[c]; ++e) {
      lanes* to = (lanes*)score[place[e]];
      const float factor = keys->all[place[e] * keys->width + c];
      for (size_t part = 0; part < PARTS; ++part) to[part] += factor * own[part];
    }
  }
}

/* Sums of the values, each times its key's weights. */
ALWAYS_INLINE void multiply_values(size_t together, const rows_of* values, float (*weight)[LANES], float (*sum)[LANES]) {
  if (!values->sparse) {
    multiply(together, values->width, values->rows, values->all, 1, values->width, weight, sum);
    return;
  }
  for (size_t c = 0; c < values->width; ++c) {
    const uint32_t* place = values->place + c * values->rows;
    lanes total[PARTS] = {0};
    for (uint32_t e = 0; e < values->count[c]; ++e) {
      const lanes* own = (const lanes*)weight[place[e]];
      const float factor = values->all[place[e] * values->width + c];
      for (size_t part = 0; part < PARTS; ++part) total[part] += factor * own[part];
    }
    memcpy(sum[c], total, sizeof total);
  }
}

typedef struct {
  rows_of key, value;
  float* room; /* channels x lanes of queries, keys x lanes of scores, values x lanes of sums */
} scratch;

/* Some queries of one head, from element `q` on. */
ALWAYS_INLINE void some_queries(
    size_t together, const sxq_soft_attention* a, const scratch* s, size_t q, const float* mask, size_t here, float* y) {
  const size_t channels = a->q.width, values = a->v.width, pitch = a->heads * values;
  float(*restrict channel)[LANES] = (float(*)[LANES])s->room;
  float(*restrict score)[LANES] = channel + channels;
  float(*restrict sum)[LANES] = score + a->keys;
  float largest[LANES], unit[LANES];
  if (here < LANES) memset(channel, 0, channels * sizeof *channel);
  transpose((const float*)a->q.data + q, here, channels, a->q.row, channel[0], LANES);
  multiply_keys(together, &s->key, channel, score);
  if (s->key.rows < a->keys) { /* one key, repeated along the mask */
    for (size_t key = 1; key < a->keys; ++key) memcpy(score[key], score[0], sizeof *score);
  }
  EACH unit[i] = 1.0f;
  for (size_t key = 0; key < a->keys; ++key) {
    float* restrict own = score[key];
    if (a->mask_query) {
      for (size_t i = 0; i < here; ++i) own[i] += mask[key * a->mask_key + i * a->mask_query];
    } else {
      const float added = mask[key * a->mask_key];
      EACH own[i] += added;
    }
    if (a->shift) EACH own[i] = floorf(own[i] + 0.5f);
  }
  largest_of(a->keys, score, largest);
  if (a->shift) shifted(a->keys, score, largest);
  else exponentials(a->keys, score, largest, unit);
  multiply_values(together, &s->value, score, sum);
  for (size_t c = 0; c < values; ++c) EACH sum[c][i] *= unit[i];
  transpose(sum[0], values, here, LANES, y, pitch);
}

static bool open_rows(size_t rows, const sxq_attention_input* input, rows_of* made) {
  made->rows = rows;
  made->width = input->width;
  made->all = malloc((rows * made->width + 1) * sizeof *made->all);
  made->place = malloc((rows * made->width + 1) * sizeof *made->place);
  made->count = malloc((made->width + 1) * sizeof *made->count);
  return made->all && made->place && made->count;
}

static void close_rows(rows_of* made) {
  free(made->all);
  free(made->place);
  free(made->count);
}

ALWAYS_INLINE void run(size_t together, sxq_soft_attention* a, size_t index) {
  const size_t head = index % a->heads, place = index / a->heads, values = a->v.width;
  scratch s = {.room = malloc((a->q.width + a->keys + values) * LANES * sizeof *s.room)};
  const bool opened = open_rows(a->k.row ? a->keys : 1, &a->k, &s.key);
  if (!open_rows(a->keys, &a->v, &s.value) || !opened || !s.room) {
    atomic_store(&a->failed, true);
  } else {
    size_t q = head * a->q.head, k = head * a->k.head, v = head * a->v.head, m = head * a->mask_head;
    for (size_t axis = a->leading, rest = place; axis-- > 0; rest /= a->shape[axis]) {
      const size_t here = rest % a->shape[axis];
      q += here * a->q.lead[axis];
      k += here * a->k.lead[axis];
      v += here * a->v.lead[axis];
      m += here * a->mask_lead[axis];
    }
    read_rows(&a->k, k, &s.key);
    read_rows(&a->v, v, &s.value);
    for (size_t first = 0; first < a->queries; first += LANES) {
      some_queries(
          together, a, &s, q + first * a->q.row, a->mask + m + first * a->mask_query,
          a->queries - first < LANES ? a->queries - first : LANES,
          a->y + ((place * a->queries + first) * a->heads + head) * values);
    }
  }
  free(s.room);
  close_rows(&s.key);
  close_rows(&s.value);
}

/* The same loops, compiled for what the processor has. */
static void run_portable(sxq_soft_attention* a, size_t index) { run(2, a, index); }
#if defined(__x86_64__)
__attribute__((target("avx2"))) static void run_avx2(sxq_soft_attention* a, size_t index) { run(2, a, index); }
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))) static void run_avx512(
    sxq_soft_attention* a, size_t index) {
  run(8, a, index);
}
#endif

void sxq_soft_attention_task(void* data, size_t index) {
  sxq_soft_attention* a = data;
#if defined(__x86_64__)
  if (a->kernels == &sxq_kernels_avx512) {
    run_avx512(a, index);
    return;
  }
  if (a->kernels == &sxq_kernels_avx2) {
    run_avx2(a, index);
    return;
  }
#endif
  run_portable(a, index);
}

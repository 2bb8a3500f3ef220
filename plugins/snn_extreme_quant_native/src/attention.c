/* FusedAttention_...: (q k) v of matrices of bytes, as one node (docs/native.md).
 *
 * Integer sums may be added in any order, so many keys go another way than the two products: q (k v), where both products
 * are sums of the few rows that spikes select.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "operators.h"

/* Keys from which on rows are selected; tasks for the session's threads; the largest sum of 16 bits. */
enum { FEW_KEYS = 16, TASKS = 8, LARGEST_SUM = 65535 };
enum { QUERY, KEY, VALUE, MATRICES };

typedef struct {
  sxq_kernel head;
  int64_t order[MATRICES][SXQ_MAX_RANK]; /* of the axes, as of a Transpose */
  size_t axes[MATRICES];                 /* how many; 0 where there is no Transpose */
  bool has_factor, scores_signed;
} attention_kernel;

OrtStatus* sxq_attention_create(const sxq_operator* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  static const char* const names[MATRICES] = {"query_order", "key_order", "value_order"};
  attention_kernel* made = calloc(1, sizeof *made);
  if (!made) return sxq_out_of_memory(api, op->name);
  made->head = (sxq_kernel){api, op, sxq_kernels_here()};
  OrtStatus* status = sxq_attribute_flag(api, info, "has_factor", &made->has_factor);
  if (!status) status = sxq_attribute_flag(api, info, "scores_signed", &made->scores_signed);
  for (int i = 0; !status && i < MATRICES; ++i) {
    size_t length = SXQ_MAX_RANK, seen = 0;
    status = sxq_attribute_ints(api, info, names[i], made->order[i], &length);
    if (status || (length == 1 && made->order[i][0] < 0)) continue; /* as they are */
    for (size_t axis = 0; axis < length; ++axis) {
      if (made->order[i][axis] >= 0 && made->order[i][axis] < (int64_t)length) seen |= (size_t)1 << made->order[i][axis];
    }
    if (length == 0 || seen + 1 != (size_t)1 << length) status = sxq_error(api, "%s: %s is no order of axes.", op->name, names[i]);
    made->axes[i] = length;
  }
  if (status) {
    free(made);
    return status;
  }
  *kernel = made;
  return NULL;
}

/* A matrix for each place of the leading axes. */
typedef struct {
  const uint8_t* data;
  bool is_signed;
  bool vector; /* whether it is one, and not a matrix */
  size_t rank;
  size_t shape[SXQ_MAX_RANK], stride[SXQ_MAX_RANK];
} matrices;

typedef struct {
  const attention_kernel* kernel;
  matrices of[MATRICES];
  size_t rank, shape[SXQ_MAX_RANK]; /* of the leading axes */
  size_t count;                     /* of matrices */
  size_t rows, depth, keys, width;
  float factor;
  void* y;
  atomic_bool failed;
} attention;

static OrtStatus* open(const attention_kernel* kernel, OrtKernelContext* context, int which, matrices* m) {
  const OrtApi* api = kernel->head.api;
  const char* name = kernel->head.op->name;
  sxq_tensor x;
  OrtStatus* status = sxq_input(api, context, (size_t)which, &x);
  if (status) return status;
  const bool bytes = x.type == ORT_TYPE_UINT8 || x.type == ORT_TYPE_INT8;
  if (x.rank == 1 && which == VALUE) {
    x.shape[x.rank++] = 1; /* a column */
    m->vector = true;
  }
  if (!bytes || x.rank < 2 || (kernel->axes[which] && kernel->axes[which] != x.rank)) {
    return sxq_error(api, "%s takes matrices of bytes; its input %d has %zu axes.", name, which, x.rank);
  }
  m->data = x.data;
  m->is_signed = x.type == ORT_TYPE_INT8;
  m->rank = x.rank;
  size_t stride[SXQ_MAX_RANK], next = 1;
  for (size_t axis = x.rank; axis-- > 0;) {
    stride[axis] = next;
    next *= (size_t)x.shape[axis];
  }
  for (size_t axis = 0; axis < x.rank; ++axis) {
    const size_t from = kernel->axes[which] ? (size_t)kernel->order[which][axis] : axis;
    m->shape[axis] = (size_t)x.shape[from];
    m->stride[axis] = stride[from];
  }
  return NULL;
}

/* Where matrix `index` begins; what has length 1 along a leading axis is the same all along. */
static const uint8_t* matrix(const attention* a, const matrices* m, size_t index) {
  size_t place = 0;
  for (size_t axis = a->rank, back = 0; axis-- > 0; ++back) {
    const size_t here = index % a->shape[axis];
    index /= a->shape[axis];
    if (m->rank < 3 + back) continue;
    const size_t own = m->rank - 3 - back;
    if (m->shape[own] > 1) place += here * m->stride[own];
  }
  return m->data + place;
}

/* A matrix in order, row by row. */
static void gather(const attention* a, const matrices* m, size_t index, uint8_t* to) {
  const uint8_t* from = matrix(a, m, index);
  const size_t rows = m->shape[m->rank - 2], columns = m->shape[m->rank - 1];
  const size_t down = m->stride[m->rank - 2], along = m->stride[m->rank - 1];
  for (size_t i = 0; i < rows; ++i, to += columns) {
    if (along == 1) memcpy(to, from + i * down, columns);
    else for (size_t j = 0; j < columns; ++j) to[j] = from[i * down + j * along];
  }
}

static inline int32_t number(const matrices* m, uint8_t byte) { return m->is_signed ? (int8_t)byte : byte; }
static inline int32_t times_added(int32_t sum, int32_t a, int32_t b) { return (int32_t)((uint32_t)sum + (uint32_t)a * (uint32_t)b); }

/* Product by product, as the operators do: for any bytes. */
static void plainly(const attention* a, const uint8_t* q, const uint8_t* k, const uint8_t* v, int32_t* score, int32_t* total) {
  for (size_t i = 0; i < a->rows; ++i, total += a->width) {
    memset(score, 0, a->keys * sizeof *score);
    for (size_t c = 0; c < a->depth; ++c) {
      const int32_t query = number(&a->of[QUERY], q[i * a->depth + c]);
      if (!query) continue;
      for (size_t j = 0; j < a->keys; ++j) {
        score[j] = times_added(score[j], query, number(&a->of[KEY], k[c * a->keys + j]));
      }
    }
    for (size_t j = 0; j < a->keys; ++j) {
      const int32_t part = a->kernel->scores_signed ? (int8_t)score[j] : (uint8_t)score[j];
      if (!part) continue;
      for (size_t e = 0; e < a->width; ++e) {
        total[e] = times_added(total[e], part, number(&a->of[VALUE], v[j * a->width + e]));
      }
    }
  }
}

/* The memory of a task. */
typedef struct {
  uint8_t *q, *k, *v;
  int32_t *score, *total;
  uint16_t *values, *sums, *row;
  uint32_t* list;
  size_t pitch, part; /* of a row of sums; keys that go together */
} scratch;

/* q (k v), by the rows that spikes select; false if anything but 0 and 1 is there. */
static bool by_selection(const attention* a, const scratch* s) {
  const sxq_kernels* kernels = a->kernel->head.kernels;
  for (size_t i = 0; i < a->keys * a->width; ++i) {
    if (s->v[i] > 1) return false;
  }
  for (size_t first = 0; first < a->keys; first += s->part) {
    const size_t keys = a->keys - first < s->part ? a->keys - first : s->part;
    size_t others = 0;
    for (size_t j = 0; j < keys; ++j) {
      for (size_t e = 0; e < a->width; ++e) s->values[j * s->pitch + e] = s->v[(first + j) * a->width + e];
    }
    for (size_t c = 0; c < a->depth; ++c) {
      const size_t found = kernels->active_bytes(s->k + c * a->keys + first, keys, 1, s->pitch, s->list, &others);
      if (others) return false;
      kernels->sum_rows(s->values, s->list, found, s->pitch, s->sums + c * s->pitch);
    }
    for (size_t i = 0; i < a->rows; ++i) {
      const size_t found = kernels->active_bytes(s->q + i * a->depth, a->depth, 1, s->pitch, s->list, &others);
      if (others) return false;
      kernels->sum_rows(s->sums, s->list, found, s->pitch, s->row);
      for (size_t e = 0; e < a->width; ++e) s->total[i * a->width + e] += s->row[e];
    }
  }
  return true;
}

static void* open_scratch(const attention* a, scratch* s) {
  const size_t lanes = a->kernel->head.kernels->width / sizeof(uint16_t);
  const size_t list = (a->keys > a->depth ? a->keys : a->depth) + 4 * SXQ_ACTIVE_ROOM;
  s->pitch = (a->width + lanes - 1) / lanes * lanes;
  s->part = LARGEST_SUM / (a->depth ? a->depth : 1);
  if (s->part > a->keys) s->part = a->keys;
  const size_t words = a->keys + a->rows * a->width + list, shorts = (s->part + a->depth + 1) * s->pitch;
  char* memory = malloc(
      words * 4 + shorts * 2 + a->rows * a->depth + a->depth * a->keys + a->keys * a->width + 1);
  if (!memory) return NULL;
  s->score = (int32_t*)(void*)memory;
  s->total = s->score + a->keys;
  s->list = (uint32_t*)(s->total + a->rows * a->width);
  s->values = (uint16_t*)(s->list + list);
  s->sums = s->values + s->part * s->pitch;
  s->row = s->sums + a->depth * s->pitch;
  memset(s->values, 0, shorts * 2);
  s->q = (uint8_t*)(s->row + s->pitch);
  s->k = s->q + a->rows * a->depth;
  s->v = s->k + a->depth * a->keys;
  return memory;
}

static void task(void* data, size_t index) {
  attention* a = data;
  const size_t tasks = a->count < TASKS ? a->count : TASKS, size = a->rows * a->width;
  scratch s;
  void* memory = open_scratch(a, &s);
  if (!memory) {
    atomic_store(&a->failed, true);
    return;
  }
  /* A score of spikes is at most the depth, which its type has to hold for the order not to matter. */
  const bool ordered = a->keys < FEW_KEYS || a->depth > (a->kernel->scores_signed ? 127 : 255);
  for (size_t m = index * a->count / tasks; m < (index + 1) * a->count / tasks; ++m) {
    gather(a, &a->of[QUERY], m, s.q);
    gather(a, &a->of[KEY], m, s.k);
    gather(a, &a->of[VALUE], m, s.v);
    memset(s.total, 0, size * sizeof *s.total);
    if (ordered || !by_selection(a, &s)) {
      memset(s.total, 0, size * sizeof *s.total);
      plainly(a, s.q, s.k, s.v, s.score, s.total);
    }
    if (a->kernel->head.op->spec.integer) {
      memcpy((int32_t*)a->y + m * size, s.total, size * sizeof *s.total);
    } else {
      float* y = (float*)a->y + m * size;
      for (size_t i = 0; i < size; ++i) y[i] = (float)s.total[i] * a->factor;
    }
  }
  free(memory);
}

/* The leading axes of all three, each of which may lack some or have length 1 along some. */
static bool join_axes(attention* a) {
  for (int i = 0; i < MATRICES; ++i) {
    if (a->of[i].rank - 2 > a->rank) a->rank = a->of[i].rank - 2;
  }
  for (size_t axis = 0; axis < a->rank; ++axis) a->shape[axis] = 1;
  for (int i = 0; i < MATRICES; ++i) {
    const size_t own = a->of[i].rank - 2;
    for (size_t axis = 0; axis < own; ++axis) {
      size_t* length = &a->shape[a->rank - own + axis];
      if (*length == 1) *length = a->of[i].shape[axis];
      else if (a->of[i].shape[axis] != 1 && a->of[i].shape[axis] != *length) return false;
    }
  }
  return true;
}

OrtStatus* sxq_attention_compute(void* self, OrtKernelContext* context) {
  const attention_kernel* kernel = self;
  const OrtApi* api = kernel->head.api;
  const char* name = kernel->head.op->name;
  attention a = {.kernel = kernel, .factor = 1.0f, .count = 1};
  for (int i = 0; i < MATRICES; ++i) {
    OrtStatus* status = open(kernel, context, i, &a.of[i]);
    if (status) return status;
  }
  if (kernel->has_factor) {
    sxq_tensor factor;
    OrtStatus* status = sxq_input(api, context, MATRICES, &factor);
    if (status) return status;
    if (factor.type != ORT_TYPE_FLOAT || factor.count != 1) return sxq_error(api, "%s takes one factor.", name);
    a.factor = *(const float*)factor.data;
  }
  const matrices *q = &a.of[QUERY], *k = &a.of[KEY], *v = &a.of[VALUE];
  a.rows = q->shape[q->rank - 2];
  a.depth = q->shape[q->rank - 1];
  a.keys = k->shape[k->rank - 1];
  a.width = v->shape[v->rank - 1];
  if (k->shape[k->rank - 2] != a.depth || v->shape[v->rank - 2] != a.keys || !join_axes(&a)) {
    return sxq_error(api, "%s: matrices of %zu x %zu, %zu x %zu and %zu x %zu have no product.", name, a.rows, a.depth,
                     k->shape[k->rank - 2], a.keys, v->shape[v->rank - 2], a.width);
  }
  int64_t shape[SXQ_MAX_RANK];
  for (size_t axis = 0; axis < a.rank; ++axis) {
    shape[axis] = (int64_t)a.shape[axis];
    a.count *= a.shape[axis];
  }
  size_t rank = a.rank;
  shape[rank++] = (int64_t)a.rows;
  if (!v->vector) shape[rank++] = (int64_t)a.width;
  OrtStatus* status = sxq_output(api, context, 0, shape, rank, &a.y);
  if (status || !a.y || !(a.count && a.rows && a.width)) return status;
  status = sxq_parallel(api, context, task, a.count < TASKS ? a.count : TASKS, &a);
  return status || !atomic_load(&a.failed) ? status : sxq_out_of_memory(api, name);
}

/* The operations of FusedValues, FusedCurrents, FusedCounts and of fused products (docs/native.md). */
#include "currents.h"

#include <math.h>
#include <string.h>

#include "gelu.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define EACH for (size_t i = 0; i < n; ++i)

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
      program->by_rows |= given[i] >= SXQ_RESIDUAL;
      if (given[i] == SXQ_ROW_NORM) status = sxq_attribute_float(api, info, "epsilon", &program->epsilon);
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

/* What may be given as one number or as one for each column. */
static OrtStatus* read_channels(
    const OrtApi* api, OrtKernelContext* context, const sxq_operator* op, size_t index, size_t columns, bool both,
    const float** numbers, bool* of_columns) {
  sxq_tensor constant;
  OrtStatus* status = sxq_input(api, context, index, &constant);
  if (status) return status;
  if (constant.type != ORT_TYPE_FLOAT || constant.rank > 1 || (constant.count != columns && (!both || constant.count != 1))) {
    return sxq_error(
        api, "%s computes with one number, or one for each of %zu channels; got %zu. Run with native=False.", op->name,
        columns, constant.count);
  }
  *numbers = constant.data;
  *of_columns = constant.count != 1;
  return NULL;
}

static OrtStatus* read_number(
    const OrtApi* api, OrtKernelContext* context, const sxq_operator* op, size_t index, int type, float* number) {
  sxq_tensor constant;
  OrtStatus* status = sxq_input(api, context, index, &constant);
  if (status) return status;
  if (constant.type != type || constant.count != 1) {
    return sxq_error(api, "%s: input %zu is not one number. Run with native=False.", op->name, index);
  }
  *number = type == ORT_TYPE_FLOAT ? *(const float*)constant.data : (float)*(const uint8_t*)constant.data;
  return NULL;
}

/* Let the result have an axis wherever a tensor has one; false if their shapes do not fit together. */
static bool widen(const sxq_tensor* tensor, size_t columns, sxq_currents* currents) {
  if (!tensor->rank || (size_t)tensor->shape[tensor->rank - 1] != columns) return false;
  if (tensor->rank > currents->rank) {
    const size_t more = tensor->rank - currents->rank;
    memmove(currents->shape + more, currents->shape, currents->rank * sizeof *currents->shape);
    for (size_t axis = 0; axis < more; ++axis) currents->shape[axis] = 1;
    currents->rank = tensor->rank;
  }
  for (size_t back = 1; back < tensor->rank; ++back) {
    int64_t* own = &currents->shape[currents->rank - 1 - back];
    const int64_t length = tensor->shape[tensor->rank - 1 - back];
    if (*own == 1) *own = length;
    else if (length != 1 && length != *own) return false;
  }
  return true;
}

/* The rows of a tensor as the result has them. */
static void find_rows(const sxq_tensor* tensor, const sxq_currents* currents, sxq_rows* rows) {
  size_t stride = 1;
  rows->data = tensor->data;
  rows->bytes = tensor->type == ORT_TYPE_UINT8;
  rows->rank = currents->rank ? currents->rank - 1 : 0;
  for (size_t back = 1; back <= rows->rank; ++back) {
    const size_t axis = rows->rank - back, length = back < tensor->rank ? (size_t)tensor->shape[tensor->rank - 1 - back] : 1;
    rows->shape[axis] = (size_t)currents->shape[axis];
    rows->stride[axis] = length == 1 ? 0 : stride;
    rows->repeated |= length != rows->shape[axis];
    stride *= length;
  }
}

static OrtStatus* open_step(
    const OrtApi* api, OrtKernelContext* context, const sxq_operator* op, size_t k, size_t columns, size_t* next,
    sxq_tensor* beside, sxq_currents* currents) {
  OrtStatus* status = NULL;
  const int operation = currents->step[k].operation;
  const float** a = &currents->step[k].a;
  bool* of_columns = &currents->step[k].of_columns;
  bool norm_of_columns = false;
  switch (operation) {
    case SXQ_ADD: case SXQ_SUB: case SXQ_MUL: case SXQ_DIV:
      return read_channels(api, context, op, (*next)++, columns, true, a, of_columns);
    case SXQ_CLIP:
      status = read_number(api, context, op, (*next)++, ORT_TYPE_FLOAT, &currents->step[k].least);
      return status ? status : read_number(api, context, op, (*next)++, ORT_TYPE_FLOAT, &currents->step[k].most);
    case SXQ_GELU:
      status = read_number(api, context, op, (*next)++, ORT_TYPE_FLOAT, &currents->step[k].least);
      if (!status) status = read_number(api, context, op, (*next)++, ORT_TYPE_FLOAT, &currents->step[k].up);
      return status ? status : read_number(api, context, op, (*next)++, ORT_TYPE_FLOAT, &currents->step[k].down);
    case SXQ_RESIDUAL: case SXQ_CARRIED: case SXQ_COUNTED: {
      status = sxq_input(api, context, (*next)++, beside);
      if (status) return status;
      if (beside->type != (operation == SXQ_COUNTED ? ORT_TYPE_UINT8 : ORT_TYPE_FLOAT) || !widen(beside, columns, currents)) {
        return sxq_error(
            api, "%s: the values that are added have another type, or a shape that does not fit. Run with native=False.",
            op->name);
      }
      if (operation == SXQ_COUNTED) {
        status = read_number(api, context, op, (*next)++, ORT_TYPE_FLOAT, &currents->step[k].up);
        if (!status) status = read_number(api, context, op, (*next)++, ORT_TYPE_UINT8, &currents->step[k].down);
      }
      if (status || operation == SXQ_RESIDUAL) return status;
      return read_channels(api, context, op, (*next)++, columns, true, a, of_columns);
    }
    case SXQ_ROW_NORM:
      status = read_channels(api, context, op, (*next)++, columns, false, a, of_columns);
      return status ? status
                    : read_channels(api, context, op, (*next)++, columns, false, &currents->step[k].b, &norm_of_columns);
    case SXQ_ROW_SHIFT_NORM:
      if (columns < 1 || columns > SXQ_MOST_CHANNELS) {
        return sxq_error(api, "%s takes up to %d channels; got %zu.", op->name, SXQ_MOST_CHANNELS, columns);
      }
      sxq_fill_shift_norm(columns, &currents->norm);
      return NULL;
    default: return NULL;
  }
}

void sxq_currents_by_rows(sxq_currents* currents, const sxq_tensor* x, size_t columns) {
  currents->by_rows = true;
  currents->columns = columns;
  find_rows(x, currents, &currents->x);
}

OrtStatus* sxq_currents_open(
    const OrtApi* api, OrtKernelContext* context, const sxq_operator* op, const sxq_kernels* kernels,
    const sxq_program* program, const sxq_tensor* x, size_t columns, size_t* next, sxq_currents* currents) {
  *currents = (sxq_currents){
      .length = program->length, .columns = program->by_rows ? columns : 1, .by_rows = program->by_rows,
      .epsilon = program->epsilon, .kernels = kernels};
  sxq_tensor beside[SXQ_MOST_OPERATIONS];
  if (x) {
    currents->rank = x->rank;
    memcpy(currents->shape, x->shape, sizeof currents->shape);
  }
  if (program->by_rows && (!x || !x->rank)) {
    return sxq_error(api, "%s: there are no rows to compute. Run with native=False.", op->name);
  }
  for (size_t k = 0; k < program->length; ++k) {
    currents->step[k].operation = program->operation[k];
    OrtStatus* status = open_step(api, context, op, k, columns, next, &beside[k], currents);
    if (status) return status;
    if (currents->step[k].of_columns) currents->columns = columns;
  }
  if (program->by_rows) sxq_currents_by_rows(currents, x, columns);
  for (size_t k = 0; k < program->length; ++k) {
    const int operation = program->operation[k];
    if (operation >= SXQ_RESIDUAL && operation <= SXQ_COUNTED) find_rows(&beside[k], currents, &currents->step[k].beside);
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

/* One operation that looks at single values. */
ALWAYS_INLINE void run_step(const sxq_currents* currents, size_t k, size_t column, size_t n, float* restrict x) {
  const float* restrict a = currents->step[k].a;
  const int operation = currents->step[k].operation;
  const float least = currents->step[k].least, most = currents->step[k].most;
  const float up = currents->step[k].up, down = currents->step[k].down;
  if (operation == SXQ_CLIP) {
    EACH x[i] = clipped(x[i], least, most);
  } else if (operation == SXQ_GELU) {
    sxq_gelu(currents->kernels, n, least, up, down, x);
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

ALWAYS_INLINE void run(const sxq_currents* currents, size_t column, size_t n, float* restrict x) {
  for (size_t k = 0; k < currents->length; ++k) run_step(currents, k, column, n, x);
}

static size_t row_of(const sxq_rows* rows, size_t row) {
  if (!rows->repeated) return row;
  size_t found = 0;
  for (size_t axis = rows->rank; axis-- > 0; row /= rows->shape[axis]) {
    found += row % rows->shape[axis] * rows->stride[axis];
  }
  return found;
}

/* x + what lies beside it, each operation rounded on its own. */
ALWAYS_INLINE void run_beside(const sxq_currents* currents, size_t k, size_t row, size_t n, float* restrict x) {
  const sxq_rows* beside = &currents->step[k].beside;
  const size_t from = row_of(beside, row) * n;
  const float* restrict s = (const float*)beside->data + (beside->bytes ? 0 : from);
  const uint8_t* restrict counts = (const uint8_t*)beside->data + (beside->bytes ? from : 0);
  const float* restrict a = currents->step[k].a;
  const float scale = currents->step[k].up, one = a ? *a : 0.0f;
  const int32_t zero = (int32_t)currents->step[k].down;
  const bool of_columns = currents->step[k].of_columns;
  if (currents->step[k].operation == SXQ_RESIDUAL) {
    EACH x[i] += s[i];
  } else if (currents->step[k].operation == SXQ_CARRIED && of_columns) {
    EACH x[i] += s[i] * a[i];
  } else if (currents->step[k].operation == SXQ_CARRIED) {
    EACH x[i] += s[i] * one;
  } else if (of_columns) {
    EACH x[i] += (float)(counts[i] - zero) * scale * a[i];
  } else {
    EACH x[i] += (float)(counts[i] - zero) * scale * one;
  }
}

/* Sum of f(i) for all i, in lanes: compilers keep the order of additions. */
enum { LANES = 32 };
#define SUM_OF(TOTAL, VALUE)                                     \
  do {                                                           \
    float lane[LANES] = {0};                                     \
    size_t first = 0;                                            \
    for (; first + LANES <= n; first += LANES) {                 \
      for (size_t l = 0; l < LANES; ++l) {                       \
        const size_t i = first + l;                              \
        lane[l] += VALUE;                                        \
      }                                                          \
    }                                                            \
    for (size_t i = first; i < n; ++i) lane[i - first] += VALUE; \
    for (size_t half = LANES / 2; half; half /= 2) {             \
      for (size_t l = 0; l < half; ++l) lane[l] += lane[l + half]; \
    }                                                            \
    TOTAL = lane[0];                                             \
  } while (0)

ALWAYS_INLINE void layer_norm(
    size_t n, const float* restrict weight, const float* restrict bias, float epsilon, float* restrict x) {
  float total, squares;
  SUM_OF(total, x[i]);
  const float mean = total / (float)n;
  SUM_OF(squares, (x[i] - mean) * (x[i] - mean));
  const float scale = 1.0f / sqrtf(squares / (float)n + epsilon), shift = -mean * scale;
  EACH x[i] = (x[i] * scale + shift) * weight[i] + bias[i];
}

ALWAYS_INLINE void run_row(const sxq_currents* currents, size_t row, float* restrict x, int32_t* restrict room) {
  const size_t n = currents->columns;
  memcpy(x, (const float*)currents->x.data + row_of(&currents->x, row) * n, n * sizeof *x);
  for (size_t k = 0; k < currents->length; ++k) {
    const int operation = currents->step[k].operation;
    if (operation >= SXQ_RESIDUAL && operation <= SXQ_COUNTED) {
      run_beside(currents, k, row, n, x);
    } else if (operation == SXQ_ROW_NORM) {
      layer_norm(n, currents->step[k].a, currents->step[k].b, currents->epsilon, x);
    } else if (operation == SXQ_ROW_SHIFT_NORM) {
      sxq_shift_norm_row(&currents->norm, x, room);
      EACH x[i] = (float)room[i];
    } else {
      run_step(currents, k, 0, n, x);
    }
  }
}

/* The same loops, compiled for what the processor has. */
#define SXQ_COMPILED(NAME, TARGET)                                                                             \
  TARGET static void run_##NAME(const sxq_currents* c, size_t column, size_t count, float* x) {                \
    run(c, column, count, x);                                                                                  \
  }                                                                                                            \
  TARGET static void row_##NAME(const sxq_currents* c, size_t row, float* x, int32_t* room) { run_row(c, row, x, room); }
SXQ_COMPILED(portable, )
#if defined(__x86_64__)
SXQ_COMPILED(avx2, __attribute__((target("avx2"))))
SXQ_COMPILED(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))))
#define SXQ_DISPATCH(CALL, ...)                                                                 \
  if (currents->kernels == &sxq_kernels_avx512) CALL##_avx512(__VA_ARGS__);                     \
  else if (currents->kernels == &sxq_kernels_avx2) CALL##_avx2(__VA_ARGS__);                    \
  else CALL##_portable(__VA_ARGS__);
#else
#define SXQ_DISPATCH(CALL, ...) CALL##_portable(__VA_ARGS__);
#endif

void sxq_currents_run(const sxq_currents* currents, size_t column, size_t count, float* values) {
  SXQ_DISPATCH(run, currents, column, count, values)
}

void sxq_currents_row(const sxq_currents* currents, size_t row, float* values, int32_t* room) {
  SXQ_DISPATCH(row, currents, row, values, room)
}

/* Runs every kernel over random shapes and damaged tensors, behind a runtime made up here.
 *
 * Compiled with the address and undefined-behaviour sanitizers by test_sanitizers.py. Tensors are allocated to the
 * byte, so that a read past one is seen; sums of layers are compared with plain loops. Usage: fuzz SEED ROUNDS.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "operators.h"

OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base);

/* Random numbers -------------------------------------------------------------------------------------------------- */

static uint64_t state;

static uint32_t draw(uint32_t below) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return below ? (uint32_t)(state >> 33) % below : 0;
}

static int one_in(uint32_t n) { return draw(n) == 0; }

/* A runtime of a few functions ------------------------------------------------------------------------------------ */

enum { MOST = 16 };

struct OrtValue {
  int type;
  size_t rank;
  int64_t shape[10];
  void* data;
};
struct OrtStatus {
  char message[512];
};
struct OrtKernelInfo {
  OrtValue* constant[MOST];
  float grid, inverse_grid, steps, lowest;
  int64_t group, columns, shift;
  int64_t weight_shape[5], strides[3], pads[6], dilations[3];
  size_t axes;
};
struct OrtKernelContext {
  OrtValue* input[MOST];
  OrtValue output[MOST];
};

static const OrtCustomOp* registered[8192];
static size_t registered_count, errors;

static OrtStatus* create_status(int code, const char* message) {
  (void)code;
  OrtStatus* status = calloc(1, sizeof *status);
  snprintf(status->message, sizeof status->message, "%s", message);
  return status;
}
static OrtStatus* create_domain(const char* name, OrtCustomOpDomain** domain) {
  (void)name;
  *domain = (OrtCustomOpDomain*)registered;
  return NULL;
}
static OrtStatus* domain_add(OrtCustomOpDomain* domain, const OrtCustomOp* op) {
  (void)domain;
  registered[registered_count++] = op;
  return NULL;
}
static OrtStatus* add_domain(OrtSessionOptions* options, OrtCustomOpDomain* domain) {
  (void)options;
  (void)domain;
  return NULL;
}
static OrtStatus* tensor_data(OrtValue* value, void** data) { *data = value->data; return NULL; }
static OrtStatus* tensor_info(const OrtValue* value, const OrtValue** info) { *info = value; return NULL; }
static OrtStatus* element_type(const OrtValue* value, int* type) { *type = value->type; return NULL; }
static OrtStatus* dimensions_count(const OrtValue* value, size_t* rank) { *rank = value->rank; return NULL; }
static OrtStatus* dimensions(const OrtValue* value, int64_t* shape, size_t rank) {
  memcpy(shape, value->shape, rank * sizeof *shape);
  return NULL;
}
static void release_info(const OrtValue* value) { (void)value; }
static OrtStatus* context_input(const OrtKernelContext* context, size_t index, const OrtValue** value) {
  *value = context->input[index];
  return NULL;
}

static size_t count_of(const OrtValue* value) {
  size_t count = 1;
  for (size_t i = 0; i < value->rank; ++i) count *= (size_t)value->shape[i];
  return count;
}

static size_t size_of(int type) {
  return type == ORT_TYPE_UINT8 || type == ORT_TYPE_INT8 ? 1 : type == ORT_TYPE_INT64 ? 8 : 4;
}

static OrtStatus* context_output(
    OrtKernelContext* context, size_t index, const int64_t* shape, size_t rank, OrtValue** value) {
  OrtValue* made = &context->output[index];
  made->type = ORT_TYPE_FLOAT;
  made->rank = rank;
  memcpy(made->shape, shape, rank * sizeof *shape);
  made->data = malloc(count_of(made) * sizeof(float));
  *value = made;
  return NULL;
}
static OrtStatus* constant_input(const OrtKernelInfo* info, size_t index, int* found, const OrtValue** value) {
  *value = info->constant[index];
  *found = *value != NULL;
  return NULL;
}
static OrtStatus* attribute_float(const OrtKernelInfo* info, const char* name, float* value) {
  if (!strcmp(name, "grid")) *value = info->grid;
  else if (!strcmp(name, "inverse_grid") || !strcmp(name, "inverse_steps")) *value = info->inverse_grid;
  else if (!strcmp(name, "lowest")) *value = info->lowest;
  else *value = info->steps; /* and top */
  return NULL;
}
static OrtStatus* attribute_int(const OrtKernelInfo* info, const char* name, int64_t* value) {
  *value = strcmp(name, "shift") ? info->group : info->shift;
  return NULL;
}
static OrtStatus* attribute_ints(const OrtKernelInfo* info, const char* name, int64_t* values, size_t* length) {
  const int64_t* from = &info->columns;
  size_t count = 1;
  if (!strcmp(name, "weight_shape")) from = info->weight_shape, count = info->axes + 2;
  if (!strcmp(name, "strides")) from = info->strides, count = info->axes;
  if (!strcmp(name, "dilations")) from = info->dilations, count = info->axes;
  if (!strcmp(name, "pads")) from = info->pads, count = 2 * info->axes;
  if (*length < count) return create_status(1, "the room for an attribute is too small");
  memcpy(values, from, count * sizeof *values);
  *length = count;
  return NULL;
}
static OrtStatus* parallel_for(
    const OrtKernelContext* context, void (*task)(void*, size_t), size_t total, size_t batches, void* data) {
  (void)context;
  (void)batches;
  for (size_t i = total; i-- > 0;) task(data, i);
  return NULL;
}

static OrtApi api;
static const OrtApi* get_api(uint32_t version) { return version == ORT_INTERFACE_VERSION ? &api : NULL; }

static void fill_api(void) {
#define ENTRY(position, function) api.entry[position] = (OrtEntry)(function)
  ENTRY(ORT_CREATE_STATUS, create_status);
  ENTRY(ORT_CREATE_CUSTOM_OP_DOMAIN, create_domain);
  ENTRY(ORT_CUSTOM_OP_DOMAIN_ADD, domain_add);
  ENTRY(ORT_ADD_CUSTOM_OP_DOMAIN, add_domain);
  ENTRY(ORT_GET_TENSOR_MUTABLE_DATA, tensor_data);
  ENTRY(ORT_GET_TENSOR_TYPE_AND_SHAPE, tensor_info);
  ENTRY(ORT_GET_TENSOR_ELEMENT_TYPE, element_type);
  ENTRY(ORT_GET_DIMENSIONS_COUNT, dimensions_count);
  ENTRY(ORT_GET_DIMENSIONS, dimensions);
  ENTRY(ORT_RELEASE_TENSOR_TYPE_AND_SHAPE_INFO, release_info);
  ENTRY(ORT_KERNEL_CONTEXT_GET_INPUT, context_input);
  ENTRY(ORT_KERNEL_CONTEXT_GET_OUTPUT, context_output);
  ENTRY(ORT_KERNEL_INFO_GET_CONSTANT_INPUT_TENSOR, constant_input);
  ENTRY(ORT_KERNEL_INFO_GET_ATTRIBUTE_FLOAT, attribute_float);
  ENTRY(ORT_KERNEL_INFO_GET_ATTRIBUTE_INT64, attribute_int);
  ENTRY(ORT_KERNEL_INFO_GET_ATTRIBUTE_ARRAY_INT64, attribute_ints);
  ENTRY(ORT_KERNEL_CONTEXT_PARALLEL_FOR, parallel_for);
}

/* Tensors --------------------------------------------------------------------------------------------------------- */

static OrtValue* tensor(int type, size_t rank, const int64_t* shape) {
  OrtValue* made = calloc(1, sizeof *made);
  made->type = type;
  made->rank = rank;
  memcpy(made->shape, shape, rank * sizeof *shape);
  made->data = malloc(count_of(made) * size_of(type));
  return made;
}

static void drop(OrtValue* value) {
  if (!value) return;
  free(value->data);
  free(value);
}

static float number(int kind) {
  switch (kind) {
    case 0: return one_in(6) ? 1.0f : 0.0f;
    case 1: return (float)draw(256);
    case 2: return (float)draw(3) - 1.0f;
    case 3: return (float)draw(2000) / 64.0f - 15.0f;
    default: {
      const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, -0.0f, 1e-40f};
      return odd[draw(6)];
    }
  }
}

static void fill(OrtValue* value, int kind) {
  const size_t count = count_of(value);
  for (size_t i = 0; i < count; ++i) {
    if (value->type == ORT_TYPE_FLOAT) ((float*)value->data)[i] = number(kind);
    if (value->type == ORT_TYPE_UINT8) ((uint8_t*)value->data)[i] = (uint8_t)draw(256);
    if (value->type == ORT_TYPE_INT32) ((int32_t*)value->data)[i] = (int32_t)draw(UINT32_MAX);
    if (value->type == ORT_TYPE_INT8) ((int8_t*)value->data)[i] = (int8_t)draw(256);
  }
}

/* Random codes; what fills a row's last byte is random. */
static OrtValue* packed_codes(const sxq_layout* layout, int64_t rows, int64_t columns) {
  const int64_t shape[] = {rows, (int64_t)sxq_row_bytes(layout, (size_t)columns)};
  OrtValue* made = tensor(ORT_TYPE_UINT8, 2, shape);
  fill(made, 0);
  if (layout->bits == 1) return made;
  uint8_t* byte = made->data;
  for (size_t i = 0; i < count_of(made); ++i) {
    if (layout->bits == 2) byte[i] = (uint8_t)(draw(3) | draw(3) << 2 | draw(3) << 4 | draw(3) << 6);
    if (layout->bits == 4) byte[i] = (uint8_t)(draw(15) | draw(15) << 4);
    if (layout->bits == 8) byte[i] = (uint8_t)draw(255);
    if (layout->bits == 16 && i % 2) byte[i] = (uint8_t)draw(255);
  }
  return made;
}

/* Damage in one of many ways: another byte, another shape, another rank. */
static void damage(OrtValue* value) {
  const size_t count = count_of(value);
  switch (draw(4)) {
    case 0:
      if (count && value->type == ORT_TYPE_UINT8) ((uint8_t*)value->data)[draw((uint32_t)count)] = 255;
      return;
    case 1: value->rank = value->rank ? value->rank - 1 : 0; break;
    case 2:
      if (value->rank) value->shape[draw((uint32_t)value->rank)] /= 2;
      break;
    default:
      if (value->rank < 9) value->shape[value->rank++] = 1;
  }
  free(value->data);
  value->data = calloc(count_of(value), size_of(value->type));
}

static void fail(const char* name, const char* what) {
  fprintf(stderr, "%s: %s\n", name, what);
  exit(1);
}

/* Make the kernel and run it; returns whether it ran. Frees the inputs. */
static int run(const sxq_operator* op, OrtKernelInfo* info, OrtKernelContext* context) {
  void* kernel = NULL;
  if (one_in(4)) memset(info->constant, 0, sizeof info->constant);
  OrtStatus* status = op->base.create_kernel_v2(&op->base, &api, info, &kernel);
  if (!status) {
    status = op->base.kernel_compute_v2(kernel, context);
    op->base.kernel_destroy(kernel);
  }
  const int ran = !status;
  if (status) {
    ++errors;
    if (!*status->message) fail(op->name, "an error without a message");
    free(status);
  }
  return ran;
}

static void finish(OrtKernelContext* context) {
  for (size_t i = 0; i < MOST; ++i) {
    drop(context->input[i]);
    free(context->output[i].data);
  }
}

static int code_at(const sxq_layout* layout, const uint8_t* row, size_t n) {
  unsigned digit = 0;
  for (int bit = 0; bit < layout->bits; ++bit) {
    const size_t place = n * (size_t)layout->bits + (size_t)bit;
    digit |= (unsigned)(row[place / 8] >> (place % 8) & 1) << bit;
  }
  return (int)digit * layout->step - layout->offset;
}

/* The kinds -------------------------------------------------------------------------------------------------------- */

static void fuzz_linear(const sxq_operator* op) {
  const int64_t rows = one_in(20) ? 4100 : (int64_t)draw(one_in(4) ? 700 : 40);
  const int64_t columns = (int64_t)draw(one_in(3) ? 1200 : 70), batch = (int64_t)draw(20);
  const int64_t shape[] = {batch, rows}, scales[] = {columns};
  const int kind = (int)draw(5), damaged = one_in(4);
  OrtKernelContext context = {0};
  OrtKernelInfo info = {.grid = 1.0f, .inverse_grid = 1.0f};
  OrtValue* x = context.input[0] = tensor(ORT_TYPE_FLOAT, 2, shape);
  OrtValue* packed = context.input[1] = packed_codes(op->layout, rows, columns);
  OrtValue* scale = context.input[2] = tensor(ORT_TYPE_FLOAT, 1, scales);
  fill(x, kind);
  fill(scale, 3);
  if (damaged) damage(context.input[draw(3)]);
  info.constant[1] = packed;
  info.constant[2] = scale;
  const int ran = run(op, &info, &context);
  if (!ran && !damaged) fail(op->name, "refuses what is in order");
  if (ran && !damaged && kind < 3 && op->layout->bits < 16) {
    const size_t bytes = sxq_row_bytes(op->layout, (size_t)columns);
    for (int64_t m = 0; m < batch; ++m) {
      for (int64_t n = 0; n < columns; ++n) {
        int64_t sum = 0;
        for (int64_t k = 0; k < rows; ++k) {
          const int code = code_at(op->layout, (uint8_t*)packed->data + (size_t)k * bytes, (size_t)n);
          sum += (int64_t)((float*)x->data)[m * rows + k] * code;
        }
        const float expected = (float)sum * ((float*)scale->data)[n];
        const float found = ((float*)context.output[0].data)[m * columns + n];
        if (llabs(sum) < 1 << 24 && found != expected) fail(op->name, "a sum is wrong");
      }
    }
  }
  finish(&context);
}

static void fuzz_matmul_integer(const sxq_operator* op) {
  const int64_t rows = one_in(20) ? 4200 : (int64_t)draw(one_in(4) ? 700 : 40);
  const int64_t columns = (int64_t)draw(one_in(3) ? 1200 : 70), batch = (int64_t)draw(20), shape[] = {batch, rows};
  const int damaged = one_in(4), is_signed = op->kind == SXQ_MATMUL_INTEGER_SIGNED;
  OrtKernelContext context = {0};
  OrtKernelInfo info = {.columns = one_in(20) ? -1 : columns};
  OrtValue* x = context.input[0] = tensor(is_signed ? ORT_TYPE_INT8 : ORT_TYPE_UINT8, 2, shape);
  OrtValue* packed = context.input[1] = packed_codes(op->layout, rows, columns);
  fill(x, 0);
  if (one_in(2)) {
    for (size_t i = 0; i < count_of(x); ++i) ((int8_t*)x->data)[i] = (int8_t)(is_signed ? (int)draw(3) - 1 : one_in(6));
  }
  if (damaged) damage(context.input[draw(2)]);
  info.constant[1] = packed;
  const int ran = run(op, &info, &context);
  if (!ran && !damaged && info.columns == columns) fail(op->name, "refuses what is in order");
  if (ran && !damaged) {
    const size_t bytes = sxq_row_bytes(op->layout, (size_t)columns);
    for (int64_t m = 0; m < batch; ++m) {
      for (int64_t n = 0; n < columns; ++n) {
        int64_t sum = 0;
        for (int64_t k = 0; k < rows; ++k) {
          const int code = code_at(op->layout, (uint8_t*)packed->data + (size_t)k * bytes, (size_t)n);
          const uint8_t* value = (uint8_t*)x->data + m * rows + k;
          sum += (is_signed ? *(int8_t*)value : *value) * (int64_t)code;
        }
        const int32_t found = ((int32_t*)context.output[0].data)[m * columns + n];
        if (found != (int32_t)(uint32_t)sum) fail(op->name, "a sum is wrong");
      }
    }
  }
  finish(&context);
}

static void fuzz_conv(const sxq_operator* op) {
  OrtKernelInfo info = {.axes = 1 + draw(3), .group = 1 + draw(3)};
  const int64_t channels = 1 + draw(3), outputs = info.group * (1 + draw(one_in(3) ? 40 : 4));
  int64_t window = channels, shape[5] = {draw(3), channels * info.group};
  info.weight_shape[0] = outputs;
  info.weight_shape[1] = channels;
  for (size_t i = 0; i < info.axes; ++i) {
    window *= info.weight_shape[2 + i] = 1 + draw(3);
    info.strides[i] = 1 + draw(3);
    info.dilations[i] = 1 + draw(2);
    info.pads[i] = draw(4);
    info.pads[info.axes + i] = draw(4);
    shape[2 + i] = draw(9);
  }
  const int64_t scales[] = {outputs};
  OrtKernelContext context = {0};
  context.input[0] = tensor(ORT_TYPE_FLOAT, info.axes + 2, shape);
  info.constant[1] = context.input[1] = packed_codes(op->layout, window, outputs);
  info.constant[2] = context.input[2] = tensor(ORT_TYPE_FLOAT, 1, scales);
  fill(context.input[0], (int)draw(5));
  fill(context.input[2], 3);
  if (one_in(4)) damage(context.input[draw(3)]);
  if (one_in(10)) info.pads[0] = -1;
  if (one_in(10)) info.group = draw(3);
  if (one_in(10)) info.strides[0] = 0;
  run(op, &info, &context);
  finish(&context);
}

static void fuzz_embedding(const sxq_operator* op) {
  const int64_t rows = 1 + draw(20), columns = draw(70), scales[] = {rows}, shape[] = {draw(4), draw(4)};
  OrtKernelInfo info = {.columns = one_in(10) ? columns + 3 : columns};
  OrtKernelContext context = {0};
  OrtValue* ids = context.input[0] = tensor(one_in(2) ? ORT_TYPE_INT64 : ORT_TYPE_INT32, 2, shape);
  context.input[1] = packed_codes(op->layout, rows, columns);
  context.input[2] = tensor(ORT_TYPE_FLOAT, 1, scales);
  fill(context.input[2], 3);
  for (size_t i = 0; i < count_of(ids); ++i) {
    const int64_t id = one_in(30) ? rows + 5 : (int64_t)draw(2 * (uint32_t)rows) - rows;
    if (ids->type == ORT_TYPE_INT64) ((int64_t*)ids->data)[i] = id;
    else ((int32_t*)ids->data)[i] = (int32_t)id;
  }
  if (one_in(4)) damage(context.input[draw(3)]);
  run(op, &info, &context);
  finish(&context);
}

static void fuzz_neuron(const sxq_operator* op) {
  int64_t shape[4] = {draw(4)};
  const size_t time_axes = op->spec.step ? 0 : 1, axes = draw(4);
  for (size_t i = 0; i < axes; ++i) shape[time_axes + i] = one_in(6) ? 300 : draw(5);
  OrtKernelInfo info = {.shift = one_in(20) ? 31 : 1 + draw(30)};
  const int type = op->spec.integer ? ORT_TYPE_INT32 : ORT_TYPE_FLOAT;
  OrtKernelContext context = {0};
  context.input[0] = tensor(type, time_axes + axes, shape);
  fill(context.input[0], (int)draw(5));
  for (size_t i = 1; i < op->inputs; ++i) {
    int64_t own[4];
    const size_t from = draw((uint32_t)axes + 1);
    for (size_t axis = from; axis < axes; ++axis) own[axis - from] = one_in(3) ? 1 : shape[time_axes + axis];
    if (one_in(30) && from < axes) own[0] += 1;
    context.input[i] = tensor(type, axes - from, own);
    fill(context.input[i], one_in(10) ? 4 : 3);
  }
  run(op, &info, &context);
  finish(&context);
}

static void fuzz_synchronous(const sxq_operator* op) {
  int64_t shape[4];
  const size_t axes = draw(5);
  for (size_t i = 0; i < axes; ++i) shape[i] = one_in(6) ? 700 : draw(5);
  const int folded = op->kind == SXQ_SYNCHRONOUS_FOLDED, damaged = one_in(4);
  OrtKernelInfo info = {.steps = one_in(10) ? 300.0f : (float)(1 << draw(7)), .lowest = one_in(2) ? -8.0f : 0.0f};
  info.inverse_grid = 1.0f / info.steps;
  OrtKernelContext context = {0};
  context.input[0] = tensor(folded ? ORT_TYPE_INT32 : ORT_TYPE_FLOAT, axes, shape);
  fill(context.input[0], (int)draw(5));
  const int64_t channels = one_in(2) || !axes || !folded ? 1 : shape[axes - 1];
  for (size_t i = 1; i < op->inputs; ++i) {
    context.input[i] = tensor(ORT_TYPE_FLOAT, folded ? 1 : 0, &channels);
    fill(context.input[i], one_in(10) ? 4 : 3);
  }
  if (damaged) damage(context.input[1 + draw((uint32_t)op->inputs - 1)]);
  const int ran = run(op, &info, &context);
  const float top = info.steps + (op->signed_counts ? info.steps : 0.0f);
  if (!ran && !damaged && top < 256.0f) fail(op->name, "refuses what is in order");
  if (ran && op->kind != SXQ_SYNCHRONOUS_RATES) {
    if (top > 255.0f) fail(op->name, "gives counts beyond a byte");
    const uint8_t* counts = context.output[0].data;
    for (size_t i = 0; i < count_of(context.input[0]); ++i) {
      if (counts[i] > top) fail(op->name, "a count is beyond the steps");
    }
  }
  finish(&context);
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  state = strtoull(argv[1], NULL, 10) * 2 + 1;
  const OrtApiBase base = {get_api, NULL};
  fill_api();
  if (RegisterCustomOps(NULL, &base) || !registered_count) fail("RegisterCustomOps", "registered nothing");
  size_t layers = 0;
  while (((const sxq_operator*)registered[layers])->kind != SXQ_NEURON) ++layers;
  size_t synchronous = 0;
  while (((const sxq_operator*)registered[registered_count - 1 - synchronous])->kind > SXQ_NEURON) ++synchronous;
  const long rounds = strtol(argv[2], NULL, 10);
  for (long round = 0; round < rounds; ++round) {
    const size_t index = round % 2 ? draw((uint32_t)layers) : draw((uint32_t)(registered_count - synchronous));
    const sxq_operator* op = (const sxq_operator*)registered[index];
    switch (op->kind) {
      case SXQ_CONV: fuzz_conv(op); break;
      case SXQ_EMBEDDING: fuzz_embedding(op); break;
      case SXQ_MATMUL_INTEGER:
      case SXQ_MATMUL_INTEGER_SIGNED: fuzz_matmul_integer(op); break;
      case SXQ_NEURON: fuzz_neuron(op); break;
      default: fuzz_linear(op);
    }
  }
  for (long round = 0; round < rounds / 8; ++round) {
    fuzz_synchronous((const sxq_operator*)registered[registered_count - 1 - draw((uint32_t)synchronous)]);
  }
  if (!errors || errors == (size_t)rounds) fail("fuzz", "damage is never refused, or everything is");
  printf("%ld rounds with %s, %zu refused\n", rounds, sxq_kernels_here()->name, errors);
  return 0;
}

#include "fuzz_runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Random numbers -------------------------------------------------------------------------------------------------- */

uint64_t state;

uint32_t draw(uint32_t below) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return below ? (uint32_t)(state >> 33) % below : 0;
}

int one_in(uint32_t n) { return draw(n) == 0; }

/* A runtime of a few functions ------------------------------------------------------------------------------------ */

const OrtCustomOp* registered[8192];
size_t registered_count;

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

size_t count_of(const OrtValue* value) {
  size_t count = 1;
  for (size_t i = 0; i < value->rank; ++i) count *= (size_t)value->shape[i];
  return count;
}

size_t size_of(int type) {
  return type == ORT_TYPE_UINT8 || type == ORT_TYPE_INT8 ? 1 : type == ORT_TYPE_INT64 ? 8 : 4;
}

static OrtStatus* context_output(
    OrtKernelContext* context, size_t index, const int64_t* shape, size_t rank, OrtValue** value) {
  OrtValue* made = &context->output[index];
  made->type = context->op->get_output_type(context->op, index);
  made->rank = rank;
  memcpy(made->shape, shape, rank * sizeof *shape);
  made->data = malloc(count_of(made) * size_of(made->type));
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
  else if (!strcmp(name, "epsilon")) *value = 1e-5f;
  else *value = info->steps; /* and top */
  return NULL;
}
static OrtStatus* attribute_int(const OrtKernelInfo* info, const char* name, int64_t* value) {
  if (!strcmp(name, "shift")) *value = info->shift;
  else if (!strcmp(name, "has_bias")) *value = info->has_bias;
  else if (!strcmp(name, "has_program")) *value = info->has_program;
  else if (!strcmp(name, "has_shape")) *value = info->has_shape;
  else if (!strcmp(name, "allowzero")) *value = info->allowzero;
  else if (!strcmp(name, "counts")) *value = info->counts;
  else if (!strcmp(name, "zero_point")) *value = info->zero_point;
  else if (!strcmp(name, "top")) *value = info->top;
  else if (!strcmp(name, "most")) *value = info->most;
  else if (!strcmp(name, "has_limits")) *value = info->has_limits;
  else if (!strcmp(name, "has_factor")) *value = info->has_factor;
  else if (!strcmp(name, "scores_signed")) *value = info->scores_signed;
  else *value = info->group;
  return NULL;
}
static OrtStatus* attribute_string(const OrtKernelInfo* info, const char* name, char* value, size_t* size) {
  const char* from = strcmp(name, "layer") ? info->neuron : info->layer;
  if (*size < strlen(from) + 1) return create_status(1, "the room for an attribute is too small");
  strcpy(value, from);
  return NULL;
}
static OrtStatus* attribute_ints(const OrtKernelInfo* info, const char* name, int64_t* values, size_t* length) {
  const int64_t* from = &info->columns;
  size_t count = 1;
  if (!strcmp(name, "weight_shape")) from = info->weight_shape, count = info->axes + 2;
  if (!strcmp(name, "strides")) from = info->strides, count = info->axes;
  if (!strcmp(name, "dilations")) from = info->dilations, count = info->axes;
  if (!strcmp(name, "pads")) from = info->pads, count = 2 * info->axes;
  if (!strcmp(name, "program")) from = info->program, count = info->operations;
  if (strstr(name, "_order")) from = info->order, count = 4;
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

OrtApi api;
const OrtApi* get_api(uint32_t version) { return version == ORT_INTERFACE_VERSION ? &api : NULL; }

void fill_api(void) {
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
  ENTRY(ORT_KERNEL_INFO_GET_ATTRIBUTE_STRING, attribute_string);
  ENTRY(ORT_KERNEL_INFO_GET_ATTRIBUTE_ARRAY_INT64, attribute_ints);
  ENTRY(ORT_KERNEL_CONTEXT_PARALLEL_FOR, parallel_for);
}

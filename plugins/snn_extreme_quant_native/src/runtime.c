#include "runtime.h"

#include <stdarg.h>
#include <stdio.h>

typedef OrtStatus* (*create_status_fn)(int code, const char* message);
typedef OrtStatus* (*tensor_data_fn)(OrtValue*, void** data);
typedef OrtStatus* (*tensor_info_fn)(const OrtValue*, OrtTensorTypeAndShapeInfo**);
typedef OrtStatus* (*element_type_fn)(const OrtTensorTypeAndShapeInfo*, int*);
typedef OrtStatus* (*dimensions_count_fn)(const OrtTensorTypeAndShapeInfo*, size_t*);
typedef OrtStatus* (*dimensions_fn)(const OrtTensorTypeAndShapeInfo*, int64_t*, size_t);
typedef void (*release_info_fn)(OrtTensorTypeAndShapeInfo*);
typedef OrtStatus* (*context_input_fn)(const OrtKernelContext*, size_t, const OrtValue**);
typedef OrtStatus* (*context_output_fn)(OrtKernelContext*, size_t, const int64_t*, size_t, OrtValue**);
typedef OrtStatus* (*constant_input_fn)(const OrtKernelInfo*, size_t, int*, const OrtValue**);
typedef OrtStatus* (*attribute_float_fn)(const OrtKernelInfo*, const char*, float*);
typedef OrtStatus* (*attribute_int_fn)(const OrtKernelInfo*, const char*, int64_t*);
typedef OrtStatus* (*attribute_string_fn)(const OrtKernelInfo*, const char*, char*, size_t*);
typedef OrtStatus* (*attribute_ints_fn)(const OrtKernelInfo*, const char*, int64_t*, size_t*);
typedef OrtStatus* (*parallel_for_fn)(
    const OrtKernelContext*, void (*)(void*, size_t), size_t total, size_t batches, void* data);

OrtStatus* sxq_error(const OrtApi* api, const char* format, ...) {
  char message[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return ((create_status_fn)api->entry[ORT_CREATE_STATUS])(ORT_ERROR_INVALID_ARGUMENT, message);
}

OrtStatus* sxq_out_of_memory(const OrtApi* api, const char* operator_name) {
  return sxq_error(api, "%s: out of memory; run fewer samples at a time.", operator_name);
}

static OrtStatus* describe(const OrtApi* api, const OrtValue* value, sxq_tensor* tensor) {
  OrtTensorTypeAndShapeInfo* info = NULL;
  OrtStatus* status = ((tensor_info_fn)api->entry[ORT_GET_TENSOR_TYPE_AND_SHAPE])(value, &info);
  if (status) return status;
  status = ((element_type_fn)api->entry[ORT_GET_TENSOR_ELEMENT_TYPE])(info, &tensor->type);
  if (!status) status = ((dimensions_count_fn)api->entry[ORT_GET_DIMENSIONS_COUNT])(info, &tensor->rank);
  if (!status && tensor->rank > SXQ_MAX_RANK) {
    status = sxq_error(api, "A tensor has %zu axes; the native kernels take up to %d.", tensor->rank, SXQ_MAX_RANK);
  }
  if (!status) {
    status = ((dimensions_fn)api->entry[ORT_GET_DIMENSIONS])(info, tensor->shape, tensor->rank);
  }
  ((release_info_fn)api->entry[ORT_RELEASE_TENSOR_TYPE_AND_SHAPE_INFO])(info);
  if (status) return status;
  tensor->count = 1;
  for (size_t axis = 0; axis < tensor->rank; ++axis) tensor->count *= (size_t)tensor->shape[axis];
  return ((tensor_data_fn)api->entry[ORT_GET_TENSOR_MUTABLE_DATA])((OrtValue*)value, &tensor->data);
}

OrtStatus* sxq_input(const OrtApi* api, OrtKernelContext* context, size_t index, sxq_tensor* tensor) {
  const OrtValue* value = NULL;
  OrtStatus* status = ((context_input_fn)api->entry[ORT_KERNEL_CONTEXT_GET_INPUT])(context, index, &value);
  if (status) return status;
  if (!value) return sxq_error(api, "Input %zu is missing; every input of these operators is required.", index);
  return describe(api, value, tensor);
}

OrtStatus* sxq_output(
    const OrtApi* api, OrtKernelContext* context, size_t index, const int64_t* shape, size_t rank, void** data) {
  OrtValue* value = NULL;
  OrtStatus* status =
      ((context_output_fn)api->entry[ORT_KERNEL_CONTEXT_GET_OUTPUT])(context, index, shape, rank, &value);
  *data = NULL;
  if (status || !value) return status; /* an output that nothing reads has no value */
  return ((tensor_data_fn)api->entry[ORT_GET_TENSOR_MUTABLE_DATA])(value, data);
}

OrtStatus* sxq_constant_input(
    const OrtApi* api, const OrtKernelInfo* info, size_t index, bool* constant, sxq_tensor* tensor) {
  const OrtValue* value = NULL;
  int found = 0;
  OrtStatus* status =
      ((constant_input_fn)api->entry[ORT_KERNEL_INFO_GET_CONSTANT_INPUT_TENSOR])(info, index, &found, &value);
  *constant = !status && found && value;
  return *constant ? describe(api, value, tensor) : status;
}

OrtStatus* sxq_attribute_float(const OrtApi* api, const OrtKernelInfo* info, const char* name, float* value) {
  return ((attribute_float_fn)api->entry[ORT_KERNEL_INFO_GET_ATTRIBUTE_FLOAT])(info, name, value);
}

OrtStatus* sxq_attribute_int(const OrtApi* api, const OrtKernelInfo* info, const char* name, int64_t* value) {
  return ((attribute_int_fn)api->entry[ORT_KERNEL_INFO_GET_ATTRIBUTE_INT64])(info, name, value);
}

OrtStatus* sxq_attribute_flag(const OrtApi* api, const OrtKernelInfo* info, const char* name, bool* flag) {
  int64_t value = 0;
  OrtStatus* status = sxq_attribute_int(api, info, name, &value);
  *flag = value != 0;
  return status;
}

OrtStatus* sxq_attribute_string(
    const OrtApi* api, const OrtKernelInfo* info, const char* name, char* value, size_t size) {
  return ((attribute_string_fn)api->entry[ORT_KERNEL_INFO_GET_ATTRIBUTE_STRING])(info, name, value, &size);
}

OrtStatus* sxq_attribute_ints(
    const OrtApi* api, const OrtKernelInfo* info, const char* name, int64_t* values, size_t* length) {
  return ((attribute_ints_fn)api->entry[ORT_KERNEL_INFO_GET_ATTRIBUTE_ARRAY_INT64])(info, name, values, length);
}

OrtStatus* sxq_parallel(
    const OrtApi* api, const OrtKernelContext* context, void (*task)(void* data, size_t index), size_t tasks,
    void* data) {
  if (tasks > 1) {
    /* 0 batches: as many as the pool has threads. */
    return ((parallel_for_fn)api->entry[ORT_KERNEL_CONTEXT_PARALLEL_FOR])(context, task, tasks, 0, data);
  }
  if (tasks) task(data, 0);
  return NULL;
}

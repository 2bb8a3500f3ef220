/* onnxruntime's interface as this library uses it: tensors, attributes, errors, its thread pool. */
#ifndef SXQ_RUNTIME_H
#define SXQ_RUNTIME_H

#include <stdbool.h>

#include "abi.h"

enum { SXQ_MAX_RANK = 8 };

typedef struct {
  void* data;
  int type; /* ORT_TYPE_... */
  size_t rank;
  int64_t shape[SXQ_MAX_RANK];
  size_t count; /* elements */
} sxq_tensor;

/* Make an error; the text is printf's. Says which operator it is, what is wrong and what to do. */
OrtStatus* sxq_error(const OrtApi* api, const char* format, ...) __attribute__((format(printf, 2, 3)));
OrtStatus* sxq_out_of_memory(const OrtApi* api, const char* operator_name);

OrtStatus* sxq_input(const OrtApi* api, OrtKernelContext* context, size_t index, sxq_tensor* tensor);
OrtStatus* sxq_output(
    const OrtApi* api, OrtKernelContext* context, size_t index, const int64_t* shape, size_t rank, void** data);

/* An input that is an initializer, at the time the kernel is made. */
OrtStatus* sxq_constant_input(
    const OrtApi* api, const OrtKernelInfo* info, size_t index, bool* constant, sxq_tensor* tensor);

OrtStatus* sxq_attribute_float(const OrtApi* api, const OrtKernelInfo* info, const char* name, float* value);
OrtStatus* sxq_attribute_int(const OrtApi* api, const OrtKernelInfo* info, const char* name, int64_t* value);
OrtStatus* sxq_attribute_flag(const OrtApi* api, const OrtKernelInfo* info, const char* name, bool* flag);
/* `size` is the room in `value`, a zero at its end included. */
OrtStatus* sxq_attribute_string(
    const OrtApi* api, const OrtKernelInfo* info, const char* name, char* value, size_t size);
/* `length` holds the room in `values` before and the number of values after. */
OrtStatus* sxq_attribute_ints(
    const OrtApi* api, const OrtKernelInfo* info, const char* name, int64_t* values, size_t* length);

/* Call task(data, 0) .. task(data, tasks - 1), on the session's own threads. */
OrtStatus* sxq_parallel(
    const OrtApi* api, const OrtKernelContext* context, void (*task)(void* data, size_t index), size_t tasks,
    void* data);

#endif

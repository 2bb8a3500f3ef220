/* The few entries of onnxruntime's C interface that this library uses, in declarations of our own.
 *
 * The interface reaches a custom-operator library at run time, as a table of functions whose positions never change
 * (entries are only appended). Version 17 of the table is asked for, so one library serves onnxruntime 1.17 and all
 * later ones. tests/native/test_abi.py compares the positions with the official header where one is installed.
 */
#ifndef SXQ_ABI_H
#define SXQ_ABI_H

#include <stddef.h>
#include <stdint.h>

enum { ORT_INTERFACE_VERSION = 17 };

/* Positions in the table. */
enum {
  ORT_CREATE_STATUS = 0,
  ORT_CREATE_CUSTOM_OP_DOMAIN = 26,
  ORT_CUSTOM_OP_DOMAIN_ADD = 27,
  ORT_ADD_CUSTOM_OP_DOMAIN = 28,
  ORT_GET_TENSOR_MUTABLE_DATA = 51,
  ORT_GET_TENSOR_ELEMENT_TYPE = 60,
  ORT_GET_DIMENSIONS_COUNT = 61,
  ORT_GET_DIMENSIONS = 62,
  ORT_GET_TENSOR_TYPE_AND_SHAPE = 65,
  ORT_KERNEL_INFO_GET_ATTRIBUTE_FLOAT = 85,
  ORT_KERNEL_INFO_GET_ATTRIBUTE_INT64 = 86,
  ORT_KERNEL_INFO_GET_ATTRIBUTE_STRING = 87,
  ORT_KERNEL_CONTEXT_GET_INPUT = 90,
  ORT_KERNEL_CONTEXT_GET_OUTPUT = 91,
  ORT_RELEASE_STATUS = 93,
  ORT_RELEASE_TENSOR_TYPE_AND_SHAPE_INFO = 99,
  ORT_KERNEL_INFO_GET_ATTRIBUTE_ARRAY_INT64 = 163,
  ORT_KERNEL_INFO_GET_CONSTANT_INPUT_TENSOR = 249,
  ORT_KERNEL_CONTEXT_PARALLEL_FOR = 274,
  ORT_ENTRIES = 275
};

/* Values of its enumerations. */
enum { ORT_ERROR_FAIL = 1, ORT_ERROR_INVALID_ARGUMENT = 2 };
enum { ORT_TYPE_ANY = 0, ORT_TYPE_FLOAT = 1, ORT_TYPE_UINT8 = 2, ORT_TYPE_INT8 = 3, ORT_TYPE_INT32 = 6, ORT_TYPE_INT64 = 7 };
enum { ORT_INPUT_REQUIRED = 0, ORT_INPUT_VARIADIC = 2 };
enum { ORT_MEMORY_DEFAULT = 0 };

typedef struct OrtStatus OrtStatus;
typedef struct OrtValue OrtValue;
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;
typedef struct OrtShapeInferContext OrtShapeInferContext;

typedef void (*OrtEntry)(void);
typedef struct OrtApi {
  OrtEntry entry[ORT_ENTRIES];
} OrtApi;

typedef struct OrtApiBase {
  const OrtApi* (*get_api)(uint32_t version); /* NULL where the runtime is older than the version */
  const char* (*get_version_string)(void);
} OrtApiBase;

/* What the runtime asks of an operator; the fields are in the order of version 17. */
typedef struct OrtCustomOp OrtCustomOp;
struct OrtCustomOp {
  uint32_t version;
  void* (*create_kernel)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);
  const char* (*get_name)(const OrtCustomOp*);
  const char* (*get_execution_provider_type)(const OrtCustomOp*);
  int (*get_input_type)(const OrtCustomOp*, size_t index);
  size_t (*get_input_type_count)(const OrtCustomOp*);
  int (*get_output_type)(const OrtCustomOp*, size_t index);
  size_t (*get_output_type_count)(const OrtCustomOp*);
  void (*kernel_compute)(void* kernel, OrtKernelContext*);
  void (*kernel_destroy)(void* kernel);
  int (*get_input_characteristic)(const OrtCustomOp*, size_t index);
  int (*get_output_characteristic)(const OrtCustomOp*, size_t index);
  int (*get_input_memory_type)(const OrtCustomOp*, size_t index);
  int (*get_variadic_input_min_arity)(const OrtCustomOp*);
  int (*get_variadic_input_homogeneity)(const OrtCustomOp*);
  int (*get_variadic_output_min_arity)(const OrtCustomOp*);
  int (*get_variadic_output_homogeneity)(const OrtCustomOp*);
  OrtStatus* (*create_kernel_v2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void** kernel);
  OrtStatus* (*kernel_compute_v2)(void* kernel, OrtKernelContext*);
  OrtStatus* (*infer_output_shape)(const OrtCustomOp*, OrtShapeInferContext*);
  int (*get_start_version)(const OrtCustomOp*);
  int (*get_end_version)(const OrtCustomOp*);
};

#endif

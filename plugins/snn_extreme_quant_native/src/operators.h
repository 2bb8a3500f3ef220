/* The operators that this library gives to onnxruntime. */
#ifndef SXQ_OPERATORS_H
#define SXQ_OPERATORS_H

#include "kernels.h"
#include "runtime.h"

typedef enum {
  SXQ_LINEAR, SXQ_LINEAR_INTEGER, SXQ_CONV, SXQ_CONV_INTEGER, SXQ_CONV_INTEGER_SIGNED, SXQ_EMBEDDING,
  SXQ_EMBEDDING_INTEGER, SXQ_MATMUL_INTEGER, SXQ_MATMUL_INTEGER_SIGNED, SXQ_LINEAR_ROUNDED, SXQ_NEURON,
  SXQ_SYNCHRONOUS_FOLDED, SXQ_SYNCHRONOUS_COUNTS, SXQ_SYNCHRONOUS_RATES, SXQ_SYNCHRONOUS_SPIKES, SXQ_STEP_SUMS, SXQ_STEP_COUNTS,
  SXQ_SHIFT_NORM, SXQ_SHIFT_SOFTMAX, SXQ_TOKEN_NORM, SXQ_EXACT_SIGMOID, SXQ_WEIGHTED_AVERAGE, SXQ_INT_TOKEN_NORM,
  SXQ_INT_HALVES, SXQ_INT_GATED, SXQ_INT_SQUARED, SXQ_INT_AVERAGE, SXQ_INT_SCALE, SXQ_INT_RESIDUAL, SXQ_FUSED,
  SXQ_ATTENTION, SXQ_SOFT_ATTENTION, SXQ_CURRENTS, SXQ_COUNTS, SXQ_VALUES, SXQ_WHOLE_PRODUCT, SXQ_KINDS
} sxq_kind;

typedef struct {
  OrtCustomOp base; /* first: onnxruntime hands back a pointer to it */
  char name[SXQ_NAME_LENGTH];
  sxq_kind kind;
  const sxq_layout* layout;    /* of a layer */
  const sxq_byte_table* table; /* of its layout */
  sxq_spec spec;               /* of a neuron */
  bool signed_counts;          /* of a synchronous neuron */
  int spikes;                  /* of a fused product and neuron: the type of its spikes */
  size_t inputs, outputs;
  const int* types;            /* of the inputs, then of the outputs; NULL: the kind says them */
} sxq_operator;

#if defined(_WIN32)
#define SXQ_EXPORT __declspec(dllexport)
#else
#define SXQ_EXPORT __attribute__((visibility("default")))
#endif

/* How many operators there are; 0 where there is no memory for their table, which the first call makes. */
SXQ_EXPORT size_t sxq_operator_count(void);
const sxq_operator* sxq_operator_at(size_t index);

/* The operator of this name; NULL if there is none. */
const sxq_operator* sxq_find_operator(const char* name);

/* A kernel begins so. */
typedef struct {
  const OrtApi* api;
  const sxq_operator* op;
  const sxq_kernels* kernels;
} sxq_kernel;

/* Each kind's kernel, in the file called after it. */
OrtStatus* sxq_linear_create(const sxq_operator*, const OrtApi*, const OrtKernelInfo*, void** kernel);
OrtStatus* sxq_linear_compute(void* kernel, OrtKernelContext*);
void sxq_linear_destroy(void* kernel);
OrtStatus* sxq_rounded_create(const sxq_operator*, const OrtApi*, const OrtKernelInfo*, void** kernel);
OrtStatus* sxq_rounded_compute(void* kernel, OrtKernelContext*);
void sxq_rounded_destroy(void* kernel);
OrtStatus* sxq_language_create(const sxq_operator*, const OrtApi*, const OrtKernelInfo*, void** kernel);
OrtStatus* sxq_language_compute(void* kernel, OrtKernelContext*);
OrtStatus* sxq_integer_tokens_create(const sxq_operator*, const OrtApi*, const OrtKernelInfo*, void** kernel);
OrtStatus* sxq_integer_tokens_compute(void* kernel, OrtKernelContext*);
OrtStatus* sxq_integer_average_create(const sxq_operator*, const OrtApi*, const OrtKernelInfo*, void** kernel);
OrtStatus* sxq_integer_average_compute(void* kernel, OrtKernelContext*);
OrtStatus* sxq_integer_scale_create(const sxq_operator*, const OrtApi*, const OrtKernelInfo*, void** kernel);
OrtStatus* sxq_integer_scale_compute(void* kernel, OrtKernelContext*);
OrtStatus* sxq_whole_product_create(const sxq_operator*, const OrtApi*, const OrtKernelInfo*, void** kernel);
OrtStatus* sxq_whole_product_compute(void* kernel, OrtKernelContext*);
void sxq_whole_product_destroy(void* kernel);
OrtStatus* sxq_conv_create(const sxq_operator*, const OrtApi*, const OrtKernelInfo*, void** kernel);
OrtStatus* sxq_conv_compute(void* kernel, OrtKernelContext*);
void sxq_conv_destroy(void* kernel);
OrtStatus* sxq_embedding_create(const sxq_operator*, const OrtApi*, const OrtKernelInfo*, void** kernel);
OrtStatus* sxq_embedding_compute(void* kernel, OrtKernelContext*);
void sxq_embedding_destroy(void* kernel);
OrtStatus* sxq_matmul_integer_create(const sxq_operator*, const OrtApi*, const OrtKernelInfo*, void** kernel);
OrtStatus* sxq_matmul_integer_compute(void* kernel, OrtKernelContext*);
void sxq_matmul_integer_destroy(void* kernel);
OrtStatus* sxq_neuron_create(const sxq_operator*, const OrtApi*, const OrtKernelInfo*, void** kernel);
OrtStatus* sxq_neuron_compute(void* kernel, OrtKernelContext*);
OrtStatus* sxq_fused_create(const sxq_operator*, const OrtApi*, const OrtKernelInfo*, void** kernel);
OrtStatus* sxq_fused_compute(void* kernel, OrtKernelContext*);
void sxq_fused_destroy(void* kernel);
OrtStatus* sxq_attention_create(const sxq_operator*, const OrtApi*, const OrtKernelInfo*, void** kernel);
OrtStatus* sxq_attention_compute(void* kernel, OrtKernelContext*);
OrtStatus* sxq_synchronous_create(const sxq_operator*, const OrtApi*, const OrtKernelInfo*, void** kernel);
OrtStatus* sxq_synchronous_compute(void* kernel, OrtKernelContext*);
OrtStatus* sxq_step_sums_create(const sxq_operator*, const OrtApi*, const OrtKernelInfo*, void** kernel);
OrtStatus* sxq_step_sums_compute(void* kernel, OrtKernelContext*);
OrtStatus* sxq_currents_create(const sxq_operator*, const OrtApi*, const OrtKernelInfo*, void** kernel);
OrtStatus* sxq_currents_compute(void* kernel, OrtKernelContext*);
OrtStatus* sxq_soft_attention_create(const sxq_operator*, const OrtApi*, const OrtKernelInfo*, void** kernel);
OrtStatus* sxq_soft_attention_compute(void* kernel, OrtKernelContext*);
OrtStatus* sxq_shift_create(const sxq_operator*, const OrtApi*, const OrtKernelInfo*, void** kernel);
OrtStatus* sxq_shift_compute(void* kernel, OrtKernelContext*);

#endif

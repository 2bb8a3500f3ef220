/* A layer of neurons: its states and parameters as a node gives them, and the steps of a part of its neurons. */
#ifndef SXQ_NEURON_LAYER_H
#define SXQ_NEURON_LAYER_H

#include "operators.h"

/* A state or a parameter, read as if expanded to one step's shape. */
typedef struct {
  const char* data; /* elements of 4 bytes, of either kind */
  size_t count;
  size_t rank;
  size_t shape[SXQ_MAX_RANK], stride[SXQ_MAX_RANK]; /* of the step; stride 0 along what is repeated */
} sxq_expanded;

typedef struct {
  const sxq_kernels* kernels;
  const sxq_spec* spec;
  int shift; /* of fixed-point leaks */
  size_t steps, size; /* neurons of a step */
  size_t states, parameters;
  sxq_expanded state[SXQ_MAX_STATES], parameter[SXQ_MAX_PARAMETERS];
  void* spikes;
  bool bytes; /* spikes are bytes, also of neurons in floats */
  void* after[SXQ_MAX_STATES]; /* states after each step; NULL for those that nothing reads */
} sxq_neuron_layer;

/* What the neurons of a block hold; states are overwritten step by step. `filled` is false before a task's first block. */
typedef struct {
  union {
    float real[SXQ_MAX_STATES][SXQ_BLOCK];
    int32_t whole[SXQ_MAX_STATES][SXQ_BLOCK];
  } state;
  union {
    float real[SXQ_MAX_PARAMETERS][SXQ_BLOCK];
    int32_t whole[SXQ_MAX_PARAMETERS][SXQ_BLOCK];
  } parameter;
  bool filled; /* whether parameters of one value are there */
} sxq_neuron_values;

/* Read the attribute of fixed-point neurons. */
OrtStatus* sxq_neuron_shift(const OrtApi* api, const OrtKernelInfo* info, const sxq_operator* op, int* shift);

/* Set all of a layer but `kernels`, `shift` and `bytes`, and make its outputs, for currents of this shape; states and
 * parameters are the node's inputs from `first` on. */
OrtStatus* sxq_neuron_layer_open(
    const OrtApi* api, OrtKernelContext* context, const sxq_operator* op, const int64_t* shape, size_t rank,
    size_t first, sxq_neuron_layer* layer);

/* The values of neurons first .. first + count - 1 before the first step. */
void sxq_neuron_values_read(const sxq_neuron_layer* layer, size_t first, size_t count, sxq_neuron_values* values);

/* Steps from .. from + steps - 1 of those neurons; step t of neuron i's current is at x + 4 * ((t - from) * pitch + i). */
void sxq_neuron_values_run(
    const sxq_neuron_layer* layer, size_t first, size_t count, size_t from, size_t steps, const void* x, size_t pitch,
    sxq_neuron_values* values);

/* All neurons and steps, on the session's threads. */
OrtStatus* sxq_neuron_layer_run(
    const OrtApi* api, const OrtKernelContext* context, const sxq_neuron_layer* layer, const void* x);

#endif

/* A product and its neurons as one node: what it holds, and a run of it. */
#ifndef SXQ_FUSED_H
#define SXQ_FUSED_H

#include <stdatomic.h>

#include "currents.h"
#include "neuron_layer.h"
#include "weights.h"

typedef struct {
  sxq_kernel head;
  const sxq_operator *layer, *neuron;
  bool has_scale, has_bias, has_program, has_shape, zero_is_length;
  sxq_program program;
  int shift;
  int64_t columns;
  float grid, inverse_grid;
  bool constant; /* whether the weights below are set */
  sxq_weights weights;
} sxq_fused_kernel;

typedef struct {
  const sxq_fused_kernel* kernel;
  const sxq_weights* weights;
  const float* bias;
  sxq_currents currents; /* what is computed behind the product, if the kernel has a program */
  sxq_tensor x;
  bool is_signed; /* of x in bytes */
  size_t rows, all_rows; /* rows of inputs in a step, and in all */
  sxq_neuron_layer layer;
  size_t rows_together, steps_together, tile; /* the last in bytes of codes */
  atomic_bool failed, others;
} sxq_fused_run;

/* All rows, steps and columns, in parts whose currents stay in the cache. */
OrtStatus* sxq_fused_together(sxq_fused_run* run, const OrtKernelContext* context);

/* The product of everything, then all neurons: for inputs that are no spikes, and steps of other than whole rows. */
OrtStatus* sxq_fused_apart(sxq_fused_run* run, const OrtKernelContext* context);

#endif

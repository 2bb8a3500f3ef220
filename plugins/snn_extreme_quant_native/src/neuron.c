/* LIF_... and StepLIF_..., IntLIF_... and StepIntLIF_...: layers of neurons without a recurrent layer. */
#include <stdlib.h>

#include "neuron_layer.h"

typedef struct {
  sxq_kernel head;
  int shift;
} neuron_kernel;

OrtStatus* sxq_neuron_create(const sxq_operator* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  neuron_kernel* made = malloc(sizeof *made);
  if (!made) return sxq_out_of_memory(api, op->name);
  *made = (neuron_kernel){.head = {api, op, sxq_kernels_here()}};
  OrtStatus* status = sxq_neuron_shift(api, info, op, &made->shift);
  if (status) {
    free(made);
    return status;
  }
  *kernel = made;
  return NULL;
}

OrtStatus* sxq_neuron_compute(void* self, OrtKernelContext* context) {
  const neuron_kernel* kernel = self;
  const OrtApi* api = kernel->head.api;
  sxq_tensor x;
  sxq_neuron_layer layer = {.kernels = kernel->head.kernels, .shift = kernel->shift};
  OrtStatus* status = sxq_input(api, context, 0, &x);
  if (!status) status = sxq_neuron_layer_open(api, context, kernel->head.op, x.shape, x.rank, 1, &layer);
  return status ? status : sxq_neuron_layer_run(api, context, &layer, x.data);
}

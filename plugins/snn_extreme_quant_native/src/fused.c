/* FusedNeurons_...: a product of spikes with packed codes and the neurons that read it, as one node (docs/native.md). */
#include "fused.h"

#include <stdlib.h>
#include <string.h>

#include "bit_planes.h"

void sxq_fused_destroy(void* kernel) {
  sxq_release_codes(&((sxq_fused_kernel*)kernel)->weights.codes);
  free(kernel);
}

static OrtStatus* find(
    const OrtApi* api, const OrtKernelInfo* info, const sxq_operator* op, const char* attribute,
    const sxq_operator** found) {
  char name[SXQ_NAME_LENGTH];
  OrtStatus* status = sxq_attribute_string(api, info, attribute, name, sizeof name);
  if (status) return status;
  *found = sxq_find_operator(name);
  return *found ? NULL : sxq_error(api, "%s: there is no kernel for %s.", op->name, name);
}

static OrtStatus* read_layer(sxq_fused_kernel* made, const OrtApi* api, const OrtKernelInfo* info) {
  const sxq_operator *op = made->head.op, *layer = made->layer;
  made->has_scale = layer->kind == SXQ_LINEAR_INTEGER;
  if (made->has_scale) {
    OrtStatus* status = sxq_attribute_float(api, info, "grid", &made->grid);
    if (!status) status = sxq_attribute_float(api, info, "inverse_grid", &made->inverse_grid);
    if (!status) {
      status = sxq_constant_weights(api, info, op->name, layer->layout, &made->constant, &made->weights);
    }
    return status;
  }
  int64_t columns[4] = {0};
  size_t length = 4;
  sxq_tensor packed;
  OrtStatus* status = sxq_attribute_ints(api, info, "columns", columns, &length);
  if (!status && (length != 1 || columns[0] < 0)) {
    status = sxq_error(api, "%s needs one number of columns; export the model again.", op->name);
  }
  made->columns = columns[0];
  if (!status) status = sxq_constant_input(api, info, 1, &made->constant, &packed);
  if (!status && made->constant) {
    status = sxq_check_codes(api, op->name, layer->layout, &packed, (size_t)made->columns, &made->weights.codes);
  }
  return status;
}

/* Whether a type holds the neurons' spikes. */
static bool spikes_fit(int type, const sxq_spec* spec) {
  if (spec->integer) return type == (spec->fire == SXQ_TERNARY ? ORT_TYPE_INT8 : ORT_TYPE_UINT8);
  if (type == ORT_TYPE_FLOAT) return true;
  if (spec->graded || spec->fire == SXQ_COUNT) return false;
  return type == ORT_TYPE_INT8 || spec->fire != SXQ_TERNARY;
}

OrtStatus* sxq_fused_create(const sxq_operator* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  sxq_fused_kernel* made = calloc(1, sizeof *made);
  if (!made) return sxq_out_of_memory(api, op->name);
  made->head = (sxq_kernel){api, op, sxq_kernels_here()};
  OrtStatus* status = find(api, info, op, "layer", &made->layer);
  if (!status) status = find(api, info, op, "neuron", &made->neuron);
  if (!status) status = sxq_attribute_flag(api, info, "has_bias", &made->has_bias);
  if (!status) status = sxq_attribute_flag(api, info, "has_program", &made->has_program);
  if (!status && made->has_program) status = sxq_program_read(api, info, op, &made->program);
  if (!status) status = sxq_attribute_flag(api, info, "has_shape", &made->has_shape);
  if (!status && made->has_shape) status = sxq_attribute_flag(api, info, "allowzero", &made->zero_is_length);
  if (!status) {
    const bool sums = made->layer->kind == SXQ_MATMUL_INTEGER || made->layer->kind == SXQ_MATMUL_INTEGER_SIGNED;
    const sxq_spec* spec = &made->neuron->spec;
    const bool fits = made->neuron->kind == SXQ_NEURON && made->neuron->outputs == op->outputs &&
                      (sums || made->layer->kind == SXQ_LINEAR_INTEGER) && spec->integer == sums &&
                      !(sums && (made->has_bias || made->has_program)) && (op->outputs == 1 || op->spec.integer == spec->integer) &&
                      spikes_fit(op->spikes, spec);
    if (!fits) {
      status = sxq_error(api, "%s: %s and %s are not fused.", op->name, made->layer->name, made->neuron->name);
    }
  }
  if (!status) status = sxq_neuron_shift(api, info, made->neuron, &made->shift);
  if (!status) status = read_layer(made, api, info);
  if (!status && made->constant) sxq_allow_planes(made->head.kernels, &made->weights.codes);
  if (status) {
    sxq_fused_destroy(made);
    return status;
  }
  *kernel = made;
  return NULL;
}

/* The currents' shape: the product's, or that which a Reshape behind it asks for. */
static OrtStatus* reshape(
    const sxq_fused_kernel* kernel, const sxq_tensor* wanted, int64_t* shape, size_t* rank, size_t count) {
  const OrtApi* api = kernel->head.api;
  const char* name = kernel->head.op->name;
  if (wanted->type != ORT_TYPE_INT64 || wanted->rank != 1 || wanted->count > SXQ_MAX_RANK) {
    return sxq_error(api, "%s takes a shape of up to %d lengths of 64 bit.", name, SXQ_MAX_RANK);
  }
  const int64_t* given = wanted->data;
  int64_t made[SXQ_MAX_RANK];
  size_t known = 1, open = SXQ_MAX_RANK;
  for (size_t axis = 0; axis < wanted->count; ++axis) {
    made[axis] = given[axis] || kernel->zero_is_length ? given[axis] : axis < *rank ? shape[axis] : -2;
    if (made[axis] < -1 || (made[axis] == -1 && open < SXQ_MAX_RANK)) known = 0, made[axis] = -2;
    else if (made[axis] == -1) open = axis;
    else known *= (size_t)made[axis];
    if (made[axis] == -2) return sxq_error(api, "%s: the currents have no such shape.", name);
  }
  if (open < SXQ_MAX_RANK) {
    made[open] = known ? (int64_t)(count / known) : 0;
    known *= (size_t)made[open];
  }
  if (known != count) return sxq_error(api, "%s: %zu currents are not %zu.", name, count, known);
  *rank = wanted->count;
  memcpy(shape, made, *rank * sizeof *shape);
  return NULL;
}

static OrtStatus* check_input(const sxq_fused_kernel* kernel, sxq_fused_run* r) {
  const OrtApi* api = kernel->head.api;
  const char* name = kernel->head.op->name;
  const sxq_tensor* x = &r->x;
  const size_t inputs = r->weights->codes.rows;
  const bool bytes = x->type == ORT_TYPE_UINT8 || x->type == ORT_TYPE_INT8;
  r->is_signed = x->type == ORT_TYPE_INT8;
  /* Spikes in bytes are whole numbers. */
  if (kernel->has_scale ? x->type != ORT_TYPE_FLOAT && !(bytes && kernel->grid == 1.0f) : !bytes) {
    return sxq_error(api, "%s: its input has a wrong type for %s.", name, kernel->layer->name);
  }
  if (x->rank == 0 || (size_t)x->shape[x->rank - 1] != inputs) {
    return sxq_error(
        api, "%s takes an input whose last axis is %zu; got %lld.", name, inputs,
        x->rank ? (long long)x->shape[x->rank - 1] : 0LL);
  }
  return NULL;
}

static OrtStatus* compute(const sxq_fused_kernel* kernel, OrtKernelContext* context, const sxq_weights* weights) {
  const OrtApi* api = kernel->head.api;
  const sxq_codes* codes = &weights->codes;
  sxq_fused_run r = {.kernel = kernel, .weights = weights};
  r.layer = (sxq_neuron_layer){
      .kernels = kernel->head.kernels, .shift = kernel->shift, .bytes = kernel->head.op->spikes != ORT_TYPE_FLOAT,
  };
  size_t next = kernel->has_scale ? 3 : 2;
  OrtStatus* status = sxq_input(api, context, 0, &r.x);
  if (!status) status = check_input(kernel, &r);
  if (status) return status;
  if (kernel->has_bias) {
    sxq_tensor bias;
    status = sxq_input(api, context, next++, &bias);
    if (status) return status;
    if (bias.type != ORT_TYPE_FLOAT || bias.rank != 1 || bias.count != codes->columns) {
      return sxq_error(api, "%s takes one bias for each of %zu columns.", kernel->head.op->name, codes->columns);
    }
    r.bias = bias.data;
  }
  if (kernel->has_program) {
    status = sxq_currents_open(
        api, context, kernel->head.op, kernel->head.kernels, &kernel->program, NULL, codes->columns, &next,
        &r.currents);
    if (status) return status;
  }
  int64_t shape[SXQ_MAX_RANK];
  size_t rank = r.x.rank, count = codes->columns;
  memcpy(shape, r.x.shape, rank * sizeof *shape);
  shape[rank - 1] = (int64_t)codes->columns;
  for (size_t axis = 0; axis + 1 < rank; ++axis) count *= (size_t)shape[axis];
  if (kernel->has_shape) {
    sxq_tensor wanted;
    status = sxq_input(api, context, next++, &wanted);
    if (!status) status = reshape(kernel, &wanted, shape, &rank, count);
    if (status) return status;
  }
  status = sxq_neuron_layer_open(api, context, kernel->neuron, shape, rank, next, &r.layer);
  if (status || count == 0) return status;
  r.all_rows = count / codes->columns;
  r.rows = r.layer.size / codes->columns;
  /* Where a Reshape makes steps of other than whole rows of the product, both are computed one after the other. */
  const bool whole_rows = r.rows * codes->columns == r.layer.size;
  return (whole_rows ? sxq_fused_together : sxq_fused_apart)(&r, context);
}

OrtStatus* sxq_fused_compute(void* self, OrtKernelContext* context) {
  const sxq_fused_kernel* kernel = self;
  const sxq_kernel* head = &kernel->head;
  if (kernel->constant) return compute(kernel, context, &kernel->weights);
  sxq_weights weights = {0};
  OrtStatus* status;
  if (kernel->has_scale) {
    status = sxq_run_weights(head->api, context, head->op->name, kernel->layer->layout, &weights);
  } else {
    sxq_tensor packed;
    status = sxq_input(head->api, context, 1, &packed);
    if (!status) {
      status = sxq_check_codes(
          head->api, head->op->name, kernel->layer->layout, &packed, (size_t)kernel->columns, &weights.codes);
    }
  }
  if (status) return status;
  status = compute(kernel, context, &weights);
  sxq_release_codes(&weights.codes);
  return status;
}

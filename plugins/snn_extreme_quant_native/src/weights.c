#include "weights.h"

#include <stdlib.h>

#include "bit_planes.h"

OrtStatus* sxq_check_codes(
    const OrtApi* api, const char* operator_name, const sxq_layout* layout, const sxq_tensor* packed, size_t columns,
    sxq_codes* codes) {
  if (packed->type != ORT_TYPE_UINT8 || packed->rank != 2) {
    return sxq_error(
        api, "%s takes packed codes uint8 (K, bytes); these have %zu axes. Export the model again.", operator_name,
        packed->rank);
  }
  if ((size_t)packed->shape[1] != sxq_file_row_bytes(layout, columns)) {
    return sxq_error(
        api, "%s: %zu columns take %zu bytes a row; the packed codes have %lld. Export the model again.",
        operator_name, columns, sxq_file_row_bytes(layout, columns), (long long)packed->shape[1]);
  }
  const size_t rows = (size_t)packed->shape[0];
  sxq_codes found = {.layout = layout, .packed = packed->data, .rows = rows, .columns = columns};
  sxq_fives_table fives;
  if (sxq_is_repacked(layout)) {
    if (layout->fives) sxq_fill_fives(&fives);
    found.owned = malloc(rows * sxq_row_bytes(layout, columns) + 1);
    if (!found.owned) return sxq_out_of_memory(api, operator_name);
    found.packed = found.owned;
  }
  const bool valid = found.owned ? sxq_repack(layout, &fives, packed->data, rows, columns, found.owned)
                                 : sxq_codes_valid(layout, packed->data, rows, columns);
  if (!valid) {
    sxq_release_codes(&found);
    return sxq_error(
        api, "%s: a byte of the packed codes holds what is no code, so the file is damaged. Export the model again.",
        operator_name);
  }
  *codes = found;
  return NULL;
}

void sxq_release_codes(sxq_codes* codes) {
  sxq_release_planes(codes);
  free(codes->owned);
  codes->owned = NULL;
}

OrtStatus* sxq_check_weights(
    const OrtApi* api, const char* operator_name, const sxq_layout* layout, const sxq_tensor* packed,
    const sxq_tensor* scale, sxq_weights* weights) {
  if (scale->type != ORT_TYPE_FLOAT || scale->rank != 1) {
    return sxq_error(
        api, "%s takes scales float (N); these have %zu axes. Export the model again.", operator_name, scale->rank);
  }
  weights->scale = scale->data;
  return sxq_check_codes(api, operator_name, layout, packed, (size_t)scale->shape[0], &weights->codes);
}

OrtStatus* sxq_constant_weights(
    const OrtApi* api, const OrtKernelInfo* info, const char* operator_name, const sxq_layout* layout, bool* found,
    sxq_weights* weights) {
  sxq_tensor packed, scale;
  bool packed_found = false, scale_found = false;
  *found = false;
  OrtStatus* status = sxq_constant_input(api, info, 1, &packed_found, &packed);
  if (!status) status = sxq_constant_input(api, info, 2, &scale_found, &scale);
  if (status || !packed_found || !scale_found) return status;
  status = sxq_check_weights(api, operator_name, layout, &packed, &scale, weights);
  *found = !status;
  return status;
}

OrtStatus* sxq_run_weights(
    const OrtApi* api, OrtKernelContext* context, const char* operator_name, const sxq_layout* layout,
    sxq_weights* weights) {
  sxq_tensor packed, scale;
  OrtStatus* status = sxq_input(api, context, 1, &packed);
  if (!status) status = sxq_input(api, context, 2, &scale);
  return status ? status : sxq_check_weights(api, operator_name, layout, &packed, &scale, weights);
}

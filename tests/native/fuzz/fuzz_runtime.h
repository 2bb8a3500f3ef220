/* Random numbers, and a runtime of the few functions that the kernels call. */
#ifndef FUZZ_RUNTIME_H
#define FUZZ_RUNTIME_H

#include "operators.h"

enum { MOST = 32 };

struct OrtValue {
  int type;
  size_t rank;
  int64_t shape[10];
  void* data;
};
struct OrtStatus {
  char message[512];
};
struct OrtKernelInfo {
  OrtValue* constant[MOST];
  float grid, inverse_grid, steps, lowest;
  int64_t group, columns, shift;
  int64_t weight_shape[5], strides[3], pads[6], dilations[3];
  size_t axes;
  const char *layer, *neuron; /* of a fused node, with its flags */
  int64_t has_bias, has_shape, allowzero;
  int64_t has_program, program[16]; /* of what is computed of currents */
  size_t operations;
  int64_t order[4], has_factor, scores_signed, counts; /* of attention */
  int64_t zero_point, top; /* of counts */
  int64_t most, has_limits; /* of whole numbers */
};
struct OrtKernelContext {
  const OrtCustomOp* op; /* whose outputs these are */
  OrtValue* input[MOST];
  OrtValue output[MOST];
};

extern uint64_t state;
uint32_t draw(uint32_t below);
int one_in(uint32_t n);

extern OrtApi api;
extern const OrtCustomOp* registered[8192];
extern size_t registered_count;
void fill_api(void);
const OrtApi* get_api(uint32_t version);

size_t count_of(const OrtValue* value);
size_t size_of(int type);

#endif

/* Where the windows of a convolution lie. */
#ifndef SXQ_CONV_GEOMETRY_H
#define SXQ_CONV_GEOMETRY_H

#include "runtime.h"

enum { SXQ_AXES = 3 }; /* fewer axes are led by axes of length 1 */

typedef struct {
  int64_t kernel[SXQ_AXES], stride[SXQ_AXES], begin[SXQ_AXES], end[SXQ_AXES], dilation[SXQ_AXES];
  size_t axes, groups, outputs, channels; /* channels-in of one group */
} sxq_geometry;

OrtStatus* sxq_read_geometry(const OrtApi* api, const OrtKernelInfo* info, const char* name, sxq_geometry* g);

/* The output's lengths; false where a window is longer than the padded input. */
bool sxq_output_lengths(const sxq_geometry* g, const int64_t* in, int64_t* out);

/* Places in a window. */
static inline size_t sxq_taps(const sxq_geometry* g) { return (size_t)(g->kernel[0] * g->kernel[1] * g->kernel[2]); }

/* Inputs in a window: rows of the codes. */
static inline size_t sxq_window(const sxq_geometry* g) { return g->channels * sxq_taps(g); }

/* From the first input of a window to behind its last one. */
static inline int64_t sxq_reach(const sxq_geometry* g, size_t axis) {
  return (g->kernel[axis] - 1) * g->dilation[axis] + 1;
}

#endif

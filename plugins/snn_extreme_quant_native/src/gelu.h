/* GELU of values in place. */
#ifndef SXQ_GELU_H
#define SXQ_GELU_H

#include "kernels.h"

/* x half (erf(x / by) + one), within 2^-21 of the largest |x half|. */
void sxq_gelu(const sxq_kernels* kernels, size_t count, float by, float one, float half, float* x);

#endif

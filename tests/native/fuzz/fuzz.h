/* One kernel in the runtime made up here, and the kinds that have a file of their own. */
#ifndef FUZZ_H
#define FUZZ_H

#include "fuzz_tensors.h"

void fail(const char* name, const char* what);

/* Make the kernel and run it; returns whether it ran. */
int run(const sxq_operator* op, OrtKernelInfo* info, OrtKernelContext* context);

/* Free inputs and outputs. */
void finish(OrtKernelContext* context);

/* A product and its neurons as one node, compared with the two; nothing if the two are not fused. */
void fuzz_fused(const sxq_operator* layer, const sxq_operator* neuron);

/* Attention of random shapes and bytes, compared with plain loops. */
void fuzz_attention(const sxq_operator* op);

/* Norm and softmax by shifts; attention with a softmax; values, with the neurons that read them or without. */
void fuzz_shift(const sxq_operator* op);
void fuzz_soft_attention(const sxq_operator* op);
void fuzz_currents(const sxq_operator* op, const sxq_operator* neuron);

/* What integer files of language models compute with, compared with their equations. */
void fuzz_scale(const sxq_operator* op);
void fuzz_integers(const sxq_operator* op);
void fuzz_integer_average(const sxq_operator* op);
void fuzz_whole_product(const sxq_operator* op, const sxq_operator* layer);

#endif

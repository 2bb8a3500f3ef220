/* What is computed of currents, value by value with constants, before neurons read them. */
#ifndef SXQ_CURRENTS_H
#define SXQ_CURRENTS_H

#include "operators.h"

enum { SXQ_MOST_OPERATIONS = 16 };

/* Numbers of the operations, as the attribute `program` has them. */
enum {
  SXQ_ADD, SXQ_SUB, SXQ_MUL, SXQ_DIV, /* x op c */
  SXQ_CLIP,                           /* between two numbers */
  SXQ_ROUND, SXQ_FLOOR, SXQ_RELU,
  SXQ_GELU, /* x (c (erf(x / a) + b)) of three numbers */
  SXQ_OPERATIONS,
  SXQ_ON_GRID = SXQ_OPERATIONS /* made here of a division, a clip, a product, a rounding and a product */
};

/* The operations of a node. */
typedef struct {
  size_t length;
  int operation[SXQ_MOST_OPERATIONS];
} sxq_program;

/* The same with the constants of a run: `columns` numbers, or one for all. */
typedef struct {
  size_t length, columns; /* `columns` is 1 if all constants are one number */
  struct {
    int operation;
    const float* a; /* of the columns, or of all */
    bool of_columns;
    float least, most, up, down; /* of a clip; of a grid; the last two also of a GELU: b and c */
  } step[SXQ_MOST_OPERATIONS];
  const sxq_kernels* kernels;
} sxq_currents;

/* Read the attribute. */
OrtStatus* sxq_program_read(const OrtApi* api, const OrtKernelInfo* info, const sxq_operator* op, sxq_program* program);

/* Read the constants, inputs from *next on, for values whose last axis is `columns`; moves *next behind them. */
OrtStatus* sxq_currents_open(
    const OrtApi* api, OrtKernelContext* context, const sxq_operator* op, const sxq_kernels* kernels,
    const sxq_program* program, size_t columns, size_t* next, sxq_currents* currents);

/* Compute `count` values in place, of columns from `column` on. */
void sxq_currents_run(const sxq_currents* currents, size_t column, size_t count, float* values);

#endif
